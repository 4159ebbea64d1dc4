"""Rules that judge workers by groups of coordinates, by clusters of directions, or by layers."""

import functools
import itertools
import math

import numpy as np

from tests.oracles.order import median_of
from tests.oracles.rows import distance, far, lowest, mean_of_rows, norm
from tests.oracles.rules import multi_krum


def gradient_splitting(x, f, groups=1000, rule=None, order=None):
    """`rule(rows, f)` is an oracle; `order`: the coordinates as they are cut into groups."""
    x = np.asarray(x, np.float64)
    if rule is None:
        rule = functools.partial(multi_krum, neighbors="n-f-1")
    d = x.shape[1]
    order = range(d) if order is None else list(order)
    width, scores = math.ceil(d / groups), [0.0] * len(x)
    for start in range(0, d, width):
        part = x[:, order[start : start + width]]
        center = rule(part, f)
        scores = [score + distance(row, center) for score, row in zip(scores, part)]
    return mean_of_rows(x, lowest(scores, len(x) - f), scores)


def cosine_distance(a, b):
    """1 if one of them is 0."""
    if not (np.any(a) and np.any(b)):
        return 1.0
    a, b = a / norm(a), b / norm(b)
    return np.sum((a - b) ** 2) / 2


def majority_cluster(apart):
    """Single linkage: the first cluster of more than half of the rows, with all ties at its end."""
    n, clusters = len(apart), [{i} for i in range(len(apart))]
    for r in sorted({apart[i][j] for i in range(n) for j in range(n) if np.isfinite(apart[i][j])}):
        merged = []
        for cluster in clusters:
            near = [m for m in merged if any(apart[i][j] <= r for i in m for j in cluster)]
            merged = [m for m in merged if m not in near] + [cluster.union(*near)]
        clusters = merged
        largest = max(clusters, key=len)
        if 2 * len(largest) > n:
            return sorted(largest)
    return []


def flame(x, f=0, noise=0.001, normal=None):
    x, bad = np.asarray(x, np.float64), far(x)
    n, norms = len(x), np.array([norm(row) for row in x])
    apart = np.full((n, n), np.inf)
    for i, j in itertools.product(np.flatnonzero(~bad), repeat=2):
        apart[i, j] = 0.0 if i == j else cosine_distance(x[i], x[j])
    cluster, middle = majority_cluster(apart), median_of(norms)
    if not cluster:
        return np.full(x.shape[1], np.nan)
    clipped = [x[i] * (min(1.0, middle / norms[i]) if norms[i] > 0 else 1.0) for i in cluster]
    return sum(clipped) / len(cluster) + (0 if normal is None else noise * middle * normal)
