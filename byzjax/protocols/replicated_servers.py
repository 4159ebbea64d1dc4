"""Several servers, some Byzantine; honest models differ and are contracted."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from byzjax import stacked
from byzjax._checks import static_int
from byzjax._compiled import taught
from byzjax._numerics.arrays import copied
from byzjax.protocols import _servers, _workers
from byzjax.protocols._protocol import Info, Protocol, Traffic
from byzjax.rules import median
from byzjax.stacked import PyTree
from byzjax.transforms import aggregate, per_worker


class ReplicatedState(NamedTuple):
    """The servers' models, and the state of each stage.

    Attributes:
      params: the models, stacked `[num_servers, ...]`; a Byzantine server's row is what it
        would hold if it followed the protocol.
      step: `int32[]`, number of steps so far.
      stages: states of attack_models, pull, send, attack, rule, server and contract, in this order;
        those of pull are stacked by worker, of rule, server and contract by server.
    """

    params: PyTree
    step: jax.Array
    stages: tuple


@taught
def replicated_servers(
    loss_fn: Callable,
    *,
    num_servers: int,
    num_workers: int,
    f_servers: int,
    f_workers: int,
    pull: optax.GradientTransformation,
    rule: optax.GradientTransformation,
    server: optax.GradientTransformation,
    contract: optax.GradientTransformation | None = None,
    send: optax.GradientTransformation | None = None,
    attack: optax.GradientTransformation | None = None,
    attack_models: optax.GradientTransformation | None = None,
    byzantine_servers: jax.Array | None = None,
    every: int = 1,
    quorum_servers: int | None = None,
    quorum_workers: int | None = None,
    workers_at_once: int | None = None,
    workers_axis: str | None = None,
) -> Protocol:
    r"""No server is trusted: workers aggregate models, servers aggregate gradients and models.

    One step, for every worker i and every server p,

    $$ y_i = \operatorname{pull}(x_q : q \in Q_i), \qquad g_i = \nabla \ell_i(y_i), \qquad
       x_p \leftarrow x_p - \gamma \operatorname{rule}(g_j : j \in Q_p), $$

    and after every T steps servers exchange models,

    $$ x_p \leftarrow \operatorname{contract}(x_q : q \in Q'_p), \qquad p \in Q'_p. $$

    Receivers wait for at most as many messages as there are honest senders. Each quorum Q holds the
    first messages that arrive, and is drawn for every receiver at every step.

    Byzantine servers take the steps, too; `attack_models` replaces what they send, the same for all
    receivers. For an attack that differs by receiver, put it before `pull`, `rule` or `contract`,
    as in `optax.chain(byzjax.attack(...), byzjax.aggregate(...))`: it acts on what one receiver
    hears.

    Requirement, for n servers and m workers: n >= 3 f_servers + 2 (n >= 1 without a fault),
    m >= 3 f_workers + 1; quorums from 2 f_servers + 2 to n - f_servers (from 1 without a fault)
    and from 2 f_workers + 1 to m - f_workers. Cost of a step: m gradients, m calls of `pull` and n
    calls of `rule`; one call with a stateless aggregate and a quorum of all.

    The exchange is computed only at the steps that have one, by a conditional on the step. Under a
    `vmap` of the whole run, scan and `init` included, it stays a conditional; under a `vmap` of
    `step` over states it becomes a select, and is computed at every step.

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`, of one worker's batch.
      num_servers: n, a Python int.
      num_workers: m, a Python int.
      f_servers: number of Byzantine servers to tolerate, a Python int.
      f_workers: number of Byzantine workers to tolerate, a Python int.
      pull: stacked models -> one model, at each worker, such as `byzjax.aggregate(byzjax.median)`.
      rule: stacked updates -> one update, at each server, such as
        `byzjax.aggregate(byzjax.aksel, f=f)`.
      server: the optimizer of each server, such as `optax.sgd(0.1)`.
      contract: stacked models -> one model, at each server; None for the coordinate-wise median.
        The server's own model is the first row, `params`, and the extra argument `center`.
      send: applied by honest workers to their gradients, such as
        `byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=m)`; None sends the gradient.
        Each worker has its own model, so `send` and `attack` receive no `params`.
      attack: the attack on the gradients, such as `byzjax.attack(attacks.sign_flip, byzantine)`.
      attack_models: the attack on the models, `[n, ...]`, whenever they are sent.
      byzantine_servers: `bool[n]`, the Byzantine servers, which `models` leaves out; may be traced.
        None for none.
      every: T, a Python int; the exchange follows the last of T steps.
      quorum_servers: how many models a receiver waits for, a Python int; None for the maximum,
        n - f_servers. In the exchange the server's own model counts as one.
      quorum_workers: how many gradients a server waits for, a Python int; None for m - f_workers.
      workers_at_once: how many receivers and gradients are computed at once, a Python int; None
        for all of them.
      workers_axis: a mapped axis (`jax.shard_map`, `jax.pmap`) whose devices share the gradient
        computation; all else, arguments included, is replicated. None for one device.

    Returns:
      A `Protocol`. `pull`, `rule` and `contract` receive the extra argument `senders`, `int32[q]`,
      the senders of their rows, and have a separate state, and keys, for each receiver. Worker i's
      loss key is `fold_in(key, i)`; the gradient of a `trusted` batch at the server's model becomes
      the extra argument `trusted` of `rule` and `server`. `info.aggregate` is that of the first
      honest server. `models` returns the first n - f_servers honest models.

    Raises:
      TypeError: an argument that must be a Python int is not.
      ValueError: there are too few servers or workers, a quorum is out of its range, or
        `byzantine_servers` is not `bool[n]`.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp, optax
      >>> from byzjax import attacks, protocols
      >>> def loss_fn(params, batch, key=None):
      ...     return jnp.mean((params - batch["x"]) ** 2)
      >>> byzantine = jnp.arange(5) == 0
      >>> servers = protocols.replicated_servers(
      ...     loss_fn, num_servers=5, num_workers=4, f_servers=1, f_workers=1,
      ...     pull=byzjax.aggregate(byzjax.median), rule=byzjax.aggregate(byzjax.median),
      ...     server=optax.sgd(0.5), byzantine_servers=byzantine,
      ...     attack_models=byzjax.attack(attacks.constant, byzantine, value=1e30))
      >>> key = jax.random.key(0)
      >>> batch = {"workers": {"x": jnp.array([[2.0], [2.0], [2.0], [99.0]])}}
      >>> state, info = servers.step(servers.init(jnp.zeros(()), key), batch, key)
      >>> servers.models(state)
      Array([2., 2., 2., 2.], dtype=float32)

    Reference: El-Mhamdi, Guerraoui, Guirguis, Hoang and Rouault, Genuinely Distributed Byzantine
    Machine Learning, PODC 2020 (arXiv:1905.03853); there `pull` and `contract` are the
    coordinate-wise median and `rule` is the mean of a subset of minimal diameter.
    """
    n, m, f_servers, f_workers, every = _servers.counts(
        num_servers=num_servers,
        num_workers=num_workers,
        f_servers=f_servers,
        f_workers=f_workers,
        every=every,
    )
    if f_servers > 0 and n < 3 * f_servers + 2:
        raise ValueError(
            "replicated_servers needs num_servers >= 3 f_servers + 2; "
            f"got num_servers={n}, f_servers={f_servers}."
        )
    if m < 3 * f_workers + 1:
        raise ValueError(
            "replicated_servers needs num_workers >= 3 f_workers + 1; "
            f"got num_workers={m}, f_workers={f_workers}."
        )
    q_servers = _quorum("servers", quorum_servers, n, f_servers, 2 if f_servers > 0 else 1)
    q_workers = _quorum("workers", quorum_workers, m, f_workers, 1)
    if workers_at_once is not None:
        workers_at_once = static_int("workers_at_once", workers_at_once, at_least=1)
    mask = _servers.liars(byzantine_servers, n)
    stages = _workers.supported(
        "replicated_servers",
        loss_fn,
        attack_models=attack_models,
        pull=pull,
        send=send,
        attack=attack,
        rule=rule,
        server=server,
        contract=contract or aggregate(median),
    )
    quorums = q_servers, q_workers
    made = _ReplicatedServers(
        loss_fn, stages, (n, m), quorums, every, mask, workers_at_once, workers_axis
    )
    return Protocol(made.init, made.step, _servers.honest_models(n, f_servers, mask), made.traffic)


@dataclasses.dataclass(frozen=True)
class _ReplicatedServers:
    """The functions of `replicated_servers`, bound to its checked arguments."""

    loss_fn: Callable
    stages: tuple
    sizes: tuple[int, int]
    quorums: tuple[int, int]
    every: int
    mask: jax.Array
    workers_at_once: int | None
    workers_axis: str | None

    def init(self, params: PyTree, key: jax.Array) -> ReplicatedState:
        del key  # random transformations received their keys when they were created
        (n, m), (attack_models, pull, send, attack, *of_servers) = self.sizes, self.stages
        once = [stage.init(params) for stage in (attack_models, send, attack)]
        pulls = per_worker(pull, m).init(params)
        each = [per_worker(stage, n).init(params) for stage in of_servers]
        stages = (once[0], pulls, *once[1:], *each)
        return copied(ReplicatedState(_workers.copies(params, n), jnp.int32(0), stages))

    def step(
        self, state: ReplicatedState, batch: dict, key: jax.Array
    ) -> tuple[ReplicatedState, Info]:
        (n, m), (q_servers, q_workers) = self.sizes, self.quorums
        attack_models, pull, send, attack, rule, server, _ = self.stages
        of_workers = _workers.batches(batch, key)
        _workers.check_batch(of_workers, m)
        to_workers, to_servers, between = [jax.random.fold_in(key, m + k) for k in (1, 2, 3)]
        attacking_models, pulling, sending, attacking, ruling, serving, contracting = state.stages

        models, attacking_models = attack_models.update(
            state.params, attacking_models, step=state.step
        )

        def pulled(quorum: jax.Array, pulling: PyTree) -> tuple[PyTree, PyTree]:
            return pull.update(_heard(models, quorum), pulling, senders=quorum)

        quorums = _workers.first_messages(to_workers, m, n, q_servers)
        seen, pulling = _workers.each(pulled, quorums, pulling, at_once=self.workers_at_once)
        options = {"at_once": self.workers_at_once, "axis": self.workers_axis}
        gradients = _workers.gradients(self.loss_fn, seen, of_workers, key, own=True, **options)
        honest, sending = send.update(gradients, sending)
        sent, attacking = attack.update(honest, attacking)

        def served(quorum: jax.Array, params: PyTree, ruling: PyTree, serving: PyTree) -> tuple:
            extra_args = _workers.trusted(self.loss_fn, params, batch, key, m)
            extra_args["senders"] = quorum
            update, ruling = rule.update(_heard(sent, quorum), ruling, params, **extra_args)
            change, serving = server.update(update, serving, params, **extra_args)
            return _workers.stepped(params, change), update, ruling, serving

        quorums = _workers.first_messages(to_servers, n, m, q_workers)
        params, aggregates, ruling, serving = _workers.each(
            served, quorums, state.params, ruling, serving, at_once=self.workers_at_once
        )

        def exchanged(params: PyTree, attacking_models: PyTree, contracting: PyTree) -> tuple:
            return self._exchanged(params, attacking_models, contracting, state.step, between)

        def kept(*unchanged: PyTree) -> tuple:
            return unchanged

        if self.every == 1:
            params, attacking_models, contracting = exchanged(params, attacking_models, contracting)
        else:
            params, attacking_models, contracting = lax.cond(
                (state.step + 1) % self.every == 0,
                exchanged,
                kept,
                params,
                attacking_models,
                contracting,
            )
        first = stacked.take(aggregates, jnp.argmin(self.mask))
        stages = (attacking_models, pulling, sending, attacking, ruling, serving, contracting)
        info = Info(honest, sent, first, jnp.arange(m))
        return ReplicatedState(params, state.step + 1, stages), info

    def _exchanged(
        self,
        params: PyTree,
        attacking_models: PyTree,
        contracting: PyTree,
        step: jax.Array,
        key: jax.Array,
    ) -> tuple[PyTree, PyTree, PyTree]:
        """The models after the servers have exchanged them, and the new states."""
        (n, _), (q_servers, _) = self.sizes, self.quorums
        attack_models, contract = self.stages[0], self.stages[-1]
        models, attacking_models = attack_models.update(params, attacking_models, step=step)

        def contracted(quorum: jax.Array, own: PyTree, contracting: PyTree) -> tuple:
            others = stacked.take(models, quorum[1:])
            rows = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), own, others)
            return contract.update(rows, contracting, own, senders=quorum, center=own)

        others = _workers.first_messages(key, n, n - 1, q_servers - 1)
        own = jnp.arange(n)[:, None]
        others = jnp.where(others >= own, others + 1, others)
        quorums = jnp.concatenate([own, others], axis=1)
        params, contracting = _workers.each(
            contracted, quorums, params, contracting, at_once=self.workers_at_once
        )
        return params, attacking_models, contracting

    def traffic(self, params: PyTree) -> Traffic:
        n, m = self.sizes
        messages = 2 * n * m + n * (n - 1) / self.every
        return Traffic(messages, messages * optax.tree.size(params))


def _quorum(whose: str, quorum: int | None, n: int, f: int, least: int) -> int:
    """The quorum, checked; the maximum for None."""
    if quorum is None:
        return n - f
    name, least = f"quorum_{whose}", 2 * f + least
    quorum = static_int(name, quorum)
    if not least <= quorum <= n - f:
        raise ValueError(
            f"replicated_servers needs {least} <= {name} <= {n - f} "
            f"for num_{whose}={n}, f_{whose}={f}; got {name}={quorum}."
        )
    return quorum


def _heard(messages: PyTree, quorum: jax.Array) -> PyTree:
    """The messages of a quorum, without a copy if it contains all senders."""
    if len(quorum) == stacked.num_workers(messages):
        return messages
    with jax.named_scope("send"):
        return stacked.take(messages, quorum)
