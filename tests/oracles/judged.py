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


def largest_alone(row, sparsity, present):
    """The largest magnitudes of a row, all that are equal to the least of them; others are 0."""
    count = int(np.sum(present))
    kept = max(1, count - math.ceil(round(sparsity * count, 9)))
    return np.where(np.abs(row) >= sorted(np.abs(row))[-kept], row, 0.0)


def typical(values, radius):
    values = np.asarray(values, np.float64)
    return np.abs(values - median_of(values)) * (1 + 1e-5) < radius * values.std()


def lasa(x, f=0, sparsity=0.3, norm_radius=1.0, sign_radius=1.0, layers=None):
    """`layers`: the number of coordinates of each layer, which follow one another."""
    x, bad = np.asarray(x, np.float64), far(x)
    norms = np.array([norm(row) for row in x])
    good, out, start = np.flatnonzero(~bad), [], 0
    if not len(good):
        return np.zeros(x.shape[1])
    present, middle = (x != 0).any(axis=0), median_of(norms)
    rows = [largest_alone(x[i], sparsity, present) for i in good]
    rows = np.array([row * min(1.0, middle / (norm(x[i]) or 1.0)) for i, row in zip(good, rows)])
    for size in [x.shape[1]] if layers is None else layers:
        part = rows[:, start : start + size]
        start += size
        signs = [(np.sum(r > 0), np.sum(r < 0)) for r in part]
        shares = [(1 + (p - m) / max(1, p + m)) / 2 for p, m in signs]
        selected = typical([norm(r) for r in part], norm_radius) & typical(shares, sign_radius)
        out.append(part[selected if selected.any() else slice(None)].mean(axis=0))
    return np.concatenate(out)
