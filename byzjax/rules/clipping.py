"""Centered clipping: steps from a centre by the mean of the clipped differences."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from byzjax._checks import positive, weights_of_workers
from byzjax._compiled import compiled
from byzjax.rules._clip import clipped_about
from byzjax.rules._weights import by_weight
from byzjax.stacked import PyTree


@compiled(radius=positive, weights=weights_of_workers)
def centered_clip(
    updates: PyTree,
    center: PyTree,
    *,
    radius: float,
    iterations: int = 1,
    weights: jax.Array | None = None,
    axis_name: str | None = None,
) -> PyTree:
    r"""Steps from a centre by the mean of the clipped differences to it.

    $$ v_{l+1} = v_l + \frac{1}{n} \sum_{i=1}^{n} (x_i - v_l)
       \min\Bigl(1, \frac{\tau}{\|x_i - v_l\|}\Bigr), \qquad F = v_L $$

    starting from the centre v_0. The transformation `centered_clipping` uses its previous result as
    the centre. A row whose distance is not finite contributes nothing.

    Requirement: n >= 1. Breakdown: the result stays within L tau of the centre.
    Promise: finite, if the centre is.
    Cost: O(nd) for one iteration; O(n^2 d) for more, which run in the span of the rows at
    O(n^2) each.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      center: one update, v_0; every leaf has shape `[...]`.
      radius: tau, in the unit of the updates' norm; may be traced.
      iterations: L, a Python int.
      weights: `[n]`, data such as sample counts: row i counts as w_i rows (docs/weights.md). May be
        traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, `center` does not have the shape of one update, or
        radius is not positive; a weight is
        negative or not finite, or all are 0.
      TypeError: iterations is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates, center = jnp.array([[1.0], [2.0], [4.0], [97.0]]), jnp.array([1.0])
      >>> byzjax.centered_clip(updates, center, radius=3.0)
      Array([2.75], dtype=float32)

    Reference: Karimireddy, He and Jaggi, Learning from History for Byzantine Robust Optimization,
    ICML 2021 (arXiv:2012.10333), Algorithm 2.
    """
    if weights is None:
        return _as_sent(clipped_about(updates, center, radius, iterations, axis_name), updates)

    def clipped(weights: jax.Array | None, rows: PyTree, center: PyTree, radius: Any) -> PyTree:
        return _as_sent(clipped_about(rows, center, radius, iterations, axis_name, weights), rows)

    center = jax.tree.map(jnp.asarray, center)
    about = (center, jnp.asarray(radius))
    return by_weight(partial(clipped, None), clipped, weights, updates, *about)


def _as_sent(out: PyTree, updates: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, sent: leaf.astype(sent.dtype), out, updates)
