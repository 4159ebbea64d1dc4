"""The last models of a server, of which a reader gets each coordinate at an age of its own."""

import jax
import jax.numpy as jnp

from byzjax.protocols._workers import copies
from byzjax.stacked import PyTree


def begun(params: PyTree, max_age: int) -> PyTree:
    """The history before the first step, stacked `[max_age + 1, ...]`; None without ages."""
    return copies(params, max_age + 1) if max_age else None


def pushed(history: PyTree, params: PyTree, moved: jax.Array) -> PyTree:
    """The history with one more model, the newest first, if the server took a step."""

    def push(leaf: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(moved, jnp.concatenate([new[None], leaf[:-1]]), leaf)

    if history is None:
        return None
    return jax.tree.map(push, history, params)


def read(history: PyTree, params: PyTree, key: jax.Array) -> PyTree:
    """The model that a worker reads: each coordinate of a uniform age; the newest without ages."""
    if history is None:
        return params
    leaves, structure = jax.tree.flatten(history)

    def mixed(leaf: jax.Array, its_key: jax.Array) -> jax.Array:
        age = jax.random.randint(its_key, leaf.shape[1:], 0, leaf.shape[0])
        return jnp.take_along_axis(leaf, age[None], axis=0)[0]

    return jax.tree.unflatten(structure, map(mixed, leaves, jax.random.split(key, len(leaves))))
