"""The oracles of the rules against published numbers and numbers computed by hand."""

import math

import numpy as np
import pytest

from tests import oracles

X = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])  # ByzFL's results for f = 1
Y = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [10, -10]])  # one attacker
LINE = np.array([[0.0], [1], [3], [6], [10], [15], [100]])  # one attacker
BAD = [math.nan, -math.nan, math.inf, -math.inf, 1e30, oracles.LARGEST]


def close(actual, expected, atol=1e-8):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def byzfl_krum(x, f):
    return oracles.krum(x, f, neighbors="n-f-1")


def byzfl_multi_krum(x, f):
    return oracles.krum(x, f, m=len(x) - f, neighbors="n-f-1")


def rfa(x, f):
    return oracles.geometric_median(x, f, smoothing=0.1, iterations=3, start="zero")


def clip_from_zero(x, f):
    return oracles.centered_clip(x, f, np.zeros(x.shape[1]), radius=100.0)


PRINTED = [  # those of X come from ByzFL; 2.5, 3.5, 4.5 are ties, which go to the lower index
    (X, oracles.mean, [4, 5, 6]),
    (X, oracles.median, [4, 5, 6]),
    (X, oracles.trimmed_mean, [4, 5, 6]),
    (X, clip_from_zero, [4, 5, 6]),
    (X, rfa, [3.78788764, 4.78788764, 5.78788764]),
    (X, byzfl_krum, [1, 2, 3]),
    (X, byzfl_multi_krum, [2.5, 3.5, 4.5]),
    (X, oracles.minimum_diameter, [2.5, 3.5, 4.5]),
    (X, oracles.minimum_eigenvalue, [2.5, 3.5, 4.5]),
    (X, oracles.nearest_to_pivot, [2.5, 3.5, 4.5]),
    (X, oracles.mean_around_median, [2.5, 3.5, 4.5]),
    (X, oracles.covariance_filter, [4, 5, 6]),
    (X, oracles.nearest_neighbors, [[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]]),
    (X, oracles.adaptive_clipping, [X[0], X[1], [4.41004009, 5.04004582, 5.67005155]]),
    (Y, oracles.median, [1, 0]),
    (Y, oracles.trimmed_mean, [2 / 3, 1 / 3]),
    (Y, oracles.aksel, [2 / 3, 1 / 3]),
    (Y, oracles.mean_around_median, [0.5, 0.5]),
    (Y, oracles.phocas, [0.5, 0.5]),
    (Y, oracles.minimum_diameter, [0.5, 0.5]),
    (Y, oracles.minimum_eigenvalue, [0.5, 0.5]),
    (Y, oracles.spectral_filter, [0.5, 0.5]),
    (Y, oracles.comparative_elimination, [0.5, 0.5]),
    (Y, oracles.geometric_median, [0.78052461, 0.20467463]),
    (Y, oracles.covariance_filter, [0.50791337, 0.49125364]),
    (Y, oracles.krum, [0, 0]),  # four scores tie
    (Y, oracles.medoid, [1, 0]),  # 2 + sqrt(2) + sqrt(181) is the least sum
]


@pytest.mark.parametrize(("x", "oracle", "expected"), PRINTED)
def test_printed_numbers(x, oracle, expected):
    close(oracle(x, 1), expected)


def test_one_coordinate_at_a_time():
    x = np.array([[1, math.nan, 4e307], [3, math.inf, 8e307], [math.nan, -math.inf, 12e307]])
    np.testing.assert_allclose(oracles.mean_of_finite(x), [2, 0, 8e307])
    signs = np.array([[2.0, 1, math.nan, 0], [-1, math.inf, -3, 0], [1, -1, math.nan, -0.0]])
    close(oracles.majority_sign(signs), [1, 1, -1, 0])
    # The trimmed mean is 7: 0 and 14 are equally far, so are 6 and 8.
    close(oracles.phocas(np.array([[0.0], [6], [8], [14], [7]]), 1), (7 + 6 + 8 + 0) / 4)


def test_krum():
    x = LINE[:6]
    close(oracles.krum(x, 2), 1)  # scores 10, 5, 13, ...
    close(oracles.krum(x, 1, m=2), (3 + 1) / 2)  # 46, 30, 22, 50, ...
    close(oracles.krum(x, 1, m=2, neighbors="n-f-1"), (3 + 6) / 2)  # 146, 111, 71, 86, ...
    x = np.array([[0.0], [2], [4], [7], [7]])
    close(oracles.krum(x, 1), 2)  # 4 + 4 against 0 + 9
    close(oracles.krum(x, 1, squared=False), 7)  # 2 + 2 against 0 + 3


