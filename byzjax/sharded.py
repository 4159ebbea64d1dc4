"""Rules for models whose coordinates are sharded over several devices, under `jit`."""

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from byzjax import _slices
from byzjax._compiled import taught
from byzjax._mistakes import name_of, shown
from byzjax._signature import check_axis_name, missing_row_inputs
from byzjax.stacked import PyTree, num_devices, num_workers


@taught
def sharded(
    rule: Callable,
    shardings: PyTree,
    *,
    workers: str | None = None,
    mix: Callable | None = None,
) -> Callable:
    r"""The same rule, for updates whose coordinates are sharded over a mesh, as in FSDP.

    By default XLA gathers whole rows for a rule. Here each device runs the rule on its own shards
    (`jax.shard_map`), and distances are summed over the mesh. A leaf that is replicated over an
    axis that other leaves are sharded over is temporarily split along it.

    With `workers`, the updates are sharded over workers as well, each device holding its own
    workers' rows: rows are first exchanged for slices, and the result is sharded like the
    parameters. If these are sharded over the same axis, this replaces `lax.psum_scatter`, and a
    device sends as much, (P - 1) / P d numbers.

    Requirement, breakdown and promise: those of the rule. Cost: each device computes 1 / P of the
    rule, on its share of the stacked updates, and sends O(n^2) numbers; O(d) with `workers`.

    Args:
      rule: a rule, `rule(updates, *data, axis_name=..., **hyperparameters) -> update`.
      shardings: `NamedSharding` of every leaf of one update, such as those of the parameters:
        `jax.tree.map(lambda leaf: leaf.sharding, params)`.
      workers: mesh axis over which the updates' worker axis is sharded, if any.
      mix: a mixing before the rule, with its hyperparameters bound.

    Returns:
      A rule with the parameters of the given one except `axis_name`, for `byzjax.aggregate` or to
      be called under `jit`. Its data, such as `center`, are sharded like one update.

    Raises:
      TypeError: the rule or the mixing has no parameter `axis_name`, or a sharding is not a
        `NamedSharding`; when called, data are a function of one update, or an input that depends on
        whole rows (`byzjax.per_row_inputs`) is missing.
      ValueError: the leaves have different meshes, or `workers` is not one of their axes; when
        called, the updates have another structure.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> from jax.sharding import AxisType, NamedSharding, PartitionSpec
      >>> mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))
      >>> rule = byzjax.sharded(byzjax.krum, NamedSharding(mesh, PartitionSpec("model")))
      >>> updates = jnp.array([[0.0, 1.0], [1.0, 1.0], [1.6, 1.0], [2.5, 1.0], [90.0, 1.0]])
      >>> jax.jit(lambda updates: rule(updates, f=1))(updates)
      Array([1.6, 1. ], dtype=float32)
    """
    for function in (rule, *(() if mix is None else (mix,))):
        check_axis_name("sharded", function)
    mesh, structure, axes, places = _read(shardings, workers)
    axis_name = axes or None
    parameters = inspect.signature(rule).parameters.values()
    public = inspect.Signature([p for p in parameters if p.name != "axis_name"])

    @functools.wraps(rule)
    def on_mesh(*args: Any, **kwargs: Any) -> PyTree:
        given = public.bind(*args, **kwargs)
        trees = [_leaves_of(tree, structure) for tree in given.args]
        num_workers(trees[0])
        if unknown := missing_row_inputs(rule, given.arguments):
            text = ", ".join(f"{name}=..." for name in unknown)
            raise TypeError(
                f"sharded: {name_of(rule)} needs {text}, since no device has whole rows."
            )

        def on_device(rows: list[jax.Array], *data: list[jax.Array]) -> list[jax.Array]:
            slices, joined = _cut(rows, places, workers)
            slices = jax.tree.unflatten(structure, slices)
            if mix is not None:
                slices = mix(slices, axis_name=axis_name)
            cut = [
                jax.tree.unflatten(structure, _cut_one(leaves, places, workers)) for leaves in data
            ]
            out = rule(slices, *cut, **given.kwargs, axis_name=axis_name)
            return joined(jax.tree.leaves(out))

        rows, one = [place.rows for place in places], [place.one for place in places]
        in_specs = (rows, *[one] * (len(trees) - 1))
        out = jax.shard_map(on_device, mesh=mesh, in_specs=in_specs, out_specs=one)(*trees)
        return jax.tree.unflatten(structure, out)

    vars(on_mesh)["__signature__"] = public  # what byzjax.aggregate reads
    return on_mesh


class _Place(NamedTuple):
    """The placement of a leaf.

    Attributes:
      one: how one update is sharded.
      rows: how the stacked updates are sharded.
      dim: the dimension of the rows that one update shards over the workers' axis, if any.
      others: axes over which it is replicated but other leaves are sharded.
    """

    one: PartitionSpec
    rows: PartitionSpec
    dim: int | None
    others: tuple[str, ...]


