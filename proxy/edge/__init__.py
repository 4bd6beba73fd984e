"""Flask and threads, only here: HTTP in, one object across to the loop, HTTP out."""
