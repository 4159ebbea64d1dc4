"""One server that is trusted, n workers of which some lie."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jax import lax

from byzjax import stacked
from byzjax._checks import static_int
from byzjax.protocols._protocol import Info, Protocol
from byzjax.stacked import PyTree


class ServerState(NamedTuple):
    """The model, and the state of each stage.

    Attributes:
      params: the model.
      stages: states of the stages send, attack, mix, rule and server, in this order.
    """

    params: PyTree
    stages: tuple


def parameter_server(
    loss_fn: Callable,
    *,
    rule: optax.GradientTransformation,
    server: optax.GradientTransformation,
    send: optax.GradientTransformation | None = None,
    attack: optax.GradientTransformation | None = None,
    mix: optax.GradientTransformation | None = None,
    workers_at_once: int | None = None,
) -> Protocol:
    """Workers send updates to one server, which aggregates them and takes a step.

    One step is `optax.chain(send, attack, mix, rule, server)` on the gradients of all workers, run
    one stage after another so that what lies between them can be looked at.

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`, of one worker's batch.
      rule: stacked updates -> one update, as `byzjax.aggregate(byzjax.aksel, f=f)`.
      server: the server's optimizer, as `optax.sgd(0.1)`.
      send: what an honest worker makes of its gradient, as
        `byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=n)`; None sends the gradient.
      attack: what the liars make of all that, as `byzjax.attack(attacks.sign_flip, byzantine)`.
      mix: what the server does before the rule; None does nothing.
      workers_at_once: how many workers' gradients are computed side by side, a Python int; None for
        all of them. One by one saves memory, and convolutional models time on CPU.

    Returns:
      A `Protocol`. Its `step` draws worker i's loss key as `fold_in(key, i)`; a `trusted` batch
      becomes the extra argument `trusted`, its gradient. Its `models` holds one model.

    Raises:
      TypeError: workers_at_once is not a Python int.
      ValueError: it is not positive.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp, optax
      >>> from byzjax import protocols
      >>> def loss_fn(params, batch, key=None):
      ...     return jnp.mean((params - batch["x"]) ** 2)
      >>> server = protocols.parameter_server(
      ...     loss_fn, rule=byzjax.aggregate(byzjax.median), server=optax.sgd(0.5))
      >>> key = jax.random.key(0)
      >>> batch = {"workers": {"x": jnp.array([[1.0], [2.0], [99.0]])}}
      >>> state, info = server.step(server.init(jnp.zeros(()), key), batch, key)
      >>> server.models(state)
      Array([2.], dtype=float32)
    """
    if workers_at_once is not None:
        workers_at_once = static_int("workers_at_once", workers_at_once, at_least=1)
    chosen = (send, attack, mix, rule, server)
    stages = [optax.with_extra_args_support(s or optax.identity()) for s in chosen]

    def each_worker(function: Callable, *args: PyTree) -> PyTree:
        if workers_at_once is None:
            return jax.vmap(function)(*args)
        size = None if workers_at_once == 1 else workers_at_once
        return lax.map(lambda each: function(*each), args, batch_size=size)

    def init(params: PyTree, key: jax.Array) -> ServerState:
        del key  # transformations that draw numbers were given their keys when they were made
        return ServerState(params, tuple(stage.init(params) for stage in stages))

    def step(state: ServerState, batch: dict, key: jax.Array) -> tuple[ServerState, Info]:
        params = state.params
        grad = jax.grad(loss_fn)
        n = stacked.num_workers(batch["workers"])
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jax.numpy.arange(n))
        updates = each_worker(lambda b, k: grad(params, b, key=k), batch["workers"], keys)
        extra_args = {}
        if "trusted" in batch:
            trusted_key = jax.random.fold_in(key, n)
            extra_args["trusted"] = grad(params, batch["trusted"], key=trusted_key)
        seen, states = [], []
        for stage, stage_state in zip(stages, state.stages):
            updates, stage_state = stage.update(updates, stage_state, params, **extra_args)
            seen.append(updates)
            states.append(stage_state)
        honest, sent, _, aggregate, step_taken = seen
        new_params = optax.apply_updates(params, step_taken)
        return ServerState(new_params, tuple(states)), Info(honest, sent, aggregate)

    def models(state: ServerState) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[None], state.params)

    return Protocol(init, step, models)
