"""Distances between rows, and means of selected rows."""

import numpy as np

# The tested code overflows in float32: a larger sum of squares is infinite here as well.
LARGEST = float(np.finfo(np.float32).max)


def or_infinity(total):
    """The sum, or +inf where it is not finite or overflows float32."""
    return total if total <= LARGEST else np.inf  # a comparison with NaN is false


def squared_distance(a, b):
    with np.errstate(all="ignore"):
        return or_infinity(np.sum((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2))


def distance(a, b):
    return squared_distance(a, b) ** 0.5


def norm(row):
    return distance(row, np.zeros(len(row)))


def far(x):
    """The bad rows: those without a finite norm."""
    return np.array([np.isinf(norm(row)) for row in x])


def lowest(scores, count):
    """Indices of the lowest scores, the lower index on a tie."""
    return sorted(range(len(scores)), key=lambda i: (scores[i], i))[:count]


def mean_of_rows(x, indices, scores):
    """NaN if a row without a finite score is among them: more than f rows are bad."""
    x = np.asarray(x, np.float64)
    if any(np.isinf(scores[i]) for i in indices):
        return np.full(x.shape[1], np.nan)
    return sum(x[i] for i in indices) / len(indices)


def weighted_sum(x, weights):
    """A row of weight 0 is ignored, whatever it holds."""
    x = np.asarray(x, np.float64)
    return sum((w * row for w, row in zip(weights, x) if w != 0), np.zeros(x.shape[1]))


def weighted_mean(x, weights):
    """NaN if all weights are 0."""
    total = sum(weights)
    return weighted_sum(x, weights) / total if total > 0 else np.full(np.shape(x)[1], np.nan)
