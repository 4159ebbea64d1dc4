"""Finished blocks as one small CSV file, from which a study can be continued elsewhere."""

import csv
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from experiments.execution import store, strict

FILE = "blocks.csv"
_SHOWN = ("rule", "mixing", "attack", "seconds")
# Files copied along with the blocks: small ones for readers.
_KEPT = (
    *("table.csv", "table.md", "config.json", "accuracy_heatmap*.png"),
    "attack_success_heatmap*.png",
    *("distance_to_optimum*.png", "worst_accuracy*.png", "bits_per_character*.png"),
    "accuracy_against_bits*.png",
)


def write(folder: pathlib.Path, blocks: Sequence[dict[str, Any]], target: pathlib.Path) -> None:
    """Writes the blocks, and copies the tables and figures of the study next to them.

    Raises:
      ValueError: the target has blocks that would be lost.
    """
    lost = names(target) - {store.block_path(folder, _described(block)).name for block in blocks}
    if lost:
        raise ValueError(
            f"{target / FILE} has {store.blocks(len(lost))} that {folder} lacks; nothing is "
            "exported. Give another folder, or remove that file first."
        )
    target.mkdir(parents=True, exist_ok=True)
    temporary = target / f".{FILE}.tmp"
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["hash", *_SHOWN, "content"])
        for block in blocks:
            content = strict.dumps(block, separators=(",", ":"))
            name = store.block_path(folder, _described(block)).stem
            writer.writerow([name, *(block[key] for key in _SHOWN), content])
    temporary.replace(target / FILE)
    for pattern in _KEPT:
        for path in sorted(folder.glob(pattern)):
            shutil.copyfile(path, target / path.name)


def read(target: pathlib.Path) -> list[dict[str, Any]]:
    """Reads exported blocks; an empty list if there is no file.

    Raises:
      ValueError: a line is damaged.
    """
    if not (target / FILE).exists():
        return []
    csv.field_size_limit(sys.maxsize)
    blocks = []
    with (target / FILE).open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                block = strict.loads(row["content"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{target / FILE}, line {number} is damaged.") from None
            blocks.append(block)
    return blocks


def names(target: pathlib.Path) -> set[str]:
    """The file names of exported blocks.

    Raises:
      ValueError: a line is damaged.
    """
    return {store.block_path(target, _described(block)).name for block in read(target)}


def bring_in(target: pathlib.Path, folder: pathlib.Path) -> int:
    """Copies exported blocks into the folder of a study; returns the number of new ones."""
    new = 0
    for block in read(target):
        path = store.block_path(folder, _described(block))
        if store.read_block(path) is None:
            store.write_json(path, block)
            new += 1
    return new


def _described(block: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name not in store.RESULTS}
