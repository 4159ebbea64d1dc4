"""Prints docs/comparison.md."""

from byzjax._program import prints
from byzjax.theory.comparison import page

if __name__ == "__main__":
    prints("Prints docs/comparison.md.", {"page": page})
