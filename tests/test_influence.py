"""How much of the aggregate each worker has."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from tests.rule_cases import CASES

SELECTING = {
    "aksel-mid": lambda n, f: (n + 1) // 2,
    "aksel-n-f": lambda n, f: n - f,
    "krum": lambda n, f: 1,
    "multi-krum": lambda n, f: n - f - 2,
    "multi-krum-byzfl": lambda n, f: n - f,
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


SLOW = [pytest.mark.slow]


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.id, marks=[] if c.quick else SLOW) for c in CASES]
)
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
    found = np.asarray(shares(np.stack([*rows, *rows]), directions.astype(np.float32)))
    whole, along = found.reshape(2, 5, n)
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


def test_coordinate_wise_rules_give_the_mean_weight():
    x = jnp.array([[0.0, 5.0, 1.0, 3.0], [1.0, 4.0, 3.0, 2.0], [2.0, 6.0, 2.0, 9.0]])
    np.testing.assert_allclose(byzjax.influence(byzjax.median, x), [0.5, 0.25, 0.25])
    np.testing.assert_allclose(byzjax.influence(byzjax.mean, x), [1 / 3] * 3, rtol=1e-6)
    five = jnp.array([[1.0], [2.0], [3.0], [4.0], [99.0]])
    np.testing.assert_allclose(
        byzjax.influence(byzjax.trimmed_mean, five, f=1), [0, 1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6
    )


def test_a_tree_and_a_direction():
    x = {"a": jnp.ones((4, 3)), "b": jnp.arange(8.0).reshape(4, 2)}
    out = byzjax.mean(x)
    np.testing.assert_allclose(
        byzjax.influence(byzjax.mean, x, direction=out), [0.25] * 4, rtol=1e-6
    )
    jitted = jax.jit(lambda x: byzjax.influence(byzjax.krum, x, f=0))
    np.testing.assert_allclose(jitted(x).sum(), 1, rtol=1e-6)
