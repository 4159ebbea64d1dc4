"""The editions of the leaderboard, and their grids.

Attacks are thinned by successive halving: at first every attack is run for a few steps with one
seed, then the worst of each row at full length with all seeds. Every tenth row is audited: it keeps
all attacks, so that the leaderboard shows how often the thinning loses the worst one.
"""

import dataclasses
import hashlib
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
AUDITED = 10  # one row in so many


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


_MIXINGS = (
    *("none", "nearest_neighbors", "bucketing(s=2)"),
    *("adaptive_clipping", "clip_norms(max_norm=1.0)"),
)
EDITIONS: dict[str, Edition] = {
    "tiny": Edition(
        *(("digits",), 5, (1,), (0.9,), ("none",), 2, 8, 4, 2),
        ("mean", "median"),
        ("sign_flip", "zero", "little_is_enough", "reversed_gradient"),
    ),
    "cpu": Edition(("digits",), 25, (5,), (0.9,), _MIXINGS, 5, 200, 40, 3),
    "full": Edition(tuple(SCENES), 25, (2, 5, 10), (0.9, 0.0), _MIXINGS, 5, 1000, 100, 5),
}


def rows(edition: Edition, f: int) -> list[Defence]:
    """The defences at f: the reference, then those that work with n workers."""
    rules = entries.written("rule") if edition.rules is None else edition.rules
    possible = [
        Defence(rule, mixing)
        for mixing in edition.mixings
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


def first(edition: Edition) -> list[Config]:
    """The grids that thin the attacks, one for each row: short, one seed, every attack."""
    grids = []
    for scene in edition.scenes:
        for f in edition.fs:
            attacks = columns(edition, f)
            for momentum in edition.momenta:
                shared: dict[str, Any] = {
                    **SCENES[scene],
                    "study": "leaderboard",
                    "n": edition.n,
                    "f": f,
                    "s": (0, f),
                    "momentum": momentum,
                    "dealt_to": "honest",
                    "steps": edition.short,
                    "eval_every": edition.short,
                    "seeds": 1,
                    "attack": attacks,
                }
                for rule, mixing in rows(edition, f):
                    grids.append(Config(rule=(rule,), mixing=(mixing,), **shared))
    return grids


def last(edition: Edition, grid: Config, accuracies: Mapping[str, float]) -> Config:
    """The grid of a row at full length, with the attacks that left least, or all if it is audited.

    Args:
      edition: the edition.
      grid: one of `first`.
      accuracies: under each attack, at the end of that grid.
    """
    attacks = grid.attack if audited(grid) else finalists(accuracies, edition.keep)
    # Evaluations stay as far apart, so that the program without attackers is compiled once.
    return dataclasses.replace(
        grid, attack=tuple(attacks), steps=edition.steps, seeds=edition.seeds
    )


def finalists(accuracies: Mapping[str, float], keep: int) -> list[str]:
    """The `keep` attacks that left the lowest accuracies; of equal ones those that come first."""
    return sorted(accuracies, key=lambda attack: accuracies[attack])[:keep]


def audited(grid: Config) -> bool:
    """Whether a row keeps all attacks, which is drawn from its settings."""
    text = repr((grid.dataset, grid.partition, grid.f, grid.momentum, grid.rule, grid.mixing))
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % AUDITED == 0


def of_shard(grids: Sequence[Config], shard: int, shards: int) -> list[Config]:
    """The rows of one shard, from 1; both lengths of a row belong to one shard."""
    return list(grids[shard - 1 :: shards])
