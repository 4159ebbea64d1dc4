"""Aggregations with memory: from the updates of n workers in each step to one row per step."""

import math

import numpy as np

from tests.oracles.order import median_of
from tests.oracles.rows import distance, far, norm, weighted_sum
from tests.oracles.rules import centered_clip


def centered_clipping(steps, radius, iterations=1):
    v, out = np.zeros(len(steps[0][0])), []
    for x in steps:
        v = centered_clip(x, 0, v, radius, iterations)
        out.append(v)
    return out


def foolsgold(steps, confidence=1.0, divide=True):
    n, d = np.shape(steps[0])
    history, out = np.zeros((n, d)), []
    for x in steps:
        x, bad = np.asarray(x, np.float64), far(x)
        history[~bad] += x[~bad]
        s = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                if i != j and norm(history[i]) > 0 and norm(history[j]) > 0:
                    s[i, j] = history[i] @ history[j] / (norm(history[i]) * norm(history[j]))
        most = s.max(axis=1)
        for i in range(n):
            for j in range(n):
                if most[i] < most[j]:
                    s[i, j] *= most[i] / most[j]
        apart = np.clip(1 - s.max(axis=1), 0, 1)
        weights = np.zeros(n)
        for i in range(n):
            if apart[i] > 0 and not bad[i]:
                share = apart[i] / apart.max()
                logit = confidence * (math.log(share / (1 - share)) + 0.5) if share < 1 else 1.0
                weights[i] = min(max(logit, 0.0), 1.0)
        total = sum(weights) if divide else 1.0
        out.append(weighted_sum(x, weights) / (total or 1.0))
    return out


def vector_median(rows, members, radius):
    """The first member with more than n / 2 of them nearby, or the one with the most."""
    near = {i: sum(distance(rows[i], rows[j]) <= radius for j in members) for i in members}
    enough = [i for i in members if 2 * near[i] > len(rows)]
    return enough[0] if enough else max(members, key=lambda i: near[i])


def from_median(rows, i, middle):
    """0 for the median itself, even if it is bad."""
    return 0.0 if i == middle else distance(rows[i], rows[middle])


def concentration_filter(
    steps, params, deviation, diameter, delta=0.1, num_steps=None, divide_by="workers"
):
    """`params`: the parameters at each step."""
    n, d = np.shape(steps[0])
    total = len(steps) if num_steps is None else num_steps
    root = math.sqrt(total * math.log(16 * n * total / delta))
    t_a, t_b = 4 * diameter * deviation * root, 4 * deviation * root
    a, b, good, out = np.zeros(n), np.zeros((n, d)), list(range(n)), []
    for x, w in zip(steps, params):
        x, bad = np.asarray(x, np.float64), far(x)
        with np.errstate(all="ignore"):
            a, b = a + x @ (np.asarray(w, np.float64) - params[0]), b + x
            a_med = median_of(a)
            b_med = vector_median(b, range(n), t_b)
            x_med = vector_median(x, range(n), 2 * deviation)
            good = [
                i
                for i in good
                if not bad[i]
                and abs(a[i] - a_med) <= t_a
                and from_median(b, i, b_med) <= t_b
                and from_median(x, i, x_med) <= 4 * deviation
            ]
        if good:
            out.append(x[good].sum(axis=0) / (n if divide_by == "workers" else len(good)))
        else:
            out.append(np.full(d, np.nan))
    return out


def safeguard(steps, windows, thresholds, slack=1.0, reset=True, filter_first=False):
    """Without noise."""
    n, d = np.shape(steps[0])
    good, out = list(range(n)), []
    for k, x in enumerate(steps):
        x, bad = np.asarray(x, np.float64), far(x)
        if k % windows[0] == 0:
            b = np.zeros((n, d))
        if k % windows[1] == 0:
            a = np.zeros((n, d))
            if reset:
                good = list(range(n))
        with np.errstate(all="ignore"):
            a, b = a + x / max(1, len(good)), b + x / max(1, len(good))
            staying = []
            if good:
                a_med = vector_median(a, good, thresholds[1])
                b_med = vector_median(b, good, thresholds[0])
                staying = [
                    i
                    for i in good
                    if not bad[i]
                    and from_median(a, i, a_med) <= slack * thresholds[1]
                    and from_median(b, i, b_med) <= slack * thresholds[0]
                ]
        averaged = staying if filter_first else [i for i in good if not bad[i]]
        out.append(x[averaged].mean(axis=0) if averaged else np.full(d, np.nan))
        good = staying
    return out
