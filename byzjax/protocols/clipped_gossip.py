"""A rule for gossip: a node's own model plus clipped differences."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import scores, stacked
from byzjax._checks import positive, static_int
from byzjax._compiled import compiled
from byzjax._numerics.arrays import root, wide
from byzjax.stacked import PyTree


def _radius_or_f(*, radius: Any = None, f: Any = None, **_: Any) -> None:
    if (radius is None) == (f is None):
        raise ValueError(
            f"clipped_gossip takes exactly one of radius and f; got radius={radius}, f={f}."
        )


@compiled(check=_radius_or_f, radius=positive)
def clipped_gossip(
    updates: PyTree,
    weights: jax.Array,
    *,
    radius: float | jax.Array | None = None,
    f: int | None = None,
) -> PyTree:
    r"""A node's own model plus the clipped differences to its neighbours' models.

    $$ y = x_0 + \sum_{j \ge 1} w_j (x_j - x_0) \min\Bigl(1, \frac{\tau}{\|x_j - x_0\|}\Bigr) $$

    where row x_0 is the node's own model and the rows x_j are those of its neighbours. tau is the
    radius, or with `f` the (f+1)-th largest distance, to which the f farthest neighbours are
    clipped; it is at most the distance of some honest neighbour. The paper's theorems use a tau
    that depends on which nodes are honest; its public code, without a radius, uses that of f = 1.
    Rows at a non-finite distance contribute nothing.

    Requirement: with `f`, n >= f + 2. Breakdown: it moves by at most tau times the sum of the
    neighbours' weights. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`; row 0 is the node's own.
      weights: `[n]`, one per row, such as a row of `graphs.metropolis_weights`; the weight of row 0
        is ignored.
      radius: tau, in the unit of the updates' norm; may be traced.
      f: number of neighbours to clip, a Python int, instead of a radius.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      TypeError: f is not a Python int.
      ValueError: the leaves disagree on n, `weights` does not have one entry per row, not exactly
        one of radius and f is given, radius is not positive, or n < f + 2.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import protocols
      >>> updates, weights = jnp.array([[1.0], [2.0], [3.0], [99.0]]), jnp.full(4, 0.25)
      >>> protocols.clipped_gossip(updates, weights, radius=4.0)
      Array([2.75], dtype=float32)
      >>> protocols.clipped_gossip(updates, weights, f=1)
      Array([2.25], dtype=float32)

    Reference: He, Karimireddy and Jaggi, Byzantine-Robust Decentralized Learning via ClippedGossip,
    2022 (arXiv:2202.01545).
    """
    n, own = stacked.num_workers(updates), stacked.take(updates, 0)
    weights = jnp.asarray(weights)
    if weights.shape != (n,):
        raise ValueError(f"weights have shape {weights.shape}; {n} rows need shape ({n},).")
    squares = stacked.squared_distances(updates, own)
    if f is None:
        limit = jnp.asarray(radius, squares.dtype) ** 2
    else:
        f = static_int("f", f)
        if n < f + 2:
            raise ValueError(f"clipped_gossip needs n >= f + 2; got n={n}, f={f}.")
        place = scores.ranks(lax.stop_gradient(squares[1:])) == n - 2 - f
        limit = squares[1 + jnp.argmax(place)]
    longer = squares > limit
    factors = jnp.where(longer, root(limit) / root(jnp.where(longer, squares, 1)), 1)
    shares = jnp.where(jnp.isfinite(squares), factors, 0) * weights.astype(squares.dtype)
    # Differences first: models are close to each other and far from 0.
    apart = jax.tree.map(lambda x, y: wide(x) - wide(y)[None], updates, own)
    moved = stacked.weighted_sum(apart, shares)
    return jax.tree.map(lambda x, u: (x.astype(u.dtype) + u).astype(x.dtype), own, moved)
