"""Teachers: who corrects mistakes. `litellm` is imported in this folder only."""
