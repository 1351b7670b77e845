"""The stages of a run, one module each: records in, records out. No stage imports another."""
