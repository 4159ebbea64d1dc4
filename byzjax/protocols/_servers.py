"""Shared by protocols with several servers: checks, stages, and the mask of Byzantine servers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from byzjax._checks import static_int
from byzjax.protocols import _workers
from byzjax.stacked import PyTree


def counts(**given: int) -> list[int]:
    """The given counts, checked: numbers of faults (`f_...`) at least 0, the others at least 1."""
    return [
        static_int(name, value, at_least=0 if name.startswith("f_") else 1)
        for name, value in given.items()
    ]


def liars(byzantine_servers: jax.Array | None, num_servers: int) -> jax.Array:
    """`byzantine_servers` as `bool[num_servers]`; all False for None."""
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
    """`models(state)`: models of the first honest servers, `[num_servers - f_servers, ...]`."""

    def models(state) -> PyTree:
        return _workers.honest_rows(state.params, mask, num_servers - f_servers)

    return models
