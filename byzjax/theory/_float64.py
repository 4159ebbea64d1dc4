"""Searches run in float64, whatever the process is set to."""

import jax


def float64():
    """A context of 64 bits; JAX 0.7.2 has it elsewhere than JAX 0.10."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64()
