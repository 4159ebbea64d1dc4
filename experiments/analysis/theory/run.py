"""The command line of `python -m experiments theory`."""

import dataclasses
import hashlib
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Annotated

import jax
import pandas as pd
import tyro
from tqdm import tqdm

import byzjax
from experiments.analysis.theory import measure, plots, rules
from experiments.analysis.theory.measure import FULL, PARTS, QUICK
from experiments.execution import store


@dataclasses.dataclass(frozen=True)
class Theory:
    """What is proved of rules, beside what is measured and searched for.

    Parts: acceptance and efficiency (published numbers of this project's specification, measured
    again), growth (of Aksel's error in n and d), rules (the error of every rule under attack),
    selection (who is chosen), kappa (proved constants against the worst input that a search finds)
    and breakdown (how many liars carry a rule away). Every line of a table is kept in
    <results>/theory/blocks, so that a second start continues; tables (CSV) and figures (PNG) lie
    beside.
    """

    part: tuple[str, ...] = tuple(PARTS)
    """Which parts."""
    quick: bool = False
    """A few sizes and rules only, into <results>/theory-quick; a minute."""
    results: str = "results"
    """Folder of all studies."""
    out: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Also copy tables and figures there, such as docs/theory;
    `python -m experiments.analysis.theory.page docs` then writes the tables of docs/theory.md
    anew."""


def _source() -> str:
    """Of what is measured: which attacks, densities and keys stands in these files alone."""
    text = [pathlib.Path(str(module.__file__)).read_bytes() for module in (measure, rules)]
    return hashlib.sha256(b"".join(text)).hexdigest()[:16]


def tables(config: Theory) -> dict[str, pd.DataFrame]:
    """Measures what is missing, and returns a table for each part.

    Raises:
      ValueError: there is no such part.
    """
    sizes = QUICK if config.quick else FULL
    for part in config.part:
        if part not in PARTS:
            raise ValueError(f"unknown part {part!r}; known: {', '.join(PARTS)}.")
    tasks = [task for part in config.part for task in PARTS[part](sizes)]
    source = _source()
    lines: dict[str, list] = {part: [] for part in config.part}
    for count, task in enumerate(tqdm(tasks, unit="line", disable=None)):
        if count % 50 == 49:
            jax.clear_caches()  # every line is a program of its own
        described = task.described | {"byzjax": byzjax.__version__, "source": source}
        path = store.block_path(folder(config), described)
        found = store.read_block(path)
        if found is None:
            begin = time.perf_counter()
            found = described | {"found": task.measure()}
            found["seconds"] = time.perf_counter() - begin
            found["environment"] = store.environment()
            store.write_json(path, found)
        line = {k: v for k, v in task.described.items() if k != "part"} | found["found"]
        lines[task.described["part"]].append(line | {"seconds": found["seconds"]})
    return {part: pd.DataFrame(found) for part, found in lines.items()}


def folder(config: Theory) -> pathlib.Path:
    """Where the results lie."""
    return pathlib.Path(config.results) / ("theory-quick" if config.quick else "theory")


def main(arguments: Sequence[str]) -> int:
    """Measures, writes and prints; returns the exit status."""
    config = tyro.cli(Theory, prog="python -m experiments theory", args=arguments)
    found = tables(config)
    paths = []
    for part, table in found.items():
        paths.append(folder(config) / f"{part}.csv")
        table.to_csv(paths[-1], index=False, float_format="%.5g")
        # Drawn from the digits that are kept.
        paths += plots.write(part, pd.read_csv(paths[-1]), folder(config))
    if config.out is not None:
        target = pathlib.Path(config.out)
        target.mkdir(parents=True, exist_ok=True)
        paths = [pathlib.Path(shutil.copy(path, target)) for path in paths]
    for part, table in found.items():
        print(f"\n{part}, {table['seconds'].sum():.0f} seconds")
        print(table.drop(columns="seconds").to_string(index=False, float_format="%.4g"))
    print("\n".join(map(str, paths)))
    return 0
