"""Several servers, some Byzantine; the honest ones are bitwise identical machines."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from byzjax import stacked
from byzjax._checks import one_of, static_int
from byzjax._compiled import compiled, taught
from byzjax._numerics.arrays import copied
from byzjax.protocols import _servers, _workers
from byzjax.protocols._protocol import Info, Protocol, Traffic
from byzjax.protocols.reliable_broadcast import equal_rows, reliable_broadcast
from byzjax.stacked import PyTree


class MachineState(NamedTuple):
    """The replicas' models, and the state of each stage.

    Attributes:
      params: the models, stacked `[num_servers, ...]`; a Byzantine server's row is what it
        would hold if it followed the protocol.
      stages: states of attack_models, send, attack, mix, rule and server, in this order; those of
        mix, rule and server are stacked by replica.
    """

    params: PyTree
    stages: tuple


@compiled
def agreed(updates: PyTree, *, votes: int) -> PyTree:
    r"""The first update that enough senders sent, bit for bit.

    $$ F = x_{i^*}, \qquad i^* = \min \{ i : | \{ j : x_j = x_i \} | \geq v \} $$

    Updates are compared bitwise: 0 is not -0, and a NaN equals itself. NaN in every coordinate if
    no update has enough votes.

    Requirement: n >= v. With at most v - 1 Byzantine senders and at least v honest senders of one
    update, it returns that update. Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]` and a float type.
      votes: v, a Python int.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      TypeError: votes is not a Python int.
      ValueError: the leaves disagree on n, or votes is not in 1 .. n.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import protocols
      >>> protocols.agreed(jnp.array([[jnp.nan, 9.0], [0.1, 0.2], [0.1, 0.2]]), votes=2)
      Array([0.1, 0.2], dtype=float32)
      >>> protocols.agreed(jnp.array([[0.0], [-0.0], [1.0]]), votes=2)
      Array([nan], dtype=float32)

    Reference: Schneider, Implementing fault-tolerant services using the state machine approach: a
    tutorial, ACM Computing Surveys 22(4), 1990.
    """
    n, votes = stacked.num_workers(updates), static_int("votes", votes, at_least=1)
    if n < votes:
        raise ValueError(f"agreed needs n >= votes; got n={n}, votes={votes}.")
    if votes == 1:
        return stacked.take(updates, 0)
    enough = jnp.sum(equal_rows(updates), axis=1, dtype=jnp.int32) >= votes
    first = stacked.take(updates, jnp.argmax(enough))
    return jax.tree.map(lambda leaf: jnp.where(jnp.any(enough), leaf, jnp.nan), first)


@taught
def replicated_state_machine(
    loss_fn: Callable,
    *,
    num_servers: int,
    num_workers: int,
    f_servers: int,
    rule: optax.GradientTransformation,
    server: optax.GradientTransformation,
    send: optax.GradientTransformation | None = None,
    mix: optax.GradientTransformation | None = None,
    attack: optax.GradientTransformation | None = None,
    attack_models: optax.GradientTransformation | None = None,
    byzantine_servers: jax.Array | None = None,
    equivocating: jax.Array | None = None,
    broadcast: str = "reliable",
    workers_at_once: int | None = None,
    workers_axis: str | None = None,
) -> Protocol:
    r"""Replicas of one deterministic server; workers take the model that enough replicas sent.

    One step, for every worker i and every replica p,

    $$ y = \operatorname{agreed}(x_1, \dots, x_n; f + 1), \qquad g_i = \nabla \ell_i(y), \qquad
       x_p \leftarrow x_p - \gamma \operatorname{rule}(g_1, \dots, g_m). $$

    All replicas start bitwise equal and must receive the same gradients in the same order: here one
    broadcast of each worker a step. If none equivocates, there is nothing to simulate. With
    `equivocating`, some workers send to some replicas what the attack made of their update, and to
    the others their own, and each worker's update goes through `reliable_broadcast`, in which
    Byzantine replicas confirm to each replica what it heard from the worker. It needs n >= 3 f + 1,
    the votes alone 2 f + 1. An update that is not delivered is a row of NaN on all honest replicas:
    one of the faults that the rule tolerates.

    Replicas are deterministic, so the honest ones are bitwise equal after every step, and training
    is that of one trusted server. Stages that draw random numbers have the same key on all
    replicas.

    Replicas are computed one after another, each the whole server step on its own state. If no
    value has f + 1 votes, more than f servers are Byzantine, and the workers receive NaN.

    Requirement: n >= 3 f_servers + 1; for the workers, that of `rule`. Cost of a step: m gradients,
    n calls of `mix`, `rule` and `server`, and O(n^2 d) for the votes; with `equivocating`, m times
    that for the broadcasts.

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`, of one worker's batch.
      num_servers: n, a Python int.
      num_workers: m, a Python int.
      f_servers: f, number of Byzantine servers to tolerate, a Python int.
      rule: stacked updates -> one update, such as `byzjax.aggregate(byzjax.aksel, f=f)`.
      server: the server's optimizer, such as `optax.sgd(0.1)`.
      send: applied by honest workers to their gradients, such as
        `byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=m)`; None sends the gradient.
      mix: applied by each replica before the rule; None for nothing.
      attack: the attack on the gradients, such as `byzjax.attack(attacks.sign_flip, byzantine)`.
      attack_models: the attack on the models, `[n, ...]`.
      byzantine_servers: `bool[n]`, the Byzantine servers, which `models` leaves out; may be traced.
        None for none.
      equivocating: `bool[n, m]`, the replicas to which each worker sends its own update instead of
        what the attack made of it; may be traced. None for none.
      broadcast: `"reliable"`, or `"none"`: each replica uses what it received, and equivocation
        drives the honest ones apart.
      workers_at_once: how many workers' gradients are computed at once, a Python int; None for
        all of them.
      workers_axis: a mapped axis (`jax.shard_map`, `jax.pmap`) whose devices share the gradient
        computation; all else, arguments included, is replicated. None for one device.

    Returns:
      A `Protocol`. Worker i's loss key is `fold_in(key, i)`; the gradient of a `trusted` batch at
      the replica's model becomes the extra argument `trusted` of `mix`, `rule` and `server`.
      `info.aggregate` is that of the first honest replica. `models` returns the first
      n - f_servers honest models. `traffic` leaves out the broadcast among the replicas.

    Raises:
      TypeError: an argument that must be a Python int is not.
      ValueError: there are too few servers, `byzantine_servers` is not `bool[n]`, `equivocating` is
        not `bool[n, m]`, or `broadcast` is unknown.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp, optax
      >>> from byzjax import attacks, protocols
      >>> def loss_fn(params, batch, key=None):
      ...     return jnp.mean((params - batch["x"]) ** 2)
      >>> byzantine = jnp.arange(4) == 0
      >>> replicas = protocols.replicated_state_machine(
      ...     loss_fn, num_servers=4, num_workers=3, f_servers=1, server=optax.sgd(0.5),
      ...     rule=byzjax.aggregate(byzjax.median), byzantine_servers=byzantine,
      ...     attack_models=byzjax.attack(attacks.sign_flip, byzantine))
      >>> key = jax.random.key(0)
      >>> batch = {"workers": {"x": jnp.array([[1.0], [2.0], [99.0]])}}
      >>> state, info = replicas.step(replicas.init(jnp.zeros(()), key), batch, key)
      >>> replicas.models(state)
      Array([2., 2., 2.], dtype=float32)

    Reference: Schneider, Implementing fault-tolerant services using the state machine approach: a
    tutorial, ACM Computing Surveys 22(4), 1990.
    """
    n, m, f = _servers.counts(num_servers=num_servers, num_workers=num_workers, f_servers=f_servers)
    if n < 3 * f + 1:
        raise ValueError(
            "replicated_state_machine needs num_servers >= 3 f_servers + 1; "
            f"got num_servers={n}, f_servers={f}."
        )
    if workers_at_once is not None:
        workers_at_once = static_int("workers_at_once", workers_at_once, at_least=1)
    one_of("broadcast", broadcast, ("reliable", "none"))
    if equivocating is not None and jnp.shape(equivocating) != (n, m):
        raise ValueError(
            f"equivocating must be bool[n, m] with n={n}, m={m}; "
            f"got shape {jnp.shape(equivocating)}."
        )
    mask = _servers.liars(byzantine_servers, n)
    attack_models, send, attack, mix, rule, server = _workers.supported(
        "replicated_state_machine",
        loss_fn,
        attack_models=attack_models,
        send=send,
        attack=attack,
        mix=mix,
        rule=rule,
        server=server,
    )
    made = _ReplicatedStateMachine(
        loss_fn,
        rule,
        server,
        send,
        mix,
        attack,
        attack_models,
        workers_at_once,
        workers_axis,
        f,
        m,
        mask,
        n,
        equivocating,
        broadcast == "reliable",
    )
    return Protocol(made.init, made.step, _servers.honest_models(n, f, mask), made.traffic)


@dataclasses.dataclass(frozen=True)
class _ReplicatedStateMachine:
    """The functions of `replicated_state_machine`, bound to its checked arguments."""

    loss_fn: Callable
    rule: optax.GradientTransformationExtraArgs
    server: optax.GradientTransformationExtraArgs
    send: optax.GradientTransformationExtraArgs
    mix: optax.GradientTransformationExtraArgs
    attack: optax.GradientTransformationExtraArgs
    attack_models: optax.GradientTransformationExtraArgs
    workers_at_once: int | None
    workers_axis: str | None
    f: int
    m: int
    mask: jax.Array
    n: int
    equivocating: jax.Array | None
    reliable: bool

    def received(self, honest: PyTree, sent: PyTree) -> PyTree:
        """The updates that each replica holds, `[n, m, ...]`; None if all hold those sent."""
        if self.equivocating is None:
            return None
        own = jnp.asarray(self.equivocating, bool)

        def heard(p: jax.Array) -> PyTree:
            rest = _workers.broadcast_to_rows(own[p], honest)
            return jax.tree.map(jnp.where, rest, honest, sent)

        messages = jax.vmap(heard)(jnp.arange(self.n))
        if not self.reliable:
            return messages
        # Row j of a Byzantine replica: to replica j, what j itself heard.
        support = jnp.broadcast_to(jnp.arange(self.n), (self.n, self.n))

        def delivered(of_one: PyTree) -> PyTree:
            return reliable_broadcast(of_one, self.mask, support, support, f=self.f).updates

        by_worker = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), messages)
        by_worker = lax.map(delivered, by_worker)
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), by_worker)

    def init(self, params: PyTree, key: jax.Array) -> MachineState:
        del key  # random transformations received their keys when they were created
        once = [stage.init(params) for stage in (self.attack_models, self.send, self.attack)]
        each = [
            _workers.copies(stage.init(params), self.n)
            for stage in (self.mix, self.rule, self.server)
        ]
        return copied(MachineState(_workers.copies(params, self.n), (*once, *each)))

    def step(self, state: MachineState, batch: dict, key: jax.Array) -> tuple[MachineState, Info]:
        of_workers = _workers.batches(batch, key)
        _workers.check_batch(of_workers, self.m)
        attacking_models, sending, attacking, *replicated = state.stages
        models, attacking_models = self.attack_models.update(state.params, attacking_models)
        with jax.named_scope("aggregate"):
            model = agreed(models, votes=self.f + 1)
        options = {"at_once": self.workers_at_once, "axis": self.workers_axis}
        gradients = _workers.gradients(self.loss_fn, model, of_workers, key, **options)
        honest, sending = self.send.update(gradients, sending, model)
        sent, attacking = self.attack.update(honest, attacking, model)
        received = self.received(honest, sent)
        places = () if received is None else (jnp.arange(self.n),)

        def replica(own: tuple) -> tuple:
            # Without the barrier XLA hoists what does not depend on the replica, most of the rule,
            # out of the loop: 14 of 39 instructions stay inside for krum.
            params, mixing, ruling, serving, *place = own
            params, updates = lax.optimization_barrier((params, sent))
            if place:
                updates = stacked.take(received, place[0])
            extra_args = _workers.trusted(self.loss_fn, params, batch, key, self.m)
            updates, mixing = self.mix.update(updates, mixing, params, **extra_args)
            update, ruling = self.rule.update(updates, ruling, params, **extra_args)
            change, serving = self.server.update(update, serving, params, **extra_args)
            return _workers.stepped(params, change), update, (mixing, ruling, serving)

        params, aggregates, replicated = lax.map(replica, (state.params, *replicated, *places))
        first = stacked.take(aggregates, jnp.argmin(self.mask))
        stages = (attacking_models, sending, attacking, *replicated)
        return MachineState(params, stages), Info(honest, sent, first, jnp.arange(self.m))

    def traffic(self, params: PyTree) -> Traffic:
        messages = 2 * self.n * self.m
        return Traffic(messages, messages * optax.tree.size(params))
