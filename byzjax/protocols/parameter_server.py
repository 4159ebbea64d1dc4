"""One trusted server, and n workers of which some are Byzantine."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from byzjax import stacked
from byzjax._checks import positive, static_int
from byzjax._compiled import taught
from byzjax._numerics.arrays import copied
from byzjax._numerics.barrier import fusion_barrier
from byzjax.protocols import _workers
from byzjax.protocols._protocol import Info, Protocol, Traffic
from byzjax.stacked import PyTree


class ServerState(NamedTuple):
    """The model, and the state of each stage.

    Attributes:
      params: the model.
      stages: states of the stages send, attack, mix, rule and server, in this order.
    """

    params: PyTree
    stages: tuple


@taught
def parameter_server(
    loss_fn: Callable,
    *,
    rule: optax.GradientTransformation,
    server: optax.GradientTransformation,
    send: optax.GradientTransformation | None = None,
    attack: optax.GradientTransformation | None = None,
    mix: optax.GradientTransformation | None = None,
    num_workers: int | None = None,
    per_round: int | None = None,
    local_steps: int = 1,
    local_rate: float | jax.Array | None = None,
    whole_batch: bool = False,
    workers_at_once: int | None = None,
    workers_axis: str | None = None,
) -> Protocol:
    r"""Workers send updates to one server, which aggregates them and takes a step.

    One step is `optax.chain(send, attack, mix, rule, server)` on the gradients of all workers, run
    stage by stage so that intermediate results can be inspected. Worker momentum is part of `send`,
    server momentum part of `mix`, and momentum of the update part of `server`.

    With local steps, worker i starts at the server's model and takes k steps of plain SGD, the j-th
    on the j-th part of its batch; it sends the mean of the gradients along its path,

    $$ u_i = \frac{x - x_i^{(k)}}{\gamma k}, \qquad
       x_i^{(j+1)} = x_i^{(j)} - \gamma \nabla \ell_{ij}(x_i^{(j)}), \quad x_i^{(0)} = x. $$

    A server step of $\gamma k$ along the mean of these is federated averaging.

    With `whole_batch` each local step is on the whole batch, so that with many of them x_i tends to
    the minimiser of worker i's own loss. One step of the server with `optax.sgd(gamma * k)` ends at
    the aggregate of these minimisers, if the rule shifts and scales: with `byzjax.median`, the
    one-round algorithm of Yin et al.

    Cost: k gradients per worker, plus the stages; 2n messages of d numbers per step.

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`, of one worker's batch.
      rule: stacked updates -> one update, such as `byzjax.aggregate(byzjax.aksel, f=f)`.
      server: the server's optimizer, such as `optax.sgd(0.1)`.
      send: applied by honest workers to their gradients, such as
        `byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=n)`; None sends the gradient.
      attack: the attack, such as `byzjax.attack(attacks.sign_flip, byzantine)`.
      mix: applied by the server before the rule; None for nothing.
      num_workers: n, a Python int; needed with `per_round`, and for `traffic`.
      per_round: how many workers participate in a step, drawn from its key without replacement;
        the others compute nothing and keep their state. All stages see this many rows, and the
        extra argument `senders`, `int32[per_round]`, in increasing order. `byzjax.faults_among`
        says how many of them to defend against. None for all.
      local_steps: k, a Python int that divides the batch, unless `whole_batch`.
      local_rate: gamma, the step size of the local steps, which need it; may be traced.
      whole_batch: whether each local step is on the worker's whole batch; needs local steps.
      workers_at_once: how many workers' gradients are computed at once, a Python int; None for all.
        1 saves memory, and for convolutional models time on CPU.
      workers_axis: a mapped axis (`jax.shard_map`, `jax.pmap`) whose devices share the gradient
        computation; all else, arguments included, is replicated. None for one device.

    Returns:
      A `Protocol`. Worker i's loss key is `fold_in(key, i)`; the gradient of a `trusted` batch
      becomes the extra argument `trusted`. `models` returns one model.

    Raises:
      TypeError: an argument that must be a Python int is not.
      ValueError: an argument is not positive, per_round > num_workers, local steps have no rate,
        or, at a step, local_steps does not divide the batch.

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

    Reference: McMahan, Moore, Ramage, Hampson and Agüera y Arcas, Communication-Efficient Learning
    of Deep Networks from Decentralized Data, AISTATS 2017 (arXiv:1602.05629), for local steps; Yin,
    Chen, Ramchandran and Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates, ICML 2018 (arXiv:1803.01498), Algorithm 2, for `whole_batch`.
    """
    if workers_at_once is not None:
        workers_at_once = static_int("workers_at_once", workers_at_once, at_least=1)
    local_steps = static_int("local_steps", local_steps, at_least=1)
    if (local_rate is None) != (local_steps == 1):
        raise ValueError(
            "local_rate is required if and only if local_steps > 1; "
            f"got local_steps={local_steps}, local_rate={local_rate}."
        )
    positive("local_rate", local_rate)
    if whole_batch and local_steps == 1:
        raise ValueError("whole_batch needs local_steps > 1; got local_steps=1.")
    if num_workers is not None:
        num_workers = static_int("num_workers", num_workers, at_least=1)
    if per_round is not None:
        per_round = static_int("per_round", per_round, at_least=1)
        if num_workers is None or per_round > num_workers:
            raise ValueError(
                "per_round needs per_round <= num_workers; "
                f"got per_round={per_round}, num_workers={num_workers}."
            )
    stages = _workers.supported(
        "parameter_server", loss_fn, send=send, attack=attack, mix=mix, rule=rule, server=server
    )
    made = _ParameterServer(
        loss_fn,
        stages,
        attack is not None,
        num_workers,
        per_round,
        local_steps,
        local_rate,
        whole_batch,
        workers_at_once,
        workers_axis,
    )
    return Protocol(made.init, made.step, made.models, made.traffic)


@dataclasses.dataclass(frozen=True)
class _ParameterServer:
    """The functions of `parameter_server`, bound to its checked arguments.

    Attributes:
      stages: send, attack, mix, rule and server.
      attacked: whether there is an attack.
    """

    loss_fn: Callable
    stages: tuple
    attacked: bool
    num_workers: int | None
    per_round: int | None
    local_steps: int
    local_rate: Any
    whole_batch: bool
    workers_at_once: int | None
    workers_axis: Any

    def init(self, params: PyTree, key: jax.Array) -> ServerState:
        """The state before the first step."""
        del key  # random transformations received their keys when they were created
        return copied(ServerState(params, tuple(stage.init(params) for stage in self.stages)))

    def local_updates(
        self, params: PyTree, key: jax.Array, batch: PyTree, workers: jax.Array
    ) -> PyTree:
        """The update of each worker from its batch: a gradient, or the mean of several."""
        options = {"at_once": self.workers_at_once, "workers": workers}
        if self.local_rate is None:
            return _workers.gradients(self.loss_fn, params, batch, key, **options)
        parts = None
        if not self.whole_batch:
            parts = jax.tree.map(lambda x: _parts(x, self.local_steps), batch)
        models = _workers.copies(params, len(workers))

        def local(models: PyTree, place: tuple) -> tuple[PyTree, None]:
            part, j = place
            part = batch if self.whole_batch else part
            own = jax.random.fold_in(key, j)
            gradients = _workers.gradients(self.loss_fn, models, part, own, own=True, **options)
            return jax.tree.map(lambda x, g: x - self.local_rate * g, models, gradients), None

        models, _ = lax.scan(local, models, (parts, jnp.arange(self.local_steps)))
        return jax.tree.map(
            lambda x, end: (x - end) / (self.local_rate * self.local_steps), params, models
        )

    def step(self, state: ServerState, batch: dict, key: jax.Array) -> tuple[ServerState, Info]:
        """One step."""
        params, of_workers = state.params, _workers.batches(batch, key)
        n = stacked.num_workers(of_workers)
        if self.num_workers is not None:
            _workers.check_batch(of_workers, self.num_workers)
        extra_args = _workers.trusted(self.loss_fn, params, batch, key, n)
        senders = jnp.arange(n)
        if self.per_round is not None:
            drawn = jax.random.permutation(jax.random.fold_in(key, n + 1), n)[: self.per_round]
            senders = jnp.sort(drawn)
            of_workers = stacked.take(of_workers, senders)
        compute = functools.partial(self.local_updates, params, key)
        with jax.named_scope("gradient"):
            updates = _workers.shard_workers(compute, of_workers, senders, axis=self.workers_axis)
        if self.per_round is not None:
            extra_args["senders"] = senders
        seen, new_states = [], []
        for stage, stage_state in zip(self.stages, state.stages):
            updates, stage_state = stage.update(updates, stage_state, params, **extra_args)
            # The rule and `Info` both read what was sent; the barrier keeps it computed once.
            seen.append(fusion_barrier(updates) if len(seen) == 1 and self.attacked else updates)
            updates = seen[-1]
            new_states.append(stage_state)
        honest, sent, _, aggregate, step_taken = seen
        new_params = _workers.stepped(params, step_taken)
        return ServerState(new_params, tuple(new_states)), Info(honest, sent, aggregate, senders)

    def models(self, state: ServerState) -> PyTree:
        """The one model, stacked."""
        return jax.tree.map(lambda leaf: leaf[None], state.params)

    def traffic(self, params: PyTree) -> Traffic:
        """Communication of one step."""
        if self.num_workers is None:
            raise ValueError("traffic needs num_workers, which parameter_server was not given.")
        messages = 2 * (self.per_round or self.num_workers)
        return Traffic(messages, messages * _workers.floats(params))


def _parts(leaf: jax.Array, count: int) -> jax.Array:
    """`[n, b, ...]` as `[count, n, b / count, ...]`."""
    n, b, *rest = leaf.shape
    if b % count:
        raise ValueError(f"local_steps must divide the batch; got local_steps={count}, batch={b}.")
    return jnp.swapaxes(leaf.reshape(n, count, b // count, *rest), 0, 1)
