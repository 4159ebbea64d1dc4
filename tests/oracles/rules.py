"""The rules: from the rows of n workers to one row."""

import itertools
import math

import numpy as np

from tests.oracles.fixed_points import least_sum
from tests.oracles.order import (
    by_column,
    mean_of_finite_of,
    mean_of_nearest_of,
    median_of,
    trimmed_mean_of,
)
from tests.oracles.rows import (
    distance,
    far,
    lowest,
    mean_of_rows,
    norm,
    or_infinity,
    squared_distance,
    weighted_mean,
    weighted_sum,
)

# --- coordinate-wise -----------------------------------------------------------------------------


def mean(x, f=0):
    return np.asarray(x, np.float64).sum(axis=0) / len(x)


def mean_of_finite(x, f=0):
    return by_column(mean_of_finite_of, x)


def median(x, f=0):
    return by_column(median_of, x)


def trimmed_mean(x, f):
    return by_column(lambda values: trimmed_mean_of(values, f), x)


def mean_around_median(x, f):
    return by_column(lambda v: mean_of_nearest_of(v, median_of(v), len(v) - f), x)


def phocas(x, f):
    return by_column(lambda v: mean_of_nearest_of(v, trimmed_mean_of(v, f), len(v) - f), x)


def biweight_of(values, c):
    center = median_of(values)
    if not np.isfinite(center):
        return np.nan
    reach = c * median_of([abs(v - center) for v in values])
    weights, moved = 0.0, 0.0
    for v in values:
        away = v - center
        if away == 0 or (np.isfinite(v) and abs(away) < reach):
            weight = (1 - (away / reach) ** 2) ** 2 if away else 1.0
            weights, moved = weights + weight, moved + weight * away
    return center + moved / weights


def biweight_mean(x, f=0, c=6.0):
    """One step from the median; infinite and NaN values are infinitely far."""
    return by_column(lambda values: biweight_of(values, c), x)


def majority_sign(x, f=0):
    """NaN has no vote."""
    return by_column(lambda values: np.sign(sum(np.sign(v) for v in values if v == v)), x)


def robust_learning_rate(x, f=0, *, threshold, rule=mean):
    """`rule(x)` is an oracle; NaN has no vote."""
    aggregate = rule(x)
    for j, column in enumerate(np.asarray(x, np.float64).T):
        if abs(sum(np.sign(v) for v in column if v == v)) < threshold:
            aggregate[j] = -aggregate[j]
    return aggregate


# --- rows of least score -------------------------------------------------------------------------


def aksel(x, f, mode="mid"):
    n, center = len(x), median(x)
    distances = [squared_distance(row, center) for row in x]
    if mode == "radius":
        radius = median_of(distances)
        selected = [i for i in range(n) if distances[i] <= radius]
    else:
        selected = lowest(distances, {"mid": math.ceil(n / 2), "n-f": n - f}[mode])
    return mean_of_rows(x, selected, distances)


def krum_scores(x, neighbors, squared=True):
    apart, n = squared_distance if squared else distance, len(x)
    nearest = [sorted(apart(x[i], x[j]) for j in range(n) if j != i)[:neighbors] for i in range(n)]
    return [or_infinity(sum(distances)) for distances in nearest]


def krum(x, f, m=1, neighbors="n-f-2", squared=True):
    """BM, and ByzFL with m = n - f, count the row itself: n - f - 1 others."""
    n = len(x)
    scores = krum_scores(x, {"n-f-2": n - f - 2, "n-f-1": n - f - 1}[neighbors], squared)
    return mean_of_rows(x, lowest(scores, m), scores)


def multi_krum(x, f, m=None, neighbors="n-f-2", squared=True):
    most = len(x) - f - (2 if neighbors == "n-f-2" else 0)
    return krum(x, f, most if m is None else m, neighbors, squared)


def bulyan(x, f, rule=None):
    """`rule(rows, f=f)` is an oracle, Krum by default; the row nearest to its result is picked."""
    x = np.asarray(x, np.float64)
    n, left, picked = len(x), list(range(len(x))), []
    for _ in range(n - 2 * f):
        rows = x[left]
        if rule is None:
            scores = krum_scores(rows, max(1, len(left) - f - 2))
        else:
            center = rule(rows, f=f)
            scores = [squared_distance(row, center) for row in rows]
        (best,) = lowest(scores, 1)
        if np.isinf(scores[best]):
            return np.full(x.shape[1], np.nan)
        picked.append(left.pop(best))
    return by_column(lambda v: mean_of_nearest_of(v, median_of(v), n - 4 * f), x[picked])


def medoid(x, f=0):
    """An infinite distance exceeds any finite one; NaN if half of all are infinite."""
    n, scores = len(x), []
    for i in range(n):
        distances = [distance(x[i], x[j]) for j in range(n) if j != i]
        finite = [r for r in distances if np.isfinite(r)]
        scores.append((n - 1 - len(finite), sum(finite)))
    (best,) = lowest(scores, 1)
    too_many_bad = not np.isfinite(x[best]).all() or 2 * scores[best][0] >= n
    return mean_of_rows(x, [best], {best: np.inf if too_many_bad else 0.0})


