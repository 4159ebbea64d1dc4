"""Runs an edition of the leaderboard in a folder, in two stages, and reads what is finished."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
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
    guides = editions.guides(edition, grids)
    accuracies: dict[tuple, dict[str, float]] = {
        editions.key_of(guide): {} for guide in guides.values()
    }
    for block in blocks:
        if (accuracy := score.under_attack(block)) is not None:
            accuracies[score.key(block)][block["attack"]] = accuracy
    short = first(edition, grids)
    absent = sum(len(grid.attack) - len(accuracies[editions.key_of(grid)]) for grid in short)
    if absent:
        raise ValueError(
            f"{store.blocks(absent)} of the first stage are missing or failed; repeat `run`."
        )
    kept, last = {}, []
    for grid in grids:
        row = editions.key_of(grid)
        under = accuracies[editions.key_of(guides[row])] if guides else {}
        kept[row] = editions.kept(edition, grid, under)
        last.append(editions.last(edition, grid, under))
    return Stage(last, kept)


def first(edition: Edition, grids: Sequence[Config]) -> list[Config]:
    """The grids of the first stage; none if the attacks are not thinned."""
    guides = editions.guides(edition, grids)
    return list({editions.key_of(guide): guide for guide in guides.values()}.values())


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
    if short := first(edition, grids):
        tasks = sweep.tasks(short, folder, describe)
        finished = sweep.run(tasks, folder, load)
        if len(finished) < len(tasks):
            return len(tasks) - len(finished)
    tasks = sweep.tasks(second(edition, grids, finished).grids, folder, describe)
    return len(tasks) - len(sweep.run(tasks, folder, load))


class Read(NamedTuple):
    """What is finished in a folder.

    Attributes:
      runs: both stages, one line per run.
      missing: the grids of rows of which a run is missing; they are not among the runs.
    """

    runs: pd.DataFrame
    missing: list[Config]


def read(edition: Edition, grids: Sequence[Config], folder: pathlib.Path) -> Read:
    """The finished runs of both stages. A row counts when all of its runs are there.

    Raises:
      ValueError: a run of the first stage is missing, or no ranking has its reference.
    """
    every = store.every(folder)
    short = first(edition, grids)
    done = store.belonging(short, every)
    stage = second(edition, grids, done)
    blocks: dict[tuple, list[dict[str, Any]]] = {}
    for block in store.belonging(stage.grids, every):
        blocks.setdefault(score.key(block), []).append(block)
    finished = [
        grid
        for grid in stage.grids
        if not store.unfinished([grid], blocks.get(editions.key_of(grid), []))[0]
    ]
    ranked = {editions.key_of(grid)[2:] for grid in finished if editions.is_reference(grid)}
    if not ranked:
        raise ValueError("no ranking has the mean, which all gaps are measured from; repeat `run`.")
    finished = [grid for grid in finished if editions.key_of(grid)[2:] in ranked]
    keys = {editions.key_of(grid): None for grid in finished}
    last = [block for row in keys for block in blocks[row]]
    parts = [score.lines(short, done, stage.kept, "first", edition.audit)] if short else []
    parts.append(score.lines(finished, last, stage.kept, "last", edition.audit))
    missing = [grid for grid in stage.grids if editions.key_of(grid) not in keys]
    return Read(pd.concat(parts, ignore_index=True), missing)


def priced(edition: Edition, grids: Sequence[Config]) -> list[Config]:
    """Grids that cost what both stages do, before it is known which attacks are kept.

    The first of the listed attacks stand for those kept.
    """
    stand_ins = [dict.fromkeys(grid.attack, 0.0) for grid in grids]
    last = [editions.last(edition, grid, under) for grid, under in zip(grids, stand_ins)]
    return [*first(edition, grids), *last]


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


def completed(runs: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The runs, and those of another table of rows at full length that are not among them.

    Raises:
      ValueError: the other table has another form, or other seeds or steps in the same scene.
    """
    _check_table(others)
    keys, full = ["rule", "mixing", *score.SCENE], runs[runs["stage"] == "last"]
    mine = set(full[keys].itertuples(index=False, name=None))
    there = [row in mine for row in others[keys].itertuples(index=False, name=None)]
    more = others[(others["stage"] == "last") & ~np.array(there, bool)]
    form = ["seeds", "steps"]
    expected, got = (_forms(table) for table in (full, more))
    for scene in expected.index.intersection(got.index):
        if (there := [*got.loc[scene, form]]) != (here := [*expected.loc[scene, form]]):
            raise ValueError(
                f"the other table has {there[0]} seeds and {there[1]} steps in {scene}; expected "
                f"{here[0]} and {here[1]}."
            )
    return pd.concat([runs, more], ignore_index=True)


def _forms(runs: pd.DataFrame) -> pd.DataFrame:
    """The number of seeds and the steps of each scene."""
    return runs.groupby([*score.SCENE]).agg(seeds=("seed", "nunique"), steps=("steps", "max"))


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
