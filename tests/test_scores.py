"""Choosing by scores, against NumPy's stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import scores
from byzjax._order import bisection


def tables():
    """Scores with ties, infinities and zeros of both signs."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 13, 40):
        table = rng.integers(-2, 5, size=(6, n)).astype(np.float32)
        table[rng.random(table.shape) < 0.2] = np.inf
        table[table == 0] *= rng.choice([-1, 1], size=np.sum(table == 0))
        yield table
        yield rng.normal(size=(3, n)).astype(np.float32)


@pytest.mark.parametrize("table", list(tables()), ids=lambda table: str(table.shape))
def test_against_a_stable_sort(table):
    n = table.shape[1]
    order = np.argsort(table, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    np.testing.assert_array_equal(jax.vmap(scores.ranks)(jnp.asarray(table)), rank)
    in_order = np.take_along_axis(table, order, axis=1)
    np.testing.assert_array_equal(scores.sum_of_lowest(jnp.asarray(table), 0), np.zeros(len(table)))
    for k in sorted({1, (n + 1) // 2, n}):
        for lowest in (scores.lowest, jax.jit(scores.lowest, static_argnums=1)):
            np.testing.assert_array_equal(lowest(jnp.asarray(table), k), rank < k)
        sums = scores.sum_of_lowest(jnp.asarray(table), k)
        np.testing.assert_allclose(sums, in_order[:, :k].sum(1), rtol=1e-6, atol=1e-6)
        by_bits = bisection.kth_by_bisection(jnp.asarray(table), k)
        by_sort = bisection.kth_by_sort(jnp.asarray(table), k)
        np.testing.assert_array_equal(by_bits, by_sort)
        np.testing.assert_array_equal(by_bits[:, 0], in_order[:, k - 1])


def test_equal_workers_have_equal_sums():
    x = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    x[7] = x[3]
    table = np.square(x[:, None] - x[None]).sum(-1)
    np.fill_diagonal(table, np.inf)
    sums = scores.sum_of_lowest(jnp.asarray(table), 12)
    assert sums[3] == sums[7]


def test_no_slope():
    table = jnp.asarray(np.random.default_rng(2).normal(size=(4, 5)), jnp.float32)
    slope = jax.grad(lambda t: jnp.sum(jnp.where(scores.lowest(t, 2), t, 0)))(table)
    np.testing.assert_array_equal(slope, scores.lowest(table, 2).astype(jnp.float32))
    assert not jnp.any(jax.grad(lambda t: jnp.sum(scores.sum_of_lowest(t, 2)))(table))


def test_without_jit():
    table = jnp.asarray(np.random.default_rng(3).normal(size=(4, 5)), jnp.float32)
    with jax.disable_jit():
        plain = scores.lowest(table, 2)
    np.testing.assert_array_equal(plain, scores.lowest(table, 2))
