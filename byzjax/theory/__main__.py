"""Prints docs/comparison.md."""

from byzjax.theory.comparison import page

if __name__ == "__main__":
    print(page(), end="")
