"""Order statistics of rows with weights: those of the multiset in which row i stands w_i times.

Let Q(t) be the value of the sorted column at which the weights of the values up to it reach t. The
statistics are means of Q between two weights, and means of the values nearest to a centre, whose
last value may count in part. They depend on the weights only through w / sum(w).

Values are bounded by bisection over the bits of their keys, in one pass over the rows for each bit,
whatever n is. Weights are summed in groups of rows, and weights within the rounding of such sums
are treated as equal: a row that would count with less than that counts with nothing, however large
it is.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics import thresholds
from byzjax._numerics.arrays import sum_dtype, varying_as
from byzjax._numerics.barrier import fusion_barrier
from byzjax._numerics.order.nearest import _distances, _infinite
from byzjax._numerics.order.networks import from_key, to_key
from byzjax._numerics.rows import row_squares

_GROUP = 16  # rows whose weights are added before the sum joins the total


def weighted_median(x: jax.Array, weights: jax.Array) -> jax.Array:
    """The value with half of the weight on either side; the mean of two such values."""
    return _statistic(x, weights, 0.5, None)


def weighted_trimmed_mean(x: jax.Array, weights: jax.Array, share: float) -> jax.Array:
    """Mean of what remains without this share of the weight at each end."""
    return _statistic(x, weights, share, None)


def weighted_mean_around_median(x: jax.Array, weights: jax.Array, kept: float) -> jax.Array:
    """Mean of this share of the weight nearest to the weighted median, the lower one on a tie."""
    return _statistic(x, weights, 0.5, kept)


def weighted_mean_around_trimmed_mean(
    x: jax.Array, weights: jax.Array, kept: float, share: float
) -> jax.Array:
    """Mean of this share of the weight nearest to the weighted trimmed mean."""
    return _statistic(x, weights, share, kept)


def squares_to_weighted_median(x: jax.Array, weights: jax.Array) -> jax.Array:
    """`sum_c (x_ic - M_c)^2` of the rows of `x: [n, c]` about their weighted median M, as [n]."""
    return row_squares(x, weighted_median(x, weights))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _statistic(x: jax.Array, weights: jax.Array, share: float, kept: float | None) -> jax.Array:
    return _parts(x, weights, share, kept).mean.astype(x.dtype)


@_statistic.defjvp
def _statistic_jvp(share, kept, primals, tangents):
    (x, weights), (dx, dweights) = primals, tangents
    parts = fusion_barrier(_parts(x, weights, share, kept))
    wide = parts.mean.dtype

    def of_row(i: Any) -> jax.Array:
        row, w = _row(x, i), weights[i].astype(wide)
        factor, slope = parts.factor(row, w), parts.slope(row)
        moved = jnp.where(jnp.isfinite(row), factor, 0) * _row(dx, i).astype(wide)
        return moved + jnp.where(jnp.isfinite(slope), slope, 0) * dweights[i].astype(wide)

    tangent = _sum_rows(x, of_row, jnp.zeros_like(parts.mean))
    return parts.mean.astype(x.dtype), tangent.astype(x.dtype)


def _parts(x: jax.Array, weights: jax.Array, share: float, kept: float | None) -> Any:
    window = _window(x, weights.astype(sum_dtype(x.dtype)), share)
    if kept is None:
        return window
    center = fusion_barrier(window.mean)
    return _near(x, weights.astype(center.dtype), center, kept)


# --- means of Q between two weights --------------------------------------------------------------


class _Window(NamedTuple):
    """The mean of Q from `share` to `1 - share` of the weight, and what its derivative needs."""

    mean: jax.Array
    first: jax.Array  # key of the least value that counts
    last: jax.Array  # key of the largest one
    low: jax.Array  # the least value
    high: jax.Array  # the largest one
    of_first: jax.Array  # factor of each row at the first key, per weight
    of_last: jax.Array
    inside: jax.Array  # factor of the other rows, per weight
    share: jax.Array
    rate: jax.Array  # 1 / (weight of the window); 0 for the median

    def factor(self, row: jax.Array, weight: jax.Array) -> jax.Array:
        """The derivative by the row's values."""
        key = to_key(row)
        within = (self.first < key) & (key < self.last)
        per_weight = jnp.where(within, self.inside, 0)
        per_weight = jnp.where(key == self.last, self.of_last, per_weight)
        return weight * jnp.where(key == self.first, self.of_first, per_weight)

    def slope(self, row: jax.Array) -> jax.Array:
        """The derivative by the row's weight."""
        key = to_key(row)
        value = jnp.where(key <= self.first, self.low, row.astype(self.low.dtype))
        value = jnp.where(key >= self.last, self.high, value)
        ends = self.share * (self.low + self.high)
        slope = self.rate * (value - ends - (1 - 2 * self.share) * self.mean)
        return jnp.where(self.first == self.last, 0, slope)


