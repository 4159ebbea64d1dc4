"""Rules that treat every coordinate by itself, and the mean that they replace."""

from byzjax import _order, stacked
from byzjax._checks import enough_workers
from byzjax.stacked import PyTree


def mean(updates: PyTree, *, axis_name: str | None = None) -> PyTree:
    r"""Average of all updates, what a server without a defence computes.

    $$ F(x_1, \dots, x_n) = \frac{1}{n} \sum_{i=1}^{n} x_i $$

    Requirement: n >= 1. Breakdown: one liar moves it anywhere. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.mean({"w": jnp.array([[1.0, 2.0], [3.0, 6.0]])})
      {'w': Array([2., 4.], dtype=float32)}
    """
    del axis_name
    return stacked.mean(updates)


def median(updates: PyTree, *, axis_name: str | None = None) -> PyTree:
    r"""Coordinate-wise median; for even n the mean of the two middle values.

    $$ F_j = \operatorname{median}(x_{1j}, \dots, x_{nj}) $$

    NaN counts as an end of the column (above +inf, below -inf with its sign bit set).

    Requirement: n >= 1; it withstands any f with n >= 2f + 1.
    Breakdown: n > 2f. Promise: every coordinate stays within the honest range.
    Cost: O(nd) by selection; here a sorting network, O(n log^2 n d), which runs at the speed of the
    memory for small n.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n.
      TypeError: a leaf is not bfloat16, float16, float32 or float64.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.median({"w": jnp.array([[1.0, 8.0], [2.0, 9.0], [jnp.nan, -jnp.inf]])})
      {'w': Array([2., 8.], dtype=float32)}

    Reference: Yin, Chen, Ramchandran and Bartlett, Byzantine-Robust Distributed Learning: Towards
    Optimal Statistical Rates, ICML 2018 (arXiv:1803.01498), Definition 1.
    """
    del axis_name
    return stacked.coordinatewise(_order.median, updates)


def trimmed_mean(updates: PyTree, *, f: int, axis_name: str | None = None) -> PyTree:
    r"""Coordinate-wise mean without the f smallest and the f largest values.

    $$ F_j = \frac{1}{n - 2f} \sum_{i=f+1}^{n-f} x_{(i)j} $$

    where $x_{(1)j} \le \dots \le x_{(n)j}$. NaN counts as an end of the column.

    Requirement: n >= 2f + 1. Breakdown: n > 2f.
    Promise: every coordinate stays within the honest range.
    Cost: O(nd) by selection; here a sorting network, O(n log^2 n d), which runs at the speed of the
    memory for small n.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or n < 2f + 1.
      TypeError: f is not a Python int, or a leaf is not of a float type.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.trimmed_mean(jnp.array([[0.0], [1.0], [3.0], [jnp.inf]]), f=1)
      Array([2.], dtype=float32)

    Reference: Yin, Chen, Ramchandran and Bartlett, ICML 2018 (arXiv:1803.01498), Definition 2.
    """
    del axis_name
    _, f = enough_workers("trimmed_mean", updates, f, twice=2, plus=1)
    return stacked.coordinatewise(lambda x: _order.trimmed_mean(x, f), updates)
