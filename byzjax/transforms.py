"""The verbs: optax transformations that lift, attack, mix and aggregate stacked updates.

    optax.chain(per_worker(...), attack(...), mix(...), aggregate(...), optax.sgd(...))

Functions take what they need as arguments; transformations remember it. `attack`, `mix` and
`aggregate` read the signature of their function when they are made:

* keyword-only parameters are hyperparameters: they are given with the verb, once;
* positional parameters after the first (after `byzantine` for an attack) are data: they are given
  with the verb or, at each update, by name among optax's extra arguments;
* `params` among them are those that optax is given;
* extra arguments of other names are ignored, also those that name a hyperparameter: optax's own
  transformations are given `value`, for example;
* `key` is the state's: the verb takes a first key, and each update splits it;
* an attack's `step` is the state's as well, unless it is among the extra arguments.

A strength may follow a schedule by `optax.inject_hyperparams` around a lambda, which keeps `f` a
Python int:

    optax.inject_hyperparams(
        lambda epsilon: attack(inner_product_manipulation, byzantine, epsilon=epsilon)
    )(epsilon=schedule)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax._checks import rows_of_params, static_int
from byzjax._numerics import arrays
from byzjax._numerics.barrier import fusion_barrier
from byzjax._signature import signature
from byzjax.stacked import PyTree


class KeyState(NamedTuple):
    """State of a transformation whose function draws random numbers.

    Attributes:
      key: the key that the next update splits.
    """

    key: jax.Array


class StepState(NamedTuple):
    """State of an attack that depends on the step.

    Attributes:
      step: number of updates so far.
      inner: what the attack has besides.
    """

    step: jax.Array
    inner: Any


def per_worker(
    transformation: optax.GradientTransformation, num_workers: int
) -> optax.GradientTransformationExtraArgs:
    """Lifts a transformation of one update to stacked updates, with a state for each worker.

    `params` and extra arguments are the same for all workers. Typed keys (`jax.random.key`) in the
    state have the worker's index folded in, so that workers draw different noise; raw `uint32` keys
    cannot be told from numbers and stay equal.

    Args:
      transformation: acts on one worker's update.
      num_workers: n, a Python int.

    Returns:
      A transformation from stacked updates to stacked updates.

    Raises:
      TypeError: num_workers is not a Python int.
      ValueError: at an update, the updates are not those of n workers.

    Example:
      >>> import byzjax, jax.numpy as jnp, optax
      >>> tx = byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=2)
      >>> state = tx.init(jnp.zeros(1))
      >>> updates, state = tx.update(jnp.array([[1.0], [10.0]]), state)
      >>> updates
      Array([[0.1],
             [1. ]], dtype=float32)
    """
    n = static_int("num_workers", num_workers, at_least=1)
    single = optax.with_extra_args_support(transformation)

    def init(params: PyTree) -> PyTree:
        state = single.init(params)
        return jax.vmap(lambda i: jax.tree.map(lambda leaf: _own(leaf, i), state))(jnp.arange(n))

    def update(updates, state, params=None, **extra_args):
        if not jax.tree.leaves(updates):
            return updates, state
        found = stacked.num_workers(updates)
        if found != n:
            raise ValueError(f"per_worker was made for {n} workers; got updates of {found}.")
        rows_of_params("per_worker", updates, params)
        return jax.vmap(lambda u, s: single.update(u, s, params, **extra_args))(updates, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _own(leaf: Any, worker: jax.Array) -> jax.Array:
    """A leaf of the state as worker `worker` has it: keys differ, all else is equal."""
    leaf = jnp.asarray(leaf)
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    fold = jax.random.fold_in
    for _ in range(leaf.ndim):
        fold = jax.vmap(fold, in_axes=(0, None))
    return fold(leaf, worker)


def attack(
    function: Callable,
    byzantine: jax.Array | Callable,
    *,
    key: jax.Array | None = None,
    **hyperparameters,
) -> optax.GradientTransformationExtraArgs:
    """Lets some workers lie: replaces their rows of the stacked updates.

    Args:
      function: an attack, `function(updates, byzantine, **hyperparameters) -> stacked updates`; a
        positional `step` is the number of updates so far.
      byzantine: `bool[n]`, who attacks; may be traced. Or a function of the step, from 0, such as
        `attacks.sleeping(byzantine, until=100)`. Where the rows are not of all workers, an extra
        argument `senders`, `int32[k]`, says of whom.
      key: first key, for an attack that takes one.
      **hyperparameters: the attack's own, such as `f` or `epsilon`.

    Returns:
      A transformation from stacked updates to stacked updates.

    Raises:
      TypeError: the attack lacks a parameter given here, or needs one that is not.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> tx = byzjax.attack(attacks.sign_flip, jnp.array([False, True]))
      >>> tx.update(jnp.array([[1.0], [2.0]]), tx.init(jnp.zeros(1)))[0]
      Array([[ 1.],
             [-2.]], dtype=float32)
    """
    call = _Call("attack", function, hyperparameters, key, skip=2)

    def apply(updates: PyTree, kwargs: dict, extra_args: dict) -> PyTree:
        who = byzantine(extra_args["step"]) if callable(byzantine) else byzantine
        if "senders" in extra_args:
            who = jnp.asarray(who)[extra_args["senders"]]
        return function(updates, who, **kwargs)

    transformation = call.transformation(apply)
    counts = callable(byzantine) or "step" in call.from_extra_args
    return _counting(transformation) if counts else transformation


def _counting(
    inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Counts the updates, and gives the count as the extra argument `step` if nobody else does."""

    def init(params: PyTree) -> StepState:
        return StepState(jnp.int32(0), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        extra_args = {"step": state.step} | extra_args
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        return updates, StepState(state.step + 1, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def mix(
    function: Callable, *, key: jax.Array | None = None, **hyperparameters
) -> optax.GradientTransformationExtraArgs:
    """Applies a mixing: stacked updates in, stacked updates out, n may change.

    Args:
      function: a mixing, `function(updates, **hyperparameters) -> stacked updates`.
      key: first key, for a mixing that takes one.
      **hyperparameters: the mixing's own.

    Returns:
      A transformation from stacked updates to stacked updates.

    Raises:
      TypeError: the mixing lacks a parameter given here, or needs one that is not.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> def pairs(updates):
      ...     return jax.tree.map(lambda x: (x[0::2] + x[1::2]) / 2, updates)
      >>> tx = byzjax.mix(pairs)
      >>> tx.update(jnp.array([[1.0], [3.0], [5.0], [9.0]]), tx.init(jnp.zeros(1)))[0]
      Array([[2.],
             [7.]], dtype=float32)
    """
    call = _Call("mix", function, hyperparameters, key, skip=1)
    return call.transformation(lambda updates, kwargs, _: function(updates, **kwargs))


def aggregate(
    rule: Callable, *, key: jax.Array | None = None, **hyperparameters
) -> optax.GradientTransformationExtraArgs:
    """Applies a rule: stacked updates in, one update out. Only this verb removes the worker axis.

    Args:
      rule: a rule, `rule(updates, **hyperparameters) -> update`.
      key: first key, for a rule that takes one.
      **hyperparameters: the rule's own, such as `f`.

    Returns:
      A transformation from stacked updates `[n, ...]` to one update `[...]`.

    Raises:
      TypeError: the rule lacks a parameter given here, or needs one that is not.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> tx = byzjax.aggregate(byzjax.trimmed_mean, f=1)
      >>> tx.update(jnp.array([[1.0], [2.0], [99.0]]), tx.init(jnp.zeros(1)))[0]
      Array([2.], dtype=float32)
    """
    call = _Call("aggregate", rule, hyperparameters, key, skip=1)
    return call.transformation(lambda updates, kwargs, _: fusion_barrier(rule(updates, **kwargs)))


class _Call:
    """A function with the arguments that its verb was given, and the names that it still takes."""

    def __init__(self, verb: str, function: Callable, given: dict, key: Any, *, skip: int):
        self.verb, self.given, self.key = verb, given, key
        names = [*given, *(() if key is None else ("key",))]
        found = signature(verb, function, names, skip=skip)
        self.name = found.name
        self.from_extra_args = [name for name in found.data if name not in names and name != "key"]
        self.required = [name for name in found.missing if name != "key"]

    def arguments(self, extra_args: dict) -> dict:
        found = {name: extra_args[name] for name in self.from_extra_args if name in extra_args}
        missing = [name for name in self.required if name not in found]
        if missing:
            text = ", ".join(f"{name}=..." for name in missing)
            raise TypeError(
                f"{self.verb}: {self.name} needs {', '.join(missing)}; give it with {self.verb} "
                f"or with each update, as in tx.update(updates, state, params, {text})."
            )
        return self.given | found

    def transformation(self, apply: Callable) -> optax.GradientTransformationExtraArgs:
        def init(params: PyTree) -> optax.EmptyState | KeyState:
            del params
            return optax.EmptyState() if self.key is None else KeyState(arrays.copied(self.key))

        def update(updates, state, params=None, **extra_args):
            if not jax.tree.leaves(updates):  # as of a label that no leaf has
                return updates, state
            stacked.num_workers(updates)
            if self.verb != "attack":  # in gossip its params are the nodes'
                rows_of_params(self.verb, updates, params)
            kwargs = self.arguments(extra_args | ({} if params is None else {"params": params}))
            if self.key is None:
                return apply(updates, kwargs, extra_args), state
            following, key = jax.random.split(state.key)
            return apply(updates, kwargs | {"key": key}, extra_args), KeyState(following)

        return optax.GradientTransformationExtraArgs(init, update)