def _window(x: jax.Array, weights: jax.Array, share: float) -> _Window:
    dtype, wide = x.dtype, weights.dtype
    total, rounding = _total(weights)
    begin, end = share * total, (1 - share) * total
    targets = begin + rounding, end - rounding
    keys = to_key(x)
    least = jnp.minimum(*targets), jnp.maximum(*targets)
    first, last = _bisected(keys, weights, lambda i: _row(keys, i), least)
    low, high = from_key(first, dtype).astype(wide), from_key(last, dtype).astype(wide)
    one = first == last

    zero = jnp.zeros(x.shape[1:], wide)
    masses = _sum_rows(
        x,
        lambda i: tuple(
            jnp.where(chosen, weights[i], 0)
            for key in [_row(keys, i)]
            for chosen in (key < first, key == first, key < last, key == last)
        ),
        (zero,) * 4,
    )
    below, at_first, before, at_last = masses
    middle = jnp.maximum(before - below - at_first, 0)
    from_first = jnp.maximum(below + at_first - begin, 0)
    from_last = jnp.maximum(end - before, 0)
    if share == 0.5:
        middle, from_first, from_last = zero, zero + 0.5, zero + 0.5
    size = from_first + middle + from_last
    inside = jnp.where(middle > 0, 1 / size, 0)
    of_first = jnp.where(one, 1, from_first / size)
    of_last = jnp.where(one, 0, from_last / size)

    def of_row(i: Any) -> jax.Array:
        key = _row(keys, i)
        value = jnp.where((first < key) & (key < last), _row(x, i).astype(wide), 0)
        return (weights[i] * inside) * value

    ends = jnp.where(one, low, of_first * low + of_last * high)
    mean = ends if share == 0.5 else ends + _sum_rows(x, of_row, zero)
    mean = jnp.where(one, low, jnp.clip(mean, low, high))
    rate = 1 / (end - begin) if share < 0.5 else jnp.zeros((), wide)
    of_first, of_last = of_first / at_first, of_last / at_last
    return _Window(
        *(mean, first, last, low, high, of_first, of_last, inside),
        *varying_as(x, (jnp.asarray(share, wide), rate)),
    )


# --- means of the values nearest to a centre -----------------------------------------------------


class _Near(NamedTuple):
    """The mean of a share of the weight nearest to a centre, and what its derivative needs."""

    mean: jax.Array
    center: jax.Array
    radius: jax.Array  # key of the largest distance that counts
    inside: jax.Array  # factor of each row inside the radius, per weight
    lower: jax.Array  # of each row at the radius, below the centre
    upper: jax.Array
    border: jax.Array  # the last value that counts
    kept: jax.Array

    def factor(self, row: jax.Array, weight: jax.Array) -> jax.Array:
        """The derivative by the row's values."""
        apart = to_key(_distances(row, self.center))
        below = row.astype(self.center.dtype) < self.center
        tie = jnp.where(below, self.lower, self.upper)
        factor = jnp.where(apart < self.radius, self.inside, 0)
        return weight * jnp.where(apart == self.radius, tie, factor)

    def slope(self, row: jax.Array) -> jax.Array:
        """The derivative by the row's weight."""
        apart = to_key(_distances(row, self.center))
        value = jnp.where(apart < self.radius, row.astype(self.center.dtype), self.border)
        return self.inside * (value - self.border + self.kept * (self.border - self.mean))


def _near(x: jax.Array, weights: jax.Array, center: jax.Array, kept: float) -> _Near:
    total, rounding = _total(weights)
    size = kept * total
    apart = functools.partial(_apart, x, center)
    (radius,) = _bisected(to_key(x), weights, apart, (size - rounding,))
    zero = jnp.zeros_like(center)

    def of_row(i: Any) -> tuple[jax.Array, ...]:
        key, value = apart(i), _infinite(_row(x, i)).astype(center.dtype)
        below, w = value < center, weights[i]
        inside, tie = key < radius, key == radius
        moment = jnp.where(inside & (w > 0), (w / size) * value, 0)
        parts = (inside, tie & below, tie & ~below)
        return (moment, *(jnp.where(part, w, 0) for part in parts))

    moment, inside, lower, upper = _sum_rows(x, of_row, (zero,) * 4)
    left = jnp.maximum(size - inside, 0)
    from_lower = jnp.minimum(lower, left)
    from_upper = jnp.where(lower >= left, 0, jnp.minimum(upper, left - from_lower))
    lowest, highest = _ends(x, weights, center, radius)
    mean = moment
    for part, value in ((from_lower, lowest), (from_upper, highest)):
        mean = mean + jnp.where(part > 0, (part / size) * value, 0)
    mean = mean * (size / (jnp.minimum(inside, size) + from_lower + from_upper))
    share = jnp.asarray(1 / size, center.dtype) + zero
    return _Near(
        jnp.where(jnp.isfinite(center), mean, jnp.nan),
        *(center, radius, share),
        jnp.where(from_lower > 0, from_lower / (size * jnp.where(lower > 0, lower, 1)), 0),
        jnp.where(from_upper > 0, from_upper / (size * jnp.where(upper > 0, upper, 1)), 0),
        jnp.where(from_upper > 0, highest, lowest),
        varying_as(x, jnp.asarray(kept, center.dtype)),
    )


