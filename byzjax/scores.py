"""Selecting workers by one score each, such as a distance: the k lowest, and ranks."""

import jax
import jax.numpy as jnp

from byzjax._checks import static_int
from byzjax._compiled import compiled
from byzjax._deprecated import renamed as _renamed
from byzjax._numerics import order


@compiled
def lowest(values: jax.Array, k: int) -> jax.Array:
    """Marks the k lowest values of each row; ties go to the lower index.

    Args:
      values: `[..., n]` without NaN, such as distances.
      k: number of values, a Python int from 1 to n.

    Returns:
      `bool[..., n]`. Cost: O(n) per row.

    Example:
      >>> import jax.numpy as jnp
      >>> lowest(jnp.array([3.0, 1.0, 3.0, 2.0]), 3)
      Array([ True,  True, False,  True], dtype=bool)
    """
    _check(values, k, at_least=1)
    limit = order.kth_of_rows(values, k)
    below, at = values < limit, values == limit
    places = k - jnp.sum(below, axis=-1, keepdims=True, dtype=jnp.int32)
    return below | (at & (jnp.cumsum(at, axis=-1, dtype=jnp.int32) <= places))


@compiled
def sum_of_lowest(values: jax.Array, k: int) -> jax.Array:
    """The sum of the k lowest values of each row.

    Args:
      values: `[..., n]` without NaN and -inf, such as distances.
      k: number of values, a Python int from 0 to n.

    Returns:
      `[...]`, without a derivative. Cost: O(n) per row.

    Example:
      >>> import jax.numpy as jnp
      >>> sum_of_lowest(jnp.array([3.0, 1.0, 3.0, jnp.inf]), 2)
      Array(4., dtype=float32)
    """
    _check(values, k, at_least=0)
    values = jax.lax.stop_gradient(values)
    if k == 0:
        return jnp.zeros_like(values[..., 0])
    limit = order.kth_of_rows(values, k)[..., 0]
    below = values < limit[..., None]
    places = k - jnp.sum(below, axis=-1, dtype=jnp.int32)
    return jnp.sum(jnp.where(below, values, 0), axis=-1) + places.astype(values.dtype) * limit


@compiled
def ranks(values: jax.Array) -> jax.Array:
    """The rank of each of n values, 0 for the least; ties go to the lower index.

    Args:
      values: `[n]` without NaN, such as distances.

    Returns:
      `int[n]`, a permutation of 0 .. n-1. Cost: O(n^2), without a sort.

    Example:
      >>> import jax.numpy as jnp
      >>> ranks(jnp.array([3.0, 1.0, 3.0, 2.0]))
      Array([2, 0, 3, 1], dtype=int32)
    """
    if values.ndim != 1:
        raise ValueError(f"ranks needs one value per worker, [n]; got shape {values.shape}.")
    n = values.shape[0]
    index = jnp.arange(n)
    before = (values[None, :] < values[:, None]) | (
        (values[None, :] == values[:, None]) & (index[None, :] < index[:, None])
    )
    return jnp.sum(before, axis=1, dtype=jnp.int32)


def _check(values: jax.Array, k: int, *, at_least: int) -> None:
    if static_int("k", k, at_least=at_least) > values.shape[-1]:
        raise ValueError(f"the k lowest need k <= n; got k={k}, n={values.shape[-1]}.")


__getattr__ = _renamed(__name__, {})
