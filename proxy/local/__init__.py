"""In-process inference and its decoders; needs `optictl[local]`."""
