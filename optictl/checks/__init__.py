"""One check a function: ok, warn or fail, what it saw, and how to mend it."""
