"""Shared by protocols: gradients of the workers, choice of messages, selection of honest rows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from byzjax import _checks, stacked
from byzjax._checks import prng_key
from byzjax._mistakes import no_transformation, shown
from byzjax._numerics.maps import each
from byzjax.stacked import PyTree


def gradients(
    loss_fn: Callable,
    params: PyTree,
    batch: PyTree,
    key: jax.Array,
    *,
    own: bool = False,
    at_once: int | None = None,
    axis: str | None = None,
    workers: jax.Array | None = None,
) -> PyTree:
    """The gradient of each worker, stacked `[n, ...]`; worker i's loss key is `fold_in(key, i)`.

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`.
      params: one model for all, or with `own` a stacked one, `[n, ...]`.
      batch: one batch for each, `[n, b, ...]`.
      key: the key of this step.
      own: whether each worker has its own model.
      at_once: how many are computed at once; None for all.
      axis: a mapped axis whose devices share the computation; None for one device.
      workers: `int32[n]`, their indices; None for 0 .. n - 1.
    """
    grad = jax.grad(loss_fn)
    numbers = jnp.arange(stacked.num_workers(batch)) if workers is None else workers

    def local(batch: PyTree, numbers: jax.Array, models: PyTree = None) -> PyTree:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
        if own:
            return each(lambda p, b, k: grad(p, b, key=k), models, batch, keys, at_once=at_once)
        return each(lambda b, k: grad(params, b, key=k), batch, keys, at_once=at_once)

    with jax.named_scope("gradient"):
        return shard_workers(local, batch, numbers, *([params] if own else []), axis=axis)


def trained(
    loss_fn: Callable,
    optimizer: optax.GradientTransformationExtraArgs,
    models: PyTree,
    states: PyTree,
    batch: PyTree,
    key: jax.Array,
    *,
    steps: int = 1,
    whole_batch: bool = False,
    at_once: int | None = None,
    workers: jax.Array | None = None,
) -> tuple[PyTree, PyTree]:
    """Each worker's model after some steps of its own optimizer, and the optimizer's state.

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`.
      optimizer: of one worker.
      models: stacked, `[n, ...]`.
      states: of the optimizers, `[n, ...]`.
      batch: one batch for each, `[n, b, ...]`; step j takes its j-th part.
      key: the key of the first step if it is the only one; else step j has `fold_in(key, j)`.
      steps: how many; divides b, unless `whole_batch`.
      whole_batch: whether each step is on the whole batch.
      at_once: how many gradients are computed at once; None for all.
      workers: `int32[n]`, their indices; None for 0 .. n - 1.
    """

    def step(carry: tuple, part: PyTree, key: jax.Array) -> tuple:
        models, states = carry
        grads = gradients(loss_fn, models, part, key, own=True, at_once=at_once, workers=workers)
        # Not `per_worker`'s update, which would pass the models of all workers to every worker.
        update = jax.vmap(optimizer.update, axis_size=stacked.num_workers(part))
        updates, states = update(grads, states, models)
        with jax.named_scope("send"):
            return stepped(models, updates), states

    if steps == 1:
        return step((models, states), batch, key)
    parts = None if whole_batch else jax.tree.map(lambda x: _parts(x, steps), batch)

    def local(carry: tuple, place: tuple) -> tuple[tuple, None]:
        part, j = place
        part = batch if whole_batch else part
        return step(carry, part, jax.random.fold_in(key, j)), None

    return lax.scan(local, (models, states), (parts, jnp.arange(steps)))[0]


def _parts(leaf: jax.Array, count: int) -> jax.Array:
    """`[n, b, ...]` as `[count, n, b / count, ...]`."""
    n, b, *rest = leaf.shape
    if b % count:
        raise ValueError(f"local_steps must divide the batch; got local_steps={count}, batch={b}.")
    return jnp.swapaxes(leaf.reshape(n, count, b // count, *rest), 0, 1)


def batches(batch: dict, key: jax.Array) -> PyTree:
    """The workers' batches of a step, whose arguments are checked."""
    prng_key("key", key)
    if not isinstance(batch, dict) or "workers" not in batch:
        got = f"the keys {sorted(map(str, batch))}" if isinstance(batch, dict) else shown(batch)
        raise TypeError(
            'a step needs batch={"workers": ...}, whose leaves have shape [n, ...], one batch for '
            f"each worker; got {got}."
        )
    return batch["workers"]


def check_batch(of_workers: PyTree, n: int) -> None:
    """Raises unless there is one batch per worker."""
    count = stacked.num_workers(of_workers)
    if count != n:
        raise ValueError(f"expected batches of {n} workers; got {count}.")


def trusted(loss_fn: Callable, params: PyTree, batch: dict, key: jax.Array, n: int) -> dict:
    """The extra arguments of a step: the gradient of the `trusted` batch, if there is one."""
    if "trusted" not in batch:
        return {}
    trusted_key = jax.random.fold_in(key, n)
    with jax.named_scope("gradient"):
        return {"trusted": jax.grad(loss_fn)(params, batch["trusted"], key=trusted_key)}


