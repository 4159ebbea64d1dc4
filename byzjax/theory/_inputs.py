"""Inputs that attain constants: rows for which a rule is as far off as is proved.

Each function takes (n, f) and returns n rows; the first f are Byzantine, the others are S. Where a
rule breaks a tie, it must be by the lower index, or by the lower value of a coordinate.
"""

import math
from collections.abc import Callable

Rows = list[list[float]]


def honest_needed(n: int, f: int) -> int:
    """How many rows of S are at or beyond the median on either side: q = floor(n/2) + 1 - f."""
    return n // 2 + 1 - f


def _line(*groups: tuple[float, int]) -> Rows:
    """Rows of one coordinate: each value as often as it says."""
    return [[float(value)] for value, count in groups for _ in range(count)]


def median(n: int, f: int) -> Rows:
    """Of S, q rows at 1 and the rest at 0."""
    q = honest_needed(n, f)
    return _line((1, f), (0, n - f - q), (1, q))


def trimmed_mean(n: int, f: int) -> Rows:
    """Of S, n - 2f rows at 1 and f at 0."""
    return _line((1, f), (0, f), (1, n - 2 * f))


def nearest_to_median(n: int, f: int) -> Rows:
    """Of S, f rows at -1, q at the median 0, the others at their mean; attackers at +1."""
    q = honest_needed(n, f)
    return _line((1, f), (-1, f), (-f / (f + q), n - 2 * f - q), (0, q))


def mean_around_median(n: int, f: int) -> Rows:
    """As for `aksel` `"n-f"`, mirrored: of two values at a distance the lower one is taken."""
    return [[-x for x in row] for row in nearest_to_median(n, f)]


def nearest_to_trimmed_mean(n: int, f: int) -> Rows:
    """Of S, f rows at 1, the others at 0; attackers at -1."""
    return _line((-1, f), (1, f), (0, n - 2 * f))


def half_nearest_to_median(n: int, f: int) -> Rows:
    """Of S, ⌈n/2⌉ - 1 rows at -1, the others at 0; attackers at +1."""
    below = (n - 1) // 2
    return _line((1, f), (-1, below), (0, n - f - below))


def least_of_half(n: int, f: int) -> float:
    """The ratio for that input: for even n only f - 1 attackers are among the nearest n/2."""
    c, below = (n + 1) // 2, (n - 1) // 2
    return _ratio_of_half(n, f, (c - honest_needed(n, f)) / c, below)


def within_radius(n: int, f: int) -> Rows:
    """As for `aksel` `"mid"`, attackers a little nearer: they alone are at the radius."""
    return [[x * (1 - 1e-9) if x > 0 else x for x in row] for row in half_nearest_to_median(n, f)]


def least_within_radius(n: int, f: int) -> float:
    """The ratio for that input: all f attackers are taken, with the q rows at 0.

    With one attacker and even n the radius lies between its distance and 0, and it is not taken.
    """
    taken = 0 if f == 1 and n % 2 == 0 else f
    return _ratio_of_half(n, f, taken / (f + honest_needed(n, f)), (n - 1) // 2)


def _ratio_of_half(n: int, f: int, aggregate: float, below: int) -> float:
    m = n - f
    return (aggregate + below / m) ** 2 * m**2 / (below * (m - below))


def nearest_to_pivot(n: int, f: int) -> Rows:
    """The pivot is row f, at 0; of S, f rows at -1, the others at their mean; attackers at +1."""
    return _line((1, f), (0, 1), (-1, f), (-f / (f + 1), n - 2 * f - 1))


def geometric_median(n: int, f: int, *, apart: float = 1e-4, scale: float = 1e4) -> Rows:
    """Of S, floor(n/2) rows are far from the others, where the attackers are as well.

    For even n both halves would pull alike, and every point between them be a minimiser. So the far
    rows lie `apart` on both sides of a line, which costs them a share apart²/2 of their pull and
    adds as little to the variance. The scale makes the smoothing of the rule negligible.
    """
    far = n // 2
    aside = [0.0] * far if n % 2 else [apart * (-1.0) ** i for i in range(far - far % 2)] + [0.0]
    return [[0.0, 0.0]] * (n - far) + [[scale, scale * aside[i]] for i in range(far)]


def minimum_diameter(n: int, f: int) -> Rows:
    """Two rows of S are a diameter apart; the attackers are a diameter from those in the middle."""
    others = n - 2 * f - 1
    if not others:
        return _line((5 * f + 1, f), (2 * f, 1), (-f - 1, 1), (-1, f - 1))
    middle = f / others
    return _line((middle + 2 * f + 1, f), (f, 1), (middle, others), (-f - 1, 1), (-1, f - 1))


def simplex_beside(n: int, f: int) -> Rows:
    """S is a regular simplex; all attackers are at one point on its axis, where it is the medoid.

    Where the radius is 1, their distance t from its centre satisfies
    (n - 2f)² (1 + t²) = 2m (m - 1), with m = n - f.
    """
    m = n - f
    return _beside(n, f, 2 * m * (m - 1) / (n - 2 * f) ** 2 - 1)


def simplex_beside_krum(n: int, f: int) -> Rows:
    """S is a regular simplex; all attackers are at one point on its axis, where they are selected.

    Where the radius is 1, with k = n - f - 2 neighbours, their distance t from its centre satisfies
    2mk/(m - 1) = (k - f + 1) (1 + t²), with m = n - f.
    """
    return _beside(n, f, least_of_krum(2)(n, f))


def simplex_beside_krum_star(n: int, f: int) -> Rows:
    """As for `krum` with n - f - 2 neighbours."""
    return _beside(n, f, least_of_krum(1)(n, f))


def least_of_krum(neighbors: int) -> Callable[[int, int], float]:
    """The t² of `simplex_beside_krum`, for k = n - f - `neighbors`."""

    def value(n: int, f: int) -> float:
        m, k = n - f, n - f - neighbors
        return 2 * m * k / ((m - 1) * (k - f + 1)) - 1

    return value


def _beside(n: int, f: int, square: float) -> Rows:
    """A regular simplex, and f rows on its axis, a little nearer than this: nothing ties."""
    m, away = n - f, (1 - 1e-9) * math.sqrt(square)
    side = math.sqrt(m / (m - 1))
    simplex = [[side * ((i == j) - 1 / m) for j in range(m)] + [0.0] for i in range(m)]
    return [[0.0] * m + [away]] * f + simplex


def trimmed_mean_in_buckets(n: int, f: int, s: int) -> Rows:
    """Consecutive s rows form a bucket: f of zeros, f with one attacker each, the rest far away.

    If s does not divide n, the last bucket is the smaller one. The attackers are the first rows of
    the first f buckets.
    """
    return _in_buckets(n, f, s, math.ceil(n / s) - 2 * f)


def median_in_buckets(n: int, f: int, s: int) -> Rows:
    """As for the trimmed mean, with as many far buckets as move the median; s divides n."""
    return _in_buckets(n, f, s, honest_needed(math.ceil(n / s), f))


def _in_buckets(n: int, f: int, s: int, far: int) -> Rows:
    buckets, last = math.ceil(n / s), n - s * (math.ceil(n / s) - 1)
    zeros = _line((0, s * (buckets - far - f)))
    bad = [[2.0 * s] if i % s == 0 else [0.0] for i in range(s * f)]
    return bad + zeros + _line((1 / s, s * (far - 1)), (1 / last, last))
