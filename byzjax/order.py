"""Order statistics of a matrix `[n, c]` over its rows: building blocks of coordinate-wise rules.

Each acts on every column independently, for any array `[n, ...]`. They are exact and
differentiable. NaN with its sign bit set sorts below -inf and every other NaN above +inf: a worker
that sends NaN ranks as an extreme value and cannot poison the column.
`byzjax.stacked.coordinatewise` applies them to trees.
"""

import jax

from byzjax._checks import enough_workers, static_int
from byzjax._compiled import compiled
from byzjax._deprecated import renamed as _renamed
from byzjax._numerics import order


@compiled
def median(x: jax.Array) -> jax.Array:
    r"""Median of each column; for even n the mean of the two middle values.

    $$ m_c = \tfrac12 \bigl(y_{\lceil n/2 \rceil} + y_{\lfloor n/2 \rfloor + 1}\bigr),
       \qquad y_1 \le \dots \le y_n \text{ the sorted } x_{\cdot c} $$

    Args:
      x: `[n, ...]`, of bfloat16, float16, float32 or float64.

    Returns:
      `[...]`, of the same dtype. Cost: O(n log^2 n) per column.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.order.median(jnp.array([[1.0, 7.0], [2.0, jnp.nan], [9.0, 5.0]]))
      Array([2., 7.], dtype=float32)
    """
    return order.median(x)


@compiled
def trimmed_mean(x: jax.Array, f: int) -> jax.Array:
    r"""Mean of each column without its f smallest and f largest values.

    $$ \frac{1}{n - 2f} \sum_{k=f+1}^{n-f} y_k $$

    Requirement: n >= 2f + 1.

    Args:
      x: `[n, ...]`, of bfloat16, float16, float32 or float64.
      f: number of values left out at each end, a Python int.

    Returns:
      `[...]`, of the same dtype. Cost: O(n log^2 n) per column.

    Raises:
      ValueError: n < 2f + 1.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.order.trimmed_mean(jnp.array([[1.0], [2.0], [4.0], [99.0]]), 1)
      Array([3.], dtype=float32)
    """
    _, f = enough_workers("trimmed_mean", x, f, needs=(2, 1))
    return order.trimmed_mean(x, f)


@compiled
def kth(x: jax.Array, k: int) -> jax.Array:
    r"""The k-th smallest value of each column, y_k.

    Requirement: 1 <= k <= n.

    Args:
      x: `[n, ...]`, of bfloat16, float16, float32 or float64.
      k: the rank, from 1, a Python int.

    Returns:
      `[...]`, of the same dtype. Cost: O(n log^2 n) per column.

    Raises:
      ValueError: k is not in 1 .. n.
      TypeError: k is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.order.kth(jnp.array([[3.0], [1.0], [2.0]]), 1)
      Array([1.], dtype=float32)
    """
    _check_count("kth", x, k)
    return order.kth(x, k)


@compiled
def mean_of_nearest(x: jax.Array, center: jax.Array, k: int) -> jax.Array:
    r"""Mean of the k values of each column that are nearest to a centre, the lower one on a tie.

    Requirement: 1 <= k <= n.

    Args:
      x: `[n, ...]`, of bfloat16, float16, float32 or float64.
      center: `[...]`; the result is NaN where it is not finite. Constant under differentiation.
      k: number of values, a Python int.

    Returns:
      `[...]`, of the dtype of x. Cost: O(n log^2 n) per column.

    Raises:
      ValueError: k is not in 1 .. n.
      TypeError: k is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.order.mean_of_nearest(jnp.array([[0.0], [4.0], [5.0]]), jnp.array([3.0]), 2)
      Array([4.5], dtype=float32)
    """
    _check_count("mean_of_nearest", x, k)
    return order.mean_of_nearest(x, center, k)


@compiled
def mean_around_median(x: jax.Array, k: int) -> jax.Array:
    r"""Mean of the k values of each column that are nearest to its median, after one sort for both.

    Requirement: 1 <= k <= n.

    Args:
      x: `[n, ...]`, of bfloat16, float16, float32 or float64.
      k: number of values, a Python int.

    Returns:
      `[...]`, of the same dtype. Cost: O(n log^2 n) per column.

    Raises:
      ValueError: k is not in 1 .. n.
      TypeError: k is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.order.mean_around_median(jnp.array([[0.0], [2.0], [3.0], [4.0], [90.0]]), 3)
      Array([3.], dtype=float32)
    """
    _check_count("mean_around_median", x, k)
    return order.mean_around_median(x, k)


@compiled
def mean_around_trimmed_mean(x: jax.Array, k: int, f: int) -> jax.Array:
    r"""Mean of the k values of each column that are nearest to its trimmed mean, after one sort.

    Requirement: 1 <= k <= n and n >= 2f + 1.

    Args:
      x: `[n, ...]`, of bfloat16, float16, float32 or float64.
      k: number of values, a Python int.
      f: number of values that the trimmed mean leaves out at each end, a Python int.

    Returns:
      `[...]`, of the same dtype. Cost: O(n log^2 n) per column.

    Raises:
      ValueError: k is not in 1 .. n, or n < 2f + 1.
      TypeError: k or f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> x = jnp.array([[0.0], [2.0], [3.0], [4.0], [90.0]])
      >>> byzjax.order.mean_around_trimmed_mean(x, 3, 1)
      Array([3.], dtype=float32)
    """
    _check_count("mean_around_trimmed_mean", x, k)
    _, f = enough_workers("mean_around_trimmed_mean", x, f, needs=(2, 1))
    return order.mean_around_trimmed_mean(x, k, f)


def _check_count(name: str, x: jax.Array, k: int) -> None:
    if static_int("k", k, at_least=1) > x.shape[0]:
        raise ValueError(f"{name} needs k <= n; got k={k}, n={x.shape[0]}.")


__getattr__ = _renamed(__name__, {})