def comparative_elimination(x, f):
    norms = [norm(row) for row in x]
    return mean_of_rows(x, lowest(norms, len(x) - f), norms)


def nearest_to_pivot(x, f, pivot=0):
    distances = [squared_distance(row, x[pivot]) for row in x]
    return mean_of_rows(x, lowest(distances, len(x) - f), distances)


def zeno(x, f, params, trusted_loss, learning_rate, rho):
    losses = []
    for row in np.asarray(x, np.float64):
        with np.errstate(all="ignore"):
            gain = trusted_loss(params) - trusted_loss(params - learning_rate * row)
            score = gain - rho * norm(row) ** 2
        losses.append(-score if abs(score) < np.inf else np.inf)
    return mean_of_rows(x, lowest(losses, len(x) - f), losses)


# --- subsets -------------------------------------------------------------------------------------


def mean_of_best_subset(x, f, score, rounding=0.0):
    """The first subset of n - f rows with the least score; NaN if no score is finite."""
    best, least = [], np.inf
    for subset in itertools.combinations(range(len(x)), len(x) - f):
        value = score(list(subset))
        if value < least * (1 - rounding):
            best, least = list(subset), value
    return np.asarray(x, np.float64)[best].mean(axis=0) if best else np.full(np.shape(x)[1], np.nan)


def minimum_diameter(x, f):
    apart = np.array([[squared_distance(a, b) for b in x] for a in x])
    return mean_of_best_subset(x, f, lambda subset: apart[np.ix_(subset, subset)].max())


def covariance(x, weights=None):
    """(mean, covariance) of the weighted rows."""
    weights = np.ones(len(x)) if weights is None else weights
    center = weighted_mean(x, weights)
    rows = [(w, row - center) for w, row in zip(weights, x) if w != 0]
    return center, sum(w * np.outer(row, row) for w, row in rows) / sum(weights)


def minimum_eigenvalue(x, f):
    x, bad = np.asarray(x, np.float64), far(x)

    def largest(subset):
        return np.inf if bad[subset].any() else np.linalg.eigvalsh(covariance(x[subset])[1])[-1]

    return mean_of_best_subset(x, f, largest, rounding=4e-6)


# --- spectra -------------------------------------------------------------------------------------


def covariance_filter(x, f):
    """Bad rows count as already filtered; NaN if there are more than f."""
    x, n = np.asarray(x, np.float64), len(x)
    weights = np.where(far(x), 0.0, 1.0)
    if sum(weights) < n - f:
        return np.full(x.shape[1], np.nan)
    best, least = weighted_mean(x, weights), np.inf
    while sum(weights) > n - 2 * f:
        center, spread = covariance(x, weights)
        values, vectors = np.linalg.eigh(spread)
        if values[-1] < least:
            best, least = center, values[-1]
        with np.errstate(all="ignore"):
            along = np.where(weights > 0, ((x - center) @ vectors[:, -1]) ** 2, 0.0)
        if along.max() == 0:
            break
        weights = weights * (1 - along / along.max())
    return best


def spectral_filter(x, f, key=None, coordinates=None, iterations=5, remove=1.0, samples=None):
    """`samples`: the coordinates that each iteration uses, all by default.

    (`key` and `coordinates`, from which samples are drawn elsewhere, are ignored.)
    """
    x, bad = np.asarray(x, np.float64), far(x)
    n, kept, survived = len(x), len(x) - int(remove * f), np.zeros(len(x), int)
    if bad.all():
        return np.full(x.shape[1], np.nan)
    for columns in [range(x.shape[1])] * iterations if samples is None else samples:
        part = x[:, list(columns)]
        rows = part[~bad] - part[~bad].mean(axis=0)
        scores = np.full(n, np.inf)
        scores[~bad] = (rows @ np.linalg.svd(rows)[2][0]) ** 2
        survivors = lowest(scores, kept)
        if np.isinf(scores[survivors]).any():
            return np.full(x.shape[1], np.nan)
        survived[survivors] += 1
    always = np.flatnonzero(survived == (iterations if samples is None else len(samples)))
    return x[always].mean(axis=0) if len(always) else x[survived.argmax()]


# --- all rows, far ones with less weight ---------------------------------------------------------


def geometric_median(x, f=0, smoothing=1e-6, iterations=None, start="mean"):
    """Without `iterations`, the limit; NaN if half of the rows are bad."""
    good = np.asarray(x, np.float64)[~far(x)]
    if not len(good) or (iterations is None and 2 * len(good) <= len(x)):
        return np.full(np.shape(x)[1], np.nan)
    z = {"mean": mean(good), "median": median(x), "zero": np.zeros(np.shape(x)[1])}[start]
    if iterations is None:
        return least_sum(good, smoothing, z)
    for _ in range(iterations):
        z = weighted_mean(good, [1 / max(smoothing, distance(row, z)) for row in good])
    return z


