"""The attacks: the updates of n workers of which some are Byzantine."""

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


def hybrid_sparse(
    x, byzantine, mask=None, share=0.005, sparse_z=1.5, f=None, z=None, direction="minus"
):
    """`little_is_enough`, but `sparse_z` in the mask, or else where the mean is largest."""
    good, d = honest(x, byzantine), np.shape(x)[1]
    mean, spread = good.mean(axis=0), good.std(axis=0, ddof=1) if len(good) > 1 else np.zeros(d)
    if z is None:
        z = little_is_enough_z(len(x), sum(byzantine) if f is None else f)
    if mask is None:
        mask = largest(mean, math.ceil(share * d))
    row = np.empty(d)
    for j in range(d):
        sign = np.sign(mean[j]) if direction == "against" else 1
        row[j] = mean[j] - (sparse_z if mask[j] else z) * sign * spread[j]
    return lie(x, byzantine, row)


def largest(x, k):
    """The places of the k largest magnitudes."""
    order = sorted(range(len(x)), key=lambda j: -abs(x[j]))
    return [j in order[:k] for j in range(len(x))]


def pruning_mask(params, gradient, share, steps):
    """SNIP for one step, FORCE for more: pruned coordinates may return."""
    d, kept = len(params), [True] * len(params)
    for t in range(1, steps + 1):
        g = gradient(np.array([p if keep else 0.0 for p, keep in zip(params, kept)]))
        kept = largest([params[j] * g[j] for j in range(d)], math.ceil(share ** (t / steps) * d))
    return kept


def non_finite(x, byzantine, value=math.nan):
    return lie(x, byzantine, np.full(np.shape(x)[1], value))


def reversed_gradient(x, byzantine, kappa=100.0, of="own"):
    if of == "mean":
        return lie(x, byzantine, -kappa * honest(x, byzantine).mean(axis=0))
    return np.array([-kappa * np.float64(v) if b else np.float64(v) for v, b in zip(x, byzantine)])


def sign_flip_of_mean(x, byzantine, of):
    return reversed_gradient(x, byzantine, 1.0, of)


def little_is_enough_of_liars(x, byzantine, z, direction, ddof, knowledge):
    own = np.asarray(x, np.float64)[np.asarray(byzantine)]
    assert (direction, knowledge) == ("minus", "liars")
    spread = own.std(axis=0, ddof=ddof) if len(own) > ddof else np.zeros(own.shape[1])
    return lie(x, byzantine, own.mean(axis=0) - z * spread)


def omniscient(x, byzantine, factor=1e10):
    return lie(x, byzantine, -factor * honest(x, byzantine).sum(axis=0))


def constant(x, byzantine, value=-100.0):
    return lie(x, byzantine, np.full(np.shape(x)[1], value))


def zero(x, byzantine):
    return constant(x, byzantine, 0.0)


def relocated(x, byzantine, momentum, reference, base, theta=90.0, z=1.0):
    good = honest(x, byzantine)
    mean, ones = good.mean(axis=0), np.ones(good.shape[1])
    r = reference * momentum + (1 - reference) * mean
    r = r / np.linalg.norm(r)
    p = ones - (ones @ r) * r
    p = p / np.linalg.norm(p)
    angle = math.radians(theta)
    u = np.linalg.norm(good.std(axis=0, ddof=1)) * (math.cos(angle) * r + math.sin(angle) * p)
    return lie(x, byzantine, base * momentum + (1 - base) * mean + z * u)


def _direction(good, direction):
    mean = good.mean(axis=0)
    if direction == "unit":
        return -mean / np.linalg.norm(mean)
    return -np.sign(mean) if direction == "sign" else -good.std(axis=0, ddof=1)


def _largest(allowed):
    """The largest allowed gamma, by doubling and halving as in the public code."""
    low, high = 0.0, 1.0
    while allowed(high):
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


