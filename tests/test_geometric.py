"""Geometric medians for which Weiszfeld's steps are slow, and those of many rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax._numerics import thresholds
from byzjax.solvers import groups, weiszfeld
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


@pytest.mark.parametrize("n", [4, 12, 130])
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


MANY = thresholds.NETWORK_MAX + 1  # rows, from which steps on the rows come first


def scenes():
    """Rows of many workers: benign, attacked, in one direction, some in one place."""
    rng = np.random.default_rng(1)
    benign = rng.normal(size=(MANY, 20))
    attacked, together = benign.copy(), benign.copy()
    attacked[: MANY // 3] = 50.0
    together[: MANY // 4] = 0.3
    bad = benign.copy()
    bad[0, 0], bad[1, 1] = np.nan, -np.inf
    return {
        "benign": benign,
        "attacked": attacked,
        "along a line": rng.normal(size=(MANY, 1)) * rng.normal(size=(1, 20)),
        "some together": together,
        "not finite": bad,
    }


@pytest.mark.parametrize("scene", scenes())
def test_many_rows(scene):
    """The minimiser, whether steps on the rows suffice or not."""
    x = scenes()[scene]
    out = np.asarray(byzjax.geometric_median(jnp.asarray(x, jnp.float32)), np.float64)
    finite = x[np.isfinite(x).all(axis=1)]
    expected = oracles.geometric_median(finite)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    assert loss(out, finite) <= loss(expected, finite) * (1 + 1e-6)


def test_steps_on_rows_know_when_they_suffice():
    def sure(scene):
        rows = groups.Rows([jnp.asarray(scenes()[scene], jnp.float32)], None)
        return bool(weiszfeld.on_rows(rows, jnp.float32(1e-6))[1])

    assert sure("benign")
    assert not sure("along a line")  # the step of a mean of signs is never short
    assert not sure("some together")


@pytest.mark.slow
def test_derivative_of_many_rows():
    """That of the fixed point, as for few rows, which comes from the Gram matrix."""
    x = jnp.asarray(scenes()["attacked"], jnp.float32)
    direction = jnp.asarray(np.random.default_rng(2).normal(size=x.shape), jnp.float32)
    _, along = jax.jvp(byzjax.geometric_median, (x,), (direction,))
    moved = [byzjax.geometric_median(x + step * direction) for step in (0.01, -0.01)]
    np.testing.assert_allclose(along, (moved[0] - moved[1]) / 0.02, atol=1e-3)
    back = jax.grad(lambda x: jnp.vdot(byzjax.geometric_median(x), along))(x)
    np.testing.assert_allclose(jnp.vdot(back, direction), jnp.vdot(along, along), rtol=1e-4)
