"""Optax transformations that lift, attack, mix and aggregate stacked updates.

    optax.chain(per_worker(...), attack(...), mix(...), aggregate(...), optax.sgd(...))

Functions take all inputs as arguments; transformations keep them. `attack`, `mix` and `aggregate`
inspect the signature of their function when they are created:

* keyword-only parameters are hyperparameters: they are given once, to the transformation;
* positional parameters after the first (after `byzantine` for an attack) are data: they are given
  to the transformation or, at each update, by name among optax's extra arguments;
* so is `weights`, one number for each row, although it is keyword-only; but in gossip, where the
  extra argument `weights` has those of the graph, only positional parameters receive it;
* a parameter `params` receives the params given to optax;
* extra arguments with other names are ignored, even if they name a hyperparameter: optax's own
  transformations take `value`, for example;
* `key` comes from the state: the transformation takes an initial key, and each update splits it;
* an attack's `step` comes from the state too, unless it is among the extra arguments.

To schedule a strength, wrap a lambda in `optax.inject_hyperparams`, which keeps `f` a Python int:

    optax.inject_hyperparams(
        lambda epsilon: attack(inner_product_manipulation, byzantine, epsilon=epsilon)
    )(epsilon=schedule)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import _checks, _mistakes, stacked
from byzjax._checks import rows_of_params, static_int
from byzjax._compiled import check_hyperparameters, taught
from byzjax._numerics import arrays
from byzjax._numerics.barrier import fusion_barrier
from byzjax._senders import row_weights, rows_of, senders_of, with_rows
from byzjax._signature import must_be_function, signature
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
      inner: state of the attack itself.
    """

    step: jax.Array
    inner: Any


@taught
def per_worker(
    transformation: optax.GradientTransformation, num_workers: int
) -> optax.GradientTransformationExtraArgs:
    """Lifts a transformation of one update to stacked updates, with a state for each worker.

    `params` and extra arguments are the same for all workers. Typed keys (`jax.random.key`) in the
    state have the worker's index folded in, so that workers draw different noise; raw `uint32` keys
    cannot be distinguished from numbers and stay equal.

    If only some workers send, the extra argument `senders`, `int32[k]`, holds the worker of each
    row; absent workers keep their state, counters and keys included. Cost: that of k updates.

    Args:
      transformation: acts on one worker's update.
      num_workers: n, a Python int; states are kept for this many.

    Returns:
      A transformation from stacked updates to stacked updates.

    Raises:
      TypeError: num_workers is not a Python int.
      ValueError: at an update, the updates are neither from n workers nor from different `senders`.

    Example:
      >>> import byzjax, jax.numpy as jnp, optax
      >>> tx = byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=2)
      >>> state = tx.init(jnp.zeros(1))
      >>> updates, state = tx.update(jnp.array([[1.0], [10.0]]), state)
      >>> updates
      Array([[0.1],
             [1. ]], dtype=float32)
    """
    write = "per_worker(optax.ema(0.9), num_workers=n)"
    wrong = _mistakes.no_transformation("per_worker", "transformation", transformation, write)
    if wrong is not None:
        raise wrong
    verb = getattr(transformation.update, "verb", None)
    n = static_int("num_workers", num_workers, at_least=1)
    single = optax.with_extra_args_support(transformation)

    def init(params: PyTree) -> PyTree:
        state = single.init(params)
        return jax.vmap(lambda i: jax.tree.map(lambda leaf: _own(leaf, i), state))(jnp.arange(n))

    def update(updates, state, params=None, **extra_args):
        if not jax.tree.leaves(updates):
            return updates, state
        if verb in ("aggregate", "mix"):
            raise TypeError(
                f"per_worker acts on one worker's update, {verb} on those of all: write "
                f"optax.chain(per_worker(...), {verb}(...))."
            )
        rows_of_params("per_worker", updates, params)
        senders = senders_of("per_worker", updates, n, extra_args)
        extra_args.pop("senders", None)  # of all workers, not of one
        update_one = jax.vmap(lambda u, s: single.update(u, s, params, **extra_args))
        out, rows = update_one(updates, rows_of(senders, state))
        return out, with_rows(senders, state, rows)

    return optax.GradientTransformationExtraArgs(init, update)


def _own(leaf: Any, worker: jax.Array) -> jax.Array:
    """A leaf of one worker's state: keys differ between workers, all else is equal."""
    leaf = jnp.asarray(leaf)
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    fold = jax.random.fold_in
    for _ in range(leaf.ndim):
        fold = jax.vmap(fold, in_axes=(0, None))
    return fold(leaf, worker)


