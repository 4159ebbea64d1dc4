"""Files of other projects as grids and results of the laboratory."""
