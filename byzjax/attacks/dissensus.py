"""Lies that hold one receiver where it is, or drive it away from its neighbours."""

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._compiled import compiled
from byzjax._numerics.arrays import wide
from byzjax.attacks import _rows
from byzjax.stacked import PyTree


@compiled
def dissensus(
    updates: PyTree,
    byzantine: jax.Array,
    center: PyTree,
    weights: jax.Array,
    *,
    epsilon: float = 1.0,
) -> PyTree:
    r"""All liars undo what a receiver would learn from its honest neighbours.

    $$ b = c - \epsilon \, \frac{\sum_{j \in H} w_j (x_j - c)}{\sum_{j \in B} w_j} $$

    for a receiver with the model c and the weights w, its honest rows H and its liars B. With
    epsilon = 1 the average with these weights is c: the receiver stays where it is, and all that
    do so never agree. With more it moves away from its neighbours. Each receiver has a lie of its
    own. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`: what one receiver hears.
      byzantine: `bool[n]`, who attacks; may be traced.
      center: c, one update; every leaf has shape `[...]`.
      weights: `[n]`, what the receiver averages with, at least 0.
      epsilon: strength; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or `weights` has not one entry for each row.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates, weights = jnp.array([[1.0], [3.0], [9.0]]), jnp.array([0.5, 0.25, 0.25])
      >>> attacks.dissensus(updates, jnp.array([False, False, True]), updates[0], weights)
      Array([[ 1.],
             [ 3.],
             [-1.]], dtype=float32)

    Reference: He, Karimireddy and Jaggi, Byzantine-Robust Decentralized Learning via ClippedGossip,
    2022 (arXiv:2202.01545).
    """
    byzantine = _rows.mask(updates, byzantine)
    weights = jnp.asarray(weights)
    if weights.shape != byzantine.shape:
        n = len(byzantine)
        raise ValueError(f"weights have shape {weights.shape}; {n} rows need shape ({n},).")
    c = jax.tree.map(lambda leaf, x: jnp.asarray(leaf).astype(wide(x).dtype)[None], center, updates)
    # Differences first: models lie close together, far from 0.
    apart = jax.tree.map(lambda x, middle: wide(x) - middle, updates, c)
    pull = stacked.weighted_sum(apart, jnp.where(byzantine, 0, weights))
    strength = _rows.ratio(epsilon, jnp.sum(jnp.where(byzantine, weights, 0)))
    pull = jax.tree.map(lambda leaf: leaf[None], pull)
    return _rows.replace(updates, byzantine, _rows.plus(c, -strength, pull))
