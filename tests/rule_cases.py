"""The table of rules for the contract tests: a new rule is one more `Case`.

Laws, requirement and promise come from `byzjax.facts` and constants from `byzjax.theory`, so the
tests check these.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import byzjax
from byzjax import theory
from byzjax.facts import FACTS, Facts
from tests import oracles

# Variants with the same numerics as others.
VARIANTS = {
    *["aksel-n-f", "aksel-radius", "multi_krum", "multi_krum-byzfl", "krum-plain-distances"],
    *["rfa", "huber", "flag-3", "centered_clip-5", "biweight_mean-2"],
}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One rule with its hyperparameters."""

    id: str
    rule: Callable
    oracle: Callable  # (matrix [n, d], f, **hyper, **oracle_data(d)) -> [d] in float64
    hyper: Callable = lambda n, f: {}  # (n, f) -> hyperparameters
    data: Callable = lambda updates, axis_name: ()  # positional arguments after the updates
    oracle_data: Callable = lambda d: {}  # the same, for the oracle
    unseen: tuple[str, ...] = ()  # hyperparameters that the oracle does not take
    units: tuple[str, ...] = ()  # hyperparameters in units of the updates
    change: dict[str, Any] = dataclasses.field(default_factory=dict)  # the variant's facts
    name: str = ""  # its name in the facts; the rule's by default
    ties: Callable = lambda n, f: False  # (n, f) where rows may tie, so that their order matters
    trusted: int = 0  # the first rows, which are never Byzantine
    unique_from: int = 1  # with fewer good rows the result is not unique and has no derivative
    quick: bool = True  # whether the default tier tests more than its values and its promise
    most_n: int = 64
    # Largest finite Byzantine value with which float32 follows the loop: farther ones cost digits.
    reach: float = float(np.finfo(np.float32).max)
    eps: float = 2e-6
    slope_eps: float = 2e-5  # for derivatives, in float32

    @property
    def facts(self) -> Facts:
        return FACTS[self.name or self.rule.__name__]._replace(**self.change)

    @property
    def variant(self):
        return self.id in VARIANTS

    def least(self, f):
        a, b = self.facts.needs
        return a * f + b

    def most(self, n):
        """The largest f allowed for n workers."""
        a, b = self.facts.needs
        return (n - b) // a if a else 1

    def kwargs(self, n, f):
        return ({"f": f} if self.facts.takes_f else {}) | self.hyper(n, f)

    def __call__(self, updates, f, scale=1.0, **options):
        n = jax.tree.leaves(updates)[0].shape[0]
        kwargs = self.kwargs(n, f)
        kwargs |= {name: scale * kwargs[name] for name in self.units}
        return self.call(updates, scale=scale, **kwargs, **options)

    def call(self, updates, scale=1.0, axis_name=None, **kwargs):
        """The rule with its data and just these hyperparameters."""
        data = self.data(updates, axis_name)
        if self.facts.scales:
            data = jax.tree.map(lambda leaf: scale * leaf, data)
        return self.rule(updates, *data, **kwargs, axis_name=axis_name)

    def arguments(self, updates, f):
        """The rule's keyword arguments besides these updates."""
        names = list(inspect.signature(self.rule).parameters)[1:]
        data = self.data(updates, None)
        return dict(zip(names, data)) | self.kwargs(jax.tree.leaves(updates)[0].shape[0], f)

    def expected(self, x, f, layers=None):
        """By the loop; `layers`: the sizes of a tree's leaves, for rules with layers."""
        of_layers = {"layers": layers} if self.facts.layers else {}
        return self.looped(np.asarray(x, np.float64), f, self.hyper(len(x), f), **of_layers)

    def looped(self, rows, f, hyper, **more):
        """The paper's loop on these rows."""
        hyper = {k: v for k, v in hyper.items() if k not in self.unseen} | more
        return self.oracle(rows, f, **hyper, **self.oracle_data(rows.shape[1]))

    def withstands(self, byzantine, f):
        """Whether the rule promises anything where these rows are Byzantine, at most f."""
        return True

    def proved(self, kind, n, f):
        """The best constant of this kind for this form of the rule, or None."""
        return theory.proved(kind, self.name or self.rule.__name__, n, f, **self.hyper(n, f))


@dataclasses.dataclass(frozen=True, eq=False)
class Weighted(Case):
    """A rule with weights; its loop runs on rows that stand as often as they weigh.

    Which f rows are Byzantine does not say how much they weigh: test_weights.py has its promises.
    """

    most_n: int = 25

    def kwargs(self, n, f):
        return super().kwargs(n, f) | {"weights": jnp.asarray(0.375 * multiplicities(n), float)}

    def expected(self, x, f, layers=None):
        takes_f = self.facts.takes_f
        rows, faults = replicated(x, multiplicities(len(x)), f if takes_f else None)
        return self.looped(rows, faults, self.hyper(len(x), f))

    def withstands(self, byzantine, f):
        """Whether these rows hold at most the share f/n of the weight."""
        weights = multiplicities(len(byzantine))
        return np.sum(weights[byzantine]) <= f / len(byzantine) * np.sum(weights)

    def proved(self, kind, n, f):
        return None


