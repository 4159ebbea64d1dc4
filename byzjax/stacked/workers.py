"""Trees with a leading worker axis."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import _mistakes
from byzjax._compiled import compiled
from byzjax._mistakes import keystr
from byzjax._numerics.arrays import sum_dtype

PyTree = Any


def num_workers(updates: PyTree) -> int:
    """The number n of workers: the common length of the leading axis of every leaf.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      n, a Python int.

    Raises:
      ValueError: there is no leaf, a leaf is a scalar, or two leaves disagree.

    Example:
      >>> import jax.numpy as jnp
      >>> num_workers({"w": jnp.zeros((5, 3, 2)), "b": jnp.zeros((5, 2))})
      5
    """
    leaves = jax.tree.leaves(updates)
    if _mistakes.Float64.unsaid:
        _mistakes.notice_float64(updates)
    shapes = [getattr(leaf, "shape", ()) for leaf in leaves]
    if not leaves or not shapes[0] or any(shape[:1] != shapes[0][:1] for shape in shapes):
        raise _not_stacked(updates)
    if shapes[0][0] == 0:
        raise _not_stacked(updates)
    return shapes[0][0]


def _not_stacked(updates: PyTree) -> Exception:
    """The error for a tree whose leaves have no common leading axis."""
    expected = "stacked updates have leaves of shape [n, ...]"
    if wrong := _mistakes.no_array("updates", updates):
        return wrong
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    if not leaves:
        return ValueError(f"updates have no leaves; got {_mistakes.shown(updates)}: {expected}.")
    named = [(keystr(path) or "the array", jnp.shape(leaf)) for path, leaf in leaves]
    if isinstance(updates, list | tuple) and len(updates) > 1:
        if all(not shape for _, shape in named):
            return ValueError(
                f"updates are a {type(updates).__name__} of numbers, each read as a parameter; "
                "write jnp.asarray(updates), one row per worker."
            )
        if len({jax.tree.structure(part) for part in updates}) == 1:
            return ValueError(
                f"updates are a {type(updates).__name__} of {len(updates)} trees, which disagree "
                "on the number of workers; for one update per worker write byzjax.stack(updates)."
            )
    for name, shape in named:
        if not shape:
            return ValueError(
                f"no worker axis: {name} is a scalar; {expected}, as from "
                "jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batches)."
            )
    first, shape = named[0]
    if all(other[0] == 0 for _, other in named):
        return ValueError(f"no workers: {first} has shape {shape}; {expected} with n >= 1.")
    name, other = next((name, other) for name, other in named if other[0] != shape[0])
    text = f"leaves disagree on n: {first} has shape {shape}, {name} {other}; {expected}"
    gradients = "as from jax.vmap(jax.grad(loss), in_axes=(None, 0))"
    return ValueError(_mistakes.fitting(f"{text}, {gradients}.", f"{text}."))


def check(updates: PyTree) -> None:
    """Raises if a tree cannot be stacked updates; every rule and attack checks this first.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      None.

    Raises:
      TypeError: a leaf is not of a real float type, or the tree is a list of vectors.

    Example:
      >>> import jax.numpy as jnp
      >>> check({"w": jnp.zeros((3, 2), int)})  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      TypeError: updates must be real floats; ['w'] is int32: write jax.tree.map(lambda g: ...
    """
    if type(updates) in (list, tuple) and len(updates) > 2:
        shapes = {getattr(part, "shape", None) for part in updates}
        if len(shapes) == 1 and len(shape := shapes.pop() or ()) == 1:
            raise TypeError(
                f"a {type(updates).__name__} of {len(updates)} vectors reads as {len(updates)} "
                f"scalar parameters of {shape[0]} workers; for the updates of {len(updates)} "
                "workers write byzjax.stack([...])."
            )
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        dtype = jnp.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            name = keystr(path) or "the array"
            write = 'write updates.astype("float32")'
            if path:
                write = "write jax.tree.map(lambda g: g.astype(jnp.float32), updates)"
            if jnp.issubdtype(dtype, jnp.complexfloating):
                write = "put optax.contrib.split_real_and_imaginary around the transformation"
            raise TypeError(f"updates must be real floats; {name} is {dtype}: {write}.")


def stack(updates: Sequence[PyTree]) -> PyTree:
    """Stacks one update per worker, all trees of the same structure.

    Args:
      updates: one update per worker; leaves are JAX or NumPy arrays, or anything that
        `jnp.asarray` accepts, such as PyTorch tensors on CPU.

    Returns:
      Stacked updates; every leaf has shape `[n, ...]`. Cost: one copy.

    Raises:
      ValueError: there is no update, or two of them disagree in structure or shape.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> gradients = [jnp.array([0.0, 1.0]), jnp.array([2.0, 3.0]), jnp.array([99.0, -9.0])]
      >>> byzjax.median(byzjax.stack(gradients))
      Array([2., 1.], dtype=float32)
    """
    updates = list(updates)
    if not updates:
        raise ValueError("stack needs one update for each worker; got none.")
    for i, update in enumerate(updates):
        if isinstance(update, str) or not jax.tree.leaves(update):
            raise TypeError(
                f"stack needs a list of updates, one for each worker; got {_mistakes.shown(update)}"
                f" for worker {i}."
            )
    first, structure = jax.tree_util.tree_flatten_with_path(updates[0])
    whole = [jax.tree.leaves(updates[0])]
    for i, update in enumerate(updates[1:], 1):
        leaves, other = jax.tree.flatten(update)
        if other != structure:
            text = "updates disagree in structure: that of worker 0 is"
            raise ValueError(
                _mistakes.fitting(
                    f"{text} {structure}, that of worker {i} is {other}.",
                    f"{text} not that of worker {i}; all need the same keys.",
                )
            )
        for (path, leaf), theirs in zip(first, leaves):
            if jnp.shape(leaf) != jnp.shape(theirs):
                name = jax.tree_util.keystr(path) or "the array"
                raise ValueError(
                    f"updates disagree in shape: {name} of worker 0 has {jnp.shape(leaf)}, that of "
                    f"worker {i} has {jnp.shape(theirs)}."
                )
        whole.append(leaves)
    rows = [jnp.stack([jnp.asarray(leaf) for leaf in leaves]) for leaves in zip(*whole)]
    return jax.tree.unflatten(structure, rows)


@compiled
def take(updates: PyTree, indices: Any) -> PyTree:
    """The updates of some workers, `x[indices]` in every leaf.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      indices: an int gives one update, `int[k]` gives k stacked updates; may be traced.

    Returns:
      The tree with `[n, ...]` replaced by `[...]` or `[k, ...]`. Cost: O(kd).

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> take({"w": jnp.array([[1.0], [2.0], [3.0]])}, jnp.array([2, 0]))
      {'w': Array([[3.],
             [1.]], dtype=float32)}
    """
    num_workers(updates)
    indices = jnp.asarray(indices)
    return jax.tree.map(lambda leaf: jnp.take(leaf, indices, axis=0), updates)


def num_coordinates(updates: PyTree, *, axis_name: str | None = None) -> int:
    """The number d of coordinates of one update.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      d, a Python int.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> num_coordinates({"w": jnp.zeros((5, 3, 2)), "b": jnp.zeros((5, 2))})
      8
    """
    n = num_workers(updates)
    here = sum(leaf.size // n for leaf in jax.tree.leaves(updates))
    return here * (1 if axis_name is None else num_devices(axis_name))


def num_devices(axis_name: Any) -> int:
    """The number P of devices along a mesh axis, or along several.

    Args:
      axis_name: the axis, or a tuple of axes, of `jax.shard_map`, `jax.pmap` or `jax.vmap`.

    Returns:
      P, a Python int.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> jax.vmap(lambda x: x / num_devices("workers"), axis_name="workers")(jnp.ones(4))
      Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    return lax.psum(1, axis_name)


@compiled
def sample(
    updates: PyTree, count: int, key: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    """Some coordinates of all updates, drawn without replacement.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      count: how many, a Python int, at most d.
      key: PRNG key.
      axis_name: mesh axis over which the coordinates are sliced, if they are. Each device then
        draws its share of the count, rounded up, from its own coordinates.

    Returns:
      `[n, count]`, at least float32. Cost: O(n count) for each leaf.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> sample(jnp.arange(12.0).reshape(2, 6), 3, jax.random.key(0)).shape
      (2, 3)
    """
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
        count = -(-count // num_devices(axis_name))
    n, d = num_workers(updates), num_coordinates(updates)
    places = _distinct(key, min(count, d), d)
    dtype = widest(updates)
    drawn, start = jnp.zeros((n, places.shape[0]), dtype), 0
    for leaf in jax.tree.leaves(updates):
        size = leaf.size // n
        if size:
            here = (places >= start) & (places < start + size)
            values = jnp.take(leaf.reshape(n, size), jnp.clip(places - start, 0, size - 1), axis=1)
            drawn = jnp.where(here[None], values.astype(dtype), drawn)
        start += size
    return drawn


def widest(updates: PyTree) -> jnp.dtype:
    """The accumulation dtype of sums over all leaves.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      A dtype, at least float32.

    Example:
      >>> import jax.numpy as jnp
      >>> widest({"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float16)})
      dtype('float32')
    """
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(
            jnp.promote_types, [sum_dtype(leaf.dtype) for leaf in jax.tree.leaves(updates)]
        )


def _distinct(key: jax.Array, count: int, d: int) -> jax.Array:
    """`count` distinct indices below d, all sets equally likely.

    For few among many: the first distinct ones of twice as many independent draws, which run short
    only after `count` collisions. A permutation of all takes 70 times as long for 10,000 among 1e6.
    """
    if d < 4 * count or count < 1000:
        return jax.random.permutation(key, d)[:count]
    draws = jax.random.randint(key, (2 * count,), 0, d)
    order = jnp.argsort(draws, stable=True)
    repeated = jnp.concatenate([jnp.zeros(1, bool), jnp.diff(draws[order]) == 0])
    again = jnp.zeros(2 * count, bool).at[order].set(repeated)
    return draws[jnp.argsort(again, stable=True)[:count]]
