"""What protocols with several servers share: their checks, their states, and who of them lies."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from byzjax._checks import static_int
from byzjax.protocols import _workers
from byzjax.stacked import PyTree


def counts(**given: int) -> list[int]:
    """Numbers of servers and workers, those of faults (`f_...`) from 0 and the others from 1."""
    return [
        static_int(name, value, at_least=0 if name.startswith("f_") else 1)
        for name, value in given.items()
    ]


def supported(
    *stages: optax.GradientTransformation | None,
) -> list[optax.GradientTransformationExtraArgs]:
    """The stages, None as the identity, each accepting extra arguments."""
    return [optax.with_extra_args_support(stage or optax.identity()) for stage in stages]


def liars(byzantine_servers: jax.Array | None, num_servers: int) -> jax.Array:
    """`byzantine_servers` as `bool[num_servers]`, nobody for None."""
    if byzantine_servers is None:
        return jnp.zeros(num_servers, bool)
    mask = jnp.asarray(byzantine_servers)
    if mask.shape != (num_servers,) or mask.dtype != jnp.bool_:
        raise ValueError(
            f"byzantine_servers must be bool[n] with n={num_servers}; "
            f"got {mask.dtype}{list(mask.shape)}."
        )
    return mask


def honest_models(num_servers: int, f_servers: int, mask: jax.Array) -> Callable:
    """`models(state)`: what the first servers hold that do not lie, `[num_servers - f_servers]`."""

    def models(state) -> PyTree:
        return _workers.honest_rows(state.params, mask, num_servers - f_servers)

    return models
