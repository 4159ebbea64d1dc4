"""Training of a block of runs as one compiled program."""