def _read(
    shardings: PyTree, workers: str | None
) -> tuple[Mesh, Any, tuple[str, ...], list[_Place]]:
    """(mesh, structure of one update, axes that split coordinates, the leaves' places)."""
    leaves, structure = jax.tree.flatten(shardings)
    for leaf in leaves:
        if not isinstance(leaf, NamedSharding):
            raise TypeError(
                f"sharded needs a NamedSharding of every leaf; got {shown(leaf)}: write "
                "jax.tree.map(lambda leaf: leaf.sharding, params), with params on a mesh."
            )
    if not leaves:
        raise ValueError(
            "sharded needs the shardings of one update; got none: write "
            "jax.tree.map(lambda leaf: leaf.sharding, params)."
        )
    meshes = {leaf.mesh for leaf in leaves}
    if len(meshes) != 1:
        raise ValueError(f"sharded needs leaves on one mesh; got {len(meshes)} meshes.")
    (mesh,) = meshes
    if workers is not None and workers not in mesh.axis_names:
        raise ValueError(f"workers must be one of the axes {mesh.axis_names}; got {workers!r}.")
    specs = [[_names(entry) for entry in leaf.spec] for leaf in leaves]
    used = {workers, *(axis for spec in specs for entry in spec for axis in entry)}
    axes = tuple(axis for axis in mesh.axis_names if axis in used)
    return mesh, structure, axes, [_place(spec, axes, workers) for spec in specs]


def _names(entry: Any) -> tuple[str, ...]:
    if entry is None or isinstance(entry, str):
        return () if entry is None else (entry,)
    return tuple(entry)


def _place(spec: list[tuple[str, ...]], axes: tuple[str, ...], workers: str | None) -> _Place:
    dim = next((i + 1 for i, entry in enumerate(spec) if workers in entry), None)
    if dim is not None and spec[dim - 1][-1] != workers:
        raise ValueError(
            "workers has to be the last of the axes that a dimension is sharded over; "
            f"got {spec[dim - 1]} with workers={workers!r}."
        )
    rows = [tuple(axis for axis in entry if axis != workers) for entry in spec]
    used = {workers, *(axis for entry in spec for axis in entry)}
    others = tuple(axis for axis in axes if axis not in used)
    return _Place(_spec(spec), _spec([_names(workers), *rows]), dim, others)


def _spec(entries: list[tuple[str, ...]]) -> PartitionSpec:
    return PartitionSpec(*[entry or None for entry in entries])


def _leaves_of(tree: PyTree, structure: Any) -> list[jax.Array]:
    leaves, given = jax.tree.flatten(tree)
    if callable(tree):
        raise TypeError("sharded: data are a function of a whole update, which no device holds.")
    if given != structure:
        raise ValueError(f"sharded: the shardings are of {structure}; got {given}.")
    return [jnp.asarray(leaf) for leaf in leaves]


# --- inside shard_map ----------------------------------------------------------------------------


def _cut(
    rows: list[jax.Array], places: list[_Place], workers: str | None
) -> tuple[list[jax.Array], Callable]:
    """This device's slices `[n, m]`, and a function from slices `[m]` to its shards."""
    one = [_like(leaf.shape[1:], leaf) for leaf in rows]
    if workers is None:
        slices = [leaf.reshape(leaf.shape[0], -1) for leaf in rows]
    else:
        slices = _slices.exchanged(rows, workers, [place.dim for place in places])
        p = num_devices(workers)
        one = [_like(_divided(leaf.shape, place.dim, p), leaf) for leaf, place in zip(one, places)]
    flat = [_like(leaf.shape[1:], leaf) for leaf in slices]

    def joined(out: list[jax.Array]) -> list[jax.Array]:
        # Leaves of one placement together, or shard_map takes one to vary as another does.
        for axes, chosen in _by_axes(places):
            if axes:
                out = _some(partial(_slices.gathered, axis_name=axes), chosen, out, flat)
            if workers is not None:
                chosen = [i for i in chosen if places[i].dim is None]
                out = _some(partial(_slices.gathered, axis_name=workers), chosen, out, one)
        return [leaf.reshape(like.shape) for leaf, like in zip(out, one, strict=True)]

    return _cut_along_others(slices, places), joined


def _like(shape: tuple[int, ...], leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _cut_one(leaves: list[jax.Array], places: list[_Place], workers: str | None) -> list[jax.Array]:
    """This device's slices `[m]` of the shards of one update."""
    rows = [leaf.reshape(1, -1) for leaf in leaves]
    if workers is not None:
        chosen = [i for i, place in enumerate(places) if place.dim is None]
        rows = _some(partial(_slices.own, axis_name=workers), chosen, rows)
    return [leaf[0] for leaf in _cut_along_others(rows, places)]


def _cut_along_others(rows: list[jax.Array], places: list[_Place]) -> list[jax.Array]:
    for axes, chosen in _by_axes(places):
        if axes:
            rows = _some(partial(_slices.own, axis_name=axes), chosen, rows)
    return rows


def _by_axes(places: list[_Place]) -> list[tuple[tuple[str, ...], list[int]]]:
    """Leaves grouped by the axes over which they are replicated."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, place in enumerate(places):
        groups.setdefault(place.others, []).append(i)
    return list(groups.items())


def _some(function: Callable, chosen: list[int], leaves: list, *beside: list) -> list:
    """The leaves, with the chosen ones replaced by a function of them."""
    results = function(*[[each[i] for i in chosen] for each in (leaves, *beside)])
    new = dict(zip(chosen, results))
    return [new.get(i, leaf) for i, leaf in enumerate(leaves)]


def _divided(shape: tuple[int, ...], dim: int | None, p: int) -> tuple[int, ...]:
    """The shape of one update, with dimension `dim` of the rows divided by p."""
    if dim is None:
        return shape
    return (*shape[: dim - 1], shape[dim - 1] // p, *shape[dim:])
