"""Text for people: names, the command line, and tables in a terminal."""
