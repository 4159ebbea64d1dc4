"""Rules inside `jax.shard_map` and `jax.pmap`, where each device holds its own workers' updates.

`all_aggregate(rule, updates, axis_name, ...)` replaces `jax.lax.pmean(updates, axis_name)`. Each
device sends every other device the slice of its updates that the other one is responsible for, runs
the rule on its own slice of all n workers' updates, with distances summed over the devices, and
gathers the result. With one worker per device it sends and holds O(d), as `pmean` does, and never
the n d numbers of the stacked updates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from byzjax import _slices
from byzjax._compiled import taught
from byzjax._mistakes import listed, no_axis
from byzjax._signature import check_axis_name, missing_row_inputs, signature
from byzjax.stacked import PyTree, num_devices, num_workers


@taught
def all_aggregate(
    rule: Callable,
    updates: PyTree,
    axis_name: Any,
    *,
    stacked: bool = False,
    mix: Callable | None = None,
    **arguments: Any,
) -> PyTree:
    r"""Aggregates the updates of the workers of all devices, as `lax.pmean` averages them.

    $$ F = \operatorname{rule}(x_1, \dots, x_n), \qquad n = P k $$

    for P devices of k workers each, in the order of the devices. The result is the same on all
    devices. It equals the rule on the stacked updates up to the order of sums over coordinates;
    random choices (coordinates of `spectral_filter`, the window of `sign_guard`) are made among
    each device's own coordinates.

    Inputs that depend on whole rows, such as the loss of `zeno`, are computed by each device for
    its own workers before slicing (`byzjax.per_row_inputs`); after a mixing, whose rows are already
    sliced, rows are reassembled for this.

    Requirement: that of the rule, for n. Breakdown and promise: those of the rule. Cost: each
    device sends 2 (P - 1) / P d numbers for k = 1, as `lax.pmean` does, and O(n^2) for distances;
    it computes 1 / P of the rule. Reassembling mixed rows sends half as much again.

    Args:
      rule: a rule, `rule(updates, *data, axis_name=..., **hyperparameters) -> update`.
      updates: the update of this device's worker; every leaf has shape `[...]`. With `stacked`,
        those of its k workers; every leaf has shape `[k, ...]`.
      axis_name: the axis of `jax.shard_map` or `jax.pmap` along which the workers are distributed;
        a tuple for several axes.
      stacked: whether `updates` have a worker axis.
      mix: a mixing before the rule, with its hyperparameters bound: `functools.partial(
        byzjax.nearest_neighbors, f=2)`.
      **arguments: the rule's hyperparameters, such as `f`, and its data by name, such as `center`:
        updates `[...]` that all devices have, or functions of one. A `key` must be the same on all
        devices.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      TypeError: the rule does not take an argument given here or `axis_name`, or a required one is
        missing.
      ValueError: data do not have the shape of one update; also whatever the rule raises.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> def step(gradient):  # of one worker
      ...     return byzjax.all_aggregate(byzjax.trimmed_mean, gradient, "workers", f=1)
      >>> gradients = jnp.array([[1.0], [3.0], [90.0]])
      >>> jax.vmap(step, axis_name="workers")(gradients)
      Array([[3.],
             [3.],
             [3.]], dtype=float32)
    """
    data = _data_among(arguments, "all_aggregate", rule)
    _mapped("all_aggregate", axis_name)
    rows, one = _own_rows(updates, stacked, axis_name)
    slices = _mixed(_slices.exchanged(rows, axis_name), mix, axis_name)
    inputs = {}
    if unknown := missing_row_inputs(rule, arguments):
        whole = rows if mix is None else _returned(slices, one, axis_name)
        n = num_workers(slices)
        inputs = {name: _for_all(of_rows(whole), n, axis_name) for name, of_rows in unknown.items()}
    cut = {name: _sliced(name, arguments[name], one, axis_name) for name in data}
    out = rule(slices, **(arguments | inputs | cut), axis_name=axis_name)
    return _slices.gathered(out, one, axis_name)


@taught
def all_mix(
    mixing: Callable, updates: PyTree, axis_name: Any, *, stacked: bool = False, **arguments: Any
) -> PyTree:
    r"""Mixes the updates of the workers of all devices; each device gets its own workers' rows.

    $$ (y_1, \dots, y_n) = \operatorname{mixing}(x_1, \dots, x_n) $$

    Before a rule, `all_aggregate(rule, ..., mix=mixing)` is cheaper: nothing is sent back in
    between.

    Requirement: that of the mixing, for n, which must not change. Cost: each device sends
    2 (P - 1) / P d numbers for k = 1, and O(n^2) for distances.

    Args:
      mixing: a mixing, `mixing(updates, axis_name=..., **hyperparameters) -> stacked updates`.
      updates: the update of this device's worker; every leaf has shape `[...]`. With `stacked`,
        those of its k workers; every leaf has shape `[k, ...]`.
      axis_name: the axis, or a tuple of axes, along which the workers are distributed.
      stacked: whether `updates` have a worker axis.
      **arguments: the mixing's hyperparameters; a `key` must be the same on all devices.

    Returns:
      This device's rows of the mixed updates, of the same shapes and dtypes as `updates`.

    Raises:
      TypeError: the mixing does not take an argument given here, or a required one is missing.
      ValueError: the mixing changes the number of workers; also whatever the mixing raises.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> def step(gradient):  # of one worker
      ...     return byzjax.all_mix(byzjax.nearest_neighbors, gradient, "workers", f=1)
      >>> jax.vmap(step, axis_name="workers")(jnp.array([[0.0], [1.0], [9.0]]))
      Array([[0.5],
             [0.5],
             [5. ]], dtype=float32)
    """
    _data_among(arguments, "all_mix", mixing)
    _mapped("all_mix", axis_name)
    rows, one = _own_rows(updates, stacked, axis_name)
    slices = _slices.exchanged(rows, axis_name)
    mixed = mixing(slices, **arguments, axis_name=axis_name)
    before, after = num_workers(slices), num_workers(mixed)
    if after != before:
        raise ValueError(
            f"all_mix needs a mixing that keeps the number of workers; it turned {before} rows "
            f"into {after}. Before a rule, write all_aggregate(rule, ..., mix=mixing)."
        )
    back = _slices.returned(mixed, one, axis_name)
    return back if stacked else jax.tree.map(lambda leaf: leaf[0], back)


@taught
def across_devices(
    make: Callable,
    axis_name: Any,
    *,
    stacked: bool = False,
    mix: Callable | None = None,
    data: str | Sequence[str] = (),
    **hyperparameters: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""An aggregation with memory, over the workers of all devices.

    Each device keeps the memory of its own slice of the coordinates, at most n d / P numbers. Both
    `init` and `update` must be called inside `jax.shard_map` or `jax.pmap`. Extra arguments of an
    update that are named in `data` are sliced like the parameters; others, such as `value` or a
    step, are passed on unchanged. All of them must be the same on all devices.

    If the devices run some workers of many, the extra argument `senders`, `int32[k]`, holds the
    worker of each row, in the order of the devices, and states are kept by worker: also momenta,
    with a `make` that returns `optax.chain(byzjax.per_worker(...), byzjax.aggregate(...))`.

    Cost: as `all_aggregate`.

    Args:
      make: creates the transformation, `make(axis_name=..., **hyperparameters)`, such as
        `byzjax.foolsgold`, or `functools.partial(byzjax.aggregate, byzjax.fl_trust)`.
      axis_name: the axis, or a tuple of axes, along which the workers are distributed.
      stacked: whether the updates of a device have a worker axis.
      mix: a mixing before the aggregation, with its hyperparameters bound.
      data: the name or names of extra arguments that are updates `[...]`, or functions of one, such
        as `"trusted"`; they cannot be recognised otherwise.
      **hyperparameters: those of `make`; `num_workers` is n, of all devices together, or of all
        workers that may be `senders`.

    Returns:
      A transformation from this device's own updates to one update, the same on all devices. Its
      state differs from device to device.

    Raises:
      TypeError: `make` does not take an argument given here or `axis_name`, or a required one is
        missing.
      ValueError: at an update, data do not have the shape of one update.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> tx = byzjax.across_devices(byzjax.centered_clipping, "workers", radius=2.0)
      >>> def two_steps(gradient):  # of one worker
      ...     state = tx.init(jnp.zeros(1))
      ...     _, state = tx.update(gradient, state)
      ...     return tx.update(gradient, state)[0]
      >>> jax.vmap(two_steps, axis_name="workers")(jnp.array([[1.0], [2.0], [90.0]])).round(4)
      Array([[2.2222],
             [2.2222],
             [2.2222]], dtype=float32)
    """
    _data_among(hyperparameters, "across_devices", make, skip=0)
    names = (data,) if isinstance(data, str) else tuple(data)
    inner = make(**hyperparameters, axis_name=axis_name)

    def init(params: PyTree) -> Any:
        _mapped("across_devices", axis_name)
        return inner.init(_part(params, axis_name))

    def update(updates, state, params=None, **extra_args):
        _mapped("across_devices", axis_name)
        rows, one = _own_rows(updates, stacked, axis_name)
        slices = _mixed(_slices.exchanged(rows, axis_name), mix, axis_name)
        params = None if params is None else _part(params, axis_name)
        given = {name: extra_args[name] for name in names if name in extra_args}
        cut = {name: _sliced(name, value, one, axis_name) for name, value in given.items()}
        out, state = inner.update(slices, state, params, **(extra_args | cut))
        return _slices.gathered(out, one, axis_name), state

    return optax.GradientTransformationExtraArgs(init, update)


