"""One trusted server whose workers estimate gradients of finite sums with vanishing variance."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax._checks import static_int
from byzjax._compiled import taught
from byzjax._mistakes import shown
from byzjax._numerics.arrays import copied
from byzjax._numerics.barrier import fusion_barrier
from byzjax.protocols import _workers
from byzjax.protocols._protocol import Info, Protocol, Traffic
from byzjax.protocols.estimators import Estimator, Gradients
from byzjax.stacked import PyTree


class VarianceReducedState(NamedTuple):
    """The last two models, and what the estimator and the stages remember.

    Attributes:
      params: the model.
      previous: the model before the last step.
      aggregate: the last aggregate.
      count: `int32`, the number of steps so far.
      estimator: state of the workers' estimator.
      stages: states of the stages attack, mix, rule and server, in this order.
    """

    params: PyTree
    previous: PyTree
    aggregate: PyTree
    count: jax.Array
    estimator: PyTree
    stages: tuple


@taught
def variance_reduced(
    loss_fn: Callable,
    *,
    estimator: Estimator,
    rule: optax.GradientTransformation,
    server: optax.GradientTransformation,
    num_workers: int,
    attack: optax.GradientTransformation | None = None,
    mix: optax.GradientTransformation | None = None,
    workers_at_once: int | None = None,
    workers_axis: str | None = None,
) -> Protocol:
    r"""Workers with finite data send estimates whose variance vanishes as the model converges.

    $$ x^{k+1} = x^k - \gamma F(u_1^k, \dots, u_n^k) $$

    where u_i is what worker i's estimator makes of its data: `protocols.marina(p)`,
    `protocols.saga(m)`, `protocols.storm(a)`. With stochastic gradients, whose variance stays,
    Byzantine workers hide in it, and no rule converges to the minimum; under these estimators and
    strong convexity the error falls linearly, to a level that only the difference between the
    workers' data decides, to zero if they have none.

    Requirement: that of the rule. Cost: that of the estimator, plus the stages.

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`, the mean over the samples of one
        worker's batch `[b, ...]`.
      estimator: how workers estimate their gradients.
      rule: stacked updates -> one update, such as `byzjax.aggregate(byzjax.aksel, f=f)`.
      server: the server's optimizer, such as `optax.sgd(0.1)`.
      num_workers: n, a Python int.
      attack: the attack, such as `byzjax.attack(attacks.sign_flip, byzantine)`.
      mix: applied by the server before the rule; None for nothing.
      workers_at_once: how many workers' gradients are computed at once, a Python int; None for all.
      workers_axis: a mapped axis (`jax.shard_map`, `jax.pmap`) whose devices share the gradient
        computation; all else, arguments included, is replicated. None for one device.

    Returns:
      A `Protocol`. Each step takes all data of all workers, `batch["workers"]` with leaves
      `[n, m, ...]`, from which the estimator draws by the step's key. `models` returns one model.

    Raises:
      TypeError: an argument that must be a Python int is not, `estimator` is not an `Estimator`, or
        the loss is one of `byzjax.privacy.private`, whose noise would cancel.
      ValueError: num_workers or workers_at_once < 1, or, at a step, the data are not of n workers.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp, optax
      >>> from byzjax import protocols
      >>> def loss_fn(params, batch, key=None):
      ...     return jnp.mean((params - batch["x"]) ** 2)
      >>> server = protocols.variance_reduced(
      ...     loss_fn, estimator=protocols.saga(samples=2), num_workers=3,
      ...     rule=byzjax.aggregate(byzjax.median), server=optax.sgd(0.25))
      >>> key = jax.random.key(0)
      >>> batch = {"workers": {"x": jnp.array([[1.0, 3.0], [0.0, 4.0], [99.0, 99.0]])}}
      >>> state = server.init(jnp.zeros(()), key)
      >>> for k in range(50):
      ...     state, info = server.step(state, batch, jax.random.fold_in(key, k))
      >>> server.models(state).round(4)
      Array([2.], dtype=float32)

    Reference: see the estimators, `protocols.marina`, `protocols.saga` and `protocols.storm`.
    """
    n = static_int("num_workers", num_workers, at_least=1)
    if workers_at_once is not None:
        workers_at_once = static_int("workers_at_once", workers_at_once, at_least=1)
    if not isinstance(estimator, Estimator):
        raise TypeError(
            "variance_reduced needs an estimator, such as protocols.marina(0.1); got "
            f"{shown(estimator)}."
        )
    if getattr(loss_fn, "private", False):
        raise TypeError(
            "variance_reduced: a private loss has the same noise at both models of a step, so it "
            "would cancel; use parameter_server."
        )
    stages = _workers.supported(
        "variance_reduced", loss_fn, attack=attack, mix=mix, rule=rule, server=server
    )
    made = _VarianceReduced(loss_fn, estimator, stages, n, workers_at_once, workers_axis)
    return Protocol(made.init, made.step, made.models, made.traffic)


@dataclasses.dataclass(frozen=True)
class _VarianceReduced:
    """The functions of `variance_reduced`, bound to its checked arguments."""

    loss_fn: Callable
    estimator: Estimator
    stages: tuple
    n: int
    workers_at_once: int | None
    workers_axis: Any

    def init(self, params: PyTree, key: jax.Array) -> VarianceReducedState:
        """The state before the first step."""
        del key  # random transformations received their keys when they were created
        zeros = jax.tree.map(jnp.zeros_like, params)
        stages = tuple(stage.init(params) for stage in self.stages)
        remembered = self.estimator.init(params, self.n)
        return copied(VarianceReducedState(params, params, zeros, jnp.int32(0), remembered, stages))

    def step(
        self, state: VarianceReducedState, batch: dict, key: jax.Array
    ) -> tuple[VarianceReducedState, Info]:
        """One step."""
        params, data = state.params, jax.tree.map(jnp.asarray, _workers.batches(batch, key))
        _workers.check_batch(data, self.n)
        extra_args = _workers.trusted(self.loss_fn, params, batch, key, self.n)

        def at(model: PyTree, batch: PyTree) -> PyTree:
            options = {"at_once": self.workers_at_once, "axis": self.workers_axis}
            return _workers.gradients(self.loss_fn, model, batch, key, **options)

        drawing = jax.random.fold_in(key, self.n + 1)
        given = Gradients(
            *(at, params, state.previous, state.aggregate, data, drawing, state.count == 0)
        )
        updates, remembered = self.estimator.estimate(state.estimator, given)
        seen, new_states = [updates], []
        for stage, stage_state in zip(self.stages, state.stages):
            updates, stage_state = stage.update(updates, stage_state, params, **extra_args)
            # The rule and `Info` both read what was sent; the barrier keeps it computed once.
            updates = fusion_barrier(updates) if len(seen) == 1 else updates
            seen.append(updates)
            new_states.append(stage_state)
        honest, sent, _, aggregate, step_taken = seen
        new_params = _workers.stepped(params, step_taken)
        new_state = VarianceReducedState(
            *(new_params, params, aggregate, state.count + 1, remembered, tuple(new_states))
        )
        return new_state, Info(honest, sent, aggregate, jnp.arange(self.n))

    def models(self, state: VarianceReducedState) -> PyTree:
        """The one model, stacked."""
        return jax.tree.map(lambda leaf: leaf[None], state.params)

    def traffic(self, params: PyTree) -> Traffic:
        """Communication of one step, on average."""
        down, up = optax.tree.size(params), self.estimator.floats(params)
        return Traffic(2 * self.n, self.n * (down + up))
