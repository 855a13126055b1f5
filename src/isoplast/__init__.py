"""isoplast keeps neural networks able to learn."""

__version__ = "0.1.0"
