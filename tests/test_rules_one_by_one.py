"""Properties of single rules that the inputs of the contract do not distinguish."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import stacked
from byzjax._numerics import order, pairs, rows, thresholds
from byzjax.solvers import span as spans
from byzjax.testing import grid
from tests import oracles
from tests.helpers import close, compiled

NAN, INF = np.nan, np.inf


def drawn(n, d, seed=0):
    return np.random.default_rng([n, d, seed]).normal(size=(n, d)).astype(np.float32)


# --- bad rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "n", "f"),
    [("krum", 7, 2), ("bulyan", 7, 1), ("covariance_filter", 5, 2), ("covariance_filter", 7, 2)],
)
def test_one_bad_row_more_than_f_makes_the_result_nan(rule, n, f):
    x = drawn(n, 3)
    run = compiled(getattr(byzjax, rule), f=f)
    x[:f] = NAN
    assert np.isfinite(run(x)).all()
    x[f] = NAN
    if rule != "krum":  # which tolerates more if n > 2f + 3
        assert np.isnan(getattr(oracles, rule)(x, f)).all()
        assert np.isnan(run(x)).all()


def test_the_medoid_needs_more_than_half_of_the_rows_at_a_finite_distance():
    medoid = compiled(byzjax.medoid)
    x = np.array([[0.0], [1.0], [1.5], [NAN], [INF]], np.float32)
    close(medoid(x), [1.0])
    assert np.isnan(medoid(x[1:])).all()


def test_the_mean_that_the_geometric_median_starts_from_leaves_bad_rows_out():
    x = drawn(5, 3)
    x[2] = NAN
    out = compiled(byzjax.geometric_median, iterations=2, start="mean")(x)
    close(out, oracles.geometric_median(x, iterations=2, start="mean"), eps=1e-5)


# --- options -------------------------------------------------------------------------------------


def test_any_worker_may_be_the_pivot():
    x = grid(np.random.default_rng(0), 7).astype(np.float32)
    for pivot in (0, 3, 6):
        out = compiled(byzjax.nearest_to_pivot, f=3, pivot=pivot)(x)
        close(out, oracles.nearest_to_pivot(x, 3, pivot=pivot), 8)


def test_a_zero_has_no_vote():
    x = jnp.array([[1.0, 0.0, 0.0, -1.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(compiled(byzjax.majority_sign)(x), [0, 1, 0, -1])


def test_multi_krum_is_krum_with_the_largest_selection():
    x = drawn(11, 5)
    for m, options in (
        (6, {}),
        (8, {"neighbors": "n-f-1"}),
        (8, {"neighbors": "n-f-1", "squared": False}),
    ):
        out = compiled(byzjax.multi_krum, f=3, **options)(x)
        np.testing.assert_array_equal(out, compiled(byzjax.krum, f=3, m=m, **options)(x))
    np.testing.assert_array_equal(byzjax.multi_krum(x, f=3, m=2), byzjax.krum(x, f=3, m=2))


def test_the_learning_rate_of_any_rule_is_negated_below_the_threshold():
    """Votes of 9 workers are odd: 5 agree and 3 do not, or 7 agree."""
    x, f = drawn(9, 40), 2
    x[0, 3], x[1, 4], x[2, 5] = NAN, INF, 0
    median = functools.partial(byzjax.trimmed_mean, f=f)
    for threshold in (1, 2, 3, 4, 9):
        rule = compiled(byzjax.robust_learning_rate, threshold=threshold, rule=median)
        expected = oracles.robust_learning_rate(
            x, threshold=threshold, rule=lambda x: oracles.trimmed_mean(x, f)
        )
        close(rule(x), expected, 8)


def test_spectral_filter_keeps_who_survives_every_sample():
    n, d, f, iterations = 9, 8, 2, 4
    x, key = drawn(n, d), jax.random.key(1)
    samples = [jax.random.permutation(k, d)[:3] for k in jax.random.split(key, iterations)]
    expected = oracles.spectral_filter(x, f, samples=np.asarray(samples))
    once = oracles.spectral_filter(x, f, samples=np.asarray(samples)[:1])
    assert np.abs(expected - once).max() > 1e-2
    rule = functools.partial(byzjax.spectral_filter, f=f, coordinates=3, iterations=iterations)
    close(jax.jit(lambda x: rule(x, key=key))(x), expected, eps=1e-5)


def test_signs_are_counted_in_a_window(monkeypatch):
    module = importlib.import_module("byzjax.rules.sign_guard")
    monkeypatch.setattr(thresholds, "SIGNS_BLOCK", 4)
    x, key = np.sign(drawn(5, 40)).astype(np.float32), jax.random.key(2)
    x[:, ::3] = 0
    start = int(jax.random.randint(key, (), 0, 40 - 10 + 1))
    window = x[:, start : start + 10]
    expected = np.stack([(window > 0), (window == 0), (window < 0)], axis=2).mean(axis=1)
    for shapes in ([40], [7, 20, 13]):
        parts = np.split(x, np.cumsum(shapes)[:-1], axis=1)
        shares = jax.jit(lambda x: module._sign_shares(x, key, 0.25, None))(parts)
        close(shares, expected)


# --- building blocks -----------------------------------------------------------------------------


def test_a_coordinate_is_drawn_once():
    d, count = 8000, 1000
    sample = jax.jit(lambda x, key: stacked.sample(x, count, key))
    places = np.arange(d, dtype=np.float32)[None]
    one, other = (np.asarray(sample(places, jax.random.key(k)))[0] for k in range(2))
    assert len(set(one)) == len(set(other)) == count
    assert set(one) != set(other)


def test_the_span_of_the_rows_about_a_point_in_it():
    x, weights = drawn(5, 7), np.array([0.1, 0.4, -0.2, 0.0, 0.3], np.float32)
    center = np.full(7, 0.5, np.float32)
    point = center + weights @ (x - center)

    @jax.jit
    def moved(x):
        span = spans.span_about(x, center, None)
        return span.squared_distances(weights), span.moved_to(weights).gram

    squares, gram = moved(x)
    close(squares, ((x - point) ** 2).sum(axis=1), 8, eps=1e-5)
    close(gram, (x - point) @ (x - point).T, 8, eps=1e-5)


def test_the_products_of_wide_rows():
    """With whole blocks of columns and a remainder."""
    c = thresholds.BLOCKED + 5
    x, p = drawn(3, c), drawn(1, c, seed=1)[0]
    expected = (x - p).astype(np.float64)
    np.testing.assert_allclose(jax.jit(pairs.gram)(x, p), expected @ expected.T, rtol=1e-4)


def test_a_wide_row_of_weight_zero_may_hold_anything():
    x = drawn(3, thresholds.BLOCKED)
    x[1, 7] = INF
    out = jax.jit(rows.sum_rows)(x, np.array([1.0, 0.0, 2.0], np.float32))
    close(out, x[0] + 2 * x[2], 8)


def test_a_combination_of_rows_that_are_not_finite_is_infinite():
    x = np.array([[1.0, 2.0], [INF, 1.0], [3.0, 4.0]], np.float32)
    weights = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]], np.float32)
    np.testing.assert_array_equal(jax.jit(stacked.combine)(x, weights), [[INF, INF], [2, 3]])


def test_equal_values_beyond_the_networks():
    """One value fills the window, or extends beyond its lower or its upper end."""
    n, f = thresholds.NETWORK_MAX + 2, 10
    x = np.repeat(np.arange(4.0)[None], n, axis=0).astype(np.float32)
    x[: f - 3, 1] = -50.0
    x[: n // 2, 2] = 7.0
    ordered = np.sort(x, axis=0)[f : n - f]
    close(jax.jit(functools.partial(order.trimmed_mean, f=f))(x), ordered.mean(axis=0), 8)


def test_of_two_values_that_are_as_near_the_lower_one_is_taken():
    x = np.array([[1.0, 5.0], [-1.0, 3.0], [5.0, -9.0]], np.float32)
    nearest = jax.jit(functools.partial(order.mean_of_nearest, k=1))
    np.testing.assert_array_equal(nearest(x, np.array([0.0, 4.0], np.float32)), [-1, 3])