def min_max(x, byzantine, direction="std"):
    good = honest(x, byzantine)
    mean, p = good.mean(axis=0), _direction(good, direction)
    limit = max(np.linalg.norm(a - b) for a in good for b in good)

    def allowed(gamma):
        return max(np.linalg.norm(mean + gamma * p - a) for a in good) <= limit

    return lie(x, byzantine, mean + _largest(allowed) * p)


def min_sum(x, byzantine, direction="std", bound="max"):
    good = honest(x, byzantine)
    mean, p = good.mean(axis=0), _direction(good, direction)
    sums = [sum(np.sum((a - b) ** 2) for b in good) for a in good]
    limit = {"max": max, "min": min}[bound](sums)

    def allowed(gamma):
        return sum(np.sum((mean + gamma * p - a) ** 2) for a in good) <= limit

    return lie(x, byzantine, mean + _largest(allowed) * p)


def hidden_vulnerability(x, byzantine, gamma, coordinate=None):
    row = honest(x, byzantine).mean(axis=0)
    row[slice(None) if coordinate is None else coordinate] += gamma
    return lie(x, byzantine, row)


def order_statistic(x, byzantine, rank=None):
    good = np.sort(honest(x, byzantine), axis=0)
    return lie(x, byzantine, good[-1 if rank is None else min(rank, len(good)) - 1])


