"""Zeno++: a judge that compares gradients with a gradient of the server's own data."""

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._checks import not_negative, positive
from byzjax.protocols import _workers
from byzjax.protocols.judges import Arrival, Judge, _norm


def zeno_plus_plus(
    *,
    learning_rate: float | jax.Array,
    rho: float | jax.Array = 0.0,
    epsilon: float | jax.Array = 0.0,
) -> Judge:
    r"""Rejects a gradient that points away from a trusted one; rescales others to its norm.

    With the trusted gradient g_0 at the server's model, and g rescaled to its norm,
    $\tilde g = \|g_0\| g / \|g\|$, the gradient is accepted, as $\tilde g$, if

    $$ \gamma \langle g_0, \tilde g \rangle - \rho \|\tilde g\|^2 + \gamma \epsilon \ge 0. $$

    A gradient that is 0 or non-finite is rejected. The paper recomputes g_0 only occasionally; here
    it is the gradient of each step's `trusted` batch.

    Requirement: n >= 1. Breakdown: any number of Byzantine workers, if `trusted` is right. Cost:
    O(d).

    Args:
      learning_rate: gamma, the step size; may be traced.
      rho: weight of the squared norm; may be traced.
      epsilon: tolerated increase, in the unit of a squared gradient; may be traced.

    Returns:
      A `Judge` for `asynchronous`.

    Raises:
      ValueError: learning_rate is not positive, or rho or epsilon is negative.
      TypeError: a step has no trusted batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax.protocols import Arrival, zeno_plus_plus
      >>> judge, x = zeno_plus_plus(learning_rate=0.1), jnp.zeros(2)
      >>> def weight(gradient):
      ...     trusted = jnp.array([1.0, 0.0])
      ...     arrival = Arrival(jnp.array(gradient), jnp.int32(0), x, x, jnp.int32(0), trusted)
      ...     return float(judge.judge(judge.init(x, 1), arrival)[0])
      >>> weight([3.0, 4.0]), weight([-3.0, 4.0])
      (0.20000000298023224, 0.0)

    Reference: Xie, Koyejo and Gupta, Zeno++: Robust Fully Asynchronous SGD, ICML 2020
    (arXiv:1903.07020).
    """
    positive("learning_rate", learning_rate)
    not_negative("rho", rho)
    not_negative("epsilon", epsilon)

    def judge(state: tuple, arrival: Arrival) -> tuple[jax.Array, tuple]:
        if arrival.trusted is None:
            raise TypeError("zeno_plus_plus needs trusted; each step needs a batch of that name.")
        row = _workers.copies(arrival.gradient, 1)
        (product,) = stacked.inner_products(row, arrival.trusted)
        norm, length = _norm(arrival.gradient), _norm(arrival.trusted)
        factor = length / norm
        score = learning_rate * (factor * product.astype(jnp.float32) + epsilon) - rho * length**2
        good = jnp.isfinite(norm) & (norm > 0) & (score >= 0)
        return jnp.where(good, factor, 0).astype(jnp.float32), state

    return Judge(
        lambda num_workers: None, lambda params, n: (), judge, lambda state, arrival: state
    )
