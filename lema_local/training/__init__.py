"""Training the student and bringing it out again as GGUF.

`torch`, `transformers`, `peft`, `trl`, `bitsandbytes` and `gguf` are imported in this folder only, inside the
functions that need them.
"""
