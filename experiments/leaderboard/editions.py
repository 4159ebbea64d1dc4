"""The editions of the leaderboard, and their grids.

Attacks are thinned by successive halving: at first every attack is run for a few steps with one
seed, then the worst of each row at full length with all seeds. Every tenth row is audited: it keeps
all attacks, so that the leaderboard shows how often the thinning loses the worst one.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.grid.config import Config
from experiments.leaderboard import entries
from experiments.leaderboard.entries import Defence

SCENES: dict[str, dict[str, Any]] = {
    "digits": {"dataset": "digits", "model": "mlp", "learning_rate": 0.2, "partition": "iid"},
    **{
        f"mnist, {partition}": {
            "dataset": "mnist",
            "model": "mlp",
            "learning_rate": 0.5,
            "partition": partition,
        }
        for partition in ("iid", "dirichlet(0.3)", "dirichlet(0.1)")
    },
    "cifar10": {
        "dataset": "cifar10",
        "model": "resnet20",
        "learning_rate": 0.05,
        "partition": "iid",
    },
}
REFERENCE = Defence("mean", "none")
# What the rows of one ranking share.
SCENE = ("dataset", "partition", "n", "f", "momentum")
# Behind a mixing it is kept at full length, too: it searches through the mixing.
THROUGH_MIXINGS = "strongest_alie"


class Cell(NamedTuple):
    """A ranking of an edition.

    Attributes:
      scene: a key of `SCENES`.
      f: declared number of faults.
      momentum: coefficient of the workers' momentum.
      steps: training steps at full length.
      mixings: what comes before a rule.
    """

    scene: str
    f: int
    momentum: float
    steps: int
    mixings: tuple[str, ...]


class Edition(NamedTuple):
    """What an edition runs.

    Attributes:
      scenes: keys of `SCENES`.
      n: number of workers.
      fs: declared numbers of faults.
      momenta: coefficients of the workers' momentum.
      mixings: what comes before a rule.
      seeds: number of paired seeds.
      steps: training steps, a multiple of `short`.
      short: steps while attacks are thinned, and between evaluations.
      keep: attacks of a row that are run at full length.
      rules: the rules; None for those of the library.
      attacks: the attacks; None for those of the library.
      at: the rankings; if there are any, they replace the product of scenes, fs, momenta and
        mixings, and the attacks of a rule are thinned in the first of them only.
      audit: one row in so many keeps all attacks.
    """

    scenes: tuple[str, ...]
    n: int
    fs: tuple[int, ...]
    momenta: tuple[float, ...]
    mixings: tuple[str, ...]
    seeds: int
    steps: int
    short: int
    keep: int
    rules: tuple[str, ...] | None = None
    attacks: tuple[str, ...] | None = None
    at: tuple[Cell, ...] = ()
    audit: int = 10

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The rankings."""
        product = itertools.product(self.scenes, self.fs, self.momenta)
        return self.at or tuple(Cell(*of, self.steps, self.mixings) for of in product)


_MIXINGS = (
    *("none", "nearest_neighbors", "bucketing(s=2)"),
    *("adaptive_clipping", "clip_norms(max_norm=2.0)"),
)
# What two cores do in five hours: all f and momenta on digits, all scenes at one f and momentum,
# all f where workers differ most; mixings in one easy and one hard scene. They are run in this
# order, the longest one last.
_CPU = (
    Cell("digits", 5, 0.9, 200, _MIXINGS),
    *(Cell(f"mnist, {of}", 5, 0.9, 120, ("none",)) for of in ("iid", "dirichlet(0.3)")),
    *(Cell("digits", f, 0.9, 200, ("none",)) for f in (2, 10)),
    *(Cell("digits", f, 0.0, 200, ("none",)) for f in (2, 5, 10)),
    Cell("mnist, dirichlet(0.3)", 5, 0.0, 120, ("none",)),
    *(Cell("mnist, dirichlet(0.1)", f, 0.9, 120, ("none",)) for f in (2, 10)),
    Cell("mnist, dirichlet(0.1)", 5, 0.9, 120, _MIXINGS),
)
EDITIONS: dict[str, Edition] = {
    "tiny": Edition(
        *(("digits",), 5, (1,), (0.9,), ("none",), 2, 8, 4, 2),
        ("mean", "median"),
        ("sign_flip", "zero", "little_is_enough", "reversed_gradient"),
    ),
    "cpu": Edition(
        *(tuple(SCENES)[:4], 25, (2, 5, 10), (0.9, 0.0), _MIXINGS, 5, 200, 40, 2),
        at=_CPU,
        audit=60,
    ),
    "full": Edition(tuple(SCENES), 25, (2, 5, 10), (0.9, 0.0), _MIXINGS, 5, 1000, 100, 5),
}


def rows(edition: Edition, f: int, mixings: Sequence[str] | None = None) -> list[Defence]:
    """The defences at f: the reference, then those that work with n workers.

    Args:
      edition: the edition.
      f: declared number of faults.
      mixings: those before the rules; None for all of the edition.
    """
    rules = entries.written("rule") if edition.rules is None else edition.rules
    possible = [
        Defence(rule, mixing)
        for mixing in (edition.mixings if mixings is None else mixings)
        for rule in rules
        if entries.reason(rule, mixing, edition.n, f) is None
    ]
    return list(dict.fromkeys([REFERENCE, *possible]))


