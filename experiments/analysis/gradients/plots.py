"""The figures of docs/gradients.md."""

import pathlib


def write(folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the figures from the tables of a folder."""
    return []
