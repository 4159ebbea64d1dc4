"""Order statistics and their derivatives: means of windows of the sorted columns."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics import thresholds
from byzjax._numerics.arrays import exact_share, sum_dtype, varying_as
from byzjax._numerics.barrier import fusion_barrier
from byzjax._numerics.order.nearest import nearest_window, window_around
from byzjax._numerics.order.networks import (
    from_key,
    mean_by_network,
    middle,
    to_key,
    window_mean,
)
from byzjax._numerics.order.selection import Rows, window
from byzjax._numerics.rows import fold_blocks, row_squares


def median(x: jax.Array) -> jax.Array:
    """Median per coordinate; for even n the mean of the two middle values."""
    return _window_mean(x, *middle(x.shape[0]))


def trimmed_mean(x: jax.Array, f: int) -> jax.Array:
    """Mean per coordinate of what remains without the f smallest and the f largest values."""
    return _window_mean(x, f, x.shape[0] - 2 * f)


def kth(x: jax.Array, k: int) -> jax.Array:
    """The k-th lowest value per coordinate, from 1."""
    return _window_mean(x, k - 1, 1)


def mean_of_nearest(x: jax.Array, center: jax.Array, k: int) -> jax.Array:
    """Mean per coordinate of the k values nearest to `center: [...]`, the lower one on a tie.

    After sorting, the k nearest values are a window: it moves up from rank j as long as y_j is
    farther from the centre than y_{j+k}. NaN where the centre is not finite.
    """
    return _nearest_mean(x, lax.stop_gradient(center), k)


def mean_around_median(x: jax.Array, k: int) -> jax.Array:
    """Mean per coordinate of the k values nearest to their median, after one sort for both."""
    return _mean_around(x, k, *middle(x.shape[0]))


def mean_around_trimmed_mean(x: jax.Array, k: int, f: int) -> jax.Array:
    """Mean per coordinate of the k values nearest to their trimmed mean, after one sort."""
    return _mean_around(x, k, f, x.shape[0] - 2 * f)


def squares_to_median(x: jax.Array) -> jax.Array:
    """`sum_c (x_ic - M_c)^2` of the rows of `x: [n, c]` about their median M, as [n]."""
    if x.shape[0] > thresholds.NETWORK_MAX or x.shape[1] < thresholds.BLOCKED:
        return _plain_squares_to_median(x)
    return lax.platform_dependent(
        x, cpu=_blocked_squares_to_median, default=_plain_squares_to_median
    )


def _plain_squares_to_median(x: jax.Array) -> jax.Array:
    return row_squares(x, median(x))


def _blocked_squares_to_median(x: jax.Array) -> jax.Array:
    """Block by block, so that the second read of a block hits the cache.

    n = 25, d = 1e6, 2 CPU cores: 4.5 ms instead of 6.9, where `w @ x` takes 1.8; n = 64: 15 and 24.
    The remaining columns are sorted: a network would be compiled for them alone, and a masked last
    block that overlaps cost half a millisecond.
    """
    (n, c), dtype = x.shape, sum_dtype(x.dtype)
    start, width = middle(n)
    parts = min(8, 2**18 // thresholds.LANES // n + 1)  # whose rows fit in a core's cache
    lanes = _even_lanes(c, parts)
    size = parts * lanes

    def add(total: jax.Array, begin: jax.Array, _: int) -> jax.Array:
        rows = [lax.dynamic_slice(x, (i, begin), (1, size))[0] for i in range(n)]
        center = fusion_barrier(mean_by_network(rows, start, width)).astype(dtype)
        for first in range(0, size, lanes):
            part = lax.dynamic_slice(x, (0, begin + first), (n, lanes)).astype(dtype)
            total = total + jnp.square(part - center[None, first : first + lanes])
        return total

    zero = varying_as(x, jnp.zeros((n, lanes), dtype))
    total, (done, left) = fold_blocks(add, zero, x, size)
    total = jnp.sum(total, axis=1)
    if left:
        rest = x[:, done:]
        ranked = jnp.sort(to_key(rest), axis=0)[start : start + width]
        center = window_mean(list(from_key(ranked, x.dtype)), x.dtype).astype(dtype)
        total = total + jnp.sum(jnp.square(rest.astype(dtype) - center[None]), axis=1)
    return total


@functools.cache
def _even_lanes(c: int, parts: int) -> int:
    """The width of `parts` pieces of a block such that few of c columns are left over.

    Somewhat more than `LANES`, a multiple of 8: n = 64 took 21 ms with 1,344 lanes and 15 with
    2,048.
    """
    most = c // (parts * thresholds.LANES)
    counts = range(max(1, most * 7 // 10), most + 1)
    widths = [(count, c // (parts * count) // 8 * 8) for count in counts]
    return min(widths, key=lambda way: c - parts * way[0] * way[1])[1]


def _window(x: jax.Array, start: int, width: int) -> jax.Array:
    if x.shape[0] > thresholds.NETWORK_MAX:
        return window(Rows(x.reshape(len(x), -1)), start, width).reshape(x.shape[1:])
    return mean_by_network(list(x), start, width, exact_share(width, x))


def _window_ends(x: jax.Array, start: int, width: int) -> tuple[jax.Array, jax.Array]:
    return fusion_barrier((_window(x, start, 1), _window(x, start + width - 1, 1)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _window_mean(x: jax.Array, start: int, width: int) -> jax.Array:
    return _window(x, start, width)


@_window_mean.defjvp
def _window_mean_jvp(start, width, primals, tangents):
    (x,), (dx,) = primals, tangents
    first, last = _window_ends(x, start, width)
    return _window_mean(x, start, width), _share(x, dx, first, last, start, width)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _nearest_mean(x: jax.Array, center: jax.Array, k: int) -> jax.Array:
    return nearest_window(x, center, k)[1]


@_nearest_mean.defjvp
def _nearest_mean_jvp(k, primals, tangents):
    (x, center), (dx, _) = primals, tangents
    start, mean, first, last = fusion_barrier(nearest_window(x, center, k))
    return mean, _share(x, dx, first, last, start, k)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _mean_around(x: jax.Array, k: int, start: int, width: int) -> jax.Array:
    return window_around(x, k, start, width)[1]


@_mean_around.defjvp
def _mean_around_jvp(k, start, width, primals, tangents):
    (x,), (dx,) = primals, tangents
    first_rank, mean, first, last = fusion_barrier(window_around(x, k, start, width))
    return mean, _share(x, dx, first, last, first_rank, k)


def _share(x, dx, first, last, start, width) -> jax.Array:
    """Tangent of a window's mean: rows that tie at an end share its places equally."""
    wide = sum_dtype(x.dtype)

    def count(mask):  # `jnp.sum(mask, axis=0)` takes ten times as long on CPU
        def add(i, total):
            rows = lax.dynamic_slice_in_dim(mask, i * step, step)
            return functools.reduce(jnp.add, [row.astype(jnp.int32) for row in rows], total)

        step = min(8, mask.shape[0])
        whole = mask.shape[0] // step
        total = varying_as(x, jnp.zeros(mask.shape[1:], jnp.int32))
        total = lax.fori_loop(0, whole, add, total)
        return functools.reduce(jnp.add, [r.astype(jnp.int32) for r in mask[whole * step :]], total)

    def below(value):  # NaN with its sign bit set is the least of all
        return (x < value[None]) | (jnp.isnan(x) & jnp.signbit(x))

    at_first, at_last = x == first[None], x == last[None]
    stop = start + width
    places_first = jnp.minimum(count(below(first)) + count(at_first), stop) - start
    places_last = stop - jnp.maximum(count(below(last)), start)

    def share(places, rows):
        return (places.astype(wide) / jnp.maximum(count(rows), 1).astype(wide))[None]

    within = (first[None] < x) & (x < last[None])
    weight = jnp.where(within, jnp.ones((), wide), jnp.zeros((), wide))
    weight = jnp.where(at_last, share(places_last, at_last), weight)
    weight = jnp.where(at_first, share(places_first, at_first), weight)
    weight = jnp.where(jnp.isfinite(x), weight, jnp.zeros((), wide))
    kept = jnp.where(weight > 0, weight * dx.astype(wide), jnp.zeros((), wide))
    return (jnp.sum(kept, axis=0) / width).astype(x.dtype)
