"""Sums of one matrix `[n, c]`, along its rows and over its rows."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics import thresholds
from byzjax._numerics.arrays import exact_share, sum_dtype, wide, zeros


def fold_blocks(add: Callable, carry: Any, x: jax.Array, block: int) -> tuple[Any, tuple]:
    """`carry = add(carry, start, block)` over the whole blocks of columns of x.

    Returns the carry, and (start, width) of the remaining columns.
    """
    whole = x.shape[1] // block
    if whole > 1:
        carry = lax.fori_loop(0, whole, lambda b, c: add(c, b * block, block), carry)
    elif whole == 1:
        carry = add(carry, 0, block)
    rest = x.shape[1] - whole * block
    return carry, (whole * block, rest)


def _blocked_row_sums(term: Callable, x: jax.Array, *vectors: jax.Array) -> jax.Array:
    """`sum_c term(x_ic, v_c, ...)` as [n], in blocks of columns."""
    n = x.shape[0]

    def add(total, start, _):
        for first in range(0, thresholds.BLOCK, thresholds.LANES):
            columns = start + first
            part = lax.dynamic_slice(x, (0, columns), (n, thresholds.LANES))
            beside = [lax.dynamic_slice(v, (columns,), (thresholds.LANES,)) for v in vectors]
            total = total + term(wide(part), *[wide(v)[None] for v in beside])
        return total

    total, (start, _) = fold_blocks(add, zeros((n, thresholds.LANES), x), x, thresholds.BLOCK)
    rest = term(wide(x[:, start:]), *[wide(v[start:])[None] for v in vectors])
    return jnp.sum(total, axis=1) + jnp.sum(rest, axis=1)


def plain_row_sums(term: Callable, x: jax.Array, *vectors: jax.Array) -> jax.Array:
    """`row_sums` as one reduction."""
    return jnp.sum(term(wide(x), *[wide(v)[None] for v in vectors]), axis=1)


def row_sums(term: Callable, x: jax.Array, *vectors: jax.Array) -> jax.Array:
    """`sum_c term(x_ic, v_c, ...)` as [n]."""
    plain = functools.partial(plain_row_sums, term)
    if x.shape[1] < thresholds.BLOCKED:
        return plain(x, *vectors)
    blocked = functools.partial(_blocked_row_sums, term)
    return lax.platform_dependent(x, *vectors, cpu=blocked, default=plain)


def square_of_difference(x: jax.Array, p: jax.Array) -> jax.Array:
    """A term of squared distances."""
    return jnp.square(x - p)


@jax.custom_jvp
def row_squares(x: jax.Array, p: jax.Array) -> jax.Array:
    """`sum_c (x_ic - p_c)^2` for `x: [n, c]` and `p: [c]`, as [n]."""
    return row_sums(square_of_difference, x, p)


@row_squares.defjvp
def _row_squares_jvp(primals, tangents):
    (x, p), (dx, dp) = primals, tangents
    total = row_squares(x, p)
    # A row whose sum is not finite has zero gradient: clear both factors, since 0 * inf is NaN.
    keep = jnp.isfinite(total)[:, None]
    difference = centered(x, p)
    tangent = centered(dx, dp)
    product = jnp.where(keep, difference, 0) * jnp.where(keep, tangent, 0)
    return total, 2 * jnp.sum(product, axis=1)


def sum_rows(x: jax.Array, weights: jax.Array | None) -> jax.Array:
    """`sum_i w_i x_i` over the rows of `x: [n, c]`; rows of weight 0 are ignored.

    Rows in their accumulation dtype go through a matrix product, which takes a quarter of the
    loop's time for 64 rows of 65,536; others would be copied.
    """
    if weights is None or not _multiplied(x):
        return _sum_by_loop(x, weights)
    product = functools.partial(_product_or, _sum_by_loop)
    return lax.platform_dependent(x, weights.astype(x.dtype), cpu=product, default=_sum_by_loop)


def mean_rows(x: jax.Array, weights: jax.Array | None) -> jax.Array:
    """`sum_i w_i x_i / sum_i w_i`, without overflow for finite rows."""
    if weights is None or not _multiplied(x):
        return _mean_by_loop(x, weights)
    product = functools.partial(_product_or, _mean_by_loop, divide=True)
    return lax.platform_dependent(x, weights.astype(x.dtype), cpu=product, default=_mean_by_loop)


def _multiplied(x: jax.Array) -> bool:
    return x.dtype == sum_dtype(x.dtype) and x.shape[1] >= thresholds.BLOCKED


def _sum_by_loop(x: jax.Array, weights: jax.Array | None) -> jax.Array:
    return loop_over_rows(x, weights, _row)[0]


def _mean_by_loop(x: jax.Array, weights: jax.Array | None) -> jax.Array:
    """The rows are scaled by a power of two, without rounding, so that their sum is finite.

    Values below the least normal number over that power, 4e-37 for 25 rows, are flushed to zero.
    """
    dtype = sum_dtype(x.dtype)
    if weights is None:
        share = exact_share(x.shape[0], x)
        out = loop_over_rows(x, None, lambda row: row * share)[0]
        return out / (x.shape[0] * share)
    weights = weights.astype(dtype)
    size = lax.stop_gradient(jnp.sum(jnp.abs(weights)))
    power_of_two = lax.reduce_precision(size, jnp.finfo(dtype).nexp, 0)
    weights = weights * (0.5 / jnp.where(size > 0, power_of_two, 1))
    return loop_over_rows(x, weights, _row)[0] / jnp.sum(weights)


def sum_squares(x: jax.Array, p: jax.Array, counted: jax.Array) -> jax.Array:
    """`sum_i (x_i - p)^2` in every column, over the rows of `x: [n, c]` that are counted."""
    return loop_over_rows(x, counted.astype(sum_dtype(x.dtype)), lambda row: (row - p) ** 2)[0]


def _row(row: jax.Array) -> jax.Array:
    return row


def loop_over_rows(
    x: jax.Array, weights: jax.Array | None, *terms: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, ...]:
    """The sums of terms of the rows, as one fused, vectorised loop.

    `jnp.sum(x, axis=0)` took 40 times as long on CPU.
    """

    def add(total, row, weight, term):
        row = term(wide(row))
        if weight is not None:  # clear the row first: the gradient of its weight is 0, not NaN
            row = jnp.where(weight != 0, row, 0) * weight.astype(row.dtype)
        return total + row

    def add_row(totals, row, weight):
        return tuple(add(total, row, weight, term) for total, term in zip(totals, terms))

    def add_group(totals, start, length):
        for i in range(length):
            row = lax.dynamic_index_in_dim(x, start + i, 0, keepdims=False)
            weight = None
            if weights is not None:
                weight = lax.dynamic_index_in_dim(weights, start + i, 0, keepdims=False)
            totals = add_row(totals, row, weight)
        return totals

    n, totals = x.shape[0], tuple(zeros(x.shape[1:], x) for _ in terms)
    groups = -(-n // thresholds.UNROLLED_ROWS)
    length = n // groups if groups > 1 else 0  # never one group: XLA would unroll that, too
    if length:
        totals = lax.fori_loop(0, groups, lambda g, t: add_group(t, g * length, length), totals)
    for i in range(groups * length, n):
        totals = add_row(totals, x[i], None if weights is None else weights[i])
    return totals


def centered(x: jax.Array, p: jax.Array) -> jax.Array:
    """The rows of `x: [n, c]` minus `p: [c]`."""
    return wide(x) - wide(p)[None]


@jax.custom_jvp
def inner_products(x: jax.Array, p: jax.Array, center: jax.Array) -> jax.Array:
    """`sum_c (x_ic - center_c) p_c` as [n]; zero gradient for rows where it is not finite."""
    dtype = sum_dtype(x.dtype)
    return row_sums(lambda x, p, c: (x - c) * p, x, p.astype(dtype), center.astype(dtype))


@inner_products.defjvp
def _inner_products_jvp(primals, tangents):
    (x, p, center), (dx, dp, dcenter) = primals, tangents
    total = inner_products(x, p, center)
    keep = jnp.isfinite(total)[:, None]
    rows = wide(x)
    dtype = rows.dtype
    difference = jnp.where(keep, rows - center.astype(dtype)[None], 0)
    tangent = jnp.where(keep, wide(dx) - dcenter.astype(dtype)[None], 0)
    products = tangent * p.astype(dtype)[None] + difference * dp.astype(dtype)[None]
    return total, jnp.sum(products, axis=1)


def combine(x: jax.Array, weights: jax.Array) -> jax.Array:
    """`sum_i w_ki x_ic` as [k, c]; rows of weight 0 are ignored."""
    weights = _no_gradient_at_0(weights.astype(sum_dtype(x.dtype)))
    if x.size == 0:
        return jnp.zeros((len(weights), 0), weights.dtype)

    def with_cleared_rows(x: jax.Array, weights: jax.Array) -> jax.Array:
        bad = jnp.any(~jnp.isfinite(x), axis=1)
        out = _product(jnp.where(bad[:, None], 0, x), weights)
        return jnp.where(jnp.any((weights != 0) & bad[None], axis=1)[:, None], jnp.inf, out)

    return lax.cond(jnp.all(jnp.isfinite(x)), _product, with_cleared_rows, x, weights)


def _product_or(
    loop: Callable, x: jax.Array, weights: jax.Array, divide: bool = False
) -> jax.Array:
    """`w x` as one product; if that is not finite, by the loop, which ignores rows of weight 0."""
    weights = _no_gradient_at_0(weights)
    out = _product(x, weights)
    return lax.cond(
        jnp.all(jnp.isfinite(out)),
        lambda x, w, out: out / jnp.sum(w) if divide else out,
        lambda x, w, out: loop(x, w),
        *(x, weights, out),
    )


def _product(x: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.matmul(weights, wide(x), precision=lax.Precision.HIGHEST)


def _no_gradient_at_0(weights: jax.Array) -> jax.Array:
    """Weights with zero gradient where they are 0, as if their rows were cleared."""
    return jnp.where(weights != 0, weights, lax.stop_gradient(weights))
