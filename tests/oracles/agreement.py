"""Rounds of agreement, and safe areas by linear programs from their definition."""

import itertools

import numpy as np
from scipy.optimize import linprog

from tests.oracles.order import by_column, in_order, median_of
from tests.oracles.rows import far, squared_distance


def mid_extremes(x):
    """The first pair at the largest distance; a single row is paired with itself."""
    x, bad = np.asarray(x, np.float64), far(x)
    best, pair = -1.0, None
    for i, j in itertools.combinations_with_replacement(range(len(x)), 2):
        if not (bad[i] or bad[j]) and squared_distance(x[i], x[j]) > best:
            best, pair = squared_distance(x[i], x[j]), (i, j)
    if pair is None:
        return np.full(x.shape[1], np.nan)
    return (x[pair[0]] + x[pair[1]]) / 2


def approach_extreme(x, center):
    x, center, bad = np.asarray(x, np.float64), np.asarray(center, np.float64), far(x)
    best, farthest = -1.0, center
    for row, left_out in zip(x, bad):
        if not left_out and squared_distance(row, center) > best:
            best, farthest = squared_distance(row, center), row
    return (center + farthest) / 2


def middle_of_trimmed(values, f):
    ordered = in_order(values)
    return ordered[f] / 2 + ordered[len(ordered) - f - 1] / 2


def trimmed_agreement(x, f):
    return by_column(lambda values: middle_of_trimmed(values, f), x)


def box_of_safe_area(points, f):
    """(min, max) of each coordinate over the points in the hulls of all subsets of n - f points.

    A linear program: its variables are the point and, for each subset, the point's weights.
    """
    points = np.asarray(points, np.float64)
    m, d = points.shape
    sets = [list(rows) for rows in itertools.combinations(range(m), m - f)]
    unknowns = d + len(sets) * (m - f)
    equal, to = [], []
    for k, rows in enumerate(sets):
        weights = slice(d + k * (m - f), d + (k + 1) * (m - f))
        block = np.zeros((d + 1, unknowns))
        block[:d, :d] = -np.eye(d)
        block[:d, weights] = points[rows].T
        block[d, weights] = 1
        equal.append(block)
        to.append(np.append(np.zeros(d), 1))
    limits = [(None, None)] * d + [(0, None)] * (unknowns - d)
    least, most = np.zeros(d), np.zeros(d)
    for j in range(d):
        for sign, out in ((1, least), (-1, most)):
            cost = sign * np.eye(unknowns)[j]
            solution = linprog(
                cost, A_eq=np.concatenate(equal), b_eq=np.concatenate(to), bounds=limits
            )
            assert solution.status == 0, solution.message
            out[j] = solution.x[j]
    return least, most


def middle_of_safe_area(points, f):
    return sum(box_of_safe_area(points, f)) / 2


def safe_area_average(x, f):
    x = np.asarray(x, np.float64)
    bad = ~np.isfinite(x).all(axis=1)
    x = np.where(bad[:, None], by_column(median_of, x), x)
    subsets = itertools.combinations(range(len(x)), len(x) - f)
    return np.mean([middle_of_safe_area(x[list(rows)], f) for rows in subsets], axis=0)


def distance_to_hull(point, points):
    """The distance to the hull of the points in the maximum norm."""
    points, point = np.asarray(points, np.float64), np.asarray(point, np.float64)
    m, d = points.shape
    slack = -np.ones((d, 1))
    above = np.concatenate([np.block([[points.T, slack]]), np.block([[-points.T, slack]])])
    solution = linprog(
        np.append(np.zeros(m), 1),
        A_ub=above,
        b_ub=np.concatenate([point, -point]),
        A_eq=[[1.0] * m + [0.0]],
        b_eq=[1],
    )
    assert solution.status == 0, solution.message
    return solution.fun