@taught
def attack(
    function: Callable,
    byzantine: jax.Array | Callable,
    *,
    key: jax.Array | None = None,
    **hyperparameters,
) -> optax.GradientTransformationExtraArgs:
    """Applies an attack: replaces the Byzantine rows of stacked updates.

    Args:
      function: an attack, `function(updates, byzantine, **hyperparameters) -> stacked updates`; a
        positional `step` is the number of updates so far.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced. Or a function of the step,
        from 0, such as `attacks.sleeping(byzantine, until=100)`. If only some workers send, the
        extra argument `senders`, `int32[k]`, holds their indices.
      key: initial key, for an attack that takes one.
      **hyperparameters: those of the attack, such as `f` or `epsilon`.

    Returns:
      A transformation from stacked updates to stacked updates.

    Raises:
      TypeError: the attack does not take an argument given here, or a required one is missing.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> tx = byzjax.attack(attacks.sign_flip, jnp.array([False, True]))
      >>> tx.update(jnp.array([[1.0], [2.0]]), tx.init(jnp.zeros(1)))[0]
      Array([[ 1.],
             [-2.]], dtype=float32)
    """
    call = _Call("attack", function, hyperparameters, key, skip=2)
    if not callable(byzantine):
        _checks.mask_of_workers(byzantine)

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
    """Counts the updates and passes the count as the extra argument `step`, unless it is given."""

    def init(params: PyTree) -> StepState:
        return StepState(jnp.int32(0), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        extra_args = {"step": state.step} | extra_args
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        return updates, StepState(state.step + 1, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


@taught
def mix(
    function: Callable, *, key: jax.Array | None = None, **hyperparameters
) -> optax.GradientTransformationExtraArgs:
    """Applies a mixing: stacked updates in, stacked updates out, n may change.

    Args:
      function: a mixing, `function(updates, **hyperparameters) -> stacked updates`.
      key: initial key, for a mixing that takes one.
      **hyperparameters: those of the mixing.

    Returns:
      A transformation from stacked updates to stacked updates.

    Raises:
      TypeError: the mixing does not take an argument given here, or a required one is missing.

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

    def apply(updates: PyTree, kwargs: dict, extra_args: dict) -> PyTree:
        del extra_args
        mixed = function(updates, **kwargs)
        _checks.still_stacked(call.name, updates, mixed)
        return mixed

    return call.transformation(apply)


@taught
def aggregate(
    rule: Callable, *, key: jax.Array | None = None, **hyperparameters
) -> optax.GradientTransformationExtraArgs:
    """Applies a rule: stacked updates in, one update out. Only this removes the worker axis.

    Args:
      rule: a rule, `rule(updates, **hyperparameters) -> update`.
      key: initial key, for a rule that takes one.
      **hyperparameters: those of the rule, such as `f`.

    Returns:
      A transformation from stacked updates `[n, ...]` to one update `[...]`.

    Raises:
      TypeError: the rule does not take an argument given here, or a required one is missing.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> tx = byzjax.aggregate(byzjax.trimmed_mean, f=1)
      >>> tx.update(jnp.array([[1.0], [2.0], [99.0]]), tx.init(jnp.zeros(1)))[0]
      Array([2.], dtype=float32)
    """
    call = _Call("aggregate", rule, hyperparameters, key, skip=1)

    def apply(updates: PyTree, kwargs: dict, extra_args: dict) -> PyTree:
        del extra_args
        out = rule(updates, **kwargs)
        _checks.reduced(call.name, updates, out)
        return fusion_barrier(out)

    return call.transformation(apply)


class _Call:
    """A function with the arguments already given, and the names that it still takes."""

    def __init__(self, verb: str, function: Callable, given: dict, key: Any, *, skip: int):
        self.verb, self.given, self.key = verb, given, key
        names = [*given, *(() if key is None else ("key",))]
        must_be_function(verb, function)
        _checks.right_verb(verb, function)
        _checks.static_hyperparameters(function, given)
        spec = signature(verb, function, names, skip=skip)
        check_hyperparameters(getattr(function, "func", function), given)
        if key is not None:
            _checks.prng_key("key", key)
        self.name = spec.name
        free = [name for name in spec.data if name not in names and name != "key"]
        self.from_extra_args, self.per_row = free, [k for k in spec.per_row if k not in names]
        self.refuses_weights = verb == "aggregate" and _checks.refuses_weights(function)
        self.required = [name for name in spec.missing if name != "key"]

    def arguments(self, extra_args: dict) -> dict:
        weights = row_weights(extra_args)
        if self.refuses_weights and weights is not None:
            raise TypeError(f"aggregate: {_mistakes.unknown_keyword(self.name, 'weights', [])}")
        data = {name: extra_args[name] for name in self.from_extra_args if name in extra_args}
        if weights is not None:
            data |= dict.fromkeys(self.per_row, weights)
        missing = [name for name in self.required if name not in data]
        if missing:
            text = ", ".join(f"{name}=..." for name in missing)
            raise TypeError(
                f"{self.verb}: {self.name} needs {', '.join(missing)}; give it with {self.verb} "
                f"or with each update, as in tx.update(updates, state, params, {text})."
            )
        return self.given | data

    def transformation(self, apply: Callable) -> optax.GradientTransformationExtraArgs:
        def init(params: PyTree) -> optax.EmptyState | KeyState:
            del params
            return optax.EmptyState() if self.key is None else KeyState(arrays.copied(self.key))

        def update(updates, state, params=None, **extra_args):
            if not jax.tree.leaves(updates):  # e.g. a label without leaves
                return updates, state
            if self.verb != "attack":  # an attack's params in gossip are the nodes'
                rows_of_params(self.verb, updates, params)
            else:
                _checks.before_aggregate(updates, params)
            stacked.num_workers(updates)
            kwargs = self.arguments(extra_args | ({} if params is None else {"params": params}))
            with jax.named_scope(self.verb):
                if self.key is None:
                    return apply(updates, kwargs, extra_args), state
                following, key = jax.random.split(state.key)
                return apply(updates, kwargs | {"key": key}, extra_args), KeyState(following)

        vars(update)["verb"] = self.verb  # which per_worker refuses
        for function in (init, update):  # for Python's own errors
            function.__qualname__ = f"{self.verb}({self.name}, ...).{function.__name__}"
        return optax.GradientTransformationExtraArgs(init, update)
