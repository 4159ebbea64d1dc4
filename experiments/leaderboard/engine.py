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
    if not editions.thinned(edition):
        every = [dict.fromkeys(grid.attack, 0.0) for grid in grids]
        last = [editions.last(edition, grid, under) for grid, under in zip(grids, every)]
        return Stage(last, {score.key_of(grid): list(grid.attack) for grid in grids})
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
    finished: list[dict[str, Any]] = []
    if editions.thinned(edition):
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
    first = store.belonging(grids, every) if editions.thinned(edition) else []
    stage = second(edition, grids, first)
    last = store.belonging(stage.grids, every)
    parts = [score.lines(grids, first, stage.kept, "first")] if first else []
    parts.append(score.lines(stage.grids, last, stage.kept, "last"))
    return pd.concat(parts, ignore_index=True)


def priced(edition: Edition, grids: Sequence[Config]) -> list[Config]:
    """Grids that cost what both stages do, before it is known which attacks are kept.

    The first of the listed attacks stand for those kept, so that the searching ones, which are
    listed later and take longer, are not counted at full length.
    """
    some = [dict.fromkeys(grid.attack, 0.0) for grid in grids]
    last = [editions.last(edition, grid, under) for grid, under in zip(grids, some)]
    return [*grids, *last] if editions.thinned(edition) else last


def _check_table(others: pd.DataFrame) -> None:
    missing = [name for name in score.COLUMNS if name not in others]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; expected a {FILE}.")


def under_others(runs: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The runs at full length, and those of the same rows under other attacks in another table.

    Raises:
      ValueError: the other table has another form, or no row in common.
    """
    _check_table(others)
    keys = ["rule", "mixing", *score.SCENE, "steps", "stage"]
    runs = runs[runs["stage"] == "last"]
    rows = set(runs[keys].itertuples(index=False, name=None))
    there = [row in rows for row in others[keys].itertuples(index=False, name=None)]
    other = others[there]
    other = other[~other["attack"].isin(set(runs["attack"]))]
    if not len(other):
        raise ValueError("the table has no other attack on these rows, at as many steps.")
    return pd.concat([runs, other], ignore_index=True)


def against(runs: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The runs, and those of other rows of the same scenes from another table.

    Raises:
      ValueError: the other table has another form, or no scene in common.
    """
    _check_table(others)
    keys = ["rule", "mixing", *score.SCENE]
    here = set(runs[keys].itertuples(index=False, name=None))
    places = set(runs[[*score.SCENE, "stage", "steps"]].itertuples(index=False, name=None))
    of_scene = others[[*score.SCENE, "stage", "steps"]].itertuples(index=False, name=None)
    rows = others[keys].itertuples(index=False, name=None)
    wanted = [place in places and row not in here for place, row in zip(of_scene, rows)]
    if not any(wanted):
        raise ValueError("the table has no other row of these scenes and steps.")
    return pd.concat([runs, others[wanted]], ignore_index=True)
