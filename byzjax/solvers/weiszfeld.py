"""Fixed points of weighted means: Weiszfeld steps in the span of the rows, then a Newton step."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._numerics import thresholds
from byzjax._numerics.arrays import root, varying_as
from byzjax._numerics.linalg import matmul, one_by_one
from byzjax.solvers.groups import Means, Rows
from byzjax.solvers.span import Span
from byzjax.stacked import PyTree
from byzjax.stacked.workers import widest

# Iterations in the span of the rows stop when a step is this short, in units of rounding and
# relative to the radius; the derivative of the fixed point is as accurate.
_TOLERANCE = 8

_MOST_ITERATIONS = 500

# Steps on the rows before the Gram matrix is computed after all, and the squared distance of a row,
# in units of the radius, at which it slows them down.
_MOST_STEPS_ON_ROWS = 12
_NEAR = 1e-4

# Distances to a row this close to the point, relative to its distance from the centre, squared,
# have lost digits: the iterations restart from a Gram matrix about the point itself.
_CANCELLED = 5e-2


def weiszfeld_weights(squares: jax.Array, smoothing: Any) -> jax.Array:
    """`1 / max(nu, r)`; 0, with zero gradient, where r is not finite.

    Args:
      squares: `[n]`, squared distances r^2.
      smoothing: nu.

    Returns:
      `[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> weiszfeld_weights(jnp.array([0.0, 4.0, jnp.inf]), 1.0)
      Array([1. , 0.5, 0. ], dtype=float32)
    """
    finite = jnp.isfinite(squares)
    smoothing = jnp.asarray(smoothing, squares.dtype)
    outside = finite & (squares > smoothing**2)
    return jnp.where(finite, 1 / jnp.sqrt(jnp.where(outside, squares, smoothing**2)), 0)


def minimizer(
    updates: PyTree,
    smoothing: Any,
    axis_name: str | None,
    rows_of: Callable[[jax.Array], jax.Array] | None = None,
    weights: jax.Array | None = None,
) -> PyTree:
    """The fixed point of the mean with the weights `1 / max(smoothing, distance)`.

    Differentiable in forward and reverse mode. Works on the columns, so that intermediate results
    are not split into leaves: with 65 leaves, 2.6 s to compile instead of 3.7.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      smoothing: in the unit of the updates' norm; may be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.
      rows_of: maps each matrix `[n, c]` to `[k, c]` first, each column independently.
      weights: `[n]`, factors of the rows' own weights, if they have any; not with `rows_of`.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype. Cost: O(n^2 d).

    Example:
      >>> import jax.numpy as jnp
      >>> minimizer(jnp.array([[0.0], [1.0], [90.0]]), 2.0, None)
      Array([1.5], dtype=float32)
    """
    matrices = stacked.columns(stacked.widened(updates))
    smoothing = jnp.asarray(smoothing, widest(matrices))
    if rows_of is not None and axis_name is not None:  # a device holds no copy of its share
        reached = _by_span(Means(matrices, axis_name, rows_of), smoothing)
    elif weights is not None:
        reached = _by_span(Rows(matrices, axis_name, weights), smoothing)
    else:
        held = matrices if rows_of is None else [rows_of(x) for x in matrices]
        few = stacked.num_workers(held) <= thresholds.NETWORK_MAX
        reached = (_of_few if few else _of_many)(held, smoothing, axis_name)
    return as_sent(stacked.from_columns(reached, stacked.widened(updates)), updates)


def _of_few(matrices: list[jax.Array], smoothing: jax.Array, axis_name: str | None) -> PyTree:
    return _by_span(Rows(matrices, axis_name), smoothing)


def _by_span(rows: Rows, smoothing: jax.Array) -> PyTree:
    point, span = lax.stop_gradient(_search(rows.detached(), smoothing))
    return _newton_step(rows, point, span, smoothing)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _of_many(matrices: list[jax.Array], smoothing: jax.Array, axis_name: str | None) -> PyTree:
    """`_of_few` for many rows, whose Gram matrix costs more than some passes over them.

    A few steps on the rows, of two passes each, are enough unless rows are close to the point or
    lie in few directions. n = 1,000, d = 16,384: 25 ms instead of 216. The derivative needs the
    Gram matrix.
    """
    point, sure = on_rows(Rows(matrices, axis_name), smoothing)
    by_span = functools.partial(_of_few, axis_name=axis_name)
    return lax.cond(sure, lambda *_: point, by_span, matrices, smoothing)


@_of_many.defjvp
def _of_many_jvp(axis_name, primals, tangents):
    return jax.jvp(functools.partial(_of_few, axis_name=axis_name), primals, tangents)


def on_rows(rows: Rows, smoothing: jax.Array) -> tuple[PyTree, jax.Array]:
    """The point after some Weiszfeld steps from the median, and whether it is the fixed point.

    It is if the steps shrink so fast that what is left of them is within rounding, and no row is
    near: there the steps are short wherever the fixed point is.

    Args:
      rows: the rows.
      smoothing: in the unit of the updates' norm.

    Returns:
      The point, and a bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = Rows([jnp.concatenate([jnp.eye(4), -jnp.eye(4)])], None)
      >>> (point,), sure = on_rows(rows, jnp.float32(1e-6))
      >>> (point.tolist(), bool(sure))
      ([0.0, 0.0, 0.0, 0.0], False)
    """
    tolerance = _TOLERANCE * float(jnp.finfo(smoothing.dtype).eps)

    def step(state):
        count, point, before, _ = state
        squares = rows.squared_distances(point)
        pull = weiszfeld_weights(squares, smoothing)
        following = rows.weighted_mean(pull)
        moved = jax.tree.map(lambda z, y: (z - y)[None], following, point)
        length = root(stacked.squared_norms(moved, axis_name=rows.axis_name)[0])
        radius = jnp.sum(pull > 0, dtype=jnp.int32).astype(pull.dtype) / jnp.sum(pull)
        rate = length / before
        left = length * rate / (1 - rate)
        far = jnp.all(squares > _NEAR * radius**2)
        sure = (count > 0) & (rate < 0.5) & (left <= tolerance * radius) & far
        return count + 1, following, length, sure

    leaf, zero = _zero(rows)
    zero = zero.astype(smoothing.dtype)
    start = jnp.int32(0), varying_as(leaf, rows.median()), zero + 1, zero > 0
    state = lax.while_loop(lambda s: ~s[3] & (s[0] < _MOST_STEPS_ON_ROWS), step, start)
    return state[1], state[3]


def _zero(rows: Rows) -> tuple[jax.Array, jax.Array]:
    """The largest matrix, and a zero that varies over mesh axes as sums over coordinates do."""
    leaf = max(rows.matrices, key=lambda leaf: leaf.size)
    zero = varying_as(leaf, jnp.zeros(()))
    return leaf, zero if rows.axis_name is None else lax.psum(zero, rows.axis_name)


def _search(rows: Rows, smoothing: Any) -> tuple[PyTree, Span]:
    """The fixed point to about four digits (a Newton step doubles them), and the span about it.

    Starts from the median and, if that is too far from the point for distances with so many digits,
    once more from the point. A loop, so that its kernels are compiled once.
    """

    def search(first: jax.Array, point: PyTree) -> tuple[PyTree, Span, jax.Array]:
        span = rows.span_about(point)
        start = jnp.where(first, _at_a_row(rows, span, smoothing), 0)
        weights = _iterate(rows, span, smoothing, start)
        near = span.squared_distances(weights) < _CANCELLED * jnp.diagonal(span.gram)
        point = varying_as(leaf, rows.weighted_mean(weights))
        return point, span.moved_to(weights), jnp.any(near)

    def turn(i: jax.Array, state: tuple) -> tuple:
        return lax.cond(state[2], lambda state: search(i == 0, state[0]), lambda s: s, state)

    leaf, zero = _zero(rows)
    point = varying_as(leaf, rows.median())
    _, span, _ = jax.eval_shape(search, True, point)
    span = jax.tree.map(lambda part: jnp.broadcast_to(zero.astype(part.dtype), part.shape), span)
    point, span, _ = lax.fori_loop(0, 2, turn, (point, span, zero == 0))
    return point, span


def _at_a_row(rows: Rows, span: Span, smoothing: Any) -> jax.Array:
    """Weights of the row that is the minimiser up to the smoothing; of the centre if none is.

    Row j is the minimiser if m_j rows lie within its smoothing radius and the others together pull
    less: |sum_i beta_ij (x_i - x_j)| < m_j. The smaller this margin, the more slowly Weiszfeld
    steps approach the row, as when half of the rows coincide and the others lie in one direction.
    """
    lengths = jnp.diagonal(span.gram)
    squares = jnp.maximum(lengths[:, None] + lengths[None] - 2 * span.gram, 0)
    squares = jnp.where(span.bad[:, None] | span.bad[None], jnp.inf, squares)
    near = squares <= jnp.asarray(smoothing, squares.dtype) ** 2
    pull = rows.times(jnp.where(near, 0, weiszfeld_weights(squares, smoothing)))
    pull = pull - jnp.diag(jnp.sum(pull, axis=1))
    force = jnp.sqrt(jnp.maximum(jnp.sum(pull * matmul(pull, span.gram), axis=1), 0))
    count = _count(rows, near).astype(force.dtype)
    rounding = 64 * float(jnp.finfo(force.dtype).eps)
    margin = jnp.where(span.bad, -1, (1 - rounding) * count - force)
    best = jnp.argmax(margin)
    chosen = (jnp.arange(len(margin)) == best) & (margin[best] > 0)
    return chosen.astype(span.gram.dtype)


def _iterate(rows: Rows, span: Span, smoothing: Any, start: jax.Array) -> jax.Array:
    """The weights after Weiszfeld steps from `start`, until the steps are short."""
    tolerance = _TOLERANCE * float(jnp.finfo(span.gram.dtype).eps)

    def step(state):
        count, weights, _ = state
        squares = jnp.maximum(span.squared_distances(weights), 0)
        pull = rows.times(weiszfeld_weights(squares, smoothing))
        total = jnp.sum(pull)
        following = pull / total
        moved = following - weights
        length = jnp.sqrt(jnp.maximum(jnp.sum(moved * matmul(span.gram, moved)), 0))
        radius = _count(rows, pull > 0).astype(total.dtype) / total
        return count + 1, following, length > tolerance * radius

    def going(state):
        count, _, moving = state
        return moving & (count < _MOST_ITERATIONS)

    start, moving = start + 0 * span.gram[0], jnp.isfinite(span.gram[0, 0])
    return lax.while_loop(going, step, (0, start, moving))[1]


def _newton_step(rows: Rows, point: PyTree, span: Span, smoothing: Any) -> PyTree:
    r"""One Newton step from a constant point towards the zero of G(z) = sum_i beta_i (z - x_i).

    Its Jacobian is A = s I - U U^T, with s = sum_i beta_i and the columns of U the vectors
    (z - x_i) sqrt(beta_i) / r_i of the rows outside the smoothing radius. It is held fixed, so that
    the step's derivative is -A^-1 dG: that of the fixed point by the implicit function theorem.
    G(z) = s (z - t) for the weighted mean t, and Woodbury's formula gives
    A^-1 G = (z - t) + U (s I - U^T U)^-1 U^T (z - t).
    """
    squares = rows.squared_distances(point)
    # Lengths from the Gram matrix, so that U's columns have norms of exactly sqrt(beta_i): where
    # one row is near, s - mu is a small difference.
    lengths = jnp.diagonal(span.gram)
    # Rows within rounding of the point count as equal to it; there weights have zero gradient.
    size = stacked.squared_norms(jax.tree.map(lambda z: z[None], point), axis_name=rows.axis_name)[
        0
    ]
    least = jnp.maximum(
        jnp.asarray(smoothing, size.dtype), 8 * jnp.finfo(size.dtype).eps * size**0.5
    )
    outside = lax.stop_gradient(jnp.isfinite(squares) & (squares > least**2) & (lengths > 0))
    squares = jnp.where(outside, squares, lax.stop_gradient(squares))
    pull = rows.times(weiszfeld_weights(squares, smoothing))
    target = rows.weighted_mean(pull)

    pull, detached = lax.stop_gradient(pull), rows.detached()
    total = jnp.sum(pull)
    factor = jnp.where(outside, jnp.sqrt(pull / jnp.where(outside, lengths, 1)), 0)
    columns = factor[:, None] * span.gram * factor[None]  # U^T U

    shift = jax.tree.map(jnp.subtract, point, target)
    products = detached.inner_products(shift, point)
    along = factor * jnp.where(outside, products, 0)
    weights = factor * matmul(_inverse(total, columns), along)
    correction, rest = detached.weighted_sum(weights), jnp.sum(weights)
    reached = jax.tree.map(
        lambda t, c, z: t - (c - rest.astype(z.dtype) * z), target, correction, point
    )
    # If the search did not converge, the step may lead anywhere; only its derivative is kept.
    there = span.squared_distances(lax.stop_gradient(pull / total - weights))
    rounding = 1 + 64 * float(jnp.finfo(lengths.dtype).eps)
    worse = _loss(rows, there, smoothing) > rounding * _loss(rows, lengths, smoothing)
    return jax.tree.map(
        lambda r, z: jnp.where(worse, z + (r - lax.stop_gradient(r)), r), reached, point
    )


def _count(rows: Rows, counted: jax.Array) -> jax.Array:
    """The number, or the weight, of the rows that are counted in `[..., n]`."""
    if rows.weights is None:
        return jnp.sum(counted, axis=-1, dtype=jnp.int32)
    return jnp.sum(jnp.where(counted, rows.weights, 0), axis=-1)


def _loss(rows: Rows, squares: jax.Array, smoothing: Any) -> jax.Array:
    """The sum of the smoothed distances of the rows that are not bad."""
    smoothing = jnp.asarray(smoothing, squares.dtype)
    finite = jnp.where(jnp.isfinite(squares), jnp.maximum(squares, 0), 0)
    r = jnp.sqrt(finite)
    return jnp.sum(
        rows.times(jnp.where(r > smoothing, r - smoothing / 2, finite / (2 * smoothing)))
    )


@one_by_one
def _inverse(total: jax.Array, columns: jax.Array) -> jax.Array:
    """`(s I - U^T U)^-1`, without the directions in which the minimiser is not unique.

    There s I - U^T U is singular, which requires an eigendecomposition: 8 ms at n = 64 on a CPU
    core, where the Cholesky factor takes 0.1.
    """
    identity = jnp.eye(len(columns), dtype=columns.dtype)
    factor = jnp.linalg.cholesky(total * identity - columns)
    unique = jnp.all(jnp.diagonal(factor) ** 2 > 1e-4 * total)  # False where it is NaN

    def by_eigenvectors() -> jax.Array:
        values, vectors = jnp.linalg.eigh(columns)
        curved = total - values > 1e-5 * total
        inverse = jnp.where(curved, 1 / jnp.where(curved, total - values, 1), 0)
        return matmul(vectors * inverse[None], vectors.T)

    def by_factor() -> jax.Array:
        return jax.scipy.linalg.cho_solve((factor, True), identity)

    return lax.cond(unique, by_factor, by_eigenvectors)


def as_sent(point: PyTree, updates: PyTree) -> PyTree:
    """The point in the dtypes of the updates.

    Args:
      point: one update.
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      The point.

    Example:
      >>> import jax.numpy as jnp
      >>> as_sent(jnp.ones(1), jnp.zeros((3, 1), jnp.bfloat16)).dtype
      dtype(bfloat16)
    """
    return jax.tree.map(lambda p, leaf: p.astype(leaf.dtype), point, updates)