def test_bulyan():
    # Picks 3 (71), 6 (77), 1 (82), 10 (25, as 15), 0 (225, as 15); 0 and 6 are equally far from 3.
    close(oracles.bulyan(LINE, 1), (3 + 1 + 0) / 3)
    # Medians 6, 6.5, 10, 8, 15: picks 6, 3 (tie with 10), 10, 1 (tie with 15), 15.
    close(oracles.bulyan(LINE, 1, oracles.median), (6 + 3 + 10) / 3)
    close(oracles.bulyan(LINE[:3], 0), (0 + 1 + 3) / 3)


def test_row_nearest_to():
    close(oracles.nearest_to_pivot(Y, 1, pivot=4), [3, -9 / 4])  # row 2 is the farthest
    close(oracles.medoid(np.array([[0.0], [1], [3], [math.inf]])), 1)


def test_zeno():
    rows = np.array([[1.0], [0], [-1], [math.nan]])  # scores 0.5, 0, -3.5 and none
    settings = (np.ones(1), lambda w: w @ w, 1.0, 0.5)
    close(oracles.zeno(rows, 2, *settings), 0.5)
    assert np.isnan(oracles.zeno(rows, 0, *settings))


def test_fl_trust():
    x = np.array([[4.0, 0], [0, 3], [-1, 0], [1, 1], [0, 0], [math.nan, 1]])
    total = 1 + math.sqrt(1 / 2)
    close(oracles.fl_trust(x, 0, [2, 0]), [3 / total, 1 / total])
    close(oracles.fl_trust(x[1:3], 0, [2, 0]), [0, 0])
    close(oracles.fl_trust(x, 0, [0, 0]), [0, 0])


def test_geometric_median():
    corners = np.array([[math.cos(a), math.sin(a)] for a in 2 * math.pi * np.arange(3) / 3])
    close(oracles.geometric_median(corners + 5), [5, 5], 1e-12)
    # The angle at the first row is obtuse: it is the solution, up to the smoothing.
    wide = np.array([[0, 0], [1, 0.1], [-1, 0.1]])
    close(oracles.geometric_median(wide), [0, 1e-6 * 0.2 / math.sqrt(1.01)], 1e-12)
    close(oracles.geometric_median(wide[1:]), [0, 0.1], 1e-12)  # any point between is a solution
    close(oracles.geometric_median(np.ones((4, 2)) / 3), 1 / 3, 1e-15)
    # Two far rows that agree are a minority against three.
    far = np.array([[1e12, 0], [1e12, 0], [0, 0], [1, 1], [1, -1]])
    assert np.linalg.norm(oracles.geometric_median(far)) < 2
    # One step from the mean 4/3, then from the median.
    x = np.array([[0.0], [1], [3]])
    one = oracles.geometric_median(x, iterations=1)
    close(one, (0 * 3 / 4 + 1 * 3 + 3 * 3 / 5) / (3 / 4 + 3 + 3 / 5))
    one = oracles.geometric_median(x, iterations=1, start="median", smoothing=0.5)
    close(one, (0 * 1 + 1 * 2 + 3 * 1 / 2) / (1 + 2 + 1 / 2))


def test_geometric_median_of_means():
    x = np.array([[0.0], [2], [1], [3], [100], [300]])  # means 1, 2, 200
    close(oracles.geometric_median_of_means(x, k=3), 2)
    close(oracles.geometric_median_of_means(x, k=1), x.mean())
    close(oracles.geometric_median_of_means(Y, k=5), oracles.geometric_median(Y))
    close(oracles.geometric_median_of_means(x[:5], k=2), (1 + 51.5) / 2)
    x[5] = math.nan
    close(oracles.geometric_median_of_means(x, k=3), 1.5)
    x[0] = math.nan
    assert np.isnan(oracles.geometric_median_of_means(x, k=3))


def test_huber():
    x = np.array([[0.0], [1], [2], [10]])
    close(oracles.huber(x, threshold=2.0), 5 / 3, 1e-14)  # z + z - 1 + z - 2 = 2
    close(oracles.huber(x, threshold=1e3), x.mean(), 1e-14)
    close(oracles.huber(Y, threshold=1e-6), oracles.geometric_median(Y))


def test_centered_clip():
    x = np.array([[3.0], [-4], [100], [math.nan]])
    close(oracles.centered_clip(x, 1, [0.0], 5.0), (3 - 4 + 5) / 4)
    close(oracles.centered_clip(x, 1, [0.0], 5.0, iterations=2), 1 + (2 - 5 + 5) / 4)


def test_spectral_filter():
    x = 9 * np.eye(3)  # column i shows row i as the outlier
    close(oracles.spectral_filter(x, 1, samples=[[0], [1]]), x[2])
    close(oracles.spectral_filter(x, 1, samples=[[0], [1], [2]]), x[0])  # all survived twice
    close(oracles.spectral_filter(x, 1, samples=[[0], [1], [2], [0]]), x[1])
    close(oracles.spectral_filter(Y, 1, remove=0.5), Y.mean(axis=0))