def multiplicities(n):
    """How often each of n rows stands in the multiset; at least once."""
    return np.random.default_rng([n, 1]).integers(1, 5, size=n)


def replicated(x, times, f=None):
    """(rows, f) of the multiset in which row i stands in proportion to `times[i]`.

    f of n rows are as large a part of it as f of `len(x)`; the multiset is the smallest.
    """
    times = np.asarray(times)
    faults = 0 if f is None else f * int(times.sum())
    counts = times * (1 if f is None else len(x))
    common = int(np.gcd.reduce([*counts, faults]))
    return np.repeat(np.asarray(x, np.float64), counts // common, axis=0), faults // common


# --- data: equal in every coordinate, so that it can be sliced ---

POINT = 0.25


def constant(updates, axis_name):
    del axis_name
    return (jax.tree.map(lambda leaf: jnp.full(leaf.shape[1:], POINT, jnp.float32), updates),)


def params_and_loss(updates, axis_name):
    def loss(params):
        parts = [jnp.sum((p - 1.0) ** 2) for p in jax.tree.leaves(params)]
        return sum(parts) if axis_name is None else lax.psum(sum(parts), axis_name)

    return (*constant(updates, axis_name), loss)


def flat_params_and_loss(d):
    return {"params": np.full(d, POINT), "trusted_loss": lambda w: np.sum((w - 1.0) ** 2)}


KEY = jax.random.key(0)


def one_neighbor(n, f):
    """Krum with one neighbour: the two rows nearest to each other have the same score."""
    return n - f - 2 == 1


CASES = [
    Case("aksel-mid", byzjax.aksel, oracles.aksel),
    Case(
        "aksel-n-f",
        byzjax.aksel,
        oracles.aksel,
        hyper=lambda n, f: {"mode": "n-f"},
        quick=False,
    ),
    Case(
        "aksel-radius",
        byzjax.aksel,
        oracles.aksel,
        hyper=lambda n, f: {"mode": "radius"},
        quick=False,
    ),
    Case("biweight_mean", byzjax.biweight_mean, oracles.biweight_mean),
    Case(
        "biweight_mean-2",
        byzjax.biweight_mean,
        oracles.biweight_mean,
        hyper=lambda n, f: {"c": 2.0},
        change={"promise": "finite"},
        quick=False,
    ),
    Case("krum", byzjax.krum, oracles.krum, ties=one_neighbor),
    Case("multi_krum", byzjax.multi_krum, oracles.multi_krum, ties=one_neighbor, quick=False),
    Case(
        "multi_krum-byzfl",
        byzjax.multi_krum,
        oracles.multi_krum,
        hyper=lambda n, f: {"neighbors": "n-f-1"},
        change={"needs": (2, 1)},
        ties=lambda n, f: n - f - 1 == 1,
    ),
    Case(
        "krum-plain-distances",
        byzjax.krum,
        oracles.krum,
        hyper=lambda n, f: {"neighbors": "n-f-1", "squared": False},
        change={"needs": (2, 1)},
        ties=lambda n, f: n - f - 1 == 1,
        quick=False,
    ),
    # The last two of f + 2 rows are each other's only neighbours.
    Case("bulyan", byzjax.bulyan, oracles.bulyan, ties=lambda n, f: True, most_n=25),
    Case("minimum_diameter", byzjax.minimum_diameter, oracles.minimum_diameter, most_n=12),
    Case("minimum_eigenvalue", byzjax.minimum_eigenvalue, oracles.minimum_eigenvalue, most_n=12),
    Case(
        "covariance_filter",
        byzjax.covariance_filter,
        oracles.covariance_filter,
        eps=1e-5,
        slope_eps=1e-3,  # 2f eigenvectors in sequence; in the process with 64 bits it is 2e-6
    ),
    Case(
        "spectral_filter",
        byzjax.spectral_filter,
        oracles.spectral_filter,
        hyper=lambda n, f: {"key": KEY},
        unseen=("key",),
        reach=1e12,
    ),
    Case(
        "geometric_median",
        byzjax.geometric_median,
        oracles.geometric_median,
        hyper=lambda n, f: {"smoothing": 1e-6},
        units=("smoothing",),
        eps=1e-5,
        unique_from=3,
    ),
    Case(
        "rfa",
        byzjax.geometric_median,
        oracles.geometric_median,
        hyper=lambda n, f: {"iterations": 3, "start": "median", "smoothing": 0.1},
        units=("smoothing",),
        change={"promise": "finite"},
        eps=1e-5,
    ),
    Case(
        "geometric_median_of_means",
        byzjax.geometric_median_of_means,
        oracles.geometric_median_of_means,
        hyper=lambda n, f: {"k": min(n, 2 * f + 1), "smoothing": 1e-6},
        units=("smoothing",),
        eps=1e-5,
        unique_from=4,  # with 4 rows in 3 groups, a bad row may leave two groups
    ),
    Case(
        "huber",
        byzjax.huber,
        oracles.huber,
        hyper=lambda n, f: {"threshold": 1.5},
        units=("threshold",),
        eps=1e-5,
        unique_from=3,
        quick=False,
    ),
    Case(
        "centered_clip",
        byzjax.centered_clip,
        oracles.centered_clip,
        hyper=lambda n, f: {"radius": 1.5},
        data=constant,
        oracle_data=lambda d: {"center": np.full(d, POINT)},
        units=("radius",),
    ),
    Case(
        "centered_clip-5",
        byzjax.centered_clip,
        oracles.centered_clip,
        hyper=lambda n, f: {"radius": 1.5, "iterations": 5},
        data=constant,
        oracle_data=lambda d: {"center": np.full(d, POINT)},
        units=("radius",),
        eps=1e-5,
    ),
    Case("nearest_to_pivot", byzjax.nearest_to_pivot, oracles.nearest_to_pivot, trusted=1),
    Case("medoid", byzjax.medoid, oracles.medoid, reach=1e6),
    Case(
        "robust_learning_rate",
        byzjax.robust_learning_rate,
        oracles.robust_learning_rate,
        hyper=lambda n, f: {"threshold": max(1, n // 3)},
    ),
    Case(
        "gradient_splitting",
        byzjax.gradient_splitting,
        oracles.gradient_splitting,
        # One group: others differ between devices, and are tested one by one.
        hyper=lambda n, f: {"key": KEY, "groups": 1},
        unseen=("key",),
    ),
    Case(
        "flame",
        byzjax.flame,
        oracles.flame,
        hyper=lambda n, f: {"key": KEY, "noise": 0.0},
        unseen=("key",),
    ),
    Case(
        "sign_guard",
        byzjax.sign_guard,
        oracles.sign_guard,
        hyper=lambda n, f: {"key": KEY, "share": 1.0},
        unseen=("key", "share"),
        ties=lambda n, f: True,  # clusters of one size
    ),
    Case("flag", byzjax.flag, oracles.flag, eps=1e-5, slope_eps=1e-4),
    Case(
        "flag-3",
        byzjax.flag,
        oracles.flag,
        hyper=lambda n, f: {"r": min(2, n), "iterations": 3, "pairwise": 0.5, "smoothing": 1e-2},
        eps=2e-5,
        slope_eps=1e-4,
    ),
    Case(
        "fl_trust",
        byzjax.fl_trust,
        oracles.fl_trust,
        data=constant,
        oracle_data=lambda d: {"trusted": np.full(d, POINT)},
    ),
    Case(
        "zeno",
        byzjax.zeno,
        oracles.zeno,
        hyper=lambda n, f: {"learning_rate": 0.1, "rho": 0.01},
        data=params_and_loss,
        oracle_data=flat_params_and_loss,
    ),
]

OF_WEIGHTS = {"permutes": False, "promise": "none"}
CASES += [
    Weighted("trimmed_mean-weights", byzjax.trimmed_mean, oracles.trimmed_mean, change=OF_WEIGHTS),
    Weighted(
        "aksel-weights",
        byzjax.aksel,
        oracles.aksel,
        hyper=lambda n, f: {"mode": "n-f"},
        change=OF_WEIGHTS,
        quick=False,
    ),
    Weighted(
        "geometric_median-weights",
        byzjax.geometric_median,
        oracles.geometric_median,
        hyper=lambda n, f: {"smoothing": 1e-6},
        units=("smoothing",),
        change=OF_WEIGHTS,
        eps=1e-5,
        slope_eps=1e-4,  # one of four rows holds 4/9 of the weight; 5e-8 in float64
        unique_from=3,
        quick=False,
    ),
    Weighted(
        "centered_clip-weights",
        byzjax.centered_clip,
        oracles.centered_clip,
        hyper=lambda n, f: {"radius": 1.5, "iterations": 2},
        data=constant,
        oracle_data=lambda d: {"center": np.full(d, POINT)},
        units=("radius",),
        change=OF_WEIGHTS,
        eps=1e-5,
        quick=False,
    ),
]

# A rule that only takes f, and has an oracle of its name, needs no entry above.
CASES += [
    Case(name, getattr(byzjax, name), getattr(oracles, name))
    for name, facts in FACTS.items()
    if facts.kind == "rule"
    and name not in {case.rule.__name__ for case in CASES if not isinstance(case, Weighted)}
]
