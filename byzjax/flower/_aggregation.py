"""One round of the server as one compiled program."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked, transforms
from byzjax._mistakes import is_transformation
from byzjax.stacked import PyTree


class Stages(NamedTuple):
    """What a round consists of, in order.

    Attributes:
      worker: transformation of each worker's updates, or None.
      mixing: mixing or transformation, or None.
      rule: rule or transformation.
      server: the server's optimizer.
      key: first key of a mixing or rule that draws random numbers, or None.
    """

    worker: optax.GradientTransformation | None
    mixing: Any
    rule: Any
    server: optax.GradientTransformation
    key: jax.Array | None


class State(NamedTuple):
    """What the server keeps from round to round.

    Attributes:
      params: the model.
      server: state of the optimizer.
      memory: state of mixing and rule.
    """

    params: PyTree
    server: Any
    memory: Any


class Outcome(NamedTuple):
    """What a round gives.

    Attributes:
      state: the new state.
      workers: stacked states of the senders, or None.
      finite: whether the new model is.
      influence: `[n]`, or None for rules without a derivative.
      distances: `[n]`, of the rows to the aggregate.
    """

    state: State
    workers: Any
    finite: jax.Array
    influence: jax.Array | None
    distances: jax.Array


def combination(stages: Stages, f: int) -> optax.GradientTransformationExtraArgs:
    """Mixing and rule as one transformation from stacked updates to one update.

    A function gets `f` and a key if it takes them and they are not bound; a transformation has its
    own.
    """
    keys = [None, None] if stages.key is None else list(jax.random.split(stages.key))
    parts = []
    for verb, function, key in (
        ("mix", stages.mixing, keys[0]),
        ("aggregate", stages.rule, keys[1]),
    ):
        if function is None or is_transformation(function):
            parts += [] if function is None else [function]
            continue
        bound = {"f": f} if _takes(function, "f") else {}
        key = key if _takes(function, "key") else None
        parts.append(getattr(transforms, verb)(function, key=key, **bound))
    return optax.with_extra_args_support(optax.chain(*parts))


def _takes(function: Callable, name: str) -> bool:
    """Whether a function has a parameter of this name, which is neither bound nor has a default."""
    try:
        parameter = inspect.signature(function).parameters.get(name)
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.default is inspect.Parameter.empty


def start(stages: Stages, f: int, params: PyTree) -> State:
    return State(params, stages.server.init(params), combination(stages, f).init(params))


def program(stages: Stages, f: int, differentiable: bool) -> Callable[..., Outcome]:
    """The compiled function of a round with this f; one more program per number of rows."""
    return jax.jit(functools.partial(_round, stages, f, differentiable))


def _round(
    stages: Stages,
    f: int,
    differentiable: bool,
    state: State,
    workers: Any,
    rows: PyTree,
    senders: jax.Array,
    data: dict[str, PyTree],
) -> Outcome:
    if stages.worker is not None:
        single = optax.with_extra_args_support(stages.worker)
        rows, workers = jax.vmap(lambda u, s: single.update(u, s, state.params))(rows, workers)
    both = combination(stages, f)

    def aggregate(updates: PyTree) -> tuple[PyTree, Any]:
        return both.update(updates, state.memory, state.params, **{"senders": senders, **data})

    shares = None
    if differentiable:
        out, backward, memory = jax.vjp(aggregate, rows, has_aux=True)
        ones = jax.tree.map(jnp.ones_like, out)
        (tangents,) = backward(ones)
        size = sum(leaf.size for leaf in jax.tree.leaves(out))
        shares = stacked.inner_products(tangents, ones) / size
    else:
        out, memory = aggregate(rows)
    descent = jax.tree.map(lambda update, p: -update.astype(_wide(p)), out, state.params)
    step, server = stages.server.update(descent, state.server, state.params)
    params = optax.apply_updates(state.params, step)
    finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
    return Outcome(State(params, server, memory), workers, finite, shares, _distances(rows, out))


def _wide(leaf: Any) -> Any:
    return jnp.promote_types(leaf.dtype, jnp.float32)


def _distances(rows: PyTree, out: PyTree) -> jax.Array:
    """Norms of the rows minus the aggregate; their squares may overflow."""
    apart = jax.tree.map(lambda row, center: (row - center).reshape(len(row), -1), rows, out)
    leaves = jax.tree.leaves(apart)
    largest = functools.reduce(
        jnp.maximum, [jnp.max(jnp.abs(leaf), axis=1, initial=0) for leaf in leaves]
    )
    # Powers of 2, which are exact, where squares would overflow or vanish.
    small = jnp.where(largest < 2.0**-40, 2.0**60, 1)
    scale = jnp.where(largest > 2.0**40, 2.0**-100, small)
    squares = [jnp.sum((leaf * scale[:, None]) ** 2, axis=1) for leaf in leaves]
    return jnp.sqrt(functools.reduce(jnp.add, squares)) / scale
