"""What a grid of runs is, by name and number; nothing here trains."""
