"""The biweight mean: its breakdown, its constant, and its efficiency, by Monte Carlo in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import theory
from tests import oracles


@pytest.mark.parametrize(("n", "f"), [(3, 1), (4, 1), (5, 2), (6, 2), (9, 2), (11, 5), (12, 4)])
def test_no_input_exceeds_the_proved_constant(n, f):
    """Random values and liars near the edge of the weights; d = 1, where kappa is the same."""
    rng = np.random.default_rng([n, f])
    kappa, worst = theory.proved("kappa", "biweight_mean", n, f), 0.0
    for _ in range(300):
        honest = np.round(rng.standard_t(2, size=n - f), int(rng.integers(0, 3)))
        if np.var(honest) == 0:
            continue
        where = rng.choice([-1, 1]) * rng.uniform(0, 7) * (np.ptp(honest) + np.std(honest))
        rows = np.concatenate([honest, np.full(f, honest.mean() + where)])[:, None]
        distance = float(oracles.biweight_mean(rows)[0]) - honest.mean()
        worst = max(worst, distance**2 / np.var(honest))
    assert 0.1 * theory.lower_bound("kappa", n, f) < worst <= kappa


@pytest.mark.parametrize("n", [5, 6, 11])
def test_half_of_the_rows_break_it(n):
    """It withstands f < n / 2 rows anywhere, and no more."""
    x = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    most = (n - 1) // 2
    for far in (1e6, 1e30):
        below, beyond = x.copy(), x.copy()
        below[:most], beyond[: most + 1] = far, far
        assert np.abs(byzjax.biweight_mean(jnp.asarray(below))).max() < 10
        assert np.abs(byzjax.biweight_mean(jnp.asarray(beyond))).max() > far / 10


def test_efficiency_between_the_median_and_the_mean():
    """For Gaussian values: variance times n, at n = 25; the median's is 1.54."""
    x = np.random.default_rng(0).normal(size=(25, 40_000)).astype(np.float32)
    variances = {c: 25 * float(np.var(byzjax.biweight_mean(x, c=c))) for c in (6.0, 9.0, 1e6)}
    median = 25 * float(np.var(byzjax.median(x)))
    assert variances[1e6] == pytest.approx(1, abs=0.02)
    assert 1 < variances[9.0] < variances[6.0] < median
    assert variances[6.0] == pytest.approx(1.16, abs=0.02)  # of the docstring


def test_equal_values_have_no_deviation():
    x = jnp.array([[1.0, -0.0], [1.0, 0.0], [1.0, 0.0], [7.0, jnp.nan], [-jnp.inf, 5.0]])
    np.testing.assert_array_equal(byzjax.biweight_mean(x), [1.0, 0.0])
    derivatives = jax.jacobian(byzjax.biweight_mean)(x)
    assert np.isfinite(derivatives).all()


def test_more_bad_rows_than_half_do_not_look_healthy():
    x = jnp.array([[1.0, 1.0], [jnp.inf, jnp.nan], [jnp.inf, jnp.nan]])
    assert np.isnan(byzjax.biweight_mean(x)).all()


def test_a_traced_tuning_constant_and_many_runs():
    x = np.random.default_rng(1).normal(size=(7, 4))
    x[0] = 9.0
    out = jax.jit(jax.vmap(lambda c: byzjax.biweight_mean(jnp.asarray(x, jnp.float32), c=c)))(
        jnp.array([2.0, 6.0])
    )
    for c, row in zip((2.0, 6.0), out, strict=True):
        np.testing.assert_allclose(row, oracles.biweight_mean(x, c=c), rtol=2e-6, atol=2e-6)


def test_its_constant_is_that_of_the_page():
    """(√κ₁ + 6 √(m (1 + κ₁) / (⌈n/2⌉ - f)))² at n = 25, f = 5: κ₁ = 24/16, m = 20."""
    expected = (math.sqrt(1.5) + 6 * math.sqrt(20 * 2.5 / 8)) ** 2
    assert theory.proved("kappa", "biweight_mean", 25, 5) == pytest.approx(expected)
    assert theory.constants("kappa", "biweight_mean", 25, 5, c=9.0) == ()
