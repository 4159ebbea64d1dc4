"""Verifies a submission: trains some of its cells again, drawn by its hash and a salt.

A rule is sealed before that (`sealed`), and also meets attacks that no edition lists (`held_out`).
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.grid import calls, specs
from experiments.grid.config import Config
from experiments.leaderboard import editions, held_out, score, sealed, submission
from experiments.leaderboard.editions import Edition
from experiments.leaderboard.submission import Submission

SHARE = 0.1  # of the cells are trained again
# By how much a mean over the seeds of one cell may have been reported too well, and the average of
# that over all cells drawn. Training is chaotic: another order of a sum moves a cell by hundredths.
CELL_TOLERANCE = 0.05
MEAN_TOLERANCE = 0.02
# Rows that meet attacks that are not listed, and by how much the accuracy under one may fall below
# the worst that the row has reported.
HELD_OUT_ROWS = 2
HELD_OUT_MARGIN = 0.1

# Trains grids and returns their finished blocks.
Train = Callable[[Sequence[Config]], list[dict[str, Any]]]


class Check(NamedTuple):
    """A cell that was trained again.

    Attributes:
      cell: its settings, in words.
      reported: the mean over the seeds as submitted.
      again: the same of the training here.
    """

    cell: str
    reported: float
    again: float


def seed_of(submitted: Submission, salt: str) -> int:
    """The seed of all draws: nobody who writes a file knows the salt."""
    return int(hashlib.sha256(f"{submitted.sha256} {salt}".encode()).hexdigest(), 16)


def drawn(submitted: Submission, salt: str) -> list[dict[str, Any]]:
    """The cells to be trained again: a tenth, at least one."""
    count = math.ceil(SHARE * len(submitted.cells))
    random = np.random.default_rng(seed_of(submitted, salt))
    places = random.choice(len(submitted.cells), count, replace=False)
    return [submitted.cells[i] for i in sorted(places)]


def check_source(submitted: Submission) -> None:
    """Checks that the module here is the one that was run.

    Raises:
      ValueError: it is another one, or is missing.
    """
    source = calls.code([submitted.name])
    if source != submitted.source:
        raise ValueError(
            f"{submitted.name} was run with {submitted.source}; the source here is {source}."
        )


def grids(edition: Edition, cells: Sequence[dict[str, Any]]) -> list[Config]:
    """The grids of some cells; those of one row and stage share a program."""
    every = {editions.key_of(grid): grid for grid in editions.first(edition)}
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((score.key(cell), cell["stage"]), []).append(cell)
    out = []
    for (row, stage), members in groups.items():
        changes: dict[str, Any] = {
            "attack": tuple(dict.fromkeys(cell["attack"] for cell in members)),
            "s": tuple(sorted({cell["s"] for cell in members})),
        }
        if stage == "last":
            changes |= editions.full_length(edition, every[row])
        out.append(dataclasses.replace(every[row], **changes))
    return out


def check_honest_rows(name: str, n: int, f: int) -> None:
    """Checks that an attack leaves the honest rows as they are.

    Raises:
      ValueError: it changes some.
    """
    spec = specs.parse("attack", name, f=f)
    byzantine = jax.random.permutation(jax.random.key(0), n) < f
    rows = jax.random.normal(jax.random.key(1), (n, 50))
    tx = specs.transformation(spec, byzantine=byzantine, key=None, n=n)
    sent, _ = tx.update(rows, tx.init(rows[0]))
    changed = np.flatnonzero(np.any(np.asarray(sent != rows), axis=1) & ~np.asarray(byzantine))
    if len(changed):
        raise ValueError(f"{name} changes {len(changed)} of the honest rows.")


def held_out_grids(
    edition: Edition, submitted: Submission, salt: str
) -> dict[tuple, tuple[Config, float]]:
    """Of some rows, a grid of attacks that are not listed, and the worst accuracy reported."""
    worst: dict[tuple, float] = {}
    for cell in submitted.cells:
        if cell["stage"] == "last" and cell["s"]:
            mean = float(np.mean(cell["accuracies"]))
            worst[score.key(cell)] = min(mean, worst.get(score.key(cell), math.inf))
    random = np.random.default_rng(seed_of(submitted, f"held out {salt}"))
    rows = [*worst]
    places = random.choice(len(rows), min(HELD_OUT_ROWS, len(rows)), replace=False)
    every = {editions.key_of(grid): grid for grid in editions.first(edition)}
    out = {}
    for row in (rows[i] for i in sorted(places)):
        grid = every[row]
        changes: dict[str, Any] = {"attack": held_out.drawn(random), "s": (grid.f,)}
        grid = dataclasses.replace(grid, **changes, **editions.full_length(edition, grid))
        out[row] = grid, worst[row]
    return out


def judge_held_out(worst: float, check: Check) -> None:
    """Compares a row under an attack that is not listed with the worst that it reported.

    Raises:
      ValueError: it is worse by more than the margin.
    """
    if check.again < worst - HELD_OUT_MARGIN:
        raise ValueError(
            f"{check.cell}: {check.again:.3f}; the worst reported is {worst:.3f}, and an attack "
            f"that is not listed may take at most {HELD_OUT_MARGIN} more."
        )


def verify(
    submitted: Submission,
    salt: str,
    train: Train,
    params: Callable[[Config], Any],
    tell: Callable[[str], None],
) -> None:
    """Verifies a submission whose module can be imported.

    Args:
      submitted: the submission.
      salt: what cells and attacks are drawn by, with the hash of the file.
      train: trains grids.
      params: the shapes of the parameters of a grid's model.
      tell: is given one line for each cell that was trained again.

    Raises:
      ValueError: the source, a cell, or the rule under other attacks is not as submitted.
    """
    check_source(submitted)
    sealed.scan_module(submitted.name)
    submission.check_complete(submitted)
    edition = submission.entered(
        editions.EDITIONS[submitted.edition], submitted.kind, submitted.name
    )
    cells = drawn(submitted, salt)
    again = grids(edition, cells)
    others: dict[tuple, tuple[Config, float]] = {}
    if submitted.kind == "rule":
        others = held_out_grids(edition, submitted, salt)
        places = [*again, *(grid for grid, _ in others.values())]
        sealed.install(submitted.name, places, params, seed_of(submitted, f"order {salt}"))
    else:
        for f in edition.fs:
            check_honest_rows(submitted.name, edition.n, f)
    done = checks(cells, train(again))
    for check in done:
        tell(f"{check.cell}: reported {check.reported:.3f}, again {check.again:.3f}.")
    judge(submitted.kind, done)
    for grid, worst in others.values():
        for block in train([grid]):
            if block["attack"] == "none":
                continue
            mean = float(np.mean([run["accuracy"][-1] for run in block["runs"]]))
            cell = {name: block[name] for name in ("rule", "mixing", "attack", *score.SCENE)}
            check = Check(in_words(cell | {"s": grid.f, "steps": grid.steps}), worst, mean)
            tell(f"{check.cell}, not listed: {check.again:.3f}; worst reported {worst:.3f}.")
            judge_held_out(worst, check)


def checks(cells: Sequence[dict[str, Any]], blocks: Sequence[dict[str, Any]]) -> list[Check]:
    """Each cell beside its training here.

    Args:
      cells: those of `drawn`.
      blocks: the finished blocks of their grids.
    """
    again: dict[tuple, list[float]] = {}
    for block in blocks:
        for run in block["runs"]:
            key = (*score.key(block), block["attack"], run["s"], block["steps"])
            again.setdefault(key, []).append(run["accuracy"][-1])
    out = []
    for cell in cells:
        key = (*score.key(cell), cell["attack"], cell["s"], cell["steps"])
        reported, trained = float(np.mean(cell["accuracies"])), float(np.mean(again[key]))
        out.append(Check(in_words(cell), reported, trained))
    return out


def in_words(cell: dict[str, Any]) -> str:
    """A cell in one line."""
    where = ", ".join(f"{name} {cell[name]}" for name in (*score.SCENE, "s", "steps"))
    return f"{cell['rule']} behind {cell['mixing']} under {cell['attack']} ({where})"


def excess(kind: str, check: Check) -> float:
    """By how much a cell was reported too well: too high for a rule, too low for an attack."""
    more = check.reported - check.again
    return more if kind == "rule" else -more


def judge(kind: str, of: Sequence[Check]) -> None:
    """Compares what was reported with what was trained again.

    Raises:
      ValueError: a cell, or the cells together, were reported too well.
    """
    worst = max(of, key=lambda check: excess(kind, check))
    if excess(kind, worst) > CELL_TOLERANCE:
        raise ValueError(
            f"{worst.cell}: reported {worst.reported:.3f}, trained again {worst.again:.3f}; "
            f"expected a difference of at most {CELL_TOLERANCE}."
        )
    mean = float(np.mean([excess(kind, check) for check in of]))
    if mean > MEAN_TOLERANCE:
        raise ValueError(
            f"the {len(of)} cells trained again were reported too well by {mean:.3f} on average; "
            f"expected at most {MEAN_TOLERANCE}."
        )
