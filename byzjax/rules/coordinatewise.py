"""Coordinate-wise rules, and the mean that they replace."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._checks import enough_workers, weights_of_workers
from byzjax._compiled import compiled
from byzjax._numerics import order
from byzjax._numerics.rows import loop_over_rows
from byzjax._numerics.signs import votes
from byzjax.rules._weights import by_weight
from byzjax.stacked import PyTree


@compiled(weights=weights_of_workers)
def mean(
    updates: PyTree, *, weights: jax.Array | None = None, axis_name: str | None = None
) -> PyTree:
    r"""Average of all updates, as computed by a server without a defence.

    $$ F(x_1, \dots, x_n) = \frac{1}{n} \sum_{i=1}^{n} x_i $$

    Requirement: n >= 1. Breakdown: one Byzantine worker moves it arbitrarily. Promise: none.
    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      weights: `[n]`, data such as sample counts: row i counts as w_i rows
        (docs/weights.md). May be traced.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or weights are not n finite numbers of at least 0.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.mean({"w": jnp.array([[1.0, 2.0], [3.0, 6.0]])})
      {'w': Array([2., 4.], dtype=float32)}
    """
    del axis_name
    if weights is not None:
        return by_weight(mean, _weighted_mean, weights, updates)
    return stacked.mean(updates)


@compiled(weights=weights_of_workers)
def median(
    updates: PyTree, *, weights: jax.Array | None = None, axis_name: str | None = None
) -> PyTree:
    r"""Coordinate-wise median; for even n the mean of the two middle values.

    $$ F_j = \operatorname{median}(x_{1j}, \dots, x_{nj}) $$

    NaN sorts above +inf, or below -inf with its sign bit set.

    Requirement: n >= 1; it withstands any f with n >= 2f + 1.
    Breakdown: n > 2f. Promise: every coordinate stays within the honest range.
    Cost: O(nd) by selection; here a sorting network, O(n log^2 n d), which is memory-bound for
    small n.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      weights: `[n]`, data such as sample counts: row i counts as w_i rows
        (docs/weights.md). May be traced.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n; a weight is negative or not finite, or all are 0.
      TypeError: a leaf is not bfloat16, float16, float32 or float64.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.median({"w": jnp.array([[1.0, 8.0], [2.0, 9.0], [jnp.nan, -jnp.inf]])})
      {'w': Array([2., 8.], dtype=float32)}

    Reference: Yin, Chen, Ramchandran and Bartlett, Byzantine-Robust Distributed Learning: Towards
    Optimal Statistical Rates, ICML 2018 (arXiv:1803.01498), Definition 1.
    """
    del axis_name
    if weights is not None:
        return by_weight(median, _by_column(order.weighted_median), weights, updates)
    return stacked.coordinatewise(order.median, updates)


@compiled(weights=weights_of_workers)
def trimmed_mean(
    updates: PyTree, *, f: int, weights: jax.Array | None = None, axis_name: str | None = None
) -> PyTree:
    r"""Coordinate-wise mean without the f smallest and the f largest values.

    $$ F_j = \frac{1}{n - 2f} \sum_{i=f+1}^{n-f} x_{(i)j} $$

    where $x_{(1)j} \le \dots \le x_{(n)j}$. NaN sorts as an extreme value.

    Requirement: n >= 2f + 1. Breakdown: n > 2f.
    Promise: every coordinate stays within the honest range.
    Cost: O(nd) by selection; here a sorting network, O(n log^2 n d), which is memory-bound for
    small n.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      weights: `[n]`, data such as sample counts: row i counts as w_i rows, and f as the share f/n
        of the weight (docs/weights.md). May be traced.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or n < 2f + 1; a weight is
        negative or not finite, or all are 0.
      TypeError: f is not a Python int, or a leaf is not of a float type.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.trimmed_mean(jnp.array([[0.0], [1.0], [3.0], [jnp.inf]]), f=1)
      Array([2.], dtype=float32)

    Reference: Yin, Chen, Ramchandran and Bartlett, ICML 2018 (arXiv:1803.01498), Definition 2.
    """
    del axis_name
    n, f = enough_workers("trimmed_mean", updates, f)
    if weights is not None:
        weighted = _by_column(order.weighted_trimmed_mean, f / n) if f else _weighted_mean
        return by_weight(lambda x: trimmed_mean(x, f=f), weighted, weights, updates)
    return stacked.coordinatewise(lambda x: order.trimmed_mean(x, f), updates)


@compiled(weights=weights_of_workers)
def mean_around_median(
    updates: PyTree, *, f: int, weights: jax.Array | None = None, axis_name: str | None = None
) -> PyTree:
    r"""Coordinate-wise mean of the n - f values nearest to the median (MeaMed).

    $$ F_j = \frac{1}{n - f} \sum_{i \in N_j} x_{ij} $$

    where N_j holds the n - f values of coordinate j nearest to their median, the lower one on a
    tie. After sorting they are adjacent. NaN sorts as an extreme value.

    Requirement: n >= 2f + 1. Breakdown: n > 2f.
    Promise: the distance to the honest mean is bounded by the honest diameter times a constant.
    Cost: O(n log^2 n d) by a sorting network.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      weights: `[n]`, data such as sample counts: row i counts as w_i rows, and f as the share f/n
        of the weight (docs/weights.md). May be traced.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or n < 2f + 1; a weight is
        negative or not finite, or all are 0.
      TypeError: f is not a Python int, or a leaf is not of a float type.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.mean_around_median(jnp.array([[0.0], [1.0], [2.0], [9.0], [jnp.nan]]), f=2)
      Array([1.], dtype=float32)

    Reference: Xie, Koyejo and Gupta, Generalized Byzantine-tolerant SGD, 2018 (arXiv:1802.10116),
    "mean around median".
    """
    del axis_name
    n, f = enough_workers("mean_around_median", updates, f)
    if weights is not None:
        weighted = _by_column(order.weighted_mean_around_median, (n - f) / n)
        return by_weight(lambda x: mean_around_median(x, f=f), weighted, weights, updates)
    return stacked.coordinatewise(lambda x: order.mean_around_median(x, n - f), updates)


@compiled(weights=weights_of_workers)
def phocas(
    updates: PyTree, *, f: int, weights: jax.Array | None = None, axis_name: str | None = None
) -> PyTree:
    r"""Coordinate-wise mean of the n - f values nearest to the trimmed mean.

    $$ F_j = \frac{1}{n - f} \sum_{i \in N_j} x_{ij} $$

    where N_j holds the n - f values of coordinate j nearest to their trimmed mean, the lower one on
    a tie. NaN sorts as an extreme value.

    Requirement: n >= 2f + 1. Breakdown: n > 2f.
    Promise: the distance to the honest mean is bounded by the honest diameter times a constant.
    Cost: O(n log^2 n d) by a sorting network.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      weights: `[n]`, data such as sample counts: row i counts as w_i rows, and f as the share f/n
        of the weight (docs/weights.md). May be traced.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or n < 2f + 1; a weight is
        negative or not finite, or all are 0.
      TypeError: f is not a Python int, or a leaf is not of a float type.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.phocas(jnp.array([[0.0], [1.0], [2.0], [9.0], [jnp.inf]]), f=1)
      Array([3.], dtype=float32)

    Reference: Xie, Koyejo and Gupta, Phocas: dimensional Byzantine-resilient stochastic gradient
    descent, 2018 (arXiv:1805.09682).
    """
    del axis_name
    n, f = enough_workers("phocas", updates, f)
    if weights is not None:
        weighted = _by_column(order.weighted_mean_around_trimmed_mean, (n - f) / n, f / n)
        return by_weight(lambda x: phocas(x, f=f), weighted, weights, updates)
    return stacked.coordinatewise(lambda x: order.mean_around_trimmed_mean(x, n - f, f), updates)


@compiled
def mean_of_finite(updates: PyTree, *, axis_name: str | None = None) -> PyTree:
    r"""Coordinate-wise mean of the finite values, for links that lose coordinates.

    $$ F_j = \frac{1}{|A_j|} \sum_{i \in A_j} x_{ij} $$

    where A_j holds the workers whose coordinate j is finite; 0 where A_j is empty. Lost coordinates
    arrive as NaN. Values are divided before they are added, so that large ones do not overflow.

    Requirement: n >= 1. Breakdown: one Byzantine worker that sends finite values moves it
    arbitrarily. Promise: finite. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.mean_of_finite(jnp.array([[1.0, jnp.nan], [3.0, jnp.nan], [jnp.inf, 4.0]]))
      Array([2., 4.], dtype=float32)

    Reference: Damaskinos, El-Mhamdi, Guerraoui, Guirguis and Rouault, AggregaThor: Byzantine
    Machine Learning via Robust Gradient Aggregation, SysML 2019 (its `average-nan`).
    """
    del axis_name
    return stacked.coordinatewise(_mean_of_finite, updates)


@compiled
def majority_sign(updates: PyTree, *, axis_name: str | None = None) -> PyTree:
    r"""Coordinate-wise majority vote of the signs (signSGD with majority vote).

    $$ F_j = \operatorname{sign} \sum_i \operatorname{sign} x_{ij} $$

    A tie gives 0; NaN does not vote, infinities do.

    Requirement: n >= 1; f attackers cannot overturn a vote that honest workers win by more than
    f.
    Breakdown: n > 2f, per coordinate. Promise: finite. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here.

    Returns:
      One update with entries -1, 0 and 1; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.majority_sign(jnp.array([[0.1, -2.0], [5.0, jnp.nan], [-9.0, 3.0]]))
      Array([1., 0.], dtype=float32)

    Reference: Bernstein, Zhao, Azizzadenesheli and Anandkumar, signSGD with Majority Vote is
    Communication Efficient and Fault Tolerant, ICLR 2019 (arXiv:1810.05291), Algorithm 1.
    """
    del axis_name
    return stacked.coordinatewise(_majority_sign, updates)


def _weighted_mean(weights: jax.Array, updates: PyTree) -> PyTree:
    return stacked.weighted_mean(updates, weights)


def _by_column(statistic: Callable, *shares: float) -> Callable:
    """A statistic of weighted columns as a function of weights and trees."""
    return lambda weights, updates: stacked.coordinatewise(
        lambda x: statistic(x, weights, *shares), updates
    )


def _mean_of_finite(x: jax.Array) -> jax.Array:
    (count,) = loop_over_rows(x, None, lambda row: jnp.isfinite(row).astype(row.dtype))
    share = 1 / jnp.maximum(count, 1)
    (total,) = loop_over_rows(x, None, lambda row: jnp.where(jnp.isfinite(row), row, 0) * share)
    return total.astype(x.dtype)


def _majority_sign(x: jax.Array) -> jax.Array:
    return jnp.sign(votes(x)).astype(x.dtype)