def _apart(x: jax.Array, center: jax.Array, i: Any) -> jax.Array:
    return to_key(_distances(_row(x, i), center))


def _ends(x: jax.Array, weights: jax.Array, center: jax.Array, radius: jax.Array) -> tuple:
    """The values at the radius below the centre, and above it."""

    def add(ends: tuple, i: Any) -> tuple:
        value = _infinite(_row(x, i)).astype(center.dtype)
        tie = (_apart(x, center, i) == radius) & (weights[i] > 0)
        lowest = jnp.where(tie & (value < center), value, -jnp.inf)
        highest = jnp.where(tie & (value >= center), value, jnp.inf)
        return jnp.maximum(ends[0], lowest), jnp.minimum(ends[1], highest)

    least = jnp.zeros_like(center)
    return _fold(x, add, (least - jnp.inf, least + jnp.inf))


# --- passes over the rows ------------------------------------------------------------------------


def _total(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of the weights, as every other sum of them, and the rounding of such sums."""
    column = weights[:, None]
    total = _sum_rows(column, lambda i: weights[i][None], jnp.zeros(1, weights.dtype))[0]
    n = len(weights)
    rounding = (_GROUP + n / _GROUP) / 2 * float(jnp.finfo(weights.dtype).eps)
    return total, rounding * total


def _bisected(
    keys: jax.Array, weights: jax.Array, key_of: Callable, targets: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """For each target, the least key such that the rows up to it have that weight."""
    like = jax.eval_shape(key_of, 0)
    dtype, bits = like.dtype, jnp.iinfo(like.dtype).bits

    def set_bit(b: jax.Array, lows: tuple) -> tuple:
        step = dtype.type(1) << jnp.asarray(bits - 1 - b).astype(dtype)
        trials = [low + step for low in lows]
        zero = (jnp.zeros(like.shape, weights.dtype),) * len(trials)

        def of_row(i: Any) -> tuple:
            key = key_of(i)
            return tuple(jnp.where(key < trial, weights[i], 0) for trial in trials)

        below = _sum_rows(keys, of_row, zero)
        return tuple(
            jnp.where(mass < target, trial, low)
            for mass, target, trial, low in zip(below, targets, trials, lows)
        )

    least = varying_as(keys, jnp.full(like.shape, jnp.iinfo(dtype).min, dtype))
    return lax.fori_loop(0, bits, set_bit, (least,) * len(targets))


def _row(x: jax.Array, i: Any) -> jax.Array:
    return x[i] if isinstance(i, int) else lax.dynamic_index_in_dim(x, i, 0, keepdims=False)


def _sum_rows(x: jax.Array, of_row: Callable, zero: Any) -> Any:
    """The sum of `of_row(i)` over the rows of x, in groups."""

    def add_group(total: Any, rows: Any) -> Any:
        parts = [of_row(i) for i in rows]
        part = functools.reduce(functools.partial(jax.tree.map, jnp.add), parts)
        return jax.tree.map(jnp.add, total, part)

    return _by_groups(x, add_group, zero)


def _fold(x: jax.Array, add: Callable, start: Any) -> Any:
    """`start = add(start, i)` over the rows of x."""
    return _by_groups(x, lambda state, rows: functools.reduce(add, rows, state), start)


def _by_groups(x: jax.Array, add_group: Callable, state: Any) -> Any:
    n = x.shape[0]
    whole = n // _GROUP
    looped = n > thresholds.UNROLLED_ROWS
    if looped:

        def turn(g: jax.Array, state: Any) -> Any:
            return add_group(state, [g * _GROUP + j for j in range(_GROUP)])

        state = lax.fori_loop(0, whole, turn, varying_as(x, state))
    for begin in range(whole * _GROUP if looped else 0, n, _GROUP):
        state = add_group(state, list(range(begin, min(begin + _GROUP, n))))
    return state