def shard_workers(function: Callable, *args: PyTree, axis: str | None) -> PyTree:
    """`function(*args)` on stacked trees: each device of a mapped axis computes k of the n rows.

    k = ceil(n / devices); devices with fewer rows recompute the last one, which is dropped.
    All devices receive all rows.
    """
    if axis is None:
        return function(*args)
    n, devices = stacked.num_workers(args), lax.axis_size(axis)
    k = -(-n // devices)
    rows = jnp.minimum(lax.axis_index(axis) * k + jnp.arange(k), n - 1)
    mine = function(*stacked.take(args, rows))
    return jax.tree.map(lambda x: lax.all_gather(x, axis, tiled=True)[:n], mine)


def first_messages(key: jax.Array, receivers: int, senders: int, count: int) -> jax.Array:
    """Senders whose messages arrive first, `int32[receivers, count]`, drawn for each receiver."""
    if count == senders:
        return jnp.broadcast_to(jnp.arange(senders), (receivers, senders))
    order = jax.vmap(lambda k: jax.random.permutation(k, senders))(jax.random.split(key, receivers))
    return jnp.sort(order[:, :count], axis=1)


def honest_rows(updates: PyTree, byzantine: jax.Array, count: int) -> PyTree:
    """The rows of the first `count` honest senders; there must be that many."""
    return stacked.take(updates, jnp.argsort(byzantine, stable=True)[:count])


def copies(update: PyTree, count: int) -> PyTree:
    """One update, `count` times: stacked `[count, ...]`."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), update)


def zeros(params: PyTree, count: int) -> PyTree:
    """Zeros of the shapes of a model, stacked `[count, ...]`."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, shape=(count, *jnp.shape(leaf))), params)


def with_row(updates: PyTree, row: jax.Array, update: PyTree) -> PyTree:
    """Stacked updates with one row replaced."""
    return jax.tree.map(lambda x, u: x.at[row].set(u), updates, update)


def bits(x: jax.Array) -> jax.Array:
    """Floats as integers of the same bits."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))


def broadcast_to_rows(rows: jax.Array, updates: PyTree) -> PyTree:
    """One value per row, `[n]`, in the shape of each leaf `[n, ...]`."""
    return jax.tree.map(
        lambda x: jnp.broadcast_to(rows.reshape(-1, *[1] * (x.ndim - 1)), x.shape), updates
    )


def stepped(params: PyTree, updates: PyTree) -> PyTree:
    """`optax.apply_updates`; checks that the step has the shapes of the parameters."""
    for (path, p), u in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(updates), strict=True
    ):
        if jnp.shape(p) != jnp.shape(u):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"the step{name} has shape {jnp.shape(u)}, but params{name} {jnp.shape(p)}; freeze "
                "parameters behind byzjax.aggregate, not around it, as in "
                "optax.chain(byzjax.aggregate(...), optax.partition(...))."
            )
    with jax.named_scope("server"):
        return optax.apply_updates(params, updates)


def try_rule(rule: optax.GradientTransformationExtraArgs, size: int, rows: str, *data: str) -> None:
    """Traces a rule on shapes, so that its requirements on n and f fail before any computation.

    The extra argument `weights`, of a graph, has one number per row; the others have the shape of
    one row.
    """
    updates = jnp.zeros((size, 2))
    given = {name: jnp.ones(size) if name == "weights" else updates[0] for name in data}
    given |= {"weights_of": "graph"} if "weights" in data else {}
    try:
        jax.eval_shape(lambda x: rule.update(x, rule.init(x[0]), x[0], **given), updates)
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip('.')}; {rows}, {size} rows.") from error


_EXAMPLES = {
    "local": "optax.adamw(1e-3)",
    "mix": "byzjax.mix(byzjax.nearest_neighbors, f=f)",
    "optimizer": "optax.sgd(0.1)",
    "send": "byzjax.per_worker(optax.ema(0.9), num_workers=n)",
    "server": "optax.sgd(0.1)",
} | dict.fromkeys(("attack", "attack_models"), "byzjax.attack(attacks.sign_flip, byzantine)")

_SCOPES = dict.fromkeys(("rule", "pull", "contract"), "aggregate")
_SCOPES |= {"attack_models": "attack", "optimizer": "send"}


def supported(
    protocol: str, loss_fn: Callable, **stages: optax.GradientTransformation | None
) -> tuple[optax.GradientTransformationExtraArgs, ...]:
    """The stages, each accepting extra arguments and in a `jax.named_scope`; None is the identity.

    Raises:
      TypeError: one is not a transformation, `loss_fn` is not a function, or the rule leaves the
        worker axis.
    """
    _checks.loss_function(protocol, loss_fn)
    for name, stage in stages.items():
        example = _EXAMPLES.get(name, "byzjax.aggregate(byzjax.krum, f=f)")
        write = f"{name}={example}"
        wrong = stage is not None and no_transformation(protocol, name, stage, write)
        if wrong:
            raise wrong
        verb = getattr(getattr(stage, "update", None), "verb", None)
        if name in ("rule", "pull", "contract") and verb in ("attack", "mix"):
            raise TypeError(
                f"{protocol}: {name} must remove the worker axis, which byzjax.{verb} keeps: "
                f"write {write}, or optax.chain(byzjax.{verb}(...), byzjax.aggregate(...))."
            )
    return tuple(
        _in_scope(_SCOPES.get(name, name), stage or optax.identity())
        for name, stage in stages.items()
    )


def _in_scope(
    name: str, stage: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """A stage whose operations carry a name, which profiles show."""
    stage = optax.with_extra_args_support(stage)

    def update(updates, state, params=None, **extra_args):
        with jax.named_scope(name):
            return stage.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(stage.init, update)
