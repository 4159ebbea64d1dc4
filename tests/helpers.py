"""Shared helpers of the tests: comparisons, meshes, compiled functions, a small regression."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType


def close(actual, expected, scale=1.0, eps=2e-6):
    """Equal up to `eps`, relative to each number or to `scale`."""
    np.testing.assert_allclose(actual, expected, rtol=eps, atol=eps * scale)


def near(actual, expected, eps=1e-6):
    """Trees that are finite and equal up to `eps` times the norm of the whole tree."""
    actual, expected = flat(actual), flat(expected)
    assert np.isfinite(expected).all()
    assert np.linalg.norm(actual - expected) <= eps * np.linalg.norm(expected)


def flat(tree):
    """All numbers of a tree as one vector in float64."""
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def first(tree):
    """The first worker's update."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def mesh_of(**axes):
    """A mesh of CPU devices with these axes and sizes."""
    devices, count = jax.devices("cpu"), math.prod(axes.values())
    assert len(devices) >= count, "tests/conftest.py asks for 8; was jax imported before it?"
    kinds = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), devices=devices[:count], axis_types=kinds
    )


@functools.cache
def compiled(function: Callable, **given) -> Callable:
    """`jax.jit` of a function with hyperparameters; equal ones share one compiled function.

    Called operation by operation, a rule compiles each operation separately: krum of 12 rows takes
    a second instead of a fifth.
    """
    return jax.jit(functools.partial(function, **given))


# --- a linear regression, for protocols ----------------------------------------------------------


def regression_loss(params, batch, key=None):
    """Mean squared error of a linear model with `w` and `b`; draws no random numbers."""
    del key
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


def regression_batch(seed, n, size=4, dim=3, noise=0.1):
    """Samples of n workers, from the weights 1, 2, ..., `dim`, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, size, dim)).astype(np.float32)
    y = x @ np.arange(1.0, dim + 1) + noise * rng.normal(size=(n, size))
    return {"workers": {"x": x, "y": y.astype(np.float32)}}
