"""Rules that average the n - f updates with the lowest score, or take the one with the lowest."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import enough_workers, weights_of_workers
from byzjax._compiled import compiled
from byzjax._numerics import order
from byzjax.rules._select import mean_of_lowest
from byzjax.rules._weights import by_weight, weights_of_lowest
from byzjax.stacked import PyTree

_FAR = 2.0**20


@compiled(weights=weights_of_workers)
def comparative_elimination(
    updates: PyTree, *, f: int, weights: jax.Array | None = None, axis_name: str | None = None
) -> PyTree:
    r"""Average of the n - f updates with the smallest norms (CGE).

    $$ F = \frac{1}{n - f} \sum_{i \in A} x_i $$

    where A holds the n - f rows with the smallest norms, ties to the lower index. A norm that is
    not finite counts as +inf; if such a row must be averaged, more than f rows are bad and the
    result is NaN.

    Requirement: n >= 2f + 1. Breakdown: n > 2f.
    Promise: finite; no longer than the longest honest update. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      weights: `[n]`, data such as sample counts: row i counts as w_i rows, and f as the share f/n
        of the weight (docs/weights.md). May be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or n < 2f + 1; a weight is
        negative or not finite, or all are 0.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.comparative_elimination(jnp.array([[1.0], [-9.0], [2.0]]), f=1)
      Array([1.5], dtype=float32)

    Reference: Gupta, Liu and Vaidya, Byzantine Fault-Tolerant Distributed Machine Learning Using
    Stochastic Gradient Descent (SGD) and Norm-Based Comparative Gradient Elimination (CGE), 2020
    (arXiv:2008.04699).
    """
    n, f = enough_workers("comparative_elimination", updates, f)
    if weights is not None:
        return by_weight(
            lambda x: comparative_elimination(x, f=f, axis_name=axis_name),
            lambda w, x: _of_smallest_norms(x, w, (n - f) / n, axis_name),
            *(weights, updates),
        )
    norms = stacked.squared_norms(lax.stop_gradient(updates), axis_name=axis_name)
    return mean_of_lowest(updates, norms, n - f)


@compiled
def nearest_to_pivot(
    updates: PyTree, *, f: int, pivot: Any = 0, axis_name: str | None = None
) -> PyTree:
    r"""Average of the n - f updates nearest to the update of one trusted worker (MoNNA).

    $$ F = \frac{1}{n - f} \sum_{i \in A} x_i $$

    where A holds the n - f rows with the smallest distance to row p, the pivot itself included,
    ties to the lower index. In peer-to-peer learning the pivot is the worker's own update.

    Requirement: n >= 2f + 1. Breakdown: n > 2f, if the pivot is honest.
    Promise: if the pivot is honest, the distance to the honest mean is at most 2 f / (n - f) times
    the honest diameter. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      pivot: index of the trusted worker; may be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 2f + 1, or there is no worker `pivot`.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.nearest_to_pivot(jnp.array([[0.0], [1.0], [5.0]]), f=1, pivot=1)
      Array([0.5], dtype=float32)

    Reference: Farhadkhani, Guerraoui, Gupta, Hoang, Pinot and Stephan, Robust Collaborative
    Learning with Linear Gradient Overhead, ICML 2023 (arXiv:2209.10931).
    """
    n, f = enough_workers("nearest_to_pivot", updates, f)
    if isinstance(pivot, int) and not 0 <= pivot < n:
        raise ValueError(f"nearest_to_pivot needs 0 <= pivot < n; got pivot={pivot}, n={n}.")
    detached = lax.stop_gradient(updates)
    distances = stacked.squared_distances(
        detached, stacked.take(detached, pivot), axis_name=axis_name
    )
    return mean_of_lowest(updates, distances, n - f)


@compiled
def medoid(updates: PyTree, *, axis_name: str | None = None) -> PyTree:
    r"""The update with the smallest sum of distances to all others.

    $$ F = x_{i^*}, \qquad i^* = \arg\min_i \sum_j \|x_i - x_j\| $$

    ties to the lower index. A distance that is not finite outweighs all finite ones: sums are
    compared first by their number of infinite terms. The same holds for the distance to a row that
    is 2^20 times as far from most others as the closest row is: a sum with it would have no digits
    left for the other distances. If the best row is infinitely far from half of all rows, too many
    are bad and the result is NaN.

    Requirement: n >= 1; it withstands any f with n >= 2f + 1. Breakdown: n > 2f.
    Promise: the distance to the honest mean is bounded by the honest diameter times a constant.
    Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.medoid(jnp.array([[0.0], [1.0], [5.0], [jnp.nan]]))
      Array([1.], dtype=float32)

    Reference: Xie, Koyejo and Gupta, Generalized Byzantine-tolerant SGD, 2018 (arXiv:1802.10116),
    where the geometric median is restricted to the updates.
    """
    n = stacked.num_workers(updates)
    distances = jnp.sqrt(
        stacked.pairwise_squared_distances(lax.stop_gradient(updates), axis_name=axis_name)
    )
    # The radius within which n // 2 + 1 rows lie, at least one of them honest.
    near = order.kth_of_rows(distances, n // 2 + 1)[:, 0]
    beyond = near > _FAR * jnp.min(near)
    distances = jnp.where(beyond[:, None] | beyond[None], jnp.inf, distances)
    distances = jnp.where(jnp.eye(n, dtype=bool), 0, distances)
    infinite = jnp.isinf(distances)
    sums = jnp.sum(jnp.where(infinite, 0, distances), axis=1)
    counts = jnp.sum(infinite, axis=1, dtype=jnp.int32)
    fewest = jnp.min(counts)
    sums = jnp.where((counts == fewest) & (2 * fewest < n), sums, jnp.inf)
    return mean_of_lowest(updates, sums, 1)


def _of_smallest_norms(
    updates: PyTree, weights: jax.Array, share: float, axis_name: str | None
) -> PyTree:
    norms = stacked.squared_norms(lax.stop_gradient(updates), axis_name=axis_name)
    return stacked.weighted_mean(updates, weights_of_lowest(norms, weights, share))
