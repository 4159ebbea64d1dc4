"""What attacks share: statistics of the honest rows, and putting the liars' rows in place."""

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._kernels import wide
from byzjax.stacked import PyTree


def mask(updates: PyTree, byzantine: jax.Array) -> jax.Array:
    """`byzantine` as `bool[n]`, checked against the updates."""
    n = stacked.num_workers(updates)
    byzantine = jnp.asarray(byzantine)
    if byzantine.shape != (n,) or byzantine.dtype != jnp.bool_:
        raise ValueError(
            f"byzantine must be bool[n] with n={n}; got {byzantine.dtype}{list(byzantine.shape)}."
        )
    return byzantine


def _column(byzantine: jax.Array, leaf: jax.Array) -> jax.Array:
    return byzantine.reshape((-1,) + (1,) * (leaf.ndim - 1))


def replace(updates: PyTree, byzantine: jax.Array, lies: PyTree) -> PyTree:
    """The updates with the liars' rows taken from `lies`: `[n, ...]`, or `[1, ...]` for all."""
    return jax.tree.map(
        lambda x, lie: jnp.where(_column(byzantine, x), lie.astype(x.dtype), x), updates, lies
    )


def honest_mean(updates: PyTree, byzantine: jax.Array) -> PyTree:
    """Mean of the honest rows, `[1, ...]` in every leaf, at least float32."""
    mean = stacked.mean_of(jax.tree.map(wide, updates), ~byzantine)
    return jax.tree.map(lambda leaf: leaf[None], mean)


def honest_std(updates: PyTree, byzantine: jax.Array, mean: PyTree, ddof: int) -> PyTree:
    """Standard deviation of the honest rows per coordinate, `[1, ...]` in every leaf.

    The mean of squares of differences; 0 where there are not more than `ddof` honest rows.
    """
    count = jnp.sum(~byzantine)

    def std(x: jax.Array, center: jax.Array) -> jax.Array:
        squares = jnp.square(wide(x) - center)
        variance = stacked.mean_of(squares, ~byzantine)[None]
        scale = count / jnp.maximum(count - ddof, 1)
        variance = jnp.where(count > ddof, variance * scale.astype(variance.dtype), 0)
        # Where the honest rows coincide the root has no slope; it is taken of 1 there.
        spread = variance != 0
        return jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1)), 0)

    return jax.tree.map(std, updates, mean)
