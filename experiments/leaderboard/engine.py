"""Runs an edition of the leaderboard in a folder, in two stages, and reads what is finished."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from experiments.data import datasets
from experiments.execution import store, sweep
from experiments.grid.config import Config
from experiments.leaderboard import editions, score
from experiments.leaderboard.editions import Edition

FILE = "runs.csv"


class Stage(NamedTuple):
    """The grids of one stage, and the attacks of each row that the thinning keeps."""

    grids: list[Config]
    kept: dict[tuple, list[str]]


def second(edition: Edition, grids: Sequence[Config], blocks: Sequence[dict[str, Any]]) -> Stage:
    """The grids at full length, from the finished blocks of the first stage.

    Raises:
      ValueError: a block of the first stage is missing.
    """
    accuracies: dict[tuple, dict[str, float]] = {score.key_of(grid): {} for grid in grids}
    for block in blocks:
        if (accuracy := score.under_attack(block)) is not None:
            accuracies[score.key(block)][block["attack"]] = accuracy
    absent = sum(len(grid.attack) - len(accuracies[score.key_of(grid)]) for grid in grids)
    if absent:
        raise ValueError(
            f"{store.blocks(absent)} of the first stage are missing or failed; repeat `run`."
        )
    kept = {row: editions.finalists(of, edition.keep) for row, of in accuracies.items()}
    last = [editions.last(edition, grid, accuracies[score.key_of(grid)]) for grid in grids]
    return Stage(last, kept)


def run(
    edition: Edition,
    grids: Sequence[Config],
    folder: pathlib.Path,
    describe: Callable[[Config], datasets.Dataset | datasets.Outline],
    load: Callable[[Config], datasets.Dataset],
) -> int:
    """Trains what is missing of both stages; returns the number of blocks without a result.

    Args:
      edition: the edition.
      grids: those of `editions.first`, or a shard of them.
      folder: the folder of the results.
      describe: the data set of a grid, or its outline.
      load: loads the data set of a grid.
    """
    tasks = sweep.tasks(grids, folder, describe)
    finished = sweep.run(tasks, folder, load)
    if len(finished) < len(tasks):
        return len(tasks) - len(finished)
    tasks = sweep.tasks(second(edition, grids, finished).grids, folder, describe)
    return len(tasks) - len(sweep.run(tasks, folder, load))


def read(edition: Edition, grids: Sequence[Config], folder: pathlib.Path) -> pd.DataFrame:
    """All finished runs of both stages, one line each.

    Raises:
      ValueError: a run is missing.
    """
    every = store.every(folder)
    first = store.belonging(grids, every)
    stage = second(edition, grids, first)
    last = store.belonging(stage.grids, every)
    parts = [
        score.lines(grids, first, stage.kept, "first"),
        score.lines(stage.grids, last, stage.kept, "last"),
    ]
    return pd.concat(parts, ignore_index=True)


def against(runs: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The runs, and those of other rows of the same scenes from another table.

    Raises:
      ValueError: the other table has another form, or no scene in common.
    """
    missing = [name for name in score.COLUMNS if name not in others]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; expected a {FILE}.")
    keys = ["rule", "mixing", *score.SCENE]
    here = set(runs[keys].itertuples(index=False, name=None))
    places = set(runs[[*score.SCENE, "stage", "steps"]].itertuples(index=False, name=None))
    of_scene = others[[*score.SCENE, "stage", "steps"]].itertuples(index=False, name=None)
    rows = others[keys].itertuples(index=False, name=None)
    wanted = [place in places and row not in here for place, row in zip(of_scene, rows)]
    if not any(wanted):
        raise ValueError("the table has no other row of these scenes and steps.")
    return pd.concat([runs, others[wanted]], ignore_index=True)
