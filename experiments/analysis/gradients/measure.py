"""Statistics of gradients across workers, and the errors of rules on them."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import byzjax
from byzjax import attacks

LEVEL = 0.05  # of the test of Shapiro and Wilk
LEADING = 10  # directions


def statistics(rows: np.ndarray, gradient: np.ndarray, sample: np.ndarray) -> dict[str, float]:
    """How Gaussian the rows of workers are.

    Args:
      rows: gradients `[n, d]` of workers.
      gradient: their mean g, `[d]`, known.
      sample: coordinates whose values are tested.

    Returns:
      Of the sampled coordinates: `zeros`, the share of values that are exactly 0; `constant`, the
      share of coordinates that are the same in all rows; and of the others, `normal`, the share
      accepted as normal at the level 5 %, and medians of the excess `kurtosis` and of the absolute
      `skewness`. Of all: `rank`, (tr S)^2 / tr S^2 for the covariance S of a row, estimated without
      bias; `leading`, the share of ten directions in the squared distances to g; `even`,
      (sum_j v_j)^2 / (d sum_j v_j^2) for the variances v_j; and `signal`, |g| / sqrt(tr S).
    """
    values = rows[:, sample].astype(np.float64)
    varying = np.ptp(values, axis=0) > 0
    # In units of the standard deviation: the smallest gradients have squares that are subnormal.
    alive = values[:, varying] / values[:, varying].std(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns with one value that differs
        accepted = [stats.shapiro(column).pvalue > LEVEL for column in alive.T]
        kurtosis = stats.kurtosis(alive, bias=False)
        skewness = stats.skew(alive, bias=False)
    return {
        "zeros": float((values == 0).mean()),
        "constant": float(1 - varying.mean()),
        "normal": float(np.mean(accepted)),
        "kurtosis": float(np.median(kurtosis)),
        "skewness": float(np.median(np.abs(skewness))),
        **covariance(rows, gradient),
    }


def covariance(rows: np.ndarray, gradient: np.ndarray) -> dict[str, float]:
    """The last four entries of `statistics`."""
    away = rows.astype(np.float64) - gradient
    products, n = away @ away.T, len(away)
    trace = np.trace(products) / n
    apart = products[~np.eye(n, dtype=bool)]
    eigenvalues = np.linalg.eigvalsh(products)
    variances = np.mean(away**2, axis=0)
    return {
        "rank": float(trace**2 / np.mean(apart**2)),
        "leading": float(eigenvalues[-LEADING:].sum() / eigenvalues.sum()),
        "even": float(variances.sum() ** 2 / (len(variances) * np.sum(variances**2))),
        "signal": float(np.linalg.norm(gradient) / np.sqrt(trace)),
    }


def like(rows: np.ndarray, gradient: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian rows with the mean g and the covariance (1/n) sum_i (x_i - g)(x_i - g)^T."""
    normal = rng.normal(size=(len(rows), len(rows))) / np.sqrt(len(rows))
    return (gradient + normal @ (rows - gradient)).astype(np.float32)


class Case(NamedTuple):
    """A number of attackers, their attack, and a rule.

    Attributes:
      liars: the share of workers that attack, in words.
      attack: name of the attack; empty for none.
      rule: name of the rule.
    """

    liars: str
    attack: str
    rule: str


NONE, FIFTH, HALF = "none", "f = n/5", "f = (n-1)/2"
AROUND = ("pushed", "order_statistic", "little_is_enough")
RULES = ("median", "aksel")
CASES = (
    *(Case(NONE, "", rule) for rule in ("mean", *RULES)),
    *(Case(HALF, attack, rule) for attack in AROUND for rule in RULES),
    *(Case(FIFTH, attack, rule) for attack in AROUND for rule in RULES),
)
ALONG_D = tuple(case for case in CASES if case.liars == NONE or case[:2] == (HALF, "pushed"))


def errors(
    rows: np.ndarray, gradient: np.ndarray, scale: float, cases: tuple[Case, ...] = CASES
) -> Iterator[tuple[Case, float, float]]:
    """The errors of rules on the rows of n workers, the last f of which attack.

    Args:
      rows: gradients `[n, d]`.
      gradient: their mean g, `[d]`.
      scale: the root of the trace of the covariance of a row, which is sqrt(d) sigma if it is
        isotropic.
      cases: the rules and attacks.

    Yields:
      Each case with |F - g| / scale, and the angle between F and g in degrees.
    """
    n, updates = len(rows), jnp.asarray(rows)
    sent: dict[tuple[str, str], jax.Array] = {}
    for case in cases:
        f = {NONE: 0, FIFTH: n // 5, HALF: (n - 1) // 2}[case.liars]
        if case[:2] not in sent:
            attack = getattr(attacks, case.attack) if f else None
            sent[case[:2]] = attack(updates, jnp.arange(n) >= n - f) if attack else updates
        result = np.asarray(_rule(case.rule, n)(sent[case[:2]]), np.float64)
        away = np.linalg.norm(result - gradient)
        yield case, float(away / scale), angle(result, gradient)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """The angle between two vectors in degrees; 90 if one of them is 0."""
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.degrees(np.arccos(np.clip(a @ b / norms, -1, 1)))) if norms else 90.0


def _rule(name: str, n: int) -> Callable:
    function = getattr(byzjax, name)
    return partial(function, f=(n - 1) // 2) if name == "aksel" else function
