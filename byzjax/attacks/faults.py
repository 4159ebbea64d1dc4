"""Faults that need no malice: what arrives is not a number."""

import math

import jax
import jax.numpy as jnp

from byzjax.attacks import _rows
from byzjax.stacked import PyTree


def non_finite(updates: PyTree, byzantine: jax.Array, *, value: float = math.nan) -> PyTree:
    """All liars send NaN, +inf or -inf in every coordinate.

    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, who attacks; may be traced.
      value: NaN, +inf or -inf, a Python float.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or the value is finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> attacks.non_finite(
      ...     jnp.array([[1.0], [2.0]]), jnp.array([False, True]), value=float("-inf"))
      Array([[  1.],
             [-inf]], dtype=float32)
    """
    byzantine = _rows.mask(updates, byzantine)
    if math.isfinite(value):
        raise ValueError(f"non_finite needs NaN, inf or -inf; got value={value}.")
    lie = jax.tree.map(lambda leaf: jnp.full_like(leaf[:1], value), updates)
    return _rows.replace(updates, byzantine, lie)
