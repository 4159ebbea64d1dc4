"""Geometric medians for which Weiszfeld's steps are slow: half of the rows at one point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from tests import oracles


def loss(z, x):
    return np.linalg.norm(x - z, axis=1).sum()


def at_one_place(n, spread, seed, d=3):
    """Half of the rows coincide; the others lie in one direction from them, up to a spread.

    The n / 2 unit vectors sum to less than n / 2, so this point is the only minimiser.
    """
    rng = np.random.default_rng(seed)
    place, along = rng.normal(size=(2, d))
    others = np.arange(1, n // 2 + 1)[:, None] * (along + spread * rng.normal(size=(n // 2, d)))
    return np.concatenate([np.tile(place, (n // 2, 1)), place + others]), place


@pytest.mark.parametrize("n", [4, 12])
def test_half_of_the_rows_coincide(n):
    """With a smaller spread all points of a valley are equally good in float32, but no others."""
    median = jax.jit(byzjax.geometric_median)
    for spread in (0.3, 0.05, 1e-2, 1e-3, 0):
        for seed in range(5):
            x, place = at_one_place(n, spread, seed)
            out = np.asarray(median(jnp.asarray(x, jnp.float32)), np.float64)
            assert loss(out, x) <= loss(place, x) * (1 + 5e-6)
            if spread >= 0.05:
                np.testing.assert_allclose(out, place, atol=1e-3)
                np.testing.assert_allclose(oracles.geometric_median(x), place, atol=1e-5)
