"""Aksel: the average of the updates nearest to the coordinate-wise median."""

from jax import lax

from byzjax import stacked
from byzjax._checks import enough_workers, one_of
from byzjax._compiled import compiled
from byzjax._numerics import order
from byzjax.rules._select import mean_of_lowest, mean_of_selected
from byzjax.stacked import PyTree


@compiled
def aksel(updates: PyTree, *, f: int, mode: str = "mid", axis_name: str | None = None) -> PyTree:
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
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 2f + 1, or the mode is unknown.
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
    detached = lax.stop_gradient(updates)
    distances = stacked.rowwise(order.squares_to_median, detached, axis_name=axis_name)
    if mode == "radius":
        return mean_of_selected(updates, distances <= order.median(distances), distances)
    return mean_of_lowest(updates, distances, (n + 1) // 2 if mode == "mid" else n - f)