def geometric_median_of_means(x, f=0, *, k, smoothing=1e-6):
    """A group that contains a bad row is a bad row."""
    x, bad = np.asarray(x, np.float64), far(x)
    groups = np.array_split(np.arange(len(x)), k)
    means = [mean_of_rows(x, g, np.where(bad, np.inf, 0.0)) for g in groups]
    return geometric_median(np.array(means), smoothing=smoothing)


def huber(x, f=0, *, threshold):
    """Huber losses are `threshold` times those of the smoothed geometric median."""
    return geometric_median(x, smoothing=threshold)


def centered_clip(x, f, center, radius, iterations=1):
    x, v = np.asarray(x, np.float64), np.asarray(center, np.float64)
    for _ in range(iterations):
        distances = [distance(row, v) for row in x]
        factors = [0.0 if r == np.inf else 1.0 if r <= radius else radius / r for r in distances]
        v = v + weighted_sum(x - v, factors) / len(x)
    return v


def fl_trust(x, f, trusted):
    """Zeros if no worker is trusted."""
    x, trusted = np.asarray(x, np.float64), np.asarray(trusted, np.float64)
    trust, scales = np.zeros(len(x)), np.zeros(len(x))
    for i, row in enumerate(x):
        if 0 < norm(row) < np.inf and 0 < norm(trusted) < np.inf:
            trust[i] = max(0.0, row @ trusted / (norm(row) * norm(trusted)))
            scales[i] = norm(trusted) / norm(row)
    return weighted_sum(x, trust * scales) / (sum(trust) or 1.0)


# --- signs and directions ------------------------------------------------------------------------


def mean_shift(points, neighbors, nearer=1e-6):
    """Mean shift with a flat kernel from every point: clusters as lists of indices, largest first.

    The bandwidth is the mean distance to the `neighbors`-th nearest point, itself included. Of two
    centres within a bandwidth of each other, the one with more points nearby is kept. A point
    belongs to the earlier centre unless a later one is nearer by at least `nearer`.
    """
    points, n = np.asarray(points, np.float64), len(points)
    apart = np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)
    enough = apart[:, neighbors - 1] if neighbors <= n else np.zeros(n)
    bandwidth = enough.mean() + nearer
    centers, sizes = [], []
    for z in points:
        for _ in range(300):
            around = points[np.linalg.norm(points - z, axis=1) <= bandwidth]
            moved = around.mean(axis=0)
            converged, z = np.abs(moved - z).max() <= 1e-9 * bandwidth, moved
            if converged:
                break
        centers.append(z)
        sizes.append(sum(np.linalg.norm(points - z, axis=1) <= bandwidth))
    kept = []
    for i in sorted(range(n), key=lambda i: (-sizes[i], i)):
        if all(np.linalg.norm(centers[i] - centers[k]) > bandwidth for k in kept):
            kept.append(i)
    clusters = [[] for _ in kept]
    for i, point in enumerate(points):
        to_centers = [np.linalg.norm(point - centers[k]) for k in kept]
        nearest = min(to_centers)
        if nearest <= bandwidth:
            clusters[[r <= nearest + nearer for r in to_centers].index(True)].append(i)
    return clusters


def sign_guard(x, f=0, lower=0.1, upper=3.0, window=None):
    """`window`: the coordinates whose signs count, all by default."""
    x, n, bad = np.asarray(x, np.float64), len(x), far(x)
    norms = np.array([norm(row) for row in x])
    middle = median_of(norms)
    similar = [i for i in range(n) if lower * middle < norms[i] < upper * middle]
    good = np.flatnonzero(~bad)
    if not len(good):
        return np.zeros(x.shape[1])
    part = x[good] if window is None else x[good][:, window]
    points = np.array([[np.mean(r > 0), np.mean(r == 0), np.mean(r < 0)] for r in part])
    clusters = mean_shift(points, max(1, n // 2))
    largest = max(clusters, key=len)  # the first one
    selected = [i for i in similar if i in good[largest]] or similar
    if not selected:
        return np.zeros(x.shape[1])
    return sum(x[i] * min(1, middle / norms[i]) for i in selected) / len(selected)


def flag(x, f=0, r=1, pairwise=0.0, iterations=1, smoothing=1e-7):
    """In d dimensions, with all columns written out."""
    x = np.asarray(x, np.float64)
    units = [row / norm(row) for row in x if 0 < norm(row) < np.inf]
    n, total, basis = len(x), np.zeros(x.shape[1]), None
    if not units:
        return total

    def weight(vector):
        if basis is None:
            return 1.0
        return (abs(1 - np.sum((basis.T @ vector) ** 2)) + smoothing) ** -0.25

    for _ in range(iterations):
        columns = [weight(a) * a for a in units]
        if pairwise and n > 1:
            share = pairwise / (n * (n - 1))
            differences = [a - b for a, b in itertools.permutations(units, 2)]
            columns += [share * weight(a) * a for a in differences]
        left, values, _ = np.linalg.svd(np.array(columns).T, full_matrices=False)
        basis = left[:, :r][:, values[:r] > 1e-12 * values[0]]
    return sum(basis @ (basis.T @ a) for a in units) / r
