"""A context of float64, whatever the setting of the process."""

import contextlib

import jax
import jax.experimental


def float64() -> contextlib.AbstractContextManager:
    """A context of 64 bits; its location differs between JAX 0.7.2 and JAX 0.10."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return getattr(jax.experimental, "enable_x64")()  # noqa: B009  # unknown to newer JAX