def columns(edition: Edition, f: int) -> tuple[str, ...]:
    """The attacks at f."""
    attacks = entries.written("attack") if edition.attacks is None else edition.attacks
    return tuple(a for a in attacks if entries.attack_reason(a, edition.n, f) is None)


def thinned(edition: Edition) -> bool:
    """Whether there are more attacks than run at full length; if not, there is no first stage."""
    return edition.attacks is None or len(edition.attacks) > edition.keep


def key_of(grid: Config) -> tuple:
    """The row that a grid belongs to."""
    return grid.rule[0], grid.mixing[0], *(getattr(grid, name) for name in SCENE)


def is_reference(grid: Config) -> bool:
    """Whether it is the row that gaps are measured from."""
    return (grid.rule[0], grid.mixing[0]) == (REFERENCE.rule, REFERENCE.mixing)


def first(edition: Edition) -> list[Config]:
    """The grids of all rows as the attacks are thinned: short, one seed, every attack."""
    grids = []
    for cell in edition.cells:
        shared: dict[str, Any] = {
            **SCENES[cell.scene],
            "study": "leaderboard",
            "n": edition.n,
            "f": cell.f,
            "s": (0, cell.f),
            "momentum": cell.momentum,
            "dealt_to": "honest",
            "steps": edition.short,
            "eval_every": edition.short,
            "seeds": 1,
            "attack": columns(edition, cell.f),
        }
        for rule, mixing in rows(edition, cell.f, cell.mixings):
            grids.append(Config(rule=(rule,), mixing=(mixing,), **shared))
    return grids


def guides(edition: Edition, grids: Sequence[Config]) -> dict[tuple, Config]:
    """The grid in which the attacks of each row are thinned; empty if they are not.

    It is that of the row itself; in an edition of cells, the first one of its rule.
    """
    if not thinned(edition):
        return {}
    if not edition.at:
        return {key_of(grid): grid for grid in grids}
    firsts: dict[str, Config] = {}
    for grid in grids:
        firsts.setdefault(grid.rule[0], grid)
    return {key_of(grid): firsts[grid.rule[0]] for grid in grids}


def kept(edition: Edition, grid: Config, accuracies: Mapping[str, float]) -> list[str]:
    """The attacks of a row that the thinning keeps.

    Args:
      edition: the edition.
      grid: one of `first`.
      accuracies: under each attack, in the grid of `guides`.
    """
    if not thinned(edition):
        return list(grid.attack)
    worst = finalists({a: accuracies[a] for a in grid.attack if a in accuracies}, edition.keep)
    more = edition.at and grid.mixing != ("none",) and THROUGH_MIXINGS in grid.attack
    return list(dict.fromkeys([*worst, THROUGH_MIXINGS])) if more else worst


def full_length(edition: Edition, grid: Config) -> dict[str, Any]:
    """The steps and seeds of a row at full length."""
    for cell in edition.cells:
        scene = SCENES[cell.scene]
        where = scene["dataset"], scene["partition"], cell.f, cell.momentum
        if where == (grid.dataset, grid.partition, grid.f, grid.momentum):
            return {"steps": cell.steps, "seeds": edition.seeds}
    raise ValueError(f"the edition has no {grid.dataset}, {grid.partition} with f={grid.f}.")


def last(edition: Edition, grid: Config, accuracies: Mapping[str, float]) -> Config:
    """The grid of a row at full length, with the attacks of `kept`, or all if it is audited."""
    wanted = list(grid.attack) if audited(grid, edition.audit) else kept(edition, grid, accuracies)
    # Evaluations stay as far apart, so that the program without attackers is compiled once.
    return dataclasses.replace(grid, attack=tuple(wanted), **full_length(edition, grid))


def finalists(accuracies: Mapping[str, float], keep: int) -> list[str]:
    """The `keep` attacks that left the lowest accuracies; of equal ones those that come first."""
    return sorted(accuracies, key=lambda attack: accuracies[attack])[:keep]


def audited(grid: Config, one_in: int = 10) -> bool:
    """Whether a row keeps all attacks, which is drawn from its settings."""
    text = repr((grid.dataset, grid.partition, grid.f, grid.momentum, grid.rule, grid.mixing))
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % one_in == 0


def of_shard(edition: Edition, grids: Sequence[Config], shard: int, shards: int) -> list[Config]:
    """The rows of one shard, from 1; a row and its guide belong to one shard."""
    if not edition.at:
        return list(grids[shard - 1 :: shards])
    rules = list(dict.fromkeys(grid.rule for grid in grids))[shard - 1 :: shards]
    return [grid for grid in grids if grid.rule in rules]


def alone(edition: Edition) -> dict[str, Any]:
    """The fields of an edition of rules without mixings; of cells, those that have mixings.

    An attack of one's own runs in it, in minutes.
    """
    at = tuple(cell._replace(mixings=("none",)) for cell in edition.at if len(cell.mixings) > 1)
    return {"mixings": ("none",), "at": at}
