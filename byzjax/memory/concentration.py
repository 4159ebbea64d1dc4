"""ByzantineSGD's filter: drops workers whose sums move away from the others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax._checks import one_of, positive, rows_of_params, static_int
from byzjax._compiled import taught
from byzjax._numerics import order
from byzjax._numerics.arrays import copied
from byzjax._senders import rows_of, senders_of, with_rows
from byzjax.memory._state import added, dtype_of_sums, finite_rows, nothing, to_vector_median
from byzjax.stacked import PyTree


class ConcentrationState(NamedTuple):
    """State of `concentration_filter`.

    Attributes:
      start: w_1, the initial parameters.
      products: `[n]`, A_i.
      sums: B_i; stacked.
      good: `bool[n]`, the workers that have never been dropped.
    """

    start: PyTree
    products: jax.Array
    sums: PyTree
    good: jax.Array


@taught
def concentration_filter(
    num_workers: int,
    *,
    deviation: float,
    diameter: float,
    steps: int,
    delta: float = 0.1,
    divide_by: str = "workers",
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Mean of the workers whose gradients have always stayed within statistical bounds.

    In step k, at parameters w_k, for each worker

    $$ A_i \leftarrow A_i + \langle x_i, w_k - w_1 \rangle, \qquad B_i \leftarrow B_i + x_i $$

    and a worker stays good as long as

    $$ |A_i - A_{\text{med}}| \le T_A, \quad \|B_i - B_{\text{med}}\| \le T_B, \quad
       \|x_i - x_{\text{med}}\| \le 4 V, \qquad
       T_A = 4 D V \sqrt{K \ln(16 n K / \delta)}, \quad
       T_B = 4 V \sqrt{K \ln(16 n K / \delta)} $$

    where A_med is the median, B_med the first B_i with more than n / 2 of all within T_B, and x_med
    likewise within 2 V (if there is none, the one with the most). The result is the sum over the
    good workers divided by n, as in the paper, or by their number. A row that is not finite drops
    its worker permanently. If no worker is good the result is NaN: then the assumption
    `|x_i - gradient| <= V` does not hold.

    Parameters are required: `tx.update(updates, state, params)`.

    Requirement: n >= 2f + 1 for f attackers. Breakdown: n > 2f. Promise: finite, if honest workers
    satisfy the assumption. Cost: O(n^2 d), and O(nd) of memory.

    Args:
      num_workers: n, a Python int. If an update has fewer rows, the extra argument `senders`,
        `int32[k]`, names their workers; they are judged among themselves, and the state of absent
        workers does not change.
      deviation: V, how far an honest gradient may be from the true one; may be traced.
      diameter: D, how far the parameters may move; may be traced.
      steps: K, the planned number of steps, a Python int.
      delta: accepted probability of dropping an honest worker.
      divide_by: `"workers"` (n) or `"good"` (their number).
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      A transformation from stacked updates `[n, ...]` to one update `[...]`.

    Raises:
      ValueError: a hyperparameter is out of range; at an update, the updates are not those of n
        workers, or params are missing.
      TypeError: num_workers or steps is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> limits = {"deviation": 1.0, "diameter": 1.0, "steps": 9}
      >>> tx = byzjax.concentration_filter(3, **limits, divide_by="good")
      >>> params = jnp.zeros(1)
      >>> tx.update(jnp.array([[1.0], [2.0], [90.0]]), tx.init(params), params)[0]
      Array([1.5], dtype=float32)

    Reference: Alistarh, Allen-Zhu and Li, Byzantine Stochastic Gradient Descent, NeurIPS 2018
    (arXiv:1803.08917), Algorithm 1.
    """
    n = static_int("num_workers", num_workers, at_least=1)
    steps = static_int("steps", steps, at_least=1)
    positive("deviation", deviation)
    positive("diameter", diameter)
    one_of("divide_by", divide_by, ("workers", "good"))
    if isinstance(delta, int | float) and not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1; got delta={delta}.")
    spread = 4 * jnp.sqrt(steps * jnp.log(16 * n * steps / delta))

    def init(params: PyTree) -> ConcentrationState:
        sums = nothing(params, n)
        products = jnp.zeros(n, dtype_of_sums(sums))
        return ConcentrationState(copied(params), products, sums, jnp.ones(n, bool))

    def update(updates, state, params=None, **extra_args):
        if not jax.tree.leaves(updates):
            return updates, state
        if params is None:
            raise ValueError(
                "concentration_filter needs params; write tx.update(updates, state, params)."
            )
        rows_of_params("concentration_filter", updates, params)
        senders = senders_of("concentration_filter", updates, n, extra_args)
        finite = finite_rows(updates, axis_name)
        before = rows_of(senders, (state.products, state.sums, state.good))
        moved = jax.tree.map(lambda w, start: jnp.asarray(w) - start, params, state.start)
        products = stacked.inner_products(updates, moved, axis_name=axis_name)
        products = before[0] + products.astype(state.products.dtype)
        sums = added(before[1], updates)
        middle = order.median(products[:, None])[0]
        reach_of_sums = jnp.asarray(deviation * spread, products.dtype)
        good = before[2] & finite & (jnp.abs(products - middle) <= diameter * reach_of_sums)
        all_rows = jnp.ones(len(good), bool)
        for rows, radius, reach in (
            (sums, reach_of_sums, reach_of_sums),
            (updates, 2 * deviation, 4 * deviation),
        ):
            distances = stacked.pairwise_squared_distances(rows, axis_name=axis_name)
            good = good & (to_vector_median(distances, all_rows, radius) <= reach**2)
        count = jnp.sum(good, dtype=jnp.int32)
        total = len(good) if divide_by == "workers" else count.astype(products.dtype)
        weights = good.astype(products.dtype) / total
        weights = jnp.where(count > 0, weights, jnp.nan)
        after = with_rows(senders, (state.products, state.sums, state.good), (products, sums, good))
        return stacked.weighted_sum(updates, weights), ConcentrationState(state.start, *after)

    return optax.GradientTransformationExtraArgs(init, update)
