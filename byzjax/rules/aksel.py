"""Aksel: the average of the updates nearest to the coordinate-wise median."""

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import enough_workers, one_of, weights_of_workers
from byzjax._compiled import compiled
from byzjax._numerics import order
from byzjax.rules._select import mean_of_lowest, mean_of_selected
from byzjax.rules._weights import by_weight, weights_of_lowest
from byzjax.stacked import PyTree


@compiled(weights=weights_of_workers)
def aksel(
    updates: PyTree,
    *,
    f: int,
    mode: str = "mid",
    weights: jax.Array | None = None,
    axis_name: str | None = None,
) -> PyTree:
    r"""Average of the updates nearest to the coordinate-wise median.

    $$ M_j = \operatorname{median}(x_{1j}, \dots, x_{nj}), \qquad s_i = \|x_i - M\|^2, \qquad
       F = \frac{1}{|A|} \sum_{i \in A} x_i $$

    where A holds, by `mode`:

    * `"mid"`: the ceil(n/2) rows with the smallest s_i, ties to the lower index;
    * `"n-f"`: the n - f rows with the smallest s_i, ties to the lower index;
    * `"radius"`: every row with s_i <= median(s_1, ..., s_n), all ties included.

    A row whose distance is not finite has s_i = +inf. If fewer rows are finite than A must hold,
    more than f rows are bad and the result is NaN.

    Requirement: n >= 2f + 1. Breakdown: n > 2f, the best possible.
    Promise: the distance to the honest mean is bounded by the honest diameter times a constant.
    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int; affects the selection only for `"n-f"`.
      mode: `"mid"`, `"n-f"` or `"radius"`.
      weights: `[n]`, data such as sample counts: row i counts as w_i rows, and the numbers f and
        ceil(n/2) as shares of the weight (docs/weights.md). May be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 2f + 1, or the mode is unknown; a weight is
        negative or not finite, or all are 0.
      TypeError: f is not a Python int, or a leaf is not of a float type.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [10.0, -10.0]])
      >>> byzjax.aksel(updates, f=1)
      Array([0.6666667 , 0.33333334], dtype=float32)
      >>> byzjax.aksel(updates, f=1, mode="n-f")
      Array([0.5, 0.5], dtype=float32)

    Reference: Boussetta, El-Mhamdi, Guerraoui, Maurer and Rouault, AKSEL: Fast Byzantine SGD,
    OPODIS 2020 (LIPIcs 184, 8:1-8:16). `"radius"` is the rule as the abstract describes it, "mid"
    and "n-f" are the forms of public implementations; which one the paper names is open.
    """
    n, f = enough_workers("aksel", updates, f)
    one_of("mode", mode, ("mid", "n-f", "radius"))
    k = (n + 1) // 2 if mode == "mid" else n - f
    if weights is not None:
        return by_weight(
            lambda x: aksel(x, f=f, mode=mode, axis_name=axis_name),
            lambda w, x: _weighted(x, w, None if mode == "radius" else k / n, axis_name),
            *(weights, updates),
        )
    detached = lax.stop_gradient(updates)
    distances = stacked.rowwise(order.squares_to_median, detached, axis_name=axis_name)
    if mode == "radius":
        return mean_of_selected(updates, distances <= order.median(distances), distances)
    return mean_of_lowest(updates, distances, k)


def _weighted(
    updates: PyTree, weights: jax.Array, share: float | None, axis_name: str | None
) -> PyTree:
    detached, constant = lax.stop_gradient((updates, weights))
    distances = stacked.rowwise(
        lambda x: order.squares_to_weighted_median(x, constant), detached, axis_name=axis_name
    )
    if share is not None:
        return stacked.weighted_mean(updates, weights_of_lowest(distances, weights, share))
    radius = order.weighted_median(distances[:, None], constant)[0]
    kept = jnp.where(distances <= radius, weights, 0)
    return stacked.weighted_mean(updates, jnp.where(jnp.isinf(radius), jnp.nan, kept))
