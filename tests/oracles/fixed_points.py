"""The point of least sum of distances, or of Huber losses, to float64 precision."""

import numpy as np


def distances(x, z):
    return np.linalg.norm(x - z, axis=1)


def reweighted_mean(x, z, radius):
    """One step of Weiszfeld: the mean of the rows weighted by 1 / max(radius, distance)."""
    weights = 1 / np.maximum(radius, distances(x, z))
    return weights @ x / weights.sum()


def gradient(x, z, radius):
    """The gradient at z of the sum of h(||z - x_i||), h'(r) = min(1, r / radius)."""
    return np.sum((z - x) / np.maximum(radius, distances(x, z))[:, None], axis=0)


def curvature(x, z, radius):
    total = np.zeros((len(z), len(z)))
    for row, r in zip(x, distances(x, z)):
        total += np.eye(len(z)) / max(radius, r)
        if r > radius:
            total -= np.outer((row - z) / r, (row - z) / r) / r
    return total


def farther(x, z, than):
    """By how much the sum of distances is larger at z, without subtracting large sums."""
    both = distances(x, z) + distances(x, than)
    return sum((z - than) @ (z + than - 2 * row) / r for row, r in zip(x, both) if r > 0)


def least_sum(x, radius, start):
    """The zero of the gradient: Weiszfeld steps, then Newton steps while they reduce its norm.

    Weiszfeld steps alone are too slow from far away, or if the solution is one of the rows: then
    the search restarts at the best row, or at the coordinate-wise median.
    """
    z = start
    for _ in range(30):
        z = reweighted_mean(x, z, radius)
    if np.linalg.norm(gradient(x, z, radius)) > 1e-9:
        median = np.median(x, axis=0)
        z = min([z, median, *x], key=lambda point: farther(x, point, than=median))
    for _ in range(200):
        uphill = gradient(x, z, radius)
        step = -np.linalg.lstsq(curvature(x, z, radius), uphill, rcond=1e-13)[0]
        scale = radius + np.median(distances(x, z)) + np.linalg.norm(z) / 10
        if np.linalg.norm(step) <= 1e-14 * scale:
            break
        for shorter in (z + step / 2**k for k in range(20)):
            if np.linalg.norm(gradient(x, shorter, radius)) < np.linalg.norm(uphill):
                z = shorter
                break
        else:
            z = reweighted_mean(x, z, radius)
    return z
