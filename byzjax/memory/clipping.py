"""Centered clipping about the previous result."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax._checks import positive, rows_of_params, static_int, weights_of_workers
from byzjax._compiled import taught
from byzjax._senders import row_weights
from byzjax.memory._state import like, nothing
from byzjax.rules._clip import clipped_about
from byzjax.rules._weights import by_weight
from byzjax.stacked import PyTree


class CenterState(NamedTuple):
    """State of `centered_clipping`.

    Attributes:
      center: the previous result, initially 0; one update, at least float32.
    """

    center: PyTree


@taught
def centered_clipping(
    *, radius: float, iterations: int = 1, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Centered clipping about its own previous result.

    $$ v_0 = 0, \qquad v_t = \operatorname{centered\_clip}(x_1, \dots, x_n; v_{t-1}) $$

    Requirement: n >= 1. Breakdown: it moves by at most L tau per step. Promise: finite.
    Cost: O(nd), and O(d) of memory.

    Args:
      radius: tau, in the unit of the updates' norm; may be traced.
      iterations: L, a Python int.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      A transformation from stacked updates `[n, ...]` to one update `[...]`; the extra argument
      `weights` `[n]` of an update is that of `centered_clip`.

    Raises:
      ValueError: radius is not positive.
      TypeError: iterations is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> tx = byzjax.centered_clipping(radius=2.0)
      >>> state = tx.init(jnp.zeros(1))
      >>> for _ in range(2):
      ...     update, state = tx.update(jnp.array([[1.0], [2.0], [90.0]]), state)
      >>> update.round(4)
      Array([2.2222], dtype=float32)

    Reference: Karimireddy, He and Jaggi, Learning from History for Byzantine Robust Optimization,
    ICML 2021 (arXiv:2012.10333), Algorithm 2.
    """
    positive("radius", radius)
    static_int("iterations", iterations, at_least=1)

    def init(params: PyTree) -> CenterState:
        return CenterState(nothing(params))

    def update(updates, state, params=None, **extra_args):
        weights = row_weights(extra_args)
        if not jax.tree.leaves(updates):
            return updates, state
        rows_of_params("centered_clipping", updates, params)
        updates = jax.tree.map(jnp.asarray, updates)
        center = _clipped(updates, state.center, radius, iterations, axis_name, weights)
        out = jax.tree.map(lambda c, sent: c.astype(sent.dtype), center, updates)
        return out, CenterState(like(state.center, center))

    return optax.GradientTransformationExtraArgs(init, update)


def _clipped(
    updates: PyTree,
    center: PyTree,
    radius: float,
    iterations: int,
    axis_name: str | None,
    weights: jax.Array | None,
) -> PyTree:
    if weights is None:
        return clipped_about(updates, center, radius, iterations, axis_name)
    weights_of_workers("weights", weights)

    def clipped(weights: jax.Array | None, rows: PyTree, center: PyTree, radius: Any) -> PyTree:
        return clipped_about(rows, center, radius, iterations, axis_name, weights)

    about = center, jnp.asarray(radius)
    return by_weight(partial(clipped, None), clipped, weights, updates, *about)
