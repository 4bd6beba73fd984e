"""One request's life on the loop."""
