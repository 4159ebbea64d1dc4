"""Averages of the models along a training, as an optax transformation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from byzjax import stacked
from byzjax._checks import static_int
from byzjax._compiled import taught
from byzjax._numerics.arrays import copied
from byzjax.stacked import PyTree


class AverageState(NamedTuple):
    """State of `polyak_averaging`.

    Attributes:
      count: `int32`, number of updates so far.
      average: average of the models after them, at least float32; initially the first model.
    """

    count: jax.Array
    average: PyTree


@taught
def polyak_averaging(*, start: int = 0) -> optax.GradientTransformationExtraArgs:
    r"""Averages the models along a training; the updates pass unchanged.

    $$ \bar x_t = \frac{1}{t - b} \sum_{u = b + 1}^{t} x_u, \qquad x_u = x_{u - 1} + \Delta_u $$

    where x_u is the model after u updates; up to t = b the average is the last model. With steps
    $\gamma_t = \gamma t^{-a}$, 1/2 < a < 1, it has the asymptotic covariance of the best
    preconditioned method without knowing the preconditioner.

    Use it as the last stage of an optimizer, which also is the `server` of a protocol, and read
    the average with `optax.tree_utils.tree_get(state, "average")`.

    Requirement: none. Cost: O(d) time and memory.

    Args:
      start: b, how many updates come before the first model that counts, a Python int.

    Returns:
      A transformation from updates to the same updates.

    Raises:
      TypeError: start is not a Python int.
      ValueError: start is negative; or, at an update, params are missing or have other shapes.

    Example:
      >>> import byzjax, jax.numpy as jnp, optax
      >>> tx = optax.chain(optax.sgd(1.0), byzjax.polyak_averaging())
      >>> params = jnp.array([1.0])
      >>> state = tx.init(params)
      >>> for gradient in (-1.0, -3.0):  # models 2 and 5
      ...     updates, state = tx.update(jnp.array([gradient]), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> optax.tree_utils.tree_get(state, "average")
      Array([3.5], dtype=float32)

    Reference: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM
    Journal on Control and Optimization 30, 1992; Ruppert 1988.
    """
    start = static_int("start", start)

    def init(params: PyTree) -> AverageState:
        return AverageState(jnp.int32(0), copied(stacked.widened(params)))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError(
                "polyak_averaging averages models; write tx.update(updates, state, params)."
            )
        count = state.count + 1
        counted = jnp.maximum(count - start, 1)

        def average(old: jax.Array, p: jax.Array, u: jax.Array) -> jax.Array:
            if jnp.shape(p) != jnp.shape(u):
                raise ValueError(
                    f"polyak_averaging needs updates of the shape of params, {jnp.shape(p)}; got "
                    f"{jnp.shape(u)}: put it after byzjax.aggregate."
                )
            new = _as_stored(jnp.asarray(optax.apply_updates(p, u))).astype(old.dtype)
            return jnp.where(counted == 1, new, old + (new - old) / counted.astype(old.dtype))

        return updates, AverageState(count, jax.tree.map(average, state.average, params, updates))

    return optax.GradientTransformationExtraArgs(init, update)


def _as_stored(leaf: jax.Array) -> jax.Array:
    """The values as rounded to their dtype, which XLA skips where it may keep more digits."""
    if leaf.dtype not in (jnp.bfloat16, jnp.float16):
        return leaf
    limits = jnp.finfo(leaf.dtype)
    return lax.reduce_precision(leaf, limits.nexp, limits.nmant)
