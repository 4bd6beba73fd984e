"""The control plane: what is declared, what should be on disk, and the proof that it works."""

__version__ = "0.1.0"
