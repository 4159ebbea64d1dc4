"""FoolsGold: workers with similar histories lose weight."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax._checks import positive, rows_of_params, static_int
from byzjax._compiled import taught
from byzjax._senders import rows_of, senders_of, with_rows
from byzjax.memory._state import added, finite_rows, nothing, only
from byzjax.stacked import PyTree


class HistoryState(NamedTuple):
    """State of `foolsgold`.

    Attributes:
      history: the sum of each worker's updates; stacked.
    """

    history: PyTree


@taught
def foolsgold(
    num_workers: int, *, confidence: float = 1.0, divide: bool = True, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Weighted mean that distrusts workers whose histories point the same way.

    With the sum h_i of all updates of worker i, s_ij the cosine of h_i and h_j for i != j and 0
    for i = j, and v_i = max_j s_ij,

    $$ s_{ij} \leftarrow s_{ij} \frac{v_i}{v_j} \text{ where } v_i < v_j, \qquad
       a_i = 1 - \max_j s_{ij}, \qquad \hat a_i = \frac{a_i}{\max_k a_k} $$

    $$ w_i = \Bigl[ \kappa \Bigl( \ln \frac{\hat a_i}{1 - \hat a_i} + \frac12 \Bigr)
       \Bigr]_0^1, \qquad F = \frac{\sum_i w_i x_i}{\sum_i w_i} $$

    The paper sums w_i x_i without dividing (`divide=False`), and may restrict the cosines to
    relevant features; here they are over all coordinates. Rows that are not finite have weight 0
    and do not enter the history. If all weights are 0, as when all workers always sent the same,
    the result is 0.

    Requirement: n >= 1. Breakdown: none proved; it targets sybils that send similar updates, and
    fails against a single attacker. Promise: finite. Cost: O(n^2 d), and O(nd) of memory.

    Args:
      num_workers: n, a Python int. If an update has fewer rows, the extra argument `senders`,
        `int32[k]`, names their workers; they are judged among themselves, and the state of absent
        workers does not change.
      confidence: kappa; may be traced.
      divide: divide by the sum of the weights.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      A transformation from stacked updates `[n, ...]` to one update `[...]`.

    Raises:
      ValueError: confidence is not positive; at an update, the updates are not those of n workers.
      TypeError: num_workers is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> tx = byzjax.foolsgold(4)
      >>> updates = jnp.array([[1.0, 0.0], [0.0, 1.0], [-5.0, -5.0], [-5.0, -5.0]])
      >>> tx.update(updates, tx.init(jnp.zeros(2)))[0]
      Array([0.5, 0.5], dtype=float32)

    Reference: Fung, Yoon and Beschastnikh, Mitigating Sybils in Federated Learning Poisoning, 2018
    (arXiv:1808.04866), Algorithm 1.
    """
    n = static_int("num_workers", num_workers, at_least=1)
    positive("confidence", confidence)

    def init(params: PyTree) -> HistoryState:
        return HistoryState(nothing(params, n))

    def update(updates, state, params=None, **extra_args):
        if not jax.tree.leaves(updates):
            return updates, state
        rows_of_params("foolsgold", updates, params)
        senders = senders_of("foolsgold", updates, n, extra_args)
        finite = finite_rows(updates, axis_name)
        history = added(rows_of(senders, state.history), only(updates, finite))
        zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), history)
        weights = _foolsgold_weights(stacked.gram(history, zero, axis_name=axis_name), confidence)
        weights = jnp.where(finite, weights, 0)
        if divide:
            total = jnp.sum(weights)
            weights = weights / jnp.where(total > 0, total, 1)
        history = with_rows(senders, state.history, history)
        return stacked.weighted_sum(updates, weights), HistoryState(history)

    return optax.GradientTransformationExtraArgs(init, update)


def _foolsgold_weights(gram: jax.Array, confidence: float) -> jax.Array:
    squares = jnp.diagonal(gram)
    known = jnp.isfinite(squares) & (squares > 0)
    units = jnp.where(known, jax.lax.rsqrt(jnp.where(known, squares, 1)), 0)
    off_diagonal = ~jnp.eye(len(squares), dtype=bool)
    cosines = jnp.where(off_diagonal & jnp.isfinite(gram), units[:, None] * gram * units[None], 0)
    most = jnp.max(cosines, axis=1)
    pardoned = most[:, None] < most[None]
    factors = jnp.where(pardoned, most[:, None] / jnp.where(pardoned, most[None], 1), 1)
    apart = jnp.clip(1 - jnp.max(cosines * factors, axis=1), 0, 1)
    most_apart = jnp.max(apart)
    share = apart / jnp.where(most_apart > 0, most_apart, 1)
    inner = (share > 0) & (share < 1)
    odds = jnp.where(inner, share / jnp.where(inner, 1 - share, 1), 1)
    logit = confidence * (jnp.log(odds) + 0.5)
    weights = jnp.where(inner, jnp.clip(logit, 0, 1), jnp.where(share >= 1, 1, 0))
    return weights.astype(gram.dtype)
