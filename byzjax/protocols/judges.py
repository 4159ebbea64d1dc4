"""Judges for `asynchronous`: whether an arriving gradient is used, and with what weight."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._checks import one_of, static_int
from byzjax._numerics.arrays import root
from byzjax.protocols import _workers
from byzjax.stacked import PyTree


class Arrival(NamedTuple):
    """A gradient that has just arrived.

    Attributes:
      gradient: the gradient as sent, `[...]`.
      worker: `int32`, its sender.
      params: the model that this worker had pulled, `[...]`.
      current: the server's model, `[...]`.
      staleness: `int32`, number of server steps in between.
      trusted: the gradient of the server's own batch at `current`, `[...]`, or None.
    """

    gradient: PyTree
    worker: jax.Array
    params: PyTree
    current: PyTree
    staleness: jax.Array
    trusted: PyTree | None


class Judge(NamedTuple):
    """Decides on arriving gradients; a gradient is accepted if all judges accept it.

    Attributes:
      check: `check(num_workers)` raises if the judge cannot work with that many.
      init: `init(params, num_workers) -> state`.
      judge: `judge(state, arrival) -> (weight, state)`; a weight of 0 rejects, a positive one
        scales the gradient.
      accepted: `accepted(state, arrival) -> state`, for an arrival that all judges accepted.
    """

    check: Callable
    init: Callable
    judge: Callable
    accepted: Callable


# --- Kardam --------------------------------------------------------------------------------------


class LipschitzState(NamedTuple):
    """State of `lipschitz`.

    Attributes:
      gradients: the last gradient of each worker, stacked `[n, ...]`.
      pulled: the models pulled for these, stacked `[n, ...]`.
      norms: `[n]`, the norms of these gradients; -inf for workers that sent nothing yet.
      coefficients: `[n, window]`, the last coefficients of each worker; -inf if missing.
      count: `int32[n]`, number of coefficients of each worker so far.
      last: the last accepted gradient, `[...]`.
      before: the server's model when that was accepted, `[...]`.
      refused: `int32`, number of rejections since then.
    """

    gradients: PyTree
    pulled: PyTree
    norms: jax.Array
    coefficients: jax.Array
    count: jax.Array
    last: PyTree
    before: PyTree
    refused: jax.Array


def lipschitz(*, f: int, window: int = 25, norms: str = "always") -> Judge:
    r"""Rejects a gradient that changes faster than the gradients of most workers.

    Worker q pulled the models x_q' and x_q, consecutive and different, and sent g_q' and g_q for
    them. The last accepted gradient was g'; the server's model was x' before it, and is x now. A
    gradient g is accepted if

    $$ \frac{\|g - g'\|}{\|x - x'\|} \le \operatorname*{quantile}_{(n - f) / n} \hat K_q,
       \qquad \hat K_q = \frac{\|g_q - g_q'\|}{\|x_q - x_q'\|}. $$

    The left side spans one step of the server, but a worker pulls once in n steps. So with noisy
    gradients the left side is usually larger, and few gradients are accepted. Therefore K_q is the
    largest of the last `window` coefficients of worker q; `window=1` is the formula itself.

    The formula is waived before 2f + 1 workers have a coefficient, if x = x', and after n
    consecutive rejections, since the coefficients do not change while all gradients are rejected.

    A coefficient is large if a worker happened to pull two models close to each other; then a
    malicious gradient of any norm may pass, and it moves x so far that the next ones pass as well.
    For this reason, and because of the waiver, norms are checked as well: with `norms="always"` the
    norm of an accepted gradient is at most the same quantile of the norms of the workers' last
    gradients, and nothing is accepted before 2f + 1 workers have sent something. With
    `norms="otherwise"` norms are checked only while the formula is waived, and with
    `norms="never"`, the published formula alone, not at all.

    Of m workers that have a value, the quantile is the (m - f)-th smallest: at most the largest of
    the honest ones. Non-finite gradients are rejected.

    Requirement: n >= 3f + 1. Breakdown: a malicious gradient is accepted if it changes no faster
    than honest ones. Cost: O(d), and O(nd) memory for the last gradient and model of each worker.

    Args:
      f: number of faults to tolerate, a Python int.
      window: number of recent coefficients of a worker to take the largest of, a Python int.
      norms: always, otherwise or never.

    Returns:
      A `Judge` for `asynchronous`.

    Raises:
      TypeError: f or window is not a Python int.
      ValueError: one is too small, `norms` is unknown, or `asynchronous` has n < 3f + 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax.protocols import Arrival, lipschitz
      >>> judge = lipschitz(f=0)
      >>> def arrives(state, gradient, model):
      ...     x = jnp.array([model])
      ...     arrival = Arrival(jnp.array([gradient]), jnp.int32(0), x, x, jnp.int32(0), None)
      ...     weight, state = judge.judge(state, arrival)
      ...     return float(weight), judge.accepted(state, arrival)
      >>> _, state = arrives(judge.init(jnp.zeros(1), 1), 1.0, 0.0)
      >>> _, state = arrives(state, 3.0, 1.0)  # changes by 2 where the model moved by 1
      >>> arrives(state, 6.0, 2.0)[0], arrives(state, jnp.inf, 2.0)[0]
      (1.0, 0.0)

    Reference: Damaskinos, El Mhamdi, Guerraoui, Patra and Taziki, Asynchronous Byzantine Machine
    Learning (the case of SGD), ICML 2018 (arXiv:1802.07928). The window of 25 and the reset after n
    rejections are those of the authors' code; the norm check is ours.
    """
    f = static_int("f", f)
    window = static_int("window", window, at_least=1)
    one_of("norms", norms, ("always", "otherwise", "never"))

    def init(params: PyTree, num_workers: int) -> LipschitzState:
        zero = jax.tree.map(jnp.zeros_like, params)
        zeros = _workers.copies(zero, num_workers)
        return LipschitzState(
            gradients=zeros,
            pulled=zeros,
            norms=jnp.full(num_workers, -jnp.inf, jnp.float32),
            coefficients=jnp.full((num_workers, window), -jnp.inf, jnp.float32),
            count=jnp.zeros(num_workers, jnp.int32),
            last=zero,
            before=zero,
            refused=jnp.int32(0),
        )

    def judge(state: LipschitzState, arrival: Arrival) -> tuple[jax.Array, LipschitzState]:
        p, n = arrival.worker, len(state.norms)
        gradient_change = _distance(arrival.gradient, stacked.take(state.gradients, p))
        model_change = _distance(arrival.params, stacked.take(state.pulled, p))
        measured = (state.norms[p] > -jnp.inf) & (model_change > 0)
        place = state.count[p] % window
        latest = jnp.where(measured, gradient_change / model_change, state.coefficients[p, place])
        coefficients = state.coefficients.at[p, place].set(latest)
        norm = _norm(arrival.gradient)
        lengths = state.norms.at[p].set(norm)

        steepest = jnp.max(coefficients, axis=1)
        step = _distance(arrival.current, state.before)
        growth = _distance(arrival.gradient, state.last) / step
        known = jnp.sum(steepest > -jnp.inf) > 2 * f
        decides = known & (step > 0) & (state.refused < n)
        # inf <= inf holds: an infinite growth must not pass a quantile that is infinite as well.
        slow = jnp.isfinite(growth) & (growth <= _quantile(steepest, f))
        short = (jnp.sum(lengths > -jnp.inf) > 2 * f) & (norm <= _quantile(lengths, f))
        good = jnp.isfinite(norm) & (slow | ~decides)
        if norms == "always":
            good = good & short
        elif norms == "otherwise":
            good = good & (short | decides)
        return good.astype(jnp.float32), state._replace(
            gradients=_workers.with_row(state.gradients, p, arrival.gradient),
            pulled=_workers.with_row(state.pulled, p, arrival.params),
            norms=lengths,
            coefficients=coefficients,
            count=state.count.at[p].add(measured.astype(jnp.int32)),
            refused=state.refused + (~good).astype(jnp.int32),
        )

    def accepted(state: LipschitzState, arrival: Arrival) -> LipschitzState:
        return state._replace(last=arrival.gradient, before=arrival.current, refused=jnp.int32(0))

    return Judge(_three_times("lipschitz", f), init, judge, accepted)


class FrequencyState(NamedTuple):
    """State of `frequency`.

    Attributes:
      workers: `int32[2f]`, senders of the last accepted gradients; -1 if there are fewer.
    """

    workers: jax.Array


def frequency(*, f: int) -> Judge:
    r"""Rejects gradients of the workers that sent the last 2f accepted gradients.

    Then no f workers supply more than f of any 2f + 1 consecutive accepted gradients, since these
    come from 2f + 1 workers.

    Requirement: n >= 3f + 1. Breakdown: f of 2f + 1 accepted gradients may be malicious. Cost:
    O(f). At most n - 2f workers are eligible at a time: if f of n = 3f + 1 are silent or rejected,
    the others are accepted in a fixed order, with only the next one eligible.

    Args:
      f: number of faults to tolerate, a Python int.

    Returns:
      A `Judge` for `asynchronous`.

    Raises:
      TypeError: f is not a Python int.
      ValueError: it is negative, or `asynchronous` has n < 3f + 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax.protocols import Arrival, frequency
      >>> judge, zero = frequency(f=1), jnp.zeros(1)
      >>> state = judge.init(zero, 4)
      >>> arrivals = [Arrival(zero, jnp.int32(i), zero, zero, jnp.int32(0), None) for i in range(4)]
      >>> for i in (0, 1):
      ...     state = judge.accepted(state, arrivals[i])
      >>> [float(judge.judge(state, arrival)[0]) for arrival in arrivals]
      [0.0, 0.0, 1.0, 1.0]

    Reference: Damaskinos, El Mhamdi, Guerraoui, Patra and Taziki, Asynchronous Byzantine Machine
    Learning (the case of SGD), ICML 2018 (arXiv:1802.07928).
    """
    f = static_int("f", f)

    def init(params: PyTree, num_workers: int) -> FrequencyState:
        del params, num_workers
        return FrequencyState(jnp.full(2 * f, -1, jnp.int32))

    def judge(state: FrequencyState, arrival: Arrival) -> tuple[jax.Array, FrequencyState]:
        return jnp.all(state.workers != arrival.worker).astype(jnp.float32), state

    def accepted(state: FrequencyState, arrival: Arrival) -> FrequencyState:
        return FrequencyState(jnp.concatenate([arrival.worker[None], state.workers])[: 2 * f])

    return Judge(_three_times("frequency", f), init, judge, accepted)


def kardam(*, f: int, window: int = 25, norms: str = "always") -> tuple[Judge, Judge]:
    """The two filters of Kardam, `(lipschitz, frequency)`.

    The third part is a damping: `asynchronous(..., judge=kardam(f=f), damping=inverse_damping())`.

    Requirement: n >= 3f + 1. Breakdown: that of its parts. Cost: O(d), and O(nd) memory.

    Args:
      f: number of faults to tolerate, a Python int.
      window: as in `lipschitz`.
      norms: as in `lipschitz`.

    Returns:
      Two `Judge`s for `asynchronous`.

    Raises:
      TypeError: f or window is not a Python int.
      ValueError: one is too small, `norms` is unknown, or `asynchronous` has n < 3f + 1.

    Example:
      >>> import optax
      >>> from byzjax import protocols
      >>> server = protocols.asynchronous(
      ...     lambda params, batch, key=None: params, num_workers=9, server=optax.sgd(0.1),
      ...     judge=protocols.kardam(f=3))
      Traceback (most recent call last):
      ValueError: lipschitz needs n >= 3f + 1; got n=9, f=3.

    Reference: Damaskinos, El Mhamdi, Guerraoui, Patra and Taziki, Asynchronous Byzantine Machine
    Learning (the case of SGD), ICML 2018 (arXiv:1802.07928).
    """
    return lipschitz(f=f, window=window, norms=norms), frequency(f=f)


# --- shared --------------------------------------------------------------------------------------


def _three_times(name: str, f: int) -> Callable:
    def check(num_workers: int) -> None:
        if num_workers < 3 * f + 1:
            raise ValueError(f"{name} needs n >= 3f + 1; got n={num_workers}, f={f}.")

    return check


def _quantile(values: jax.Array, f: int) -> jax.Array:
    """The (m - f)-th smallest of m values above -inf; `values` holds -inf for missing ones."""
    return jnp.sort(values)[len(values) - 1 - f]


def _distance(a: PyTree, b: PyTree) -> jax.Array:
    (square,) = stacked.squared_distances(_workers.copies(a, 1), b)
    return root(square).astype(jnp.float32)


def _norm(a: PyTree) -> jax.Array:
    (square,) = stacked.squared_norms(_workers.copies(a, 1))
    return root(square).astype(jnp.float32)
