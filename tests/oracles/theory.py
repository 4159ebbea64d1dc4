"""Quantities that the theorems use."""

import itertools

import numpy as np

from tests.oracles.rows import distance


def variance(x):
    """V_S: the mean squared distance of the rows to their mean."""
    x = np.asarray(x, np.float64)
    return np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1))


def diameter(x):
    return max((distance(a, b) for a, b in itertools.combinations(x, 2)), default=0.0)