def test_filters_without_faults():
    for x in (X, Y):
        for oracle in (oracles.covariance_filter, oracles.spectral_filter):
            close(oracle(x, 0), x.mean(axis=0))
    close(oracles.covariance_filter(np.ones((5, 2)), 2), [1, 1])


def test_mixings():
    close(oracles.bucketing(Y, 2, [4, 0, 3, 1, 2]), [[5, -5], [1, 0.5], [0, 1]])
    clipped = oracles.clip_norms(np.array([X[0], [0, 0, 0], [math.nan, 0, 0], [0, 1, 0]]), 2.0)
    close(clipped, [[0.53452248, 1.06904497, 1.60356745], [0, 0, 0], [0, 0, 0], [0, 1, 0]])
    # k = 2 * 2 * 3 // 5 = 2: the third largest norm.
    close(oracles.adaptive_clipping(LINE[1:6], 2), [[1], [3], [6], [6], [6]])


# --- bad rows ------------------------------------------------------------------------------------

GOOD = np.array([[0.0, 0], [1, 0], [0, 1], [1, 2], [2, 2], [3, 1]])

BY_WEIGHT = [  # a bad row is ignored
    oracles.geometric_median,
    lambda x, f: oracles.geometric_median(x, f, iterations=2),
    lambda x, f: oracles.huber(x, f, threshold=0.5),
    lambda x, f: oracles.centered_clip(x, f, [0.0, 0.0], 1.0) * len(x),
    lambda x, f: oracles.fl_trust(x, f, [1.0, 2.0]),
]
BY_SELECTION = [  # a row that is left out has no effect
    lambda x, f: oracles.comparative_elimination(x, f),
    lambda x, f: oracles.minimum_diameter(x, f),
    lambda x, f: oracles.minimum_eigenvalue(x, f),
    lambda x, f: oracles.spectral_filter(x, f),
    lambda x, f: oracles.nearest_to_pivot(x, f, 1),
    lambda x, f: oracles.krum(x, f, m=len(x) - f, neighbors="n-f-1"),
    lambda x, f: oracles.zeno(x, f, np.zeros(2), lambda w: w @ w, 0.1, 0.01),
    lambda x, f: oracles.nearest_neighbors(x, f)[0],
]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("where", ["whole", "one coordinate"])
def test_bad_rows(value, where):
    row = np.array([value, value if where == "whole" else 1])
    x = np.insert(GOOD, 3, row, axis=0)
    assert list(oracles.far(x)) == [i == 3 for i in range(len(x))]
    for oracle in BY_WEIGHT:
        close(oracle(x, 1), oracle(GOOD, 0))
    for oracle in BY_SELECTION:
        close(oracle(x, 1), oracle(GOOD, 0))
        assert np.isnan(oracle(x, 0)).all()
    close(oracles.medoid(x), oracles.medoid(GOOD))
    assert np.isfinite(oracles.bulyan(x, 1)).all()
    assert np.isnan(oracles.bulyan(x, 0)).all()
    assert np.isfinite(oracles.covariance_filter(x, 1)).all()
    assert np.isfinite(oracles.adaptive_clipping(x, 1)).all()
    assert np.isnan(oracles.nearest_neighbors(x, 1)[3]).all()


def test_only_bad_rows():
    x = np.full((3, 2), math.nan)
    for oracle in [*BY_WEIGHT[:3], *BY_SELECTION, oracles.medoid, oracles.covariance_filter]:
        assert np.isnan(oracle(x, 1)).all()
    close(oracles.centered_clip(x, 1, [1.0, 2.0], 1.0), [1, 2])
    close(oracles.fl_trust(x, 1, [1.0, 2.0]), [0, 0])
    close(oracles.mean_of_finite(x), [0, 0])


def test_too_many_bad_rows():
    """Too many bad rows do not give a plausible result."""
    two, three = GOOD.copy(), GOOD.copy()
    two[:2], three[:3] = math.nan, 1e30
    assert np.isnan(oracles.covariance_filter(two, 1)).all()
    assert np.isfinite(oracles.covariance_filter(two, 2)).all()
    for oracle in (oracles.medoid, oracles.geometric_median, BY_WEIGHT[2]):
        assert np.isfinite(oracle(two, 2)).all()
        assert np.isnan(oracle(three, 2)).all()
    np.testing.assert_array_equal(BY_WEIGHT[1](three, 2), BY_WEIGHT[1](GOOD[3:], 0))


def test_sums_that_overflow_float32():
    assert oracles.squared_distance([1e19], [0.0]) == 1e19**2
    assert oracles.squared_distance([2e19], [0.0]) == math.inf
    assert oracles.squared_distance([2e19], [2e19]) == 0
    assert oracles.distance([oracles.LARGEST], [-oracles.LARGEST]) == math.inf
    assert oracles.norm([3.0, 4.0]) == 5


def test_variance_and_diameter():
    assert oracles.variance(X) == 18
    assert oracles.diameter(Y[:4]) == math.sqrt(2)
