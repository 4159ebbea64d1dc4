"""Cuts trees into slices of their coordinates, one for each device, and reassembles them.

Along a mesh axis of P devices a leaf of c coordinates is padded with zeros to P m, m >= 1, and cut
into P slices of m coordinates. The padding is the same for all n workers, so it adds no distance
and no spread; only `sign_guard` counts such zeros, `gradient_splitting` puts them into groups, and
`spectral_filter` may draw them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics import thresholds
from byzjax.stacked import PyTree, num_devices


def exchanged(rows: PyTree, axis_name: Any, dims: Sequence[int | None] | None = None) -> PyTree:
    """This device's slices of the updates of all workers: leaves `[k, ...]` become `[P k, m]`.

    Where `dims` gives a dimension of a leaf `[k, ...]`, which P divides, it is the one sliced.
    """
    leaves, structure = jax.tree.flatten(rows)
    dims = dims or [None] * len(leaves)
    blocks = [_blocks(leaf, axis_name, dim) for leaf, dim in zip(leaves, dims)]
    received = _together(lambda x: _all_to_all(x, axis_name), blocks)
    return jax.tree.unflatten(structure, [x.reshape(-1, x.shape[-1]) for x in received])


def returned(slices: PyTree, like: PyTree, axis_name: Any) -> PyTree:
    """The inverse of `exchanged`: every device gets its own rows, of the shapes of `like`."""
    p = num_devices(axis_name)
    blocks = [leaf.reshape(p, -1, leaf.shape[1]) for leaf in jax.tree.leaves(slices)]
    received = _together(lambda x: _all_to_all(x, axis_name), blocks)
    likes, structure = jax.tree.flatten(like)
    whole = [_joined(x, one.shape) for x, one in zip(received, likes, strict=True)]
    return jax.tree.unflatten(structure, whole)


def own(rows: PyTree, axis_name: Any) -> PyTree:
    """This device's slices of rows that all devices have: leaves `[k, ...]` become `[k, m]`."""
    place = lax.axis_index(axis_name)

    def of_leaf(leaf: jax.Array) -> jax.Array:
        return lax.dynamic_index_in_dim(_blocks(leaf, axis_name), place, 0, keepdims=False)

    return jax.tree.map(of_leaf, rows)


def gathered(slices: PyTree, like: PyTree, axis_name: Any) -> PyTree:
    """One update, with the shapes of `like`, on all devices, from each device's slices `[m]`."""
    received = _together(lambda x: _all_gather(x, axis_name), jax.tree.leaves(slices))
    likes, structure = jax.tree.flatten(like)
    whole = [_joined(x[:, None], one.shape)[0] for x, one in zip(received, likes, strict=True)]
    return jax.tree.unflatten(structure, whole)


def _blocks(rows: jax.Array, axis_name: Any, dim: int | None = None) -> jax.Array:
    """`[k, ...]` as `[P, k, m]`: each worker's slices, by device."""
    p, k = num_devices(axis_name), rows.shape[0]
    if dim is not None:
        cut = rows.reshape(*rows.shape[:dim], p, -1, *rows.shape[dim + 1 :])
        return jnp.moveaxis(cut, dim, 0).reshape(p, k, -1)
    flat = rows.reshape(k, -1)
    m = max(1, -(-flat.shape[1] // p))
    padded = jnp.pad(flat, ((0, 0), (0, p * m - flat.shape[1])))
    return padded.reshape(k, p, m).swapaxes(0, 1)


def _joined(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `_blocks`: `[P, k, m]` as `[k, *shape]`."""
    k = blocks.shape[1]
    return blocks.swapaxes(0, 1).reshape(k, -1)[:, : math.prod(shape)].reshape(k, *shape)


def _together(collective: Callable, parts: list[jax.Array]) -> list[jax.Array]:
    """Applies a collective to every part `[..., m]`, in few messages."""
    groups: dict[Any, list[int]] = {}
    for i, part in enumerate(parts):
        groups.setdefault(i if part.size >= thresholds.OWN_MESSAGE else part.dtype.name, []).append(
            i
        )
    out: list[Any] = [None] * len(parts)
    for group in groups.values():
        several = [parts[i] for i in group]
        received = collective(several[0] if len(group) == 1 else jnp.concatenate(several, -1))
        start = 0
        for i in group:
            stop = start + parts[i].shape[-1]
            out[i] = lax.slice_in_dim(received, start, stop, axis=-1)
            start = stop
    return out


def _all_to_all(blocks: jax.Array, axis_name: Any) -> jax.Array:
    """`[P, ...]` of every device: block j of device i becomes block i of device j."""
    return lax.all_to_all(blocks, axis_name, 0, 0, tiled=True)


def _all_gather(part: jax.Array, axis_name: Any) -> jax.Array:
    """`[P, ...]`: every device's part; `jax.shard_map` knows the result to be the same on all."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if not set(names) <= set(jax.sharding.get_abstract_mesh().manual_axes):
        return lax.all_gather(part, axis_name)  # in pmap, and in vmap with an axis_name
    if hasattr(lax, "all_gather_invariant"):  # JAX 0.7
        return lax.all_gather_invariant(part, axis_name)
    if jax.__version_info__ >= (0, 10):
        return lax.all_gather(part, axis_name, to="invarying")
    # JAX 0.8 and 0.9 have no public gather of this kind; a sum sends twice as much.
    here = jnp.arange(num_devices(axis_name)) == lax.axis_index(axis_name)
    here = here.reshape(-1, *[1] * part.ndim)
    return lax.psum(jnp.where(here, part[None], jnp.zeros_like(part)[None]), axis_name)