# --- shared helpers ------------------------------------------------------------------------------


def _data_among(given: dict, verb: str, function: Callable, *, skip: int = 1) -> list[str]:
    """Checks the names of given arguments; returns the names of data, which are updates."""
    check_axis_name(verb, function)
    spec = signature(verb, function, given, skip=skip)
    if "updates" in spec.missing and not skip:
        raise TypeError(
            f"{verb} takes what makes a transformation; {spec.name} is a rule: write "
            f"{verb}(functools.partial(byzjax.aggregate, {spec.name}), axis_name, ...)."
        )
    if spec.missing:
        text = ", ".join(f"{name}=..." for name in spec.missing)
        raise TypeError(
            f"{verb}: {spec.name} needs {listed(spec.missing)}; write "
            f"{verb}({spec.name}, updates, axis_name, {text})."
        )
    return [name for name in spec.data if name in given]


def _mapped(verb: str, axis_name: Any) -> None:
    """Raises outside of the mapped axis."""
    try:
        num_devices(axis_name)
    except NameError:
        raise no_axis(verb, axis_name) from None


def _own_rows(updates: PyTree, stacked: bool, axis_name: Any) -> tuple[PyTree, PyTree]:
    """This device's updates with a worker axis, and the shapes of one update."""
    rows = jax.tree.map(jnp.asarray, updates)
    rows = rows if stacked else jax.tree.map(lambda leaf: leaf[None], rows)
    num_workers(rows)
    axes = _varying(lax.axis_index(axis_name))  # none with check_vma=False, nor in pmap
    for path, leaf in jax.tree_util.tree_leaves_with_path(rows):
        if not axes <= _varying(leaf):
            name = f"updates{jax.tree_util.keystr(path)}"
            raise ValueError(
                f"{name}: the same on all devices of {axis_name!r}, like a gradient with respect "
                "to replicated parameters, which jax.shard_map sums over devices; write "
                "jax.shard_map(..., check_vma=False)."
            )
    return rows, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)


