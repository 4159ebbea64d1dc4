"""Selection by scores, against NumPy's stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import scores
from byzjax._numerics.order import bisection
from tests.helpers import compiled


def table_of(n):
    """Six rows of scores with ties, infinities and zeros of both signs, and three normal ones."""
    rng = np.random.default_rng(n)
    tied = rng.integers(-2, 5, size=(6, n)).astype(np.float32)
    tied[rng.random(tied.shape) < 0.2] = np.inf
    tied[tied == 0] *= rng.choice([-1, 1], size=np.sum(tied == 0))
    return np.concatenate([tied, rng.normal(size=(3, n)).astype(np.float32)])


def counts_of(n):
    return sorted({1, (n + 1) // 2, n})


def choices(table, counts):
    return {
        "ranks": jax.vmap(scores.ranks)(table),
        "sum of none": scores.sum_of_lowest(table, 0),
        "lowest": [scores.lowest(table, k) for k in counts],
        "sums": [scores.sum_of_lowest(table, k) for k in counts],
        "by bits": [bisection.kth_by_bisection(table, k) for k in counts],
        "by sort": [bisection.kth_by_sort(table, k) for k in counts],
    }


@pytest.mark.parametrize("n", [1, 2, pytest.param(13, marks=pytest.mark.smoke), 40])
def test_against_a_stable_sort(n):
    table, counts = table_of(n), counts_of(n)
    out = compiled(choices, counts=tuple(counts))(table)
    order = np.argsort(table, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    np.testing.assert_array_equal(out["ranks"], rank)
    in_order = np.take_along_axis(table, order, axis=1)
    np.testing.assert_array_equal(out["sum of none"], np.zeros(len(table)))
    for i, k in enumerate(counts):
        np.testing.assert_array_equal(out["lowest"][i], rank < k, err_msg=f"k={k}")
        sums = in_order[:, :k].sum(1)
        np.testing.assert_allclose(out["sums"][i], sums, rtol=1e-6, atol=1e-6, err_msg=f"k={k}")
        by_bits, by_sort = np.asarray(out["by bits"][i]), out["by sort"][i]
        np.testing.assert_array_equal(by_bits, by_sort, err_msg=f"k={k}")
        np.testing.assert_array_equal(by_bits[:, 0], in_order[:, k - 1], err_msg=f"k={k}")


@pytest.mark.parametrize("n", [13, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 40))])
def test_plain_calls_against_a_stable_sort(n):
    """Operation by operation, without `jit`."""
    table = table_of(n)
    rank = np.argsort(np.argsort(table, axis=1, kind="stable"), axis=1, kind="stable")
    for k in counts_of(n):
        lowest = scores.lowest(jnp.asarray(table), k)
        np.testing.assert_array_equal(lowest, rank < k, err_msg=f"k={k}")


def test_equal_workers_have_equal_sums():
    x = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    x[7] = x[3]
    table = np.square(x[:, None] - x[None]).sum(-1)
    np.fill_diagonal(table, np.inf)
    sums = compiled(scores.sum_of_lowest, k=12)(table)
    assert sums[3] == sums[7]


def test_no_slope():
    table = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)

    @jax.jit
    def gradients(table):
        of_chosen = jax.grad(lambda t: jnp.sum(jnp.where(scores.lowest(t, 2), t, 0)))
        of_sum = jax.grad(lambda t: jnp.sum(scores.sum_of_lowest(t, 2)))
        return scores.lowest(table, 2), of_chosen(table), of_sum(table)

    lowest, of_chosen, of_sum = gradients(table)
    np.testing.assert_array_equal(of_chosen, np.asarray(lowest).astype(np.float32))
    assert not np.any(of_sum)


def test_without_jit():
    table = jnp.asarray(np.random.default_rng(3).normal(size=(4, 5)), jnp.float32)
    with jax.disable_jit():
        plain = scores.lowest(table, 2)
    np.testing.assert_array_equal(plain, compiled(scores.lowest, k=2)(table))
