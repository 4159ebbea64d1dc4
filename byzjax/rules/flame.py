"""FLAME: the majority whose directions are closest, clipped to the median norm, and noise."""

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import not_negative
from byzjax._compiled import compiled
from byzjax._numerics.noise import standard_normal
from byzjax.rules._clip import clipped_to_median
from byzjax.stacked import PyTree


@compiled(noise=not_negative)
def flame(
    updates: PyTree, *, key: jax.Array, noise: float = 0.001, axis_name: str | None = None
) -> PyTree:
    r"""Mean of a cluster of more than half of the updates, clipped to the median norm, plus noise.

    $$ F = \frac{1}{|C|} \sum_{i \in C} x_i \min\Bigl(1, \frac{M}{\|x_i\|}\Bigr) + \lambda M \xi,
       \qquad \xi \sim N(0, I) $$

    where M is the median of all norms and C the cluster of HDBSCAN on the cosine distances
    $1 - \cos(x_i, x_j)$ with a minimum size of floor(n / 2) + 1, min_samples = 1 and a single
    cluster allowed. That is the component of more than half of the rows in the graph of the pairs
    at distance at most r, for the least r at which there is one (docs/architecture.md). A row that
    is not finite is in no cluster and has an infinite norm, a row of zeros is at distance 1 from
    all others; if no cluster has more than half of the rows, the result is NaN.

    The paper compares the directions of models; a rule sees the updates, whose directions most
    public code compares.

    Requirement: n >= 1. Breakdown: none proved. Promise: finite, if more than half of the rows are.
    Cost: O(n^2 d + n^3).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      key: PRNG key that draws the noise.
      noise: lambda, the noise's standard deviation in units of M; may be traced. The paper has
        0.001 for images and text.
      axis_name: mesh axis over which the coordinates are sliced, if they are; each device draws the
        noise of its own slice.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or noise is negative.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> updates = jnp.array([[2.0, 0.0], [3.0, 0.3], [9.0, 0.0], [-5.0, 1.0], [0.0, 5.0]])
      >>> byzjax.flame(updates, key=jax.random.key(0), noise=0.0).round(1)  # of three rows
      Array([3.3, 0.1], dtype=float32)

    Reference: Nguyen et al., FLAME: Taming Backdoors in Federated Learning, USENIX Security 2022
    (arXiv:2101.02281), Algorithm 1; HDBSCAN is of Campello, Moulavi and Sander, 2013.
    """
    n = stacked.num_workers(updates)
    norms, middle, factors = clipped_to_median(updates, axis_name)
    distances = _cosine_distances(lax.stop_gradient((updates, norms)), axis_name)
    selected = _majority(distances)
    count = jnp.sum(selected, dtype=jnp.int32).astype(factors.dtype)
    weights = jnp.where(selected, factors, 0) / jnp.maximum(count, 1)
    weights = jnp.where(2 * count > n, weights, jnp.nan)

    def add(leaf: jax.Array, normal: jax.Array, sent: jax.Array) -> jax.Array:
        scale = (noise * middle).astype(leaf.dtype)
        return (leaf + scale * normal).astype(sent.dtype)

    out = stacked.weighted_sum(stacked.widened(updates), weights)
    return jax.tree.map(add, out, standard_normal(key, out, axis_name), updates)


def _cosine_distances(
    updates_and_norms: tuple[PyTree, jax.Array], axis_name: str | None
) -> jax.Array:
    """`[n, n]`: 1 - cos, as half of the squared distances of rows of length 1."""
    updates, norms = updates_and_norms
    there = jnp.isfinite(norms) & (norms > 0)
    units = stacked.scale(
        stacked.widened(updates), jnp.where(there, 1 / jnp.where(there, norms, 1), 0)
    )
    halves = stacked.pairwise_squared_distances(units, axis_name=axis_name) / 2
    halves = jnp.where(there[:, None] & there[None], halves, 1)
    halves = jnp.where(jnp.eye(len(norms), dtype=bool), 0, halves)
    good = jnp.isfinite(norms)
    return jnp.where(good[:, None] & good[None], halves, jnp.inf)


def _majority(distances: jax.Array) -> jax.Array:
    """`bool[n]`: the first component of more than half of the rows as the threshold grows."""
    n = len(distances)

    def through(k: jax.Array, paths: jax.Array) -> jax.Array:
        return jnp.minimum(paths, jnp.maximum(paths[:, k][:, None], paths[k][None]))

    # The longest step of the path between two rows whose longest step is shortest.
    steps = lax.fori_loop(0, n, through, distances)
    reach = jnp.sort(steps, axis=1)[:, n // 2]
    return (reach <= jnp.min(reach)) & jnp.isfinite(reach)
