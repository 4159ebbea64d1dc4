"""One trusted server, and n workers of which some are Byzantine."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax._checks import positive, static_int
from byzjax._compiled import taught
from byzjax._mistakes import shown
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
      local: states of the workers' own optimizers, `[n, ...]`, if they are kept.
    """

    params: PyTree
    stages: tuple
    local: PyTree = ()


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
    local: optax.GradientTransformation | None = None,
    keep_local_state: bool = False,
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

    With `local`, each worker takes its k steps by an optimizer of its own and sends the
    pseudo-gradient $u_i = x - x_i^{(k)}$. `local=optax.adamw(...)` and a server with
    `optax.sgd(0.7, momentum=0.9, nesterov=True)` are DiLoCo; `local=optax.sgd(gamma)` sends
    $\gamma k$ times what `local_rate=gamma` does. The optimizers start anew at each step of the
    server, or go on with `keep_local_state`: n states then, which absent workers keep.

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
      local_rate: gamma, the step size of the local steps, which need it or `local`; may be traced.
      local: the optimizer of one worker, such as `optax.adamw(1e-3)`; None for SGD.
      keep_local_state: whether each worker's optimizer continues from its last state; needs `local`
        and `num_workers`.
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
    of Deep Networks from Decentralized Data, AISTATS 2017 (arXiv:1602.05629), for local steps;
    Douillard et al., DiLoCo: Distributed Low-Communication Training of Language Models, 2023
    (arXiv:2311.08105), Algorithm 1, for `local`; Yin, Chen, Ramchandran and Bartlett,
    Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018
    (arXiv:1803.01498), Algorithm 2, for `whole_batch`.
    """
    if workers_at_once is not None:
        workers_at_once = static_int("workers_at_once", workers_at_once, at_least=1)
    local_steps = static_int("local_steps", local_steps, at_least=1)
    if local is not None and local_rate is not None:
        raise ValueError(f"local has its own step size; got local_rate={local_rate} as well.")
    if local is None and local_rate is None and local_steps > 1:
        raise ValueError(
            f"local_steps > 1 needs local_rate or local; got local_steps={local_steps} alone."
        )
    if local_rate is not None and local_steps == 1:
        raise ValueError(f"local_rate needs local_steps > 1; got local_steps=1, {local_rate=}.")
    if keep_local_state and (local is None or num_workers is None):
        raise ValueError(
            "keep_local_state needs local and num_workers; "
            f"got local={shown(local)}, num_workers={num_workers}."
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
    if local is not None:
        (local,) = _workers.supported("parameter_server", loss_fn, local=local)
    elif local_rate is not None:
        local = optax.sgd(local_rate)
    made = _ParameterServer(
        loss_fn,
        stages,
        attack is not None,
        num_workers,
        per_round,
        local_steps,
        1 if local_rate is None else local_rate * local_steps,
        local,
        keep_local_state,
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
      length: what a worker's progress is divided by before it is sent.
    """

    loss_fn: Callable
    stages: tuple
    attacked: bool
    num_workers: int | None
    per_round: int | None
    local_steps: int
    length: Any
    local: optax.GradientTransformationExtraArgs | None
    keep_local_state: bool
    whole_batch: bool
    workers_at_once: int | None
    workers_axis: Any

    def init(self, params: PyTree, key: jax.Array) -> ServerState:
        """The state before the first step."""
        del key  # random transformations received their keys when they were created
        kept = ()
        if self.keep_local_state and self.local is not None and self.num_workers is not None:
            models = _workers.copies(params, self.num_workers)
            kept = jax.vmap(self.local.init, axis_size=self.num_workers)(models)
        stages = tuple(stage.init(params) for stage in self.stages)
        return copied(ServerState(params, stages, kept))

    def local_updates(
        self, params: PyTree, key: jax.Array, batch: PyTree, workers: jax.Array, states: PyTree
    ) -> tuple[PyTree, PyTree]:
        """What each worker computes from its batch, and the state of its optimizer if it is kept.

        That is a gradient, the mean of several, or a pseudo-gradient.
        """
        options = {"at_once": self.workers_at_once, "workers": workers}
        if self.local is None:
            return _workers.gradients(self.loss_fn, params, batch, key, **options), states
        models = _workers.copies(params, len(workers))
        if not self.keep_local_state:
            states = jax.vmap(self.local.init, axis_size=len(workers))(models)
        models, states = _workers.trained(
            *(self.loss_fn, self.local, models, states, batch, key),
            steps=self.local_steps,
            whole_batch=self.whole_batch,
            **options,
        )
        updates = jax.tree.map(lambda x, end: (x - end) / self.length, params, models)
        return updates, states if self.keep_local_state else ()

    def step(self, state: ServerState, batch: dict, key: jax.Array) -> tuple[ServerState, Info]:
        """One step."""
        params, of_workers = state.params, _workers.batches(batch, key)
        n = stacked.num_workers(of_workers)
        if self.num_workers is not None:
            _workers.check_batch(of_workers, self.num_workers)
        extra_args = _workers.trusted(self.loss_fn, params, batch, key, n)
        senders, local = jnp.arange(n), state.local
        if self.per_round is not None:
            drawn = jax.random.permutation(jax.random.fold_in(key, n + 1), n)[: self.per_round]
            senders = jnp.sort(drawn)
            of_workers = stacked.take(of_workers, senders)
            local = jax.tree.map(lambda x: x[senders], local)
        compute = functools.partial(self.local_updates, params, key)
        with jax.named_scope("gradient"):
            updates, local = _workers.shard_workers(
                compute, of_workers, senders, local, axis=self.workers_axis
            )
        if self.per_round is not None:
            extra_args["senders"] = senders
            local = jax.tree.map(lambda x, new: x.at[senders].set(new), state.local, local)
        seen, new_states = [], []
        for stage, stage_state in zip(self.stages, state.stages):
            updates, stage_state = stage.update(updates, stage_state, params, **extra_args)
            # The rule and `Info` both read what was sent; the barrier keeps it computed once.
            seen.append(fusion_barrier(updates) if len(seen) == 1 and self.attacked else updates)
            updates = seen[-1]
            new_states.append(stage_state)
        honest, sent, _, aggregate, step_taken = seen
        new_params = _workers.stepped(params, step_taken)
        told = Info(honest, sent, aggregate, senders)
        return ServerState(new_params, tuple(new_states), local), told

    def models(self, state: ServerState) -> PyTree:
        """The one model, stacked."""
        return jax.tree.map(lambda leaf: leaf[None], state.params)

    def traffic(self, params: PyTree) -> Traffic:
        """Communication of one step."""
        if self.num_workers is None:
            raise ValueError("traffic needs num_workers, which parameter_server was not given.")
        messages = 2 * (self.per_round or self.num_workers)
        return Traffic(messages, messages * optax.tree.size(params))
