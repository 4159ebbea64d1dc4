"""Damping of stale gradients by the asynchronous server: functions of the staleness."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from byzjax._checks import not_negative


def constant_damping() -> Callable:
    r"""Ignores the staleness.

    $$ \Lambda(\tau) = 1 $$

    Returns:
      A function of the staleness tau, `int32`, for `asynchronous`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import protocols
      >>> protocols.constant_damping()(jnp.array([0, 1, 9]))
      Array([1., 1., 1.], dtype=float32)
    """
    return lambda staleness: jnp.ones_like(staleness, jnp.float32)


def inverse_damping() -> Callable:
    r"""Weights a gradient by the inverse of 1 plus its staleness, the server steps since its model.

    $$ \Lambda(\tau) = \frac{1}{1 + \tau} $$

    Returns:
      A function of the staleness tau, `int32`, for `asynchronous`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import protocols
      >>> protocols.inverse_damping()(jnp.array([0, 1, 9]))
      Array([1. , 0.5, 0.1], dtype=float32)

    Reference: Damaskinos, El Mhamdi, Guerraoui, Patra and Taziki, Asynchronous Byzantine Machine
    Learning (the case of SGD), ICML 2018 (arXiv:1802.07928).
    """
    return lambda staleness: 1 / (1 + staleness.astype(jnp.float32))


def exponential_damping(alpha: float | jax.Array = 0.2) -> Callable:
    r"""Weights a gradient by a factor that decays exponentially with its staleness.

    $$ \Lambda(\tau) = e^{-\alpha \tau} $$

    Args:
      alpha: at least 0; may be traced.

    Returns:
      A function of the staleness tau, `int32`, for `asynchronous`.

    Raises:
      ValueError: alpha is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import protocols
      >>> protocols.exponential_damping(0.5)(jnp.array([0, 1, 2]))
      Array([1.        , 0.60653067, 0.36787945], dtype=float32)

    Reference: Damaskinos, El Mhamdi, Guerraoui, Patra and Taziki, Asynchronous Byzantine Machine
    Learning (the case of SGD), ICML 2018 (arXiv:1802.07928).
    """
    not_negative("alpha", alpha)
    return lambda staleness: jnp.exp(-alpha * staleness.astype(jnp.float32))
