"""A rule for gossip: a node's own model, moved by clipped differences."""

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
        raise ValueError(f"clipped_gossip takes radius or f, one; got radius={radius}, f={f}.")


@compiled(check=_radius_or_f, radius=positive)
def clipped_gossip(
    updates: PyTree,
    weights: jax.Array,
    *,
    radius: float | jax.Array | None = None,
    f: int | None = None,
) -> PyTree:
    r"""A node's own model, moved by the clipped differences to those of its neighbours.

    $$ y = x_0 + \sum_{j \ge 1} w_j (x_j - x_0) \min\Bigl(1, \frac{\tau}{\|x_j - x_0\|}\Bigr) $$

    for the rows x_0, the node's own, and x_j of its neighbours. tau is the radius, or with `f` the
    (f+1)-th largest of the distances, to which the f farthest neighbours are clipped: as far as
    some honest neighbour is, at most. The paper's theorems take a tau that depends on who is
    honest; its public code takes, without a radius, that of f = 1. A row whose distance is not
    finite contributes nothing.

    Requirement: with `f`, n >= f + 2. Breakdown: it moves by at most tau times the weights of the
    neighbours. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`; row 0 is the node's own.
      weights: `[n]`, of the rows, as a row of `graphs.metropolis_weights`; that of row 0 counts
        for nothing.
      radius: tau, in the unit of the updates' norm; may be traced.
      f: number of neighbours to clip, a Python int, instead of a radius.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      TypeError: f is not a Python int.
      ValueError: the leaves disagree on n, `weights` has not one entry for each row, both radius
        and f are given or neither, radius is not positive, or n < f + 2.

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
    # Differences first: models lie close together, far from 0.
    apart = jax.tree.map(lambda x, y: wide(x) - wide(y)[None], updates, own)
    moved = stacked.weighted_sum(apart, shares)
    return jax.tree.map(lambda x, u: (x.astype(u.dtype) + u).astype(x.dtype), own, moved)
