"""Geometric medians: points that minimise a sum of distances, or of Huber losses of distances."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import _order, stacked
from byzjax._checks import one_of, positive, static_int
from byzjax._compiled import compiled
from byzjax._kernels import mean_rows, varying_as
from byzjax._lapack import one_by_one, times
from byzjax.rules._span import Span, median_of, span_about
from byzjax.stacked import PyTree

# Iterations in the span of the rows end when a step is this short, in units of rounding and
# relative to the radius; the derivative of the fixed point is as exact.
_TOLERANCE = 8
_MOST_ITERATIONS = 500
# A row that lies this close to the point, relative to its distance from the centre, squared, has
# lost digits: the iterations start again from a Gram matrix about the point itself.
_CANCELLED = 5e-2


@compiled(smoothing=positive)
def geometric_median(
    updates: PyTree,
    *,
    iterations: int | None = None,
    start: str = "mean",
    smoothing: float = 1e-6,
    axis_name: str | None = None,
) -> PyTree:
    r"""The point with the smallest sum of distances to all updates, by smoothed Weiszfeld steps.

    $$ z \leftarrow \frac{\sum_i \beta_i x_i}{\sum_i \beta_i}, \qquad
       \beta_i = \frac{1}{\max(\nu, \|z - x_i\|)} $$

    until it stands still, or a given number of times: RFA takes `iterations=3` from the mean, and
    public code often starts from zero, which is biased after few iterations. Rows without a finite
    distance have weight 0.

    The fixed point does not depend on where the search starts. It is found in the span of the rows
    and polished by a Newton step, which carries the derivative of the fixed point (implicit
    differentiation). Where the median is not unique, as for two rows, it is the point between that
    is nearest to the coordinate-wise median's Weiszfeld path.

    Requirement: n >= 1; it withstands any f with n >= 2f + 1. Breakdown: n > 2f; if half of the
    rows or more are not finite, the result is NaN.
    Promise: the distance to the honest mean is bounded by the honest diameter times a constant (and
    the smoothing); with few iterations, finite only.
    Cost: O(n^2 d), whatever the number of steps; O(nd) each with `iterations`.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      iterations: number of Weiszfeld steps, a Python int; None for the fixed point.
      start: `"mean"` (of the finite rows), `"median"` (coordinate-wise) or `"zero"`; only matters
        with `iterations`.
      smoothing: nu, in the unit of the updates' norm; may be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, start is unknown, or smoothing is not positive.
      TypeError: iterations is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [10.0, -10.0]])
      >>> byzjax.geometric_median(updates).round(4)
      Array([0.7805, 0.2047], dtype=float32)

    Reference: Pillutla, Kakade and Harchaoui, Robust Aggregation for Federated Learning, 2019
    (arXiv:1912.13445); Weiszfeld 1937.
    """
    stacked.num_workers(updates)
    stacked.check(updates)
    one_of("start", start, ("mean", "median", "zero"))

    if iterations is None:
        return _minimizer(updates, smoothing, axis_name)
    iterations = static_int("iterations", iterations, at_least=1)
    rows = stacked.widened(updates)
    if start == "mean":
        finite = jnp.isfinite(stacked.squared_norms(lax.stop_gradient(rows), axis_name=axis_name))
        point = stacked.mean_of(rows, finite)
    elif start == "median":
        point = stacked.coordinatewise(_order.median, rows)
    else:
        point = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), rows)
    for _ in range(iterations):
        squares = stacked.squared_distances(rows, point, axis_name=axis_name)
        point = stacked.weighted_mean(rows, _weights(squares, smoothing))
    return _as_sent(point, updates)


@compiled(smoothing=positive)
def geometric_median_of_means(
    updates: PyTree, *, k: int, smoothing: float = 1e-6, axis_name: str | None = None
) -> PyTree:
    r"""Geometric median of the means of k groups of workers.

    $$ Z_l = \frac{1}{|G_l|} \sum_{i \in G_l} x_i, \qquad
       F = \operatorname{geomed}(Z_1, \dots, Z_k) $$

    Groups are consecutive workers, of equal size or, where k does not divide n, the first ones one
    larger. k = 1 is the mean, k = n the geometric median. A group with a row that is not finite is
    left out.

    Requirement: 1 <= k <= n; it withstands f liars if k >= 2f + 1. Breakdown: k > 2f.
    Promise: finite. Cost: O(nd + k^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      k: number of groups, a Python int.
      smoothing: nu of the geometric median; may be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, k is out of range, or smoothing is not positive.
      TypeError: k is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0], [2.0], [1.0], [2.0], [3.0], [90.0]])
      >>> byzjax.geometric_median_of_means(updates, k=3).round()
      Array([2.], dtype=float32)

    Reference: Chen, Su and Xu, Distributed Statistical Machine Learning in Adversarial Settings:
    Byzantine Gradient Descent, 2017 (arXiv:1705.05491), Algorithm 2.
    """
    n, k = stacked.num_workers(updates), static_int("k", k, at_least=1)
    stacked.check(updates)
    if k > n:
        raise ValueError(f"geometric_median_of_means needs k <= n; got k={k}, n={n}.")

    larger, size = n % k, n // k

    def means(x: jax.Array) -> jax.Array:
        def mean_of(g: jax.Array) -> jax.Array:
            start = g * size + jnp.minimum(g, larger)
            if not larger:
                return mean_rows(lax.dynamic_slice_in_dim(x, start, size), None)
            counted = (jnp.arange(size + 1) < size) | (g < larger)
            begin = jnp.minimum(start, n - size - 1)
            counted = jnp.roll(counted, start - begin)
            return mean_rows(lax.dynamic_slice_in_dim(x, begin, size + 1), counted.astype(x.dtype))

        return lax.map(mean_of, jnp.arange(k))

    return _minimizer(updates, smoothing, axis_name, means)


@compiled(threshold=positive)
def huber(updates: PyTree, *, threshold: float, axis_name: str | None = None) -> PyTree:
    r"""The point with the smallest sum of Huber losses of the distances to all updates.

    $$ F = \arg\min_z \sum_i \phi(\|z - x_i\|), \qquad
       \phi(r) = \begin{cases} r^2 / 2 & r \le T \\ T (r - T/2) & r > T \end{cases} $$

    which is the fixed point of a mean with the weights min(1, T / r_i): for T to 0 the geometric
    median, for T to infinity the mean. Rows without a finite distance have weight 0.

    Requirement: n >= 1; it withstands any f with n >= 2f + 1. Breakdown: n > 2f.
    Promise: finite; the distance to the honest mean is bounded by the honest diameter and T.
    Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      threshold: T, in the unit of the updates' norm; may be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or threshold is not positive.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.huber(jnp.array([[0.0], [1.0], [90.0]]), threshold=2.0)
      Array([1.5], dtype=float32)

    Reference: Zhao, Wan, Zhou, Guo and Zhu, A Huber Loss Minimization Approach to Byzantine Robust
    Federated Learning, AAAI 2024 (arXiv:2308.12581).
    """
    stacked.num_workers(updates)
    stacked.check(updates)

    return _minimizer(updates, threshold, axis_name)


def _weights(squares: jax.Array, smoothing: Any) -> jax.Array:
    """`1 / max(nu, r)`, and 0 without a slope where r is not finite."""
    finite = jnp.isfinite(squares)
    smoothing = jnp.asarray(smoothing, squares.dtype)
    outside = finite & (squares > smoothing**2)
    return jnp.where(finite, 1 / jnp.sqrt(jnp.where(outside, squares, smoothing**2)), 0)


def _minimizer(
    updates: PyTree,
    smoothing: Any,
    axis_name: str | None,
    rows_of: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> PyTree:
    """The fixed point of the weighted mean, with its derivative.

    On the columns, so that nothing between is cut into leaves: of 65 leaves, 2.6 s of compiling
    instead of 3.7.
    """
    rows = [rows_of(x) for x in stacked.columns(stacked.widened(updates))]
    point, span = lax.stop_gradient(_search(lax.stop_gradient(rows), smoothing, axis_name))
    reached = _newton_step(rows, point, span, smoothing, axis_name)
    return _as_sent(stacked.from_columns(reached, stacked.widened(updates)), updates)


def _search(rows: PyTree, smoothing: Any, axis_name: str | None) -> tuple[PyTree, Span]:
    """The fixed point to about four digits (a Newton step doubles them), and the span about it.

    From the median on and, where that lies too far from the point for distances to have so many
    digits, once more from the point. As a loop, so that its kernels are compiled once.
    """

    def search(first: jax.Array, point: PyTree) -> tuple[PyTree, Span, jax.Array]:
        span = span_about(rows, point, axis_name)
        start = jnp.where(first, _at_a_row(span, smoothing), 0)
        weights = _iterate(span, smoothing, start)
        near = span.squared_distances(weights) < _CANCELLED * jnp.diagonal(span.gram)
        point = varying_as(leaf, stacked.weighted_mean(rows, weights))
        return point, span.moved_to(weights), jnp.any(near)

    def turn(i: jax.Array, state: tuple) -> tuple:
        return lax.cond(state[2], lambda state: search(i == 0, state[0]), lambda s: s, state)

    leaf = max(jax.tree.leaves(rows), key=lambda leaf: leaf.size)
    point = varying_as(leaf, median_of(rows))
    zero = varying_as(leaf, jnp.zeros(()))
    zero = zero if axis_name is None else lax.psum(zero, axis_name)  # varies as the span does
    _, span, _ = jax.eval_shape(search, True, point)
    span = jax.tree.map(lambda part: jnp.broadcast_to(zero.astype(part.dtype), part.shape), span)
    point, span, _ = lax.fori_loop(0, 2, turn, (point, span, zero == 0))
    return point, span


def _at_a_row(span: Span, smoothing: Any) -> jax.Array:
    """Weights of the row that is the minimiser, up to the smoothing; of the centre if none is.

    Row j is, if m_j rows lie within the smoothing radius of it and the others together pull less:
    |sum_i beta_ij (x_i - x_j)| < m_j. Weiszfeld steps come to such a row ever more slowly the less
    is missing, as where half of the rows coincide and the others lie in one direction.
    """
    lengths = jnp.diagonal(span.gram)
    squares = jnp.maximum(lengths[:, None] + lengths[None] - 2 * span.gram, 0)
    squares = jnp.where(span.bad[:, None] | span.bad[None], jnp.inf, squares)
    near = squares <= jnp.asarray(smoothing, squares.dtype) ** 2
    pull = jnp.where(near, 0, _weights(squares, smoothing))
    pull = pull - jnp.diag(jnp.sum(pull, axis=1))
    force = jnp.sqrt(jnp.maximum(jnp.sum(pull * times(pull, span.gram), axis=1), 0))
    count = jnp.sum(near, axis=1, dtype=jnp.int32).astype(force.dtype)
    rounding = 64 * float(jnp.finfo(force.dtype).eps)
    missing = jnp.where(span.bad, -1, (1 - rounding) * count - force)
    best = jnp.argmax(missing)
    chosen = (jnp.arange(len(missing)) == best) & (missing[best] > 0)
    return chosen.astype(span.gram.dtype)


def _iterate(span: Span, smoothing: Any, start: jax.Array) -> jax.Array:
    """Weights of the point that Weiszfeld steps from these lead to, until they are short."""
    tolerance = _TOLERANCE * float(jnp.finfo(span.gram.dtype).eps)

    def step(state):
        count, weights, _ = state
        pull = _weights(jnp.maximum(span.squared_distances(weights), 0), smoothing)
        total = jnp.sum(pull)
        following = pull / total
        moved = following - weights
        length = jnp.sqrt(jnp.maximum(jnp.sum(moved * times(span.gram, moved)), 0))
        radius = jnp.sum(pull > 0, dtype=jnp.int32).astype(total.dtype) / total
        return count + 1, following, length > tolerance * radius

    def going(state):
        count, _, moving = state
        return moving & (count < _MOST_ITERATIONS)

    start, moving = start + 0 * span.gram[0], jnp.isfinite(span.gram[0, 0])
    return lax.while_loop(going, step, (0, start, moving))[1]


def _newton_step(
    rows: PyTree, point: PyTree, span: Span, smoothing: Any, axis_name: str | None
) -> PyTree:
    r"""One Newton step from a point without a slope to the zero of G(z) = sum_i beta_i (z - x_i).

    Its Jacobian is A = s I - U U^T, with s = sum_i beta_i and the columns of U the vectors
    (z - x_i) sqrt(beta_i) / r_i of the rows outside the smoothing radius. It is held fixed, so that
    the step's derivative is -A^-1 dG: that of the fixed point by the implicit function theorem.
    G(z) = s (z - t) for the weighted mean t, and Woodbury's formula gives
    A^-1 G = (z - t) + U (s I - U^T U)^-1 U^T (z - t).
    """
    squares = stacked.squared_distances(rows, point, axis_name=axis_name)
    # Lengths as the Gram matrix has them, so that U's columns are exactly as long as sqrt(beta_i):
    # where one row is near, s - mu is a small difference.
    lengths = jnp.diagonal(span.gram)
    # Closer than the rounding of the point is at the point, where weights have no slope.
    size = stacked.squared_norms(jax.tree.map(lambda z: z[None], point), axis_name=axis_name)[0]
    least = jnp.maximum(
        jnp.asarray(smoothing, size.dtype), 8 * jnp.finfo(size.dtype).eps * size**0.5
    )
    outside = lax.stop_gradient(jnp.isfinite(squares) & (squares > least**2) & (lengths > 0))
    pull = _weights(jnp.where(outside, squares, lax.stop_gradient(squares)), smoothing)
    target = stacked.weighted_mean(rows, pull)

    pull, still = lax.stop_gradient((pull, rows))
    total = jnp.sum(pull)
    factor = jnp.where(outside, jnp.sqrt(pull / jnp.where(outside, lengths, 1)), 0)
    columns = factor[:, None] * span.gram * factor[None]  # U^T U

    shift = jax.tree.map(jnp.subtract, point, target)
    products = stacked.inner_products(still, shift, center=point, axis_name=axis_name)
    along = factor * jnp.where(outside, products, 0)
    weights = factor * times(_inverse(total, columns), along)
    correction, rest = stacked.weighted_sum(still, weights), jnp.sum(weights)
    reached = jax.tree.map(
        lambda t, c, z: t - (c - rest.astype(z.dtype) * z), target, correction, point
    )
    # Where the search did not come to an end, the step may lead anywhere; its slope is kept.
    there = span.squared_distances(lax.stop_gradient(pull / total - weights))
    rounding = 1 + 64 * float(jnp.finfo(lengths.dtype).eps)
    worse = _loss(there, smoothing) > rounding * _loss(lengths, smoothing)
    return jax.tree.map(
        lambda r, z: jnp.where(worse, z + (r - lax.stop_gradient(r)), r), reached, point
    )


def _loss(squares: jax.Array, smoothing: Any) -> jax.Array:
    """The sum of the smoothed distances of the rows that are not bad."""
    smoothing = jnp.asarray(smoothing, squares.dtype)
    finite = jnp.where(jnp.isfinite(squares), jnp.maximum(squares, 0), 0)
    r = jnp.sqrt(finite)
    return jnp.sum(jnp.where(r > smoothing, r - smoothing / 2, finite / (2 * smoothing)))


@one_by_one
def _inverse(total: jax.Array, columns: jax.Array) -> jax.Array:
    """`(s I - U^T U)^-1`, without the directions in which the minimiser is not unique.

    There s I - U^T U is singular; only then is it worth an eigendecomposition, which takes 8 ms at
    n = 64 on a CPU core where the Cholesky factor takes 0.1.
    """
    identity = jnp.eye(len(columns), dtype=columns.dtype)
    factor = jnp.linalg.cholesky(total * identity - columns)
    unique = jnp.all(jnp.diagonal(factor) ** 2 > 1e-4 * total)  # False where it is NaN

    def by_eigenvectors() -> jax.Array:
        values, vectors = jnp.linalg.eigh(columns)
        curved = total - values > 1e-5 * total
        inverse = jnp.where(curved, 1 / jnp.where(curved, total - values, 1), 0)
        return times(vectors * inverse[None], vectors.T)

    def by_factor() -> jax.Array:
        return jax.scipy.linalg.cho_solve((factor, True), identity)

    return lax.cond(unique, by_factor, by_eigenvectors)


def _as_sent(point: PyTree, updates: PyTree) -> PyTree:
    """The point in the dtypes of the updates."""
    return jax.tree.map(lambda p, leaf: p.astype(leaf.dtype), point, updates)
