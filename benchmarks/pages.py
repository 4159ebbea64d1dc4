"""Formatting of tables, and writing them to pages and files."""

import csv
import datetime
import os
import pathlib
import platform
import re
from typing import Any

import jax

from benchmarks import peers


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a table."""
    if not rows:
        return "Nothing was measured."
    heads = list(rows[0])

    def show(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.2f}" if value < 100 else f"{value:.0f}"
        return "" if value is None else str(value)

    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(show(row[h]) for h in heads) + " |" for row in rows]
    return "\n".join(lines)


def environment() -> str:
    """Device, versions and date."""
    versions = [f"Python {platform.python_version()}", f"JAX {jax.__version__}"]
    if peers.torch is not None:
        versions.append(
            f"PyTorch {peers.torch.__version__}, {peers.torch.get_num_threads()} threads"
        )
    device = jax.devices()[0]
    where = f"{os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind
    return f"{_processor() or platform.machine()}, {where}; {', '.join(versions)}; " + str(
        datetime.date.today()
    )


def _processor() -> str:
    try:
        match = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    except OSError:
        return platform.processor()
    return match[1] if match else platform.processor()


def write_csv(folder: pathlib.Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Writes each table to a file of its name; empty tables are skipped."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        if not rows:
            continue
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def written(page: str, mark: str, table: str) -> str:
    """The page with this table between its marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
