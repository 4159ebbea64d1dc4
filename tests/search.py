"""An adversarial search in NumPy, without JAX: rules on many inputs at once, and an ascent.

A rule here takes `x: [batch, n, d]`, whose first f rows are Byzantine, and returns `[batch, d]`.
"""

import itertools

import numpy as np

# --- rules on a batch ----------------------------------------------------------------------------


def median(x, f=0):
    return np.median(x, axis=1)


def trimmed_mean(x, f):
    return np.sort(x, axis=1)[:, f : x.shape[1] - f].mean(axis=1)


def _mean_of_lowest(x, scores, count):
    picked = np.argsort(scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(x, picked[..., None], axis=1).mean(axis=1)


def _nearest_by_coordinate(x, center, count):
    away = np.abs(x - center[:, None])
    picked = np.argsort(away, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(x, picked, axis=1).mean(axis=1)


def aksel(x, f, mode="mid"):
    n = x.shape[1]
    away = ((x - median(x)[:, None]) ** 2).sum(axis=-1)
    return _mean_of_lowest(x, away, n - f if mode == "n-f" else (n + 1) // 2)


def aksel_within_radius(x, f):
    away = ((x - median(x)[:, None]) ** 2).sum(axis=-1)
    within = (away <= np.median(away, axis=1, keepdims=True))[..., None]
    return (x * within).sum(axis=1) / within.sum(axis=1)


def mean_around_median(x, f):
    return _nearest_by_coordinate(x, median(x), x.shape[1] - f)


def phocas(x, f):
    return _nearest_by_coordinate(x, trimmed_mean(x, f), x.shape[1] - f)


def biweight_mean(x, f, c):
    center = median(x)
    away = x - center[:, None]
    reach = c * median(np.abs(away))[:, None]
    inside = (np.abs(away) < reach) | (away == 0)
    weights = np.where(inside, (1 - (away / np.where(reach > 0, reach, 1)) ** 2) ** 2, 0)
    return center + (weights * away).sum(axis=1) / weights.sum(axis=1)


def nearest_to_pivot(x, f):
    """The pivot is the first honest row."""
    return _mean_of_lowest(x, ((x - x[:, f : f + 1]) ** 2).sum(axis=-1), x.shape[1] - f)


def squares(x):
    return ((x[:, :, None] - x[:, None]) ** 2).sum(axis=-1)


def minimum_diameter(x, f):
    n, apart = x.shape[1], squares(x)
    subsets = np.array(list(itertools.combinations(range(n), n - f)))
    widths = apart[:, subsets[:, :, None], subsets[:, None]].max(axis=(2, 3))
    best = subsets[widths.argmin(axis=1)]
    return np.take_along_axis(x, best[..., None], axis=1).mean(axis=1)


def minimum_eigenvalue(x, f):
    n = x.shape[1]
    subsets = np.array(list(itertools.combinations(range(n), n - f)))
    rows = x[:, subsets]
    away = rows - rows.mean(axis=2, keepdims=True)
    largest = np.linalg.eigvalsh(np.einsum("bsij,bsik->bsjk", away, away))[..., -1]
    best = subsets[largest.argmin(axis=1)]
    return np.take_along_axis(x, best[..., None], axis=1).mean(axis=1)


def medoid(x, f=0):
    return _mean_of_lowest(x, np.sqrt(squares(x)).sum(axis=-1), 1)


def krum(x, f, neighbors=None, m=1):
    neighbors = x.shape[1] - f - 2 if neighbors is None else neighbors
    scores = np.sort(squares(x), axis=-1)[..., 1 : neighbors + 1].sum(axis=-1)
    return _mean_of_lowest(x, scores, m)


def nearest_neighbors(x, f):
    n, apart = x.shape[1], squares(x)
    apart[:, np.arange(n), np.arange(n)] = -1
    near = np.argsort(apart, axis=-1, kind="stable")[..., : n - f]
    return x[np.arange(len(x))[:, None, None], near].mean(axis=2)


def buckets(x, s):
    """The means of consecutive s rows; the last of fewer, if s does not divide n."""
    return np.stack([x[:, i : i + s].mean(axis=1) for i in range(0, x.shape[1], s)], axis=1)


def bulyan(x, f):
    batch, n, _ = x.shape
    apart, every = squares(x), np.arange(batch)
    apart[:, np.arange(n), np.arange(n)] = np.inf
    left, picks = np.ones((batch, n), bool), []
    for remaining in range(n, 2 * f, -1):
        there = np.where(left[:, None], apart, np.inf)
        sums = np.sort(there, axis=-1)[..., : max(1, remaining - f - 2)].sum(axis=-1)
        picks.append(np.where(left, sums, np.inf).argmin(axis=1))
        left[every, picks[-1]] = False
    chosen = x[every[:, None], np.stack(picks, axis=1)]
    return _nearest_by_coordinate(chosen, median(chosen), n - 4 * f)


# --- the ascent ----------------------------------------------------------------------------------


def kappa_ratio(rule, f, honest=None):
    """`x -> ||F - mean||^2 / V` for each of the batch, S being all rows but the first f."""

    def ratio(x):
        good = x[:, f:] if honest is None else x[:, honest]
        center = good.mean(axis=1)
        variance = ((good - center[:, None]) ** 2).sum(axis=(1, 2)) / good.shape[1]
        least = 1e-12 * (x**2).sum(axis=-1).max(axis=1)  # below it, rounding errors
        error = ((rule(x, f) - center) ** 2).sum(axis=1)
        return np.where(variance > least, error / np.maximum(variance, 1e-300), 0)

    return ratio


def starts(rng, batch, n, d, seed_input=None):
    """Clusters on a line or anywhere, of all tightnesses; and rows near a given input."""
    places = rng.normal(size=(batch, 4, d))
    on_a_line = np.arange(batch) % 2 == 0
    places[on_a_line, :, 1:] = 0
    which = rng.integers(0, rng.integers(1, 5, (batch, 1)), (batch, n))
    tight = 10 ** rng.uniform(-6, 0.3, (batch, 1, 1))
    x = np.take_along_axis(places, which[..., None], axis=1) + tight * rng.normal(
        size=(batch, n, d)
    )
    if seed_input is not None:
        rows = np.zeros((n, d))
        width = min(d, len(seed_input[0]))
        rows[:, :width] = np.array(seed_input)[:, :width]
        quarter = slice(0, batch, 4)
        x[quarter] = rows * 1.0 / np.abs(rows).max() + tight[quarter] * rng.normal(
            size=x[quarter].shape
        )
    return x


def largest(ratio, x, steps, rng):
    """The largest ratio seen while all inputs of the batch ascend: four kinds of moves."""
    batch, n, _ = x.shape
    value, lengths = ratio(x), np.ones((4, batch))
    every = np.arange(batch)
    best = value.max()
    for step in range(steps):
        kind = step % 4
        noise = rng.normal(size=x.shape) * lengths[kind][:, None, None]
        i, j = rng.integers(0, n, (2, batch))
        if kind == 0:  # all rows
            there = x + noise
        elif kind == 1:  # one row
            there = x.copy()
            there[every, i] += noise[every, i]
        elif kind == 2:  # one row onto another
            there = x.copy()
            there[every, i] = x[every, j]
        else:  # all rows that are where row i is
            same = ((x - x[every, i][:, None]) ** 2).sum(axis=-1) <= 1e-6 * (x**2).sum(axis=(1, 2))[
                :, None
            ]
            there = x + np.where(same[..., None], noise[every, i][:, None], 0)
        reached = ratio(there)
        better = reached > value
        x = np.where(better[:, None, None], there, x)
        value = np.where(better, reached, value)
        lengths[kind] = np.clip(lengths[kind] * np.where(better, 2.0, 0.6), 1e-9, 1e3)
        if step % 97 == 96:
            lengths[:] = 1.0
        best = max(best, value.max())
    return best, x[value.argmax()]


def search(rule, n, f, d, *, batch=32, steps=60, seed=0, seed_input=None, honest=None):
    """The largest ratio of a rule that is found, `||F - mean||^2 / V`."""
    rng = np.random.default_rng([seed, n, f, d])
    ratio = kappa_ratio(rule, f, honest)
    return largest(ratio, starts(rng, batch, n, d, seed_input), steps, rng)[0]


def geometric_median_ratio(f):
    """`x -> ||z - mean||^2 / V` where 0 is the median z of S and f liars at 0, else 0.

    It is if the unit vectors to the rows of S sum to at most f, and rows at 0 pull with up to 1.
    """

    def ratio(x):
        lengths = np.sqrt((x**2).sum(axis=-1))
        at = lengths < 1e-12
        pull = (x / np.where(at, 1, lengths)[..., None] * ~at[..., None]).sum(axis=1)
        is_median = np.sqrt((pull**2).sum(axis=1)) <= f + at.sum(axis=1)
        center = x.mean(axis=1)
        variance = ((x - center[:, None]) ** 2).sum(axis=(1, 2)) / x.shape[1]
        error = (center**2).sum(axis=1)
        valid = is_median & (variance > 1e-12 * error)
        return np.where(valid, error / np.where(valid, variance, 1), 0)

    return ratio
