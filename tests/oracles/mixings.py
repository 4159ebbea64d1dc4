"""The mixings: from the rows of n workers to n rows or fewer."""

import numpy as np

from tests.oracles.rows import lowest, mean_of_rows, norm, squared_distance


def nearest_neighbors(x, f):
    out = []
    for row in x:
        distances = [squared_distance(row, other) for other in x]
        out.append(mean_of_rows(x, lowest(distances, len(x) - f), distances))
    return np.array(out)


def bucketing(x, s, order):
    """`order` is the permutation."""
    x = np.asarray(x, np.float64)
    buckets = [list(order[start : start + s]) for start in range(0, len(x), s)]
    with np.errstate(invalid="ignore"):  # inf - inf
        return np.array([sum(x[i] for i in bucket) / len(bucket) for bucket in buckets])


def clip_norms(x, max_norm):
    out = np.zeros(np.shape(x))
    for i, row in enumerate(np.asarray(x, np.float64)):
        r = norm(row)
        if r < np.inf:
            out[i] = row if r <= max_norm else row * (max_norm / r)
    return out


def adaptive_clipping(x, f):
    n = len(x)
    clipped = 2 * f * (n - f) // n
    return clip_norms(x, sorted((norm(row) for row in x), reverse=True)[clipped])


def weak_dp(x, max_norm, noise):
    """`noise` is the server's, of one row."""
    return clip_norms(x, max_norm) + noise
