"""The ModernBERT classifier that picks an approach; needs `optictl[router]`."""
