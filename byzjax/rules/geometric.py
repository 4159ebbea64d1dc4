"""Geometric medians: minimisers of a sum of distances, or of Huber losses of distances."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import one_of, positive, static_int, weights_of_workers
from byzjax._compiled import compiled
from byzjax._numerics import order
from byzjax._numerics.rows import mean_rows
from byzjax.rules._weights import by_weight
from byzjax.solvers.weiszfeld import as_sent, minimizer, weiszfeld_weights
from byzjax.stacked import PyTree


@compiled(smoothing=positive, weights=weights_of_workers)
def geometric_median(
    updates: PyTree,
    *,
    iterations: int | None = None,
    start: str = "mean",
    smoothing: float = 1e-6,
    weights: jax.Array | None = None,
    axis_name: str | None = None,
) -> PyTree:
    r"""The point with the smallest sum of distances to all updates, by smoothed Weiszfeld steps.

    $$ z \leftarrow \frac{\sum_i \beta_i x_i}{\sum_i \beta_i}, \qquad
       \beta_i = \frac{1}{\max(\nu, \|z - x_i\|)} $$

    until convergence, or a given number of times: RFA takes `iterations=3` from the mean, and
    public code often starts from zero, which is biased after few iterations. Rows without a finite
    distance have weight 0.

    The fixed point does not depend on the start. It is computed in the span of the rows and refined
    by a Newton step, which carries the derivative of the fixed point (implicit differentiation).
    Where the median is not unique, as for two rows, the result is the minimiser nearest to the
    Weiszfeld path from the coordinate-wise median.

    Requirement: n >= 1; it withstands any f with n >= 2f + 1. Breakdown: n > 2f; if at least
    half of the rows are not finite, the result is NaN.
    Promise: the distance to the honest mean is bounded by the honest diameter times a constant (and
    the smoothing); with few iterations, only finite.
    Cost: O(n^2 d) for any number of steps; with `iterations`, O(nd) per step.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      iterations: number of Weiszfeld steps, a Python int; None for the fixed point.
      start: `"mean"` (of the finite rows), `"median"` (coordinate-wise) or `"zero"`; only used
        with `iterations`.
      smoothing: nu, in the unit of the updates' norm; may be traced.
      weights: `[n]`, data such as sample counts: row i counts as w_i rows (docs/weights.md). May be
        traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, start is unknown, or smoothing is not positive; a
        weight is negative or not finite, or all are 0.
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

    if iterations is not None:
        iterations = static_int("iterations", iterations, at_least=1)

    def of_rows(weights: jax.Array | None, rows: PyTree, smoothing: Any) -> PyTree:
        if iterations is None:
            return minimizer(rows, smoothing, axis_name, weights=weights)
        return _after_steps(rows, weights, smoothing, iterations, start, axis_name)

    if weights is None:
        return of_rows(None, updates, smoothing)
    return by_weight(partial(of_rows, None), of_rows, weights, updates, jnp.asarray(smoothing))


def _after_steps(
    updates: PyTree,
    weights: jax.Array | None,
    smoothing: Any,
    iterations: int,
    start: str,
    axis_name: str | None,
) -> PyTree:
    rows = stacked.widened(updates)
    if start == "mean":
        finite = jnp.isfinite(stacked.squared_norms(lax.stop_gradient(rows), axis_name=axis_name))
        if weights is None:
            point = stacked.mean_selected(rows, finite)
        else:
            point = stacked.weighted_mean(rows, jnp.where(finite, weights, 0))
    elif start == "zero":
        point = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), rows)
    elif weights is None:
        point = stacked.coordinatewise(order.median, rows)
    else:
        point = stacked.coordinatewise(lambda x: order.weighted_median(x, weights), rows)
    for _ in range(iterations):
        squares = stacked.squared_distances(rows, point, axis_name=axis_name)
        pull = weiszfeld_weights(squares, smoothing)
        point = stacked.weighted_mean(rows, pull if weights is None else weights * pull)
    return as_sent(point, updates)


@compiled(smoothing=positive)
def geometric_median_of_means(
    updates: PyTree, *, k: int, smoothing: float = 1e-6, axis_name: str | None = None
) -> PyTree:
    r"""Geometric median of the means of k groups of workers.

    $$ Z_l = \frac{1}{|G_l|} \sum_{i \in G_l} x_i, \qquad
       F = \operatorname{geomed}(Z_1, \dots, Z_k) $$

    Groups are consecutive workers of equal size; if k does not divide n, the first ones have one
    more. k = 1 is the mean, k = n the geometric median. A group with a row that is not finite is
    left out.

    Requirement: 1 <= k <= n; it withstands f attackers if k >= 2f + 1. Breakdown: k > 2f.
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
        def group_mean(g: jax.Array) -> jax.Array:
            start = g * size + jnp.minimum(g, larger)
            if not larger:
                return mean_rows(lax.dynamic_slice_in_dim(x, start, size), None)
            counted = (jnp.arange(size + 1) < size) | (g < larger)
            begin = jnp.minimum(start, n - size - 1)
            counted = jnp.roll(counted, start - begin)
            return mean_rows(lax.dynamic_slice_in_dim(x, begin, size + 1), counted.astype(x.dtype))

        return lax.map(group_mean, jnp.arange(k))

    return minimizer(updates, smoothing, axis_name, means)


@compiled(threshold=positive, weights=weights_of_workers)
def huber(
    updates: PyTree,
    *,
    threshold: float,
    weights: jax.Array | None = None,
    axis_name: str | None = None,
) -> PyTree:
    r"""The point with the smallest sum of Huber losses of the distances to all updates.

    $$ F = \arg\min_z \sum_i \phi(\|z - x_i\|), \qquad
       \phi(r) = \begin{cases} r^2 / 2 & r \le T \\ T (r - T/2) & r > T \end{cases} $$

    the fixed point of the mean with weights min(1, T / r_i): the geometric median as T tends to 0,
    the mean as T tends to infinity. Rows without a finite distance have weight 0.

    Requirement: n >= 1; it withstands any f with n >= 2f + 1. Breakdown: n > 2f.
    Promise: finite; the distance to the honest mean is bounded by the honest diameter and T.
    Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      threshold: T, in the unit of the updates' norm; may be traced.
      weights: `[n]`, data such as sample counts: row i counts as w_i rows (docs/weights.md). May be
        traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or threshold is not positive; a weight is
        negative or not finite, or all are 0.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.huber(jnp.array([[0.0], [1.0], [90.0]]), threshold=2.0)
      Array([1.5], dtype=float32)

    Reference: Zhao, Yu and Wan, A Huber Loss Minimization Approach to Byzantine Robust Federated
    Learning, AAAI 2024 (doi:10.1609/aaai.v38i19.30181).
    """
    stacked.num_workers(updates)
    stacked.check(updates)
    if weights is None:
        return minimizer(updates, threshold, axis_name)
    return by_weight(
        lambda rows, threshold: minimizer(rows, threshold, axis_name),
        lambda w, rows, threshold: minimizer(rows, threshold, axis_name, weights=w),
        *(weights, updates, jnp.asarray(threshold)),
    )
