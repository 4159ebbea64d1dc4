"""An asynchronous server: every gradient is used or rejected when it arrives."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from byzjax import stacked
from byzjax._checks import static_int
from byzjax._compiled import taught
from byzjax._mistakes import shown
from byzjax._numerics.arrays import copied
from byzjax.protocols import _history, _workers
from byzjax.protocols._protocol import Info, Protocol, Traffic
from byzjax.protocols.damping import constant_damping
from byzjax.protocols.judges import Arrival, Judge
from byzjax.stacked import PyTree


class AsynchronousState(NamedTuple):
    """State of the server, and of the computation of each worker.

    Attributes:
      params: the model.
      version: `int32`, number of steps that the server has taken.
      left: `float[n]`, remaining computing time of each worker.
      pulled: the model that each worker pulled, stacked `[n, ...]`.
      versions: `int32[n]`, the versions of the pulled models.
      honest: the last gradient of each worker, stacked `[n, ...]`; initially 0.
      buffers: the mean gradient in each buffer, stacked `[B, ...]`, or None.
      waiting: `int32[B]`, number of gradients in each buffer; B is 0 without buffers.
      accepted: `int32[n]`, number of accepted gradients of each worker.
      rejected: `int32[n]`, number of rejected gradients of each worker.
      stages: states of the stages attack, rule and server, in this order.
      judges: states of the judges.
      history: the last models, newest first, stacked `[max_read_age + 1, ...]`, or None.
    """

    params: PyTree
    version: jax.Array
    left: jax.Array
    pulled: PyTree
    versions: jax.Array
    honest: PyTree
    buffers: PyTree
    waiting: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    stages: tuple
    judges: tuple
    history: PyTree = None


@taught
def asynchronous(
    loss_fn: Callable,
    *,
    num_workers: int,
    server: optax.GradientTransformation,
    judge: Sequence[Judge] = (),
    damping: Callable | None = None,
    buffers: int | None = None,
    rule: optax.GradientTransformation | None = None,
    attack: optax.GradientTransformation | None = None,
    speeds: jax.Array | None = None,
    max_staleness: int | None = None,
    max_read_age: int = 0,
) -> Protocol:
    r"""A server takes a step for each arriving gradient that its judges accept.

    One step is one arrival, from the worker p that finishes first. It had pulled the model of
    version v, the model after v steps of the server. With the weights w_1, w_2, .. of the judges,
    0 for a rejection,

    $$ d = \Lambda(\tau) \, w_1 w_2 \cdots \nabla \ell_p(x_v), \qquad \tau = t - v. $$

    The server's optimizer receives d as the gradient. If a judge rejects it, or tau exceeds
    `max_staleness`, the model stays unchanged. Then worker p pulls the model. Its computing time is
    drawn from an exponential distribution of mean 1 / `speeds[p]`, so that with equal speeds tau
    has mean n - 1 if every gradient is accepted.

    Without judges this is plain asynchronous SGD, `judge=kardam(f=f)` with a damping is Kardam, and
    `judge=[zeno_plus_plus(...)]` is Zeno++. With `buffers=B` it is BASGD: d is averaged into buffer
    p mod B; once no buffer is empty, the server's gradient is the rule of the B means, and the
    buffers are emptied. A rule that tolerates f rows then tolerates f Byzantine workers.

    With `max_read_age=k` workers read while others write, as without locks in Hogwild: each
    coordinate of the model that a worker pulls at version v is that of one of the versions v - k to
    v (of the first model, before that), drawn independently and uniformly. tau counts from v.

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`, of one worker's batch.
      num_workers: n, a Python int.
      server: the server's optimizer, such as `optax.sgd(0.1)`.
      judge: judges that must all accept a gradient; `()` accepts every gradient.
      damping: Lambda, a function of the staleness, such as `inverse_damping()`; None for 1.
      buffers: B, a Python int, at most n; None for none.
      rule: aggregates the buffers, such as `byzjax.aggregate(byzjax.median)`.
      attack: the attack, such as `byzjax.attack(attacks.sign_flip, byzantine)`. It sees the last
        gradient of each worker, initially 0; of its result only the row of the arriving worker is
        sent. Its `step` counts arrivals.
      speeds: `float[n]`, gradients per unit of time; may be traced. None for 1.
      max_staleness: the largest tau that is accepted, a Python int; None for no limit.
      max_read_age: k, the largest age of a coordinate at a pull, a Python int; 0 for one age.

    Returns:
      A `Protocol`. Worker p's loss key is `fold_in(key, p)`; the gradient of a `trusted` batch at
      the server's model becomes the extra argument `trusted`. `models` returns one model. The state
      counts the accepted and rejected gradients of each worker. In `Info`, `honest` and `sent` have
      one row, and `aggregate` is the optimizer's input, 0 if there is none.

      Requirement: n >= 1, or that of the judges. Cost: one gradient per step, and O((n + k) d)
      memory.

    Raises:
      TypeError: an argument that must be a Python int is not.
      ValueError: an argument is too small, there are more buffers than workers, only one of
        `buffers` and `rule` is given, `speeds` is invalid, or a judge needs more workers.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from byzjax import protocols
      >>> def loss_fn(params, batch, key=None):
      ...     return jnp.mean((params - batch["x"]) ** 2)
      >>> server = protocols.asynchronous(
      ...     loss_fn, num_workers=3, server=optax.sgd(0.1), damping=protocols.inverse_damping())
      >>> key = jax.random.key(0)
      >>> batch = {"workers": {"x": jnp.array([[1.0], [1.0], [1.0]])}}
      >>> state = server.init(jnp.zeros(()), key)
      >>> for k in range(60):
      ...     state, info = jax.jit(server.step)(state, batch, jax.random.fold_in(key, k))
      >>> server.models(state).round(2)
      Array([1.], dtype=float32)

    Reference: Kardam in Damaskinos, El Mhamdi, Guerraoui, Patra and Taziki, Asynchronous Byzantine
    Machine Learning (the case of SGD), ICML 2018 (arXiv:1802.07928); BASGD in Yang and Li, BASGD:
    Buffered Asynchronous SGD for Byzantine Learning, ICML 2021 (arXiv:2003.00937), without its
    reassignment of workers whose buffers stay empty; `max_read_age` in Nguyen et al., SGD and
    Hogwild! Convergence Without the Bounded Gradients Assumption, ICML 2018 (arXiv:1802.03801).
    """
    n = static_int("num_workers", num_workers, at_least=1)
    if (buffers is None) != (rule is None):
        raise ValueError(
            f"buffers and rule must be given together; got buffers={buffers}, rule={rule}."
        )
    if buffers is not None:
        buffers = static_int("buffers", buffers, at_least=1)
        if buffers > n:
            raise ValueError(
                "asynchronous needs buffers <= num_workers; "
                f"got buffers={buffers}, num_workers={n}."
            )
    if max_staleness is not None:
        max_staleness = static_int("max_staleness", max_staleness)
    age = static_int("max_read_age", max_read_age)
    if speeds is not None and jnp.shape(speeds) != (n,):
        raise ValueError(f"speeds have shape {jnp.shape(speeds)}; {n} workers need shape ({n},).")
    if speeds is not None and not isinstance(speeds, jax.core.Tracer):
        values = jax.device_get(speeds)
        if not all(0 < speed < math.inf for speed in values):
            raise ValueError(f"speeds must be positive and finite; got {list(map(float, values))}.")
    if isinstance(judge, str) or callable(judge):
        raise TypeError(
            f"judge must hold judges; got {shown(judge)}: write judge=protocols.kardam(f=f)."
        )
    for each in judge:
        each.check(n)
    damping = damping or constant_damping()
    stages = _workers.supported("asynchronous", loss_fn, attack=attack, rule=rule, server=server)
    if buffers is not None:
        _workers.try_rule(stages[1], buffers, "in asynchronous these are its buffers", "trusted")
    made = _Asynchronous(loss_fn, judge, damping, buffers, speeds, max_staleness, age, n, stages)
    return Protocol(made.init, made.step, made.models, made.traffic)


@dataclasses.dataclass(frozen=True)
class _Asynchronous:
    """The functions of `asynchronous`, bound to its checked arguments."""

    loss_fn: Callable
    judge: Sequence[Judge]
    damping: Callable
    buffers: int | None
    speeds: jax.Array | None
    max_staleness: int | None
    age: int
    n: int
    stages: tuple

    def computing_time(self, key: jax.Array, shape: tuple, who) -> jax.Array:
        time = jax.random.exponential(key, shape, jnp.float32)
        return time if self.speeds is None else time / jnp.asarray(self.speeds, jnp.float32)[who]

    def init(self, params: PyTree, key: jax.Array) -> AsynchronousState:
        zeros = jnp.zeros(self.n, jnp.int32)
        state = AsynchronousState(
            params=params,
            version=jnp.int32(0),
            left=self.computing_time(key, (self.n,), slice(None)),
            pulled=_workers.copies(params, self.n),
            versions=zeros,
            honest=_workers.zeros(params, self.n),
            buffers=None if self.buffers is None else _workers.zeros(params, self.buffers),
            waiting=jnp.zeros(self.buffers or 0, jnp.int32),
            accepted=zeros,
            rejected=zeros,
            stages=tuple(stage.init(params) for stage in self.stages),
            judges=tuple(each.init(params, self.n) for each in self.judge),
            history=_history.begun(params, self.age),
        )
        return copied(state)

    def step(
        self, state: AsynchronousState, batch: dict, key: jax.Array
    ) -> tuple[AsynchronousState, Info]:
        of_workers, params = _workers.batches(batch, key), state.params
        _workers.check_batch(of_workers, self.n)
        grad = jax.grad(self.loss_fn)
        extra_args = _workers.trusted(self.loss_fn, params, batch, key, self.n)
        attacking, ruling, serving = state.stages
        attack, rule, server = self.stages

        p = jnp.argmin(state.left).astype(jnp.int32)
        pulled = stacked.take(state.pulled, p)
        with jax.named_scope("gradient"):
            own = grad(pulled, stacked.take(of_workers, p), key=jax.random.fold_in(key, p))
        honest = _workers.with_row(state.honest, p, own)
        sent, attacking = attack.update(honest, attacking, params, **extra_args)
        sent = stacked.take(sent, p)

        staleness = state.version - state.versions[p]
        arrival = Arrival(sent, p, pulled, params, staleness, extra_args.get("trusted"))
        with jax.named_scope("aggregate"):
            weight, accept, judges = self._judged(state, arrival)
            # `stacked.scale` by 0 gives 0, even for NaN.
            gradient = stacked.scale(_workers.copies(sent, 1), jnp.where(accept, weight, 0)[None])
            gradient = stacked.take(gradient, 0)
            held, waiting, ready = self._buffered(state, p, gradient, accept)

        def forward():
            direction, ruled = gradient, ruling
            if self.buffers is not None:
                direction, ruled = rule.update(held, ruling, params, **extra_args)
            updates, served = server.update(direction, serving, params, **extra_args)
            return _workers.stepped(params, updates), direction, ruled, served

        def unchanged():
            return params, jax.tree.map(jnp.zeros_like, params), ruling, serving

        new_params, direction, ruling, serving = lax.cond(ready, forward, unchanged)
        if self.buffers is not None:
            held = _where(ready, jax.tree.map(jnp.zeros_like, held), held)
            waiting = jnp.where(ready, 0, waiting)

        version = state.version + ready.astype(jnp.int32)
        left = state.left - state.left[p]
        time = self.computing_time(jax.random.fold_in(key, self.n + 1), (), p)
        one = accept.astype(jnp.int32)
        history = _history.pushed(state.history, new_params, ready)
        read = _history.read(history, new_params, jax.random.fold_in(key, self.n + 2))
        new_state = AsynchronousState(
            params=new_params,
            version=version,
            left=left.at[p].set(time),
            pulled=_workers.with_row(state.pulled, p, read),
            versions=state.versions.at[p].set(version),
            honest=honest,
            buffers=held,
            waiting=waiting,
            accepted=state.accepted.at[p].add(one),
            rejected=state.rejected.at[p].add(1 - one),
            stages=(attacking, ruling, serving),
            judges=judges,
            history=history,
        )
        info = Info(_workers.copies(own, 1), _workers.copies(sent, 1), direction, p[None])
        return new_state, info

    def _judged(self, state: AsynchronousState, arrival: Arrival) -> tuple:
        """(the gradient's weight, whether it is accepted, the judges' states)."""
        weight, accept = self.damping(arrival.staleness), jnp.bool_(True)
        if self.max_staleness is not None:
            accept = arrival.staleness <= self.max_staleness
        judged = []
        for each, its_state in zip(self.judge, state.judges):
            factor, its_state = each.judge(its_state, arrival)
            weight, accept = weight * factor, accept & (factor > 0)
            judged.append(its_state)
        judges = tuple(
            _where(accept, each.accepted(its_state, arrival), its_state)
            for each, its_state in zip(self.judge, judged)
        )
        return weight, accept, judges

    def _buffered(
        self, state: AsynchronousState, p: jax.Array, gradient: PyTree, accept: jax.Array
    ) -> tuple:
        """(the buffers, how many gradients wait in each, whether the server takes a step)."""
        held, waiting = state.buffers, state.waiting
        if self.buffers is None:
            return held, waiting, accept
        b = p % self.buffers
        there, count = stacked.take(held, b), waiting[b]
        mean = jax.tree.map(lambda h, g: h + (g - h) / (count + 1).astype(h.dtype), there, gradient)
        held = _workers.with_row(held, b, _where(accept, mean, there))
        waiting = waiting.at[b].add(accept.astype(jnp.int32))
        return held, waiting, accept & jnp.all(waiting > 0)

    def models(self, state: AsynchronousState) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[None], state.params)

    def traffic(self, params: PyTree) -> Traffic:
        return Traffic(2, 2 * optax.tree.size(params))


def _where(condition: jax.Array, if_true: PyTree, if_false: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)
