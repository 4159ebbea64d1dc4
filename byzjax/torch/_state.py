"""States of aggregators as dicts of tensors."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from byzjax import _mistakes
from byzjax._numerics.arrays import copied
from byzjax.torch._tensors import array_of, is_tensor, tensor_of


def saved(states: Any) -> dict[str, Any]:
    """The leaves of the states by their paths, as tensors that are copies."""
    named = jax.tree_util.tree_leaves_with_path(states)
    return {jax.tree_util.keystr(path): tensor_of(_plain(leaf)).clone() for path, leaf in named}


def restored(states: Any, tensors: Mapping[str, Any]) -> Any:
    """The states with these values; raises if names, shapes or dtypes differ."""
    named, structure = jax.tree_util.tree_flatten_with_path(states)
    names = [jax.tree_util.keystr(path) for path, _ in named]
    odd = sorted(set(names) ^ set(tensors))
    if odd:
        whose = "the state lacks" if odd[0] in names else "the aggregator has no"
        raise ValueError(f"Aggregator: {whose} {odd[0]}; it is that of another rule or mixing.")
    leaves = []
    for name, (_, leaf) in zip(names, named):
        tensor, plain = tensors[name], _plain(leaf)
        if not is_tensor(tensor) or tuple(tensor.shape) != plain.shape:
            got = tuple(tensor.shape) if is_tensor(tensor) else _mistakes.shown(tensor)
            raise ValueError(
                f"Aggregator: {name} of the state has shape {got}; expected {plain.shape}."
            )
        array = copied(array_of(tensor).astype(plain.dtype))
        leaves.append(_like(leaf, array))
    return jax.tree.unflatten(structure, leaves)


def check_same(states: Any, expected: Any) -> None:
    """Raises if the states are not those of updates of the present shapes and dtypes."""
    ours, theirs = jax.tree.leaves(states), jax.tree.leaves(expected)
    for own, other in zip(ours, theirs):
        if own.shape != other.shape or own.dtype != other.dtype:
            raise ValueError(
                "Aggregator: the updates differ in shape or dtype from those that it remembers "
                f"({own.dtype}{list(own.shape)}, now {other.dtype}{list(other.shape)}): write "
                "aggregator.reset()."
            )


def arrays_of(states: Any) -> list[jax.Array]:
    """The arrays of the states, without keys."""
    return [leaf for leaf in jax.tree.leaves(states) if not _is_key(leaf)]


def _is_key(leaf: jax.Array) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> jax.Array:
    """Keys as int32, which PyTorch can save and load everywhere; else the array itself."""
    leaf = jnp.asarray(leaf)
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.uint32:
        leaf = jax.lax.bitcast_convert_type(leaf, jnp.int32)
    return leaf


def _like(leaf: Any, plain: jax.Array) -> jax.Array:
    """The inverse of `_plain`, for a leaf of this kind."""
    if leaf.dtype == jnp.uint32 or _is_key(leaf):
        plain = jax.lax.bitcast_convert_type(plain, jnp.uint32)
    if _is_key(leaf):
        return jax.random.wrap_key_data(plain, impl=jax.random.key_impl(leaf))
    return plain
