"""Krum: the update that lies closest to its neighbours."""

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import enough_workers, static_int
from byzjax.rules._select import mean_of_selected
from byzjax.stacked import PyTree


def krum(updates: PyTree, *, f: int, m: int = 1, axis_name: str | None = None) -> PyTree:
    r"""The update with the smallest sum of squared distances to its nearest neighbours.

    $$ \mathrm{score}(i) = \sum_{j \in N_i} \|x_i - x_j\|^2, \qquad
       F = \frac{1}{m} \sum_{i \in A} x_i $$

    where N_i holds the n - f - 2 updates nearest to x_i among the others, and A the m rows with the
    smallest score, ties to the lower index. `m = 1` is Krum, `m > 1` Multi-Krum.

    A distance that is not finite is +inf. If fewer than m rows have a finite score, more than f of
    them are bad and the result is NaN.

    Requirement: n >= 2f + 3 and 1 <= m <= n - f - 2. Breakdown: n > 2f + 2.
    Promise: the distance to the honest mean is bounded by the honest diameter times a constant.
    Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      m: number of updates to average, a Python int.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 2f + 3, or m is out of range.
      TypeError: f or m is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0], [1.0], [1.6], [2.5], [90.0]])
      >>> byzjax.krum(updates, f=1)
      Array([1.6], dtype=float32)
      >>> byzjax.krum(updates, f=1, m=2)
      Array([1.3], dtype=float32)

    Reference: Blanchard, El-Mhamdi, Guerraoui and Stainer, Machine Learning with Adversaries:
    Byzantine Tolerant Gradient Descent, NeurIPS 2017 (arXiv:1703.02757).
    """
    n, f = enough_workers("krum", updates, f, twice=2, plus=3)
    m = static_int("m", m, at_least=1)
    if m > n - f - 2:
        raise ValueError(f"krum needs m <= n - f - 2 = {n - f - 2}; got m={m}, n={n}, f={f}.")
    scores = _scores(updates, n - f - 2, axis_name)
    return mean_of_selected(updates, stacked.ranks(scores) < m, scores)


def _scores(updates: PyTree, neighbors: int, axis_name: str | None) -> jax.Array:
    distances = stacked.pairwise_squared_distances(lax.stop_gradient(updates), axis_name=axis_name)
    n = distances.shape[0]
    others = jnp.where(jnp.eye(n, dtype=bool), jnp.inf, distances)
    return jnp.sum(jnp.sort(others, axis=1)[:, :neighbors], axis=1)