def _varying(x: jax.Array) -> frozenset:
    """The axes along which `jax.shard_map` takes x to differ from device to device."""
    kind = jax.typeof(x)
    kind = getattr(kind, "mat", kind)  # from JAX 0.10 on
    return frozenset(getattr(kind, "vma", None) or getattr(kind, "varying", None) or ())


def _part(update: PyTree, axis_name: Any) -> PyTree:
    """This device's slice of one update that all devices have."""
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], update)
    return jax.tree.map(lambda leaf: leaf[0], _slices.own(rows, axis_name))


def _mixed(slices: PyTree, mix: Callable | None, axis_name: Any) -> PyTree:
    if mix is None:
        return slices
    _data_among({}, "mix", mix)
    return mix(slices, axis_name=axis_name)


def _sliced(name: str, value: Any, one: PyTree, axis_name: Any) -> Any:
    """Data of a rule, cut for a rule that sees slices."""
    if callable(value):
        return _of_whole(value, one, axis_name)
    shapes = jax.tree.map(jnp.shape, value)
    expected = jax.tree.map(lambda like: like.shape, one)
    if shapes != expected:
        raise ValueError(f"{name} has the shapes {shapes}, but one update has {expected}.")
    return _part(value, axis_name)


def _of_whole(function: Callable, one: PyTree, axis_name: Any) -> Callable:
    """A function of one whole update, as a function of its slices.

    If a rule maps it over the updates of all workers, each device evaluates an equal share of them:
    rows are reassembled on the responsible device, and values are gathered.
    """

    @jax.custom_batching.custom_vmap
    def of_slices(slices: PyTree) -> Any:
        return function(_slices.gathered(slices, one, axis_name))

    @of_slices.def_vmap
    def _(n: int, batched: list, slices: PyTree) -> tuple[Any, Any]:
        values = jax.vmap(function)(_returned(slices, one, axis_name))
        return _for_all(values, n, axis_name), jax.tree.map(lambda _: True, values)

    return of_slices


def _returned(slices: PyTree, one: PyTree, axis_name: Any) -> PyTree:
    """This device's share of the whole rows, padded with zeros where P does not divide n."""
    missing = -num_workers(slices) % num_devices(axis_name)
    slices = jax.tree.map(lambda x: jnp.pad(x, ((0, missing), (0, 0))), slices)
    return _slices.returned(slices, one, axis_name)


def _for_all(values: Any, n: int, axis_name: Any) -> Any:
    """Each device's values for its own rows, gathered for all n rows."""
    return jax.tree.map(lambda v: lax.all_gather(v, axis_name, tiled=True)[:n], values)