def pushed(x, byzantine, mode="mid", f=None, direction="plus", margin=1e-3):
    n, s, good = len(x), int(sum(byzantine)), honest(x, byzantine)
    mean = good.mean(axis=0)
    sign = {"plus": 1, "minus": -1}.get(direction, np.where(mean > 0, -1, 1))
    up = np.sort(good * sign, axis=0)
    low, high, top = (sign * up[min(k, len(up)) - 1] for k in ((n + 1) // 2, n // 2 + 1, n))
    center = (low + high) / 2
    count = math.ceil(n / 2) if mode == "mid" else n - (s if f is None else f)
    nearest = sorted(good, key=lambda row: np.sum((row - center) ** 2))
    kept = max(count - s, 0)
    radius = (1 - margin) * np.linalg.norm(nearest[min(kept, len(good) - 1)] - center)
    error = (np.sum(nearest[:kept], axis=0) + s * high) / count - mean
    tried = []
    for v in (error, center - mean, sign * np.ones(len(mean))):
        ahead = np.where(v * sign > 0, v, 0)
        norm = np.linalg.norm(ahead)
        unit = ahead / norm if norm else ahead
        along, room = (high - center) @ unit, radius**2 - np.sum((high - center) ** 2)
        tried.append(high + max(0, math.sqrt(max(along**2 + room, 0)) - along) * unit)

    def damage(row):
        sent = lie(x, byzantine, row)
        to_median = np.sum((sent - np.median(sent, axis=0)) ** 2, axis=1)
        return np.linalg.norm(
            sent[np.argsort(to_median, kind="stable")[:count]].mean(axis=0) - mean
        )

    return lie(x, byzantine, max([*tried, low, top], key=damage))


def anti_cge(x, byzantine, margin=1e-3):
    good = honest(x, byzantine)
    kept = max(len(good) - sum(byzantine), 1)
    shortest = sorted(good, key=np.linalg.norm)[:kept]
    total = np.sum(shortest, axis=0)
    length = (1 - margin) * np.linalg.norm(shortest[-1])
    return lie(x, byzantine, -length * total / np.linalg.norm(total))


def fang_krum(x, byzantine, krum, f, tolerance=1e-5):
    """`krum`: (matrix, f) -> the row that Krum chooses."""
    n, d = np.shape(x)
    good = honest(x, byzantine)
    sign = np.sign(good.mean(axis=0))
    sums = []
    for i, a in enumerate(good):
        others = sorted(np.linalg.norm(a - b) for j, b in enumerate(good) if j != i)
        sums.append(sum(others[: n - f - 2]))
    strength = min(sums) / ((n - 2 * f - 1) * math.sqrt(d))
    strength += max(np.linalg.norm(a) for a in good) / math.sqrt(d)
    while strength >= tolerance:
        row = -strength * sign
        if np.allclose(krum(lie(x, byzantine, row), f), row, rtol=1e-5, atol=0):
            break
        strength /= 2
    return lie(x, byzantine, -strength * sign)


def copy_worker(x, byzantine, worker=0):
    good = honest(x, byzantine)
    return lie(x, byzantine, good[min(worker, len(good) - 1)])


def shift_tokens(y, byzantine, num_tokens, by=1):
    """Labels of several workers; each of an attacker counts on by k, and from V - 1 to 0."""
    out = np.array(y)
    for place in np.ndindex(out.shape):
        if byzantine[place[0]]:
            out[place] = (int(out[place]) + by) % num_tokens
    return out


def distributed_trigger(x, y, byzantine, target, count, size, gap, place, value, whole=False):
    """Images `[n, b, h, w]` and labels: each attacker's first images get its bar."""
    x, y = np.array(x), np.array(y)
    for number, i in enumerate(np.flatnonzero(byzantine)):
        for bar in range(4) if whole else [number % 4]:
            row = place + (bar // 2) * (1 + gap)
            for pixel in range(size):
                column = place + (bar % 2) * (size + gap) + pixel
                for j in range(count):
                    x[i, j, row, column] = value
        y[i, :count] = target
    return x, y


def flip_bits(x, byzantine, bits, coordinates):
    out = np.array(x, np.float32)
    for i in np.flatnonzero(byzantine):
        for j in range(min(coordinates, out.shape[1])):
            pattern = int(out[i, j].view(np.uint32))
            for bit in bits:
                pattern ^= 1 << bit
            out[i, j] = np.uint32(pattern).view(np.float32)
    return out.astype(np.float64)


def mimic(steps, byzantine, first, warmup):
    """The updates sent in each step (a matrix per step), from a random initial direction."""
    out, mean, direction, target = [], np.zeros_like(first), np.zeros_like(first), 0
    for t, x in enumerate(steps):
        good = honest(x, byzantine)
        if t < warmup:
            mean = (t * mean + good.mean(axis=0)) / (1 + t)
            z = first if t == 0 else direction
            pull = sum(((a - mean) @ z) * (a - mean) for a in good)
            direction = (t * direction + pull / np.linalg.norm(pull)) / (1 + t)
            direction = direction / np.linalg.norm(direction)
            target = int(np.argmax([a @ direction for a in good]))
        out.append(lie(x, byzantine, good[target]))
    return out


def byz_mean(x, byzantine, z=None):
    """The rows of `little_is_enough` from half of the attackers; all n rows then have its mean."""
    x = np.asarray(x, np.float64)
    out = little_is_enough(x, byzantine, z=z)
    liars = np.flatnonzero(byzantine)
    goal, half = out[liars[0]], len(liars) // 2
    total = x[~np.asarray(byzantine)].sum(axis=0) + half * goal
    for i in liars[half:]:
        out[i] = (len(x) * goal - total) / (len(liars) - half)
    return out


def model_replacement(x, byzantine, boost=None):
    boost = len(x) / sum(byzantine) if boost is None else boost
    return np.array([boost * np.float64(v) if b else np.float64(v) for v, b in zip(x, byzantine)])


def constrain_and_scale(x, byzantine, alpha=0.5, max_norm=None):
    good = honest(x, byzantine)
    bound = max(np.linalg.norm(v) for v in good) if max_norm is None else max_norm
    out = np.asarray(x, np.float64).copy()
    for i in np.flatnonzero(byzantine):
        aim = alpha * out[i] + (1 - alpha) * good.mean(axis=0)
        out[i] = bound * aim / np.linalg.norm(aim)
    return out


def neurotoxin(steps, byzantine, share):
    """The updates sent in each step (a matrix per step)."""
    out, before = [], None
    for x in steps:
        sent = np.asarray(x, np.float64).copy()
        if before is not None:
            order = sorted(range(len(before)), key=lambda j: -abs(before[j]))
            for i in np.flatnonzero(byzantine):
                sent[i, order[: math.ceil(share * len(before))]] = 0
        out.append(sent)
        before = honest(x, byzantine).mean(axis=0)
    return out
