"""The papers' loops: NumPy, float64, one function for each rule and attack, naive on purpose.

A rule takes the matrix `x: [n, d]` whose row i is what worker i sent, an attack also
`byzantine: bool[n]`. Nothing here knows byzjax.
"""

import itertools
import math

import numpy as np
import scipy.stats

# --- order statistics of one coordinate's values -------------------------------------------------


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
    """(start, width) of the one or two middle places among n."""
    return ((n - 1) // 2, 1) if n % 2 else (n // 2 - 1, 2)


def median_of(values):
    return mean_of_window(values, *middle(len(values)))


def trimmed_mean_of(values, f):
    return mean_of_window(values, f, len(values) - 2 * f)


def mean_of_nearest_of(values, center, k):
    """Mean of the k values nearest to the centre, the lower one on a tie; NaN is an infinity."""
    if not np.isfinite(center):
        return np.nan
    infinity = {-1: -np.inf, 1: np.inf}
    ordered = [infinity.get(total_order(v)[0], v) for v in in_order(values)]
    return sum(sorted(ordered, key=lambda v: (abs(v - center), v))[:k]) / k


def by_column(of_values, x):
    with np.errstate(all="ignore"):
        return np.array([of_values(column) for column in np.asarray(x, np.float64).T])


# --- rules ---------------------------------------------------------------------------------------


def mean(x, f=0):
    return np.asarray(x, np.float64).sum(axis=0) / len(x)


def median(x, f=0):
    return by_column(median_of, x)


def trimmed_mean(x, f):
    return by_column(lambda values: trimmed_mean_of(values, f), x)


def squared_distance(a, b):
    with np.errstate(all="ignore"):
        distance = np.sum((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return distance if np.isfinite(distance) else np.inf


def lowest(scores, count):
    """Indices of the lowest scores, the lower index on a tie."""
    return sorted(range(len(scores)), key=lambda i: (scores[i], i))[:count]


def mean_of_rows(x, indices, scores):
    """NaN if a row without a finite score is among them: more than f rows are bad."""
    x = np.asarray(x, np.float64)
    if any(np.isinf(scores[i]) for i in indices):
        return np.full(x.shape[1], np.nan)
    return sum(x[i] for i in indices) / len(indices)


def aksel(x, f, mode="mid"):
    n, center = len(x), median(x)
    distances = [squared_distance(row, center) for row in x]
    if mode == "radius":
        selected = [i for i in range(n) if distances[i] <= median_of(distances)]
    else:
        selected = lowest(distances, {"mid": math.ceil(n / 2), "n-f": n - f}[mode])
    return mean_of_rows(x, selected, distances)


def krum(x, f, m=1):
    n = len(x)
    scores = []
    for i in range(n):
        others = sorted(squared_distance(x[i], x[j]) for j in range(n) if j != i)
        scores.append(sum(others[: n - f - 2]))
    return mean_of_rows(x, lowest(scores, m), scores)


# --- attacks -------------------------------------------------------------------------------------


def lie(x, byzantine, row):
    return np.array([row if b else np.asarray(v, np.float64) for v, b in zip(x, byzantine)])


def honest(x, byzantine):
    return np.asarray(x, np.float64)[~np.asarray(byzantine)]


def sign_flip(x, byzantine):
    return np.array([-np.float64(v) if b else np.float64(v) for v, b in zip(x, byzantine)])


def inner_product_manipulation(x, byzantine, epsilon=0.1):
    return lie(x, byzantine, -epsilon * honest(x, byzantine).mean(axis=0))


def little_is_enough_z(n, f):
    supporters = math.floor(n / 2 + 1) - f
    return scipy.stats.norm.ppf((n - f - supporters) / (n - f))


def little_is_enough(x, byzantine, f=None, z=None, direction="minus", ddof=1):
    good = honest(x, byzantine)
    if z is None:
        z = little_is_enough_z(len(x), sum(byzantine) if f is None else f)
    sign = {"minus": -1, "plus": 1}[direction]
    return lie(x, byzantine, good.mean(axis=0) + sign * z * good.std(axis=0, ddof=ddof))


def non_finite(x, byzantine, value=math.nan):
    return lie(x, byzantine, np.full(np.shape(x)[1], value))


# --- what the theorems speak of ------------------------------------------------------------------


def variance(x):
    """V_S, the mean squared distance of the rows to their mean."""
    x = np.asarray(x, np.float64)
    return np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1))


def diameter(x):
    pairs = itertools.combinations(x, 2)
    return max((squared_distance(a, b) for a, b in pairs), default=0.0) ** 0.5
