"""The k values of a column that are nearest to a centre: a window of the sorted column.

Up to 96 rows are fully sorted. With more the loop may not be vectorised; it is replaced by two
networks, for the centre and for the distance of the k-th nearest, and one pass over the values (the
mean around the median, k = n/2 and 3n/4, d = 131,072, ms on 2 CPU cores):

    n      96          104          112          128
           5.1, 5.2    90, 6.4      287, 185               in order
                                    24, 24       31, 31    by distance

Beyond 128 the distance is found by counting (`selection`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics import thresholds
from byzjax._numerics.arrays import exact_share, sum_dtype, varying_as
from byzjax._numerics.barrier import fusion_barrier
from byzjax._numerics.order.networks import (
    apply_network,
    comparators,
    from_key,
    mean_by_network,
    merge_exchange,
    to_key,
    window_mean,
)
from byzjax._numerics.order.selection import Rows, splits, window


def nearest_window(x: jax.Array, center: jax.Array, k: int):
    """(start, mean, first, last) of the window of the k values nearest to the centre."""
    if x.shape[0] <= thresholds.NEAREST_NETWORK_MAX:
        return _window_in_order(_sorted(x), center, k, exact_share(x.shape[0], x))
    if x.shape[0] <= thresholds.NETWORK_MAX:
        return _nearest_by_network(x, fusion_barrier(center), k)
    return _nearest_by_counting(x, center, k)


def window_around(x: jax.Array, k: int, start: int, width: int):
    """The same, about the mean of the window of `width` values from rank `start`."""
    wide = sum_dtype(x.dtype)
    if x.shape[0] <= thresholds.NEAREST_NETWORK_MAX:
        y, share = _sorted(x), exact_share(x.shape[0], x)
        center = window_mean([v.astype(wide) for v in y[start : start + width]], wide, share)
        return _window_in_order(y, center, k, share)
    if x.shape[0] <= thresholds.NETWORK_MAX:
        rows, share = [row.astype(wide) for row in x], exact_share(width, x)
        center = fusion_barrier(mean_by_network(rows, start, width, share))
        return _nearest_by_network(x, center, k)

    rows = Rows(x.reshape(len(x), -1), (), lambda row: row.astype(wide))
    # Behind a barrier: fused into a difference from the centre, its division is rounded once
    # instead of twice, and the k-th distance may be one that no row has.
    center = fusion_barrier(window(rows, start, width))
    return _nearest_by_counting(x, center.reshape(x.shape[1:]), k)


def _sorted(x: jax.Array) -> list[jax.Array]:
    """The sorted columns of x, NaN replaced by the infinity next to it."""
    keys = apply_network(merge_exchange(x.shape[0]), [to_key(row) for row in x])
    return [_infinite(from_key(key, x.dtype)) for key in keys]


def _window_in_order(ordered: list[jax.Array], center: jax.Array, k: int, share: jax.Array):
    n, dtype = len(ordered), ordered[0].dtype
    wide = sum_dtype(dtype)
    y, c = [v.astype(wide) for v in ordered], center.astype(wide)
    start = jnp.zeros(c.shape, jnp.int32)
    for j in range(n - k):
        start = start + (c - y[j] > y[j + k] - c).astype(jnp.int32)
    zero = jnp.zeros(c.shape, wide)
    total, first, last = zero, zero, zero
    for i, v in enumerate(y):
        total = jnp.where((start <= i) & (i < start + k), total + share * v, total)
        first = jnp.where(start == i, v, first)
        last = jnp.where(start + k - 1 == i, v, last)
    mean = jnp.where(jnp.isfinite(c), total / (k * share), jnp.nan)
    return start, mean.astype(dtype), first.astype(dtype), last.astype(dtype)


class _Near(NamedTuple):
    """Statistics of the values within a radius of a centre."""

    total: jax.Array  # sum of the values inside the radius, times the share
    least: jax.Array  # smallest value inside
    most: jax.Array  # largest value inside
    lowest: jax.Array  # value at the radius, below the centre
    highest: jax.Array  # value at the radius, above the centre
    inner: jax.Array  # number of values inside
    lower: jax.Array  # number of values at the radius, below the centre
    under: jax.Array  # number of values not inside, below the centre

    @staticmethod
    def of_none(center: jax.Array) -> "_Near":
        zero, none = jnp.zeros_like(center), jnp.zeros(center.shape, jnp.int32)
        ends = (zero + jnp.inf, zero - jnp.inf, zero - jnp.inf, zero + jnp.inf)
        return _Near(zero, *ends, none, none, none)

    def and_row(self, share, radius, apart, value, below) -> "_Near":
        near, tie = apart < radius, apart == radius
        lower_tie, upper_tie = tie & below, tie & ~below
        return _Near(
            jnp.where(near, self.total + share * value, self.total),
            jnp.minimum(self.least, jnp.where(near, value, jnp.inf)),
            jnp.maximum(self.most, jnp.where(near, value, -jnp.inf)),
            jnp.maximum(self.lowest, jnp.where(lower_tie, value, -jnp.inf)),
            jnp.minimum(self.highest, jnp.where(upper_tie, value, jnp.inf)),
            self.inner + near.astype(jnp.int32),
            self.lower + lower_tie.astype(jnp.int32),
            self.under + (below & ~near).astype(jnp.int32),
        )

    def window(self, share: jax.Array, center: jax.Array, k: int, dtype: jnp.dtype):
        """(start, mean, first, last) of the k nearest; at the radius, the lower ones."""
        from_lower = jnp.minimum(self.lower, k - self.inner)
        from_upper = k - self.inner - from_lower
        total = self.total
        for count, value in ((from_lower, self.lowest), (from_upper, self.highest)):
            total = total + jnp.where(count > 0, count.astype(total.dtype) * (share * value), 0)
        some = self.inner > 0
        first = jnp.where(from_lower > 0, self.lowest, jnp.where(some, self.least, self.highest))
        last = jnp.where(from_upper > 0, self.highest, jnp.where(some, self.most, self.lowest))
        mean = jnp.where(jnp.isfinite(center), total / (k * share), jnp.nan)
        rank = self.under - from_lower
        return rank, mean.astype(dtype), first.astype(dtype), last.astype(dtype)


def _distances(x: jax.Array, center: jax.Array) -> jax.Array:
    """Distances to the centre; NaN is as far as infinity."""
    difference = x.astype(center.dtype) - center
    return jnp.where(jnp.isnan(difference), jnp.inf, jnp.abs(difference))


def _infinite(x: jax.Array) -> jax.Array:
    """The values, NaN replaced by the infinity next to which it sorts."""
    return jnp.where(jnp.isnan(x), jnp.where(jnp.signbit(x), -jnp.inf, jnp.inf).astype(x.dtype), x)


def _nearest_by_counting(x: jax.Array, center: jax.Array, k: int):
    """(start, mean, first, last) of the k values nearest to `center: [...]`, for `x: [n, ...]`."""
    shape, n, dtype = center.shape, x.shape[0], sum_dtype(x.dtype)
    flat, center = x.reshape(n, -1), center.reshape(-1).astype(dtype)
    values, distances = Rows(flat), Rows(flat, (center,), _distances)
    share, none = exact_share(k, x), _Near.of_none(center)

    def near(radius: jax.Array) -> _Near:
        def add(near: _Near, i: jax.Array) -> _Near:
            value, apart = _infinite(values.row(i)).astype(dtype), to_key(distances.row(i))
            return near.and_row(share, radius, apart, value, value < center)

        return distances.fold(add, none)

    if k == n:
        inside = near(to_key(jnp.full_like(center, jnp.nan)))._replace(inner=none.inner + k)
    else:
        (split,) = splits(distances, [k])
        tied = split.tied(k)
        # Passes over the rows that are hardly ever needed.
        no_ties = varying_as(split.low, none)
        ties = lax.cond(jnp.any(tied), near, lambda _: no_ties, split.low)
        inside = near(split.low)._replace(
            inner=jnp.where(tied, split.below, k),
            lower=ties.lower,
            lowest=ties.lowest,
            highest=ties.highest,
        )
    return tuple(part.reshape(shape) for part in inside.window(share, center, k, x.dtype))


def _nearest_by_network(x: jax.Array, center: jax.Array, k: int):
    """The same for `x: [n, ...]` and `center: [...]`, the k-th smallest distance by a network.

    Row by row, and the distances again after a fusion barrier: XLA would store all of them between
    the loops, which takes four times as long.
    """
    center = center.astype(sum_dtype(x.dtype))
    keys = [to_key(_distances(row, center)) for row in x]
    radius, center = fusion_barrier(
        (apply_network(comparators(len(keys), k - 1, 1), keys)[k - 1], center)
    )
    share, near = exact_share(k, x), _Near.of_none(center)
    for row in x:
        value = _infinite(row).astype(center.dtype)
        apart = to_key(_distances(row, center))
        near = near.and_row(share, radius, apart, value, value < center)
    return near.window(share, center, k, x.dtype)
