"""lema-local: let a small language model learn from its mistakes on your own hardware."""

__version__ = "0.1.0"
