"""The attacks: what n workers send if some of them lie."""

import math

import numpy as np
import scipy.stats


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
