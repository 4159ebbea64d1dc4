"""Attacks over time: masks that depend on the step, alternating attacks, attacks with memory.

Transformations of this module take the place of `byzjax.attack(...)` in a chain.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from byzjax import stacked
from byzjax._checks import mask_of_workers, prng_key, static_int
from byzjax._compiled import compiled, taught
from byzjax._mistakes import no_function
from byzjax._numerics.arrays import copied, wide
from byzjax.attacks import _rows
from byzjax.stacked import PyTree

# --- masks and attacks as functions of the step --------------------------------------------------


def sleeping(byzantine: jax.Array, *, until: int | jax.Array) -> Callable:
    """Attackers that are honest until a step: a function of the step for `byzjax.attack`.

    Args:
      byzantine: `bool[n]`, mask of Byzantine workers from then on; may be traced.
      until: the first step, counted from 0, in which they attack; may be traced.

    Returns:
      `step -> bool[n]`.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> who = attacks.sleeping(jnp.array([False, True]), until=1)
      >>> tx = byzjax.attack(attacks.sign_flip, who)
      >>> state = tx.init(jnp.zeros(1))
      >>> for _ in range(2):
      ...     sent, state = tx.update(jnp.array([[1.0], [2.0]]), state)
      ...     print(sent[1])
      [2.]
      [-2.]
    """
    return lambda step: jnp.asarray(byzantine) & (step >= until)


def rotating(byzantine: jax.Array, *, every: int = 1) -> Callable:
    """Attackers that change: the mask shifts by one worker every few steps.

    Args:
      byzantine: `bool[n]`, mask at step 0; may be traced.
      every: number of steps between two shifts, a Python int.

    Returns:
      `step -> bool[n]`, for `byzjax.attack`.

    Raises:
      TypeError: every is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> who = rotating(jnp.array([True, False, False]), every=2)
      >>> [who(step).tolist().index(True) for step in range(6)]
      [0, 0, 1, 1, 2, 2]
    """
    every = static_int("every", every, at_least=1)
    return lambda step: jnp.roll(jnp.asarray(byzantine), step // every)


def alternating(*attacks: Callable, every: int = 1) -> Callable:
    """Attacks that take turns.

    Args:
      *attacks: each `(updates, byzantine) -> stacked updates`; bind hyperparameters with
        `functools.partial`.
      every: number of steps of each turn, a Python int.

    Returns:
      An attack `(updates, byzantine, step) -> stacked updates`; `byzjax.attack` counts the steps.

    Raises:
      TypeError: every is not a Python int.
      ValueError: there is no attack.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> both = attacks.alternating(attacks.sign_flip, attacks.zero)
      >>> tx = byzjax.attack(both, jnp.array([False, True]))
      >>> state = tx.init(jnp.zeros(1))
      >>> for _ in range(3):
      ...     sent, state = tx.update(jnp.array([[1.0], [2.0]]), state)
      ...     print(sent[1])
      [-2.]
      [0.]
      [-2.]
    """
    every = static_int("every", every, at_least=1)
    if not attacks:
        raise ValueError("alternating needs at least one attack; got none.")
    for attack in attacks:
        if wrong := no_function("alternating", "attack", attack):
            raise wrong

    def attack_of_step(updates: PyTree, byzantine: jax.Array, step: jax.Array) -> PyTree:
        return lax.switch((step // every) % len(attacks), attacks, updates, byzantine)

    return attack_of_step


# --- attacks with memory -------------------------------------------------------------------------


class MimicState(NamedTuple):
    """State of `mimic`.

    Attributes:
      step: number of updates so far.
      mean: running mean of the honest updates.
      direction: z, the unit direction in which they vary most.
      target: the worker that is copied.
      key: PRNG key for the initial direction.
    """

    step: jax.Array
    mean: PyTree
    direction: PyTree
    target: jax.Array
    key: jax.Array


@taught
def mimic(
    byzantine: jax.Array, *, key: jax.Array, warmup: int = 100
) -> optax.GradientTransformationExtraArgs:
    r"""All attackers copy the honest worker farthest along the main direction of variation.

    $$ b = x_{i^*}, \qquad i^* = \arg\max_{i \in H} \langle z, x_i \rangle $$

    chosen in each step of the warm-up and then fixed; if that worker does not take part in a
    round, the farthest participant is copied. No attacker looks unusual, yet that worker's
    data count s + 1 times. z is learned by Oja's rule: with the mean $\mu_t$ of the running means,

    $$ z \leftarrow \frac{t}{1 + t} z + \frac{1}{1 + t} \frac{v}{\|v\|}, \qquad
       v = \sum_{i \in H} \langle x_i - \mu_t, z \rangle (x_i - \mu_t), $$

    then normalised; initially z is v / ||v|| for a random normal z. Without honest workers, all
    send the first worker's honest update. Cost: O(nd).

    Args:
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      key: PRNG key for the initial direction.
      warmup: number of steps in which z is learned, a Python int.

    Returns:
      A transformation from stacked updates to stacked updates, in place of `byzjax.attack`.

    Raises:
      TypeError: warmup is not a Python int.
      ValueError: at an update, `byzantine` is not `bool[n]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> tx = mimic(jnp.array([False, False, False, True]), key=jax.random.key(0))
      >>> state = tx.init(jnp.zeros(1))
      >>> sent, state = tx.update(jnp.array([[0.0], [5.0], [1.0], [7.0]]), state)
      >>> bool((sent[3] == 0) | (sent[3] == 5))
      True

    Reference: Karimireddy, He and Jaggi, Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing, ICLR 2022 (arXiv:2006.09365), section 3.2 and appendix.
    """
    warmup = static_int("warmup", warmup, at_least=1)
    mask_of_workers(byzantine)
    prng_key("key", key)

    def init(params: PyTree) -> MimicState:
        def zeros() -> PyTree:
            return jax.tree.map(lambda p: jnp.zeros_like(wide(jnp.asarray(p))), params)

        return MimicState(jnp.int32(0), zeros(), zeros(), jnp.int32(0), copied(key))

    def update(updates, state, params=None, **extra_args):
        del params
        if not jax.tree.leaves(updates):
            return updates, state
        updates = jax.tree.map(jnp.asarray, updates)
        senders, mask = _rows.senders(updates, byzantine, extra_args)
        rows = jax.tree.map(wide, updates)
        good = ~mask & jnp.isfinite(stacked.squared_norms(rows))
        step, first = state.step, state.step == 0
        old = step.astype(jnp.float32) / (1 + step.astype(jnp.float32))

        def mixed(before: PyTree, now: PyTree) -> PyTree:
            def leaf(a: jax.Array, b: jax.Array) -> jax.Array:
                share = old.astype(a.dtype)
                return share * a + (1 - share) * b

            return jax.tree.map(leaf, before, now)

        mean = mixed(state.mean, stacked.mean_selected(rows, good))
        noise = _rows.normal(state.key, state.direction)
        z = jax.tree.map(lambda a, b: jnp.where(first, a, b), noise, state.direction)
        along = stacked.inner_products(rows, z, center=mean)
        along = jnp.where(good, along, 0)
        pull = jax.tree.map(
            lambda s, mu: s - jnp.sum(along).astype(mu.dtype) * mu,
            *(stacked.weighted_sum(rows, along), mean),
        )
        learned = _unit(mixed(state.direction, _unit(pull)))
        scores = jnp.where(good, stacked.inner_products(rows, learned), -jnp.inf)
        learning, there = step < warmup, senders == state.target
        copied = jnp.where(learning | ~jnp.any(there), jnp.argmax(scores), jnp.argmax(there))
        target = jnp.where(learning, senders[copied].astype(jnp.int32), state.target)
        mean, learned = jax.tree.map(
            lambda new, before: jnp.where(learning, new.astype(before.dtype), before),
            *((mean, learned), (state.mean, state.direction)),
        )
        lie = stacked.take(updates, copied[None])
        sent = _rows.replace(updates, mask, lie)
        return sent, MimicState(step + 1, mean, learned, target, state.key)

    return optax.GradientTransformationExtraArgs(init, update)


def _unit(point: PyTree) -> PyTree:
    return _rows.only(_rows.unit(jax.tree.map(lambda leaf: leaf[None], point)))


@compiled
def copy_worker(updates: PyTree, byzantine: jax.Array, *, worker: int = 0) -> PyTree:
    r"""All attackers always copy the same honest worker: `mimic` without its warm-up.

    Without honest workers, all send the first worker's honest update. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      worker: index among the honest workers, from 0; the last one if there are fewer; may be
        traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> copy_worker(jnp.array([[1.0], [2.0], [3.0]]), jnp.array([True, False, False]), worker=1)
      Array([[3.],
             [2.],
             [3.]], dtype=float32)

    Reference: Karimireddy, He and Jaggi, ICLR 2022 (arXiv:2006.09365), section 3.2.
    """
    byzantine = _rows.mask(updates, byzantine)
    place = jnp.cumsum(~byzantine, dtype=jnp.int32) - 1
    wanted = jnp.minimum(worker, jnp.max(place))
    index = jnp.argmax(~byzantine & (place == wanted))
    return _rows.replace(updates, byzantine, stacked.take(updates, index[None]))


class StaleState(NamedTuple):
    """State of `stale`.

    Attributes:
      step: `int32[n]`, number of updates of each worker so far.
      before: every leaf `[delay, n, ...]`, a ring buffer of the last updates per worker.
    """

    step: jax.Array
    before: PyTree


@taught
def stale(byzantine: jax.Array, *, delay: int = 1) -> optax.GradientTransformationExtraArgs:
    r"""Slow workers: their updates are `delay` steps old, counting steps they take part in.

    In the first steps they send their first update. A benign fault; place it after `per_worker` in
    a chain. Cost: O(nd), and memory for `delay` times the stacked updates.

    Args:
      byzantine: `bool[n]`, mask of slow workers; may be traced.
      delay: number of steps, a Python int.

    Returns:
      A transformation from stacked updates to stacked updates, in place of `byzjax.attack`.

    Raises:
      TypeError: delay is not a Python int.
      ValueError: at an update, `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = stale(jnp.array([False, True]), delay=2)
      >>> state = tx.init(jnp.zeros(1))
      >>> for step in range(5):
      ...     sent, state = tx.update(jnp.full((2, 1), float(step)), state)
      ...     print(sent[1])
      [0.]
      [0.]
      [0.]
      [1.]
      [2.]

    Reference: asynchronous SGD, as in Damaskinos et al., Kardam, ICML 2018 (arXiv:1802.07928).
    """
    delay = static_int("delay", delay, at_least=1)
    mask_of_workers(byzantine)
    n = jnp.shape(byzantine)[0]

    def init(params: PyTree) -> StaleState:
        params = jax.tree.map(jnp.asarray, params)
        ring = jax.tree.map(lambda p: jnp.zeros((delay, n, *p.shape), p.dtype), params)
        return StaleState(jnp.zeros(n, jnp.int32), ring)

    def update(updates, state, params=None, **extra_args):
        del params
        if not jax.tree.leaves(updates):
            return updates, state
        updates = jax.tree.map(jnp.asarray, updates)
        senders, mask = _rows.senders(updates, byzantine, extra_args)
        steps = state.step[senders]
        place, first = steps % delay, steps == 0

        def with_first(ring: jax.Array, x: jax.Array) -> jax.Array:
            filled = jnp.where(_rows.column(first, x), x.astype(ring.dtype)[None], ring[:, senders])
            return ring.at[:, senders].set(filled)

        ring = jax.tree.map(with_first, state.before, updates)
        old = jax.tree.map(lambda r: r[place, senders], ring)
        ring = jax.tree.map(lambda r, x: r.at[place, senders].set(x.astype(r.dtype)), ring, updates)
        step = state.step.at[senders].add(1)
        return _rows.replace(updates, mask, old), StaleState(step, ring)

    return optax.GradientTransformationExtraArgs(init, update)
