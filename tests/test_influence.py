"""Each worker's influence on the aggregate."""

import math

import jax
import numpy as np
import pytest

import byzjax
from tests.helpers import compiled
from tests.rule_cases import CASES

SELECTING = {
    "aksel-mid": lambda n, f: (n + 1) // 2,
    "aksel-n-f": lambda n, f: n - f,
    "krum": lambda n, f: 1,
    "multi_krum": lambda n, f: n - f - 2,
    "multi_krum-byzfl": lambda n, f: n - f,
    "comparative_elimination": lambda n, f: n - f,
    "nearest_to_pivot": lambda n, f: n - f,
    "medoid": lambda n, f: 1,
    "zeno": lambda n, f: n - f,
    "minimum_diameter": lambda n, f: n - f,
    "minimum_eigenvalue": lambda n, f: n - f,
}


def influence(case, x, f, direction=None):
    n = len(x)
    return byzjax.influence(
        case.rule, x, *case.data(x, None), direction=direction, **case.kwargs(n, f)
    )


# These take longest to compile, and each resembles a rule that stays in the default tier: one that
# weights rows, selects a subset, filters, or another form of the same rule.
LONG = (
    "centered_clip-5",
    "covariance_filter",
    "flag-3",
    "geometric_median_of_means",
    "minimum_eigenvalue",
    "rfa",
    "sign_guard",
)


def marks_of(case):
    return () if case.quick and case.id not in LONG else pytest.mark.slow


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id, marks=marks_of(c)) for c in CASES])
def test_laws(case):
    n, d = 12, 5
    f = case.most(n)
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    bad = [x.copy() for _ in range(3)]
    for rows, value in zip(bad, (math.nan, math.inf, 3e38)):
        rows[2] = value

    @jax.jit
    @jax.vmap
    def shares(x, direction):
        return influence(case, x, f, direction=direction)

    rows = [x, np.ones((n, d), np.float32), *bad]
    directions = np.repeat([np.ones(d), np.arange(5.0) - 1], len(rows), axis=0)
    both = np.asarray(shares(np.stack([*rows, *rows]), directions.astype(np.float32)))
    whole, along = both.reshape(2, 5, n)
    if case.facts.shifts:
        np.testing.assert_allclose(whole[:2].sum(axis=1), 1, atol=1e-4)
        np.testing.assert_allclose(along[:2].sum(axis=1), 1, atol=1e-4)
    if case.id in SELECTING:
        count = SELECTING[case.id](n, f)
        ordered = np.sort(whole[0])
        np.testing.assert_allclose(ordered[-count:], 1 / count, rtol=1e-5)
        assert (ordered[:-count] == 0).all()
    if case.facts.promise != "none":
        assert np.isfinite(whole).all()
        assert (whole[2:4, 2] == 0).all()


def shares_of(rule, x, **hyperparameters):
    return jax.jit(lambda x: byzjax.influence(rule, x, **hyperparameters))(x)


@pytest.mark.smoke
def test_coordinate_wise_rules_give_the_mean_weight():
    x = [[0.0, 5.0, 1.0, 3.0], [1.0, 4.0, 3.0, 2.0], [2.0, 6.0, 2.0, 9.0]]
    x = np.array(x, np.float32)
    np.testing.assert_allclose(shares_of(byzjax.median, x), [0.5, 0.25, 0.25])
    np.testing.assert_allclose(shares_of(byzjax.mean, x), [1 / 3] * 3, rtol=1e-6)
    five = np.array([[1.0], [2.0], [3.0], [4.0], [99.0]], np.float32)
    np.testing.assert_allclose(
        shares_of(byzjax.trimmed_mean, five, f=1), [0, 1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6
    )


def test_a_tree_and_a_direction():
    x = {"a": np.ones((4, 3), np.float32), "b": np.arange(8, dtype=np.float32).reshape(4, 2)}
    out = compiled(byzjax.mean)(x)
    np.testing.assert_allclose(shares_of(byzjax.mean, x, direction=out), [0.25] * 4, rtol=1e-6)
    np.testing.assert_allclose(np.sum(shares_of(byzjax.krum, x, f=0)), 1, rtol=1e-6)
