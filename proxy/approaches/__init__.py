"""One algorithm a file: calls only, reading like its paper."""
