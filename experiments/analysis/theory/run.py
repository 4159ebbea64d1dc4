"""The command line of `python -m experiments theory`."""

import dataclasses
import hashlib
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import pandas as pd
from tqdm import tqdm

import byzjax
from experiments.analysis.theory import measure, plots, rules
from experiments.analysis.theory.measure import FULL, PARTS, QUICK
from experiments.execution import claims, locks, store
from experiments.text import arguments as command_line
from experiments.text import columns, names
from experiments.text.names import counted


@dataclasses.dataclass(frozen=True)
class Theory:
    """Compare proved constants of rules with measured errors and searched worst inputs.

    Parts: acceptance and efficiency (published numbers of this project's specification, measured
    again), growth (of Aksel's error in n and d), rules (the error of every rule under attack),
    selection (which workers are selected), kappa (proved constants against the worst input that a
    search finds) and breakdown (the number of Byzantine workers that breaks a rule). Every line of
    a table is stored in <results>/theory/blocks, so that running the command again resumes; tables
    (CSV) and figures (PNG) are written next to it.
    """

    part: tuple[str, ...] = tuple(PARTS)
    """Parts to measure."""
    quick: bool = False
    """Only a few sizes and rules, into <results>/theory-quick; takes a minute."""
    results: str = "results"
    """Folder of all studies."""
    out: Annotated[str | None, "PATH"] = None
    """Also copy tables and figures to this folder, such as docs/theory;
    `python -m experiments.analysis.theory.page docs` then regenerates the tables of
    docs/theory.md."""


def _source() -> str:
    """A hash of the files that define the measurements: attacks, distributions and keys."""
    text = [pathlib.Path(str(module.__file__)).read_bytes() for module in (measure, rules)]
    return hashlib.sha256(b"".join(text)).hexdigest()[:16]


def tables(config: Theory) -> dict[str, pd.DataFrame]:
    """Measures what is missing, and returns a table per part.

    Raises:
      ValueError: a part is unknown.
    """
    sizes = QUICK if config.quick else FULL
    for part in config.part:
        if part not in PARTS:
            raise ValueError(names.unknown("part", part, PARTS))
    tasks = [task for part in config.part for task in PARTS[part](sizes)]
    source = _source()
    claims.write_command(folder(config), "theory", {"quick": config.quick})
    lines: dict[str, list] = {part: [] for part in config.part}
    for count, task in enumerate(
        tqdm(tasks, unit="line", disable=None, ncols=columns.terminal_width() - 1)
    ):
        if count % 50 == 49:
            jax.clear_caches()  # every line is a separate program
        described = task.described | {"byzjax": byzjax.__version__, "source": source}
        path = store.block_path(folder(config), described)
        if (content := store.read_block(path, ("found", "seconds"))) is None:
            content = _measured(task, described, path)
        line = {k: v for k, v in task.described.items() if k != "part"} | content["found"]
        lines[task.described["part"]].append(line | {"seconds": content["seconds"]})
    return {part: pd.DataFrame(of_part) for part, of_part in lines.items()}


def _measured(task: measure.Task, described: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """The block of a line, unless another process has measured it in the meantime."""
    words = ", ".join(map(str, list(task.described.values())[:3]))
    with locks.alone(path.parents[1] / "locks" / path.stem, words):
        if path.is_file() and (content := store.read_block(path, ("found", "seconds"))):
            return content
        begin = time.perf_counter()
        content = described | {"found": task.measure()}
        content["seconds"] = time.perf_counter() - begin
        content["environment"] = store.environment()
        store.write_json(path, content)
    return content


def folder(config: Theory) -> pathlib.Path:
    """The folder of the results."""
    return pathlib.Path(config.results) / ("theory-quick" if config.quick else "theory")


def main(arguments: Sequence[str]) -> int:
    """Measures, writes and prints; returns the exit status."""
    config = command_line.parse(Theory, arguments, prog="python -m experiments theory")
    by_part = tables(config)
    paths = []
    for part, table in by_part.items():
        paths.append(folder(config) / f"{part}.csv")
        table.to_csv(paths[-1], index=False, float_format="%.5g")
        # Drawn from the rounded numbers.
        paths += plots.write(part, pd.read_csv(paths[-1]), folder(config))
    if config.out is not None:
        target = pathlib.Path(config.out)
        _check_out(by_part, target)
        target.mkdir(parents=True, exist_ok=True)
        paths = [pathlib.Path(shutil.copy(path, target)) for path in paths]
    for part, table in by_part.items():
        print(f"\n{part}, {counted(round(table['seconds'].sum()), 'second')}")
        print(columns.of_frame(table.drop(columns="seconds"), "%.4g"))
    print("\n".join(map(str, paths)))
    print(f"Results: {folder(config)}")
    return 0


def _check_out(by_part: dict[str, pd.DataFrame], target: pathlib.Path) -> None:
    """Raises a `ValueError` if a table there has more lines than the one that would replace it."""
    for part, table in by_part.items():
        path = target / f"{part}.csv"
        if path.is_file() and (there := len(pd.read_csv(path))) > len(table):
            raise ValueError(
                f"{path} has {there} lines and would be replaced by {len(table)}; "
                "give another folder as --out, or remove that file first."
            )
