"""A block of runs as one compiled program."""
