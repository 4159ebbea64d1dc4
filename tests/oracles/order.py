"""Order statistics of one coordinate's values."""

import numpy as np


def total_order(value):
    """A key for `sorted`: -NaN, -inf, ..., -0.0, 0.0, ..., inf, NaN."""
    negative = bool(np.signbit(value))
    if np.isnan(value):
        return (-1, 0.0, 0) if negative else (1, 0.0, 0)
    return (0, float(value), 0 if negative else 1)


def in_order(values):
    return sorted((np.float64(v) for v in values), key=total_order)


def mean_of_window(values, start, width):
    with np.errstate(invalid="ignore"):  # inf - inf
        return sum(v / width for v in in_order(values)[start : start + width])


def middle(n):
    """(start, width) of the one or two middle ranks among n."""
    return ((n - 1) // 2, 1) if n % 2 else (n // 2 - 1, 2)


def median_of(values):
    return mean_of_window(values, *middle(len(values)))


def trimmed_mean_of(values, f):
    return mean_of_window(values, f, len(values) - 2 * f)


def mean_of_nearest_of(values, center, k):
    """Mean of the k values nearest to the centre, the lower one on a tie; NaN is infinite."""
    if not np.isfinite(center):
        return np.nan
    infinity = {-1: -np.inf, 1: np.inf}
    ordered = [infinity.get(total_order(v)[0], v) for v in in_order(values)]
    return sum(sorted(ordered, key=lambda v: (abs(v - center), v))[:k]) / k


def mean_of_finite_of(values):
    """Mean of the finite values, 0 if there are none."""
    finite = [v for v in values if np.isfinite(v)]
    return sum(v / len(finite) for v in finite)


def by_column(of_values, x):
    with np.errstate(all="ignore"):
        return np.array([of_values(column) for column in np.asarray(x, np.float64).T])
