"""Students: the small models that are taught. `llama_cpp` is imported in this folder only."""
