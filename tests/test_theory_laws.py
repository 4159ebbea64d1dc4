"""The noncentral chi square and Gumbel laws, against Monte Carlo in float64."""

import math

import numpy as np
import pytest

from byzjax import theory

TRIALS = 40_000


def close_to_frequency(probability, hits):
    """Within four standard errors, and at least 1e-3."""
    mean = np.mean(hits)
    assert abs(probability - mean) <= 4 * math.sqrt(mean * (1 - mean) / len(hits)) + 1e-3


@pytest.mark.smoke
@pytest.mark.parametrize(("d", "shift"), [(1, 0.0), (1, 2.5), (2, 30.0), (7, 4.0), (40, 0.0)])
def test_squared_distances_are_noncentral_chi_square(d, shift):
    rng = np.random.default_rng(d)
    point = rng.normal(size=d)
    point *= math.sqrt(shift) / np.linalg.norm(point)
    squares = np.sum((rng.normal(size=(TRIALS, d)) - point) ** 2, axis=1)
    for share in (0.02, 0.3, 0.5, 0.9, 0.99):
        square = float(np.quantile(squares, share))
        probability = theory.squared_distance_probability(square, d=d, shift=shift)
        close_to_frequency(probability, squares <= square)


def test_many_coordinates():
    """The law of large numbers: mean d + lambda, variance 2 (d + 2 lambda)."""
    for d, shift in ((2000, 500.0), (1_000_000, 0.0), (1_000_000, 1e6)):
        deviation = math.sqrt(2 * (d + 2 * shift))
        for away, probability in ((-1, 0.158655), (0, 0.5), (1, 0.841345)):
            square = d + shift + away * deviation
            value = theory.squared_distance_probability(square, d=d, shift=shift)
            assert value == pytest.approx(probability, abs=0.5 / math.sqrt(d + shift) + 1e-6)


def test_two_coordinates_have_a_closed_form():
    for square in (1e-9, 0.1, 2.0, 9.0, 80.0, 1e5):
        expected = -math.expm1(-square / 2)
        value = theory.squared_distance_probability(square, d=2)
        assert value == pytest.approx(expected, rel=1e-12)


def test_ends_of_the_squared_distance():
    def probability(t):
        return theory.squared_distance_probability(t, d=3, shift=1.0)

    assert [probability(t) for t in (-1.0, 0.0, math.inf)] == [0.0, 0.0, 1.0]
    assert math.isnan(probability(math.nan))
    grid = [probability(t) for t in np.linspace(0.01, 60, 300)]
    assert grid == sorted(grid)
    assert grid[-1] > 1 - 1e-9


@pytest.mark.parametrize("selected", [13, 20])
def test_acceptance_about_a_given_centre(selected):
    n, f, d, shift = 25, 5, 30, 6.0
    rng = np.random.default_rng(selected)
    point = np.full(d, math.sqrt(shift / d))
    squares = np.sum((rng.normal(size=(4000, n - f, d)) - point) ** 2, axis=2)
    for square in (25.0, 33.0, 36.0, 40.0, 48.0):
        hits = np.sum(squares < square, axis=1) <= selected - f
        close_to_frequency(
            theory.acceptance_probability(square, n=n, f=f, d=d, selected=selected, shift=shift),
            hits,
        )


def test_acceptance_about_the_median_that_liars_moved():
    """Liars above the median in every coordinate: Aksel's centre is an honest order statistic."""
    n, f, d, selected = 25, 5, 100, 13
    rows = np.random.default_rng(0).normal(size=(1500, n - f, d))
    center = np.sort(rows, axis=1)[:, n // 2]
    squares = np.sum((rows - center[:, None]) ** 2, axis=2)
    shift = float(np.mean(squares)) - d
    assert 7 < shift < 9  # of the docstring
    for square in (92.0, 100.0, 104.0, 108.0, 114.0):
        frequency = np.mean(np.sum(squares < square, axis=1) <= selected - f)
        probability = theory.acceptance_probability(
            square, n=n, f=f, d=d, selected=selected, shift=shift
        )
        assert abs(probability - frequency) < 0.05


@pytest.mark.parametrize("n", [2, 10, 1000])
def test_the_largest_of_n(n):
    """Exact to the noise of the draws; its limit to the error that its docstring states."""
    largest = np.max(np.random.default_rng(n).normal(size=(4000, n)), axis=1)
    law, worst = theory.largest_of(n), 0.0
    for share in np.linspace(0.02, 0.98, 25):
        value = float(np.quantile(largest, share))
        exact = theory.largest_probability(value, n=n)
        close_to_frequency(exact, largest <= value)
        limit = theory.largest_probability(value, n=n, limit=True)
        y = (value - law.location) / law.scale
        assert limit == pytest.approx(math.exp(-math.exp(-y)))
        worst = max(worst, abs(limit - exact))
    assert worst < {2: 0.2, 10: 0.07, 1000: 0.05}[n]
    if n == 1000:
        assert abs(law.mean - np.mean(largest)) < 0.06
        assert abs(math.sqrt(law.variance) - np.std(largest)) < 0.04


def test_the_limit_is_that_of_growing_n():
    worst = []
    for n in (10, 1000, 10**6, 10**12):
        law = theory.largest_of(n)
        values = law.location + law.scale * np.linspace(-2, 5, 100)
        both = [
            [theory.largest_probability(v, n=n, limit=limit) for v in values]
            for limit in (False, True)
        ]
        worst.append(float(np.max(np.abs(np.subtract(*both)))))
    assert worst == sorted(worst, reverse=True)
    assert worst[-1] < 0.021


def test_the_error_of_the_median_at_the_largest_honest_value():
    """The row `median, computed` of the acceptance table, n = 2f + 1, to the limit's error."""
    for m, exact in ((26, 2.046), (51, 2.304), (201, 2.777)):
        law = theory.largest_of(m)
        assert math.sqrt(law.mean**2 + law.variance) == pytest.approx(exact, rel=0.034)


def test_far_values():
    for limit in (False, True):
        assert theory.largest_probability(-60.0, n=5, limit=limit) == 0
        assert theory.largest_probability(60.0, n=5, limit=limit) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: theory.squared_distance_probability(1.0, d=0), "d must be at least 1"),
        (lambda: theory.squared_distance_probability(1.0, d=1, shift=-1.0), "at least 0; got -1"),
        (
            lambda: theory.acceptance_probability(1.0, n=4, f=2, d=1, selected=2),
            r"n >= 2f \+ 1; got n=4, f=2",
        ),
        (
            lambda: theory.acceptance_probability(1.0, n=5, f=2, d=1, selected=1),
            "f .. n; got selected=1, n=5, f=2",
        ),
        (lambda: theory.largest_of(1), "n must be at least 2"),
    ],
)
def test_errors(call, said):
    with pytest.raises(ValueError, match=said):
        call()
