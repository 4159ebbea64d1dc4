"""Analysis of finished studies, and measurements without training."""
