"""The demo and the figures: `make demo`, `make bench`."""
