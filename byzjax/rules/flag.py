"""The flag aggregator: the mean direction within the subspace that the updates share."""

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import not_negative, positive, static_int
from byzjax._compiled import compiled
from byzjax._numerics.linalg import cholesky, inverse_of_rank, matmul
from byzjax.stacked import PyTree


@compiled(pairwise=not_negative, smoothing=positive)
def flag(
    updates: PyTree,
    *,
    r: int = 1,
    pairwise: float = 0.0,
    iterations: int = 1,
    smoothing: float = 1e-7,
    axis_name: str | None = None,
) -> PyTree:
    r"""Sum of the unit updates, projected onto the subspace of dimension r that fits them best.

    $$ F = \frac{1}{r} \sum_i Y Y^\top \hat x_i, \qquad \hat x_i = \frac{x_i}{\|x_i\|} $$

    where Y holds the top r left singular vectors of the matrix with the columns `w_i x_i / |x_i|`
    and, for lambda > 0, `w_ij (x_i / |x_i| - x_j / |x_j|)` for all pairs i, j. Weights are 1 (and
    lambda / (n (n-1)) for pairs) in the first iteration; each further one uses those of the sine
    loss at the previous Y,

    $$ w_i = \bigl(1 - \|Y^\top \hat x_i\|^2 + \epsilon\bigr)^{-1/4} $$

    (iteratively reweighted least squares). The public code does one iteration from a random Y,
    which in high dimension is orthogonal to all updates and thus gives them equal weights as well.
    F does not depend on the norms of the updates; its own norm is between 0 and n / r. Rows that
    are not finite, and rows of 0, are left out; if no row remains, the result is 0.

    Requirement: n >= 1. Breakdown: none proved. Promise: finite.
    Cost: O(n^2 d), and an eigendecomposition of n x n for each iteration.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      r: dimension of the subspace, a Python int.
      pairwise: lambda, weight of the differences of pairs; may be traced.
      iterations: number of decompositions, a Python int.
      smoothing: epsilon; may be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, r > n, pairwise is negative, or smoothing not positive.
      TypeError: r or iterations is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [jnp.nan, 0.0]])
      >>> byzjax.flag(updates).round(3)
      Array([2., 0.], dtype=float32)

    Reference: Almasi, Mishra, Vamanan and Ravi, Flag Aggregator: Scalable Distributed Training
    under Failures and Augmented Losses using Convex Optimization, ICLR 2024 (arXiv:2302.05865).
    """
    n, r = stacked.num_workers(updates), static_int("r", r, at_least=1)
    iterations = static_int("iterations", iterations, at_least=1)

    if r > n:
        raise ValueError(f"flag needs r <= n; got r={r}, n={n}.")
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), updates)
    gram = stacked.gram(updates, zero, axis_name=axis_name)
    squares = jnp.diagonal(gram)
    known = jnp.isfinite(squares) & (squares > 0)
    units = jnp.where(known, lax.rsqrt(jnp.where(known, squares, 1)), 0)
    cosines = units[:, None] * jnp.where(jnp.isfinite(gram), gram, 0) * units[None]
    dtype = cosines.dtype
    pairs = (known[:, None] & known[None] & ~jnp.eye(n, dtype=bool)).astype(dtype)
    share = jnp.asarray(pairwise, dtype) / max(n * (n - 1), 1)

    counted = known.astype(dtype)
    projector = _projector(cosines, counted, share * pairs, r)
    for _ in range(iterations - 1):
        inside = matmul(cosines, matmul(projector, cosines))
        projected = jnp.diagonal(inside)
        row_weights = counted * _sine_weights(projected, smoothing)
        between = projected[:, None] + projected[None] - inside - inside.T
        pair_weights = share * pairs * _sine_weights(between, smoothing)
        projector = _projector(cosines, row_weights, pair_weights, r)
    coefficients = matmul(projector, matmul(cosines, counted)) / r
    return stacked.weighted_sum(updates, units * coefficients)


def _sine_weights(inside: jax.Array, smoothing: jax.Array | float) -> jax.Array:
    """`(|1 - ||Y^T x||^2| + eps)^(-1/4)`."""
    return (jnp.abs(1 - inside) + jnp.asarray(smoothing, inside.dtype)) ** -0.25


def _projector(
    cosines: jax.Array, row_weights: jax.Array, pair_weights: jax.Array, r: int
) -> jax.Array:
    """P of `Y Y^T = X^T P X`, for unit rows X.

    The columns' outer products add up to `X^T M X`; with a root `M = R R^T`, the eigenpairs of
    `R^T X X^T R` give those of `X^T M X`.
    """
    squares = pair_weights**2 + pair_weights.T**2
    moment = jnp.diag(row_weights**2 + jnp.sum(squares, axis=1)) - squares
    # Laplacian and diagonal: positive definite except for the rows that are left out.
    present = row_weights > 0
    root = cholesky(moment + jnp.diag((~present).astype(moment.dtype)))
    root = jnp.where(present[:, None] & present[None], root, 0)
    inverse = inverse_of_rank(matmul(root.T, matmul(cosines, root)), r)
    return matmul(root, matmul(inverse, root.T))
