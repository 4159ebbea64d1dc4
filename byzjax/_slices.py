"""Trees cut into slices of their coordinates, one for each device, and put together again.

Along a mesh axis of P devices a leaf of c coordinates is padded with zeros to P m, m >= 1, and cut
into P slices of m coordinates. What n workers padded alike has no distance and no spread, so that a
rule does not see it. Everything here maps lists of leaves to lists of leaves.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Slices of so many numbers travel by themselves, and are not copied for it; those below share
# messages, one for each dtype, since each message costs time to compile and to begin.
OWN_MESSAGE = 2**18

Leaves = Sequence[jax.Array]
Shapes = Sequence[tuple[int, ...]]


def devices(axis_name: Any) -> int:
    """P, a Python int."""
    return lax.psum(1, axis_name)


def exchanged(
    rows: Leaves, axis_name: Any, dims: Sequence[int | None] | None = None
) -> list[jax.Array]:
    """This device's slices of the updates of all workers: leaves `[k, ...]` become `[P k, m]`.

    Where `dims` names a dimension of `[k, ...]`, slices are of that dimension, which P divides.
    """
    dims = dims or [None] * len(rows)
    blocks = [_blocks(leaf, axis_name, dim) for leaf, dim in zip(rows, dims)]
    received = _together(lambda x: _all_to_all(x, axis_name), blocks)
    return [x.reshape(-1, x.shape[-1]) for x in received]


def returned(slices: Leaves, shapes: Shapes, axis_name: Any) -> list[jax.Array]:
    """The inverse of `exchanged`, for updates of these shapes: to every device its own rows."""
    p = devices(axis_name)
    blocks = [leaf.reshape(p, -1, leaf.shape[1]) for leaf in slices]
    received = _together(lambda x: _all_to_all(x, axis_name), blocks)
    return [_joined(x, shape) for x, shape in zip(received, shapes, strict=True)]


def own(rows: Leaves, axis_name: Any) -> list[jax.Array]:
    """This device's slices of rows that all devices have: leaves `[k, ...]` become `[k, m]`."""
    place = lax.axis_index(axis_name)
    blocks = [_blocks(leaf, axis_name) for leaf in rows]
    return [lax.dynamic_index_in_dim(x, place, 0, keepdims=False) for x in blocks]


def gathered(slices: Leaves, shapes: Shapes, axis_name: Any) -> list[jax.Array]:
    """The inverse of `own`, for one update `[m]` in each leaf: they become of these shapes."""
    received = _together(lambda x: _all_gather(x, axis_name), slices)
    return [_joined(x[:, None], shape)[0] for x, shape in zip(received, shapes, strict=True)]


def _blocks(rows: jax.Array, axis_name: Any, dim: int | None = None) -> jax.Array:
    """`[k, ...]` as `[P, k, m]`: each worker's slices, by device."""
    p, k = devices(axis_name), rows.shape[0]
    if dim is not None:
        cut = rows.reshape(*rows.shape[:dim], p, -1, *rows.shape[dim + 1 :])
        return jnp.moveaxis(cut, dim, 0).reshape(p, k, -1)
    flat = rows.reshape(k, -1)
    m = max(1, -(-flat.shape[1] // p))
    padded = jnp.pad(flat, ((0, 0), (0, p * m - flat.shape[1])))
    return padded.reshape(k, p, m).swapaxes(0, 1)


def _joined(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse: `[P, k, m]` as `[k, *shape]`."""
    k = blocks.shape[1]
    return blocks.swapaxes(0, 1).reshape(k, -1)[:, : math.prod(shape)].reshape(k, *shape)


def _together(collective: Callable, parts: Leaves) -> list[jax.Array]:
    """A collective of every part `[..., m]`, in few messages."""
    groups: dict[Any, list[int]] = {}
    for i, part in enumerate(parts):
        groups.setdefault(i if part.size >= OWN_MESSAGE else part.dtype.name, []).append(i)
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
    """`[P, ...]`: every device's part, which `jax.shard_map` then knows to be the same on all."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if not set(names) <= set(jax.sharding.get_abstract_mesh().manual_axes):
        return lax.all_gather(part, axis_name)  # in pmap, and in vmap with an axis_name
    if hasattr(lax, "all_gather_invariant"):  # JAX 0.7
        return lax.all_gather_invariant(part, axis_name)
    if jax.__version_info__ >= (0, 10):
        return lax.all_gather(part, axis_name, to="invarying")
    # JAX 0.8 and 0.9 have no public gather of this kind; a sum sends twice as much.
    here = jnp.arange(devices(axis_name)) == lax.axis_index(axis_name)
    here = here.reshape(-1, *[1] * part.ndim)
    return lax.psum(jnp.where(here, part[None], jnp.zeros_like(part)[None]), axis_name)
