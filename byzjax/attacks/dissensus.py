"""An attack on gossip that holds a receiver in place, or drives it from its neighbours."""

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
    r"""All attackers cancel what a receiver would learn from its honest neighbours.

    $$ b = c - \epsilon \, \frac{\sum_{j \in H} w_j (x_j - c)}{\sum_{j \in B} w_j} $$

    for a receiver with model c and weights w, honest rows H and Byzantine rows B. With epsilon = 1
    the average with these weights is c: the receiver does not move, and attacked receivers never
    agree. With a larger epsilon it moves away from its neighbours. Each receiver gets its own
    malicious row. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`: the rows one receiver gets.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      center: c, one update; every leaf has shape `[...]`.
      weights: `[n]`, the receiver's averaging weights, at least 0.
      epsilon: strength; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or `weights` does not have one entry per row.

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
    # Differences first: models are close to each other and far from 0.
    apart = jax.tree.map(lambda x, middle: wide(x) - middle, updates, c)
    pull = stacked.weighted_sum(apart, jnp.where(byzantine, 0, weights))
    strength = _rows.ratio(epsilon, jnp.sum(jnp.where(byzantine, weights, 0)))
    pull = jax.tree.map(lambda leaf: leaf[None], pull)
    return _rows.replace(updates, byzantine, _rows.plus(c, -strength, pull))
