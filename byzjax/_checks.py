"""Checks of arguments, before anything is computed."""

import inspect
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from byzjax import _mistakes, stacked
from byzjax._mistakes import keystr, name_of
from byzjax.facts import FACTS, inequality


def static_int(name: str, value: Any, *, at_least: int = 0) -> int:
    """`value` as a Python int: hyperparameters such as f must be static under `jit`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(_mistakes.no_int(name, value))
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}; got {name}={value}.")
    return int(value)


def enough_workers(
    name: str, updates: Any, f: Any, needs: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Checks that there are enough workers and returns n and f: the first line of a rule.

    Args:
      name: the rule's name, for the error; a key of `byzjax.facts.FACTS`, or give `needs`.
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate.
      needs: (a, b) of the requirement n >= a f + b; by default that in the facts.

    Returns:
      (n, f), Python ints.

    Raises:
      ValueError: the leaves disagree on n, f is negative, or n < a f + b.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.enough_workers("my_rule", jnp.ones((12, 2)), 5, needs=(2, 1))
      (12, 5)
      >>> byzjax.enough_workers("my_rule", jnp.ones((12, 2)), 5, needs=(2, 3))
      Traceback (most recent call last):
      ValueError: my_rule needs n >= 2f + 3; got n=12, f=5.
    """
    f = static_int("f", f)
    n = stacked.num_workers(updates)
    stacked.check(updates)
    if needs is None and name not in FACTS:
        raise ValueError(
            f"enough_workers knows no rule {name!r}; for n >= 2f + 1 write "
            f"enough_workers({name!r}, updates, f, needs=(2, 1))."
        )
    a, b = FACTS[name].needs if needs is None else needs
    if n < a * f + b:
        lists = isinstance(updates, list | tuple) and len(updates) > n
        hint = f": for a list of {len(updates)} updates write byzjax.stack(updates)" * lists
        raise ValueError(f"{name} needs {inequality((a, b))}; got n={n}, f={f}{hint}.")
    return n, f


_VERBS = {"rule": "aggregate", "mixing": "mix", "attack": "attack"}


def right_verb(verb: str, function: Callable) -> None:
    """Raises if a function of byzjax belongs to another verb, such as a mixing to `aggregate`."""
    whole, name = getattr(function, "func", function), name_of(function)
    home = getattr(whole, "__module__", None) or ""
    if not home.startswith("byzjax."):
        return
    kind = FACTS[name].kind if name in FACTS else None
    if home.startswith("byzjax.attacks."):
        kind = "attack"
        first = next(iter(inspect.signature(whole).parameters), "")
        if verb == "attack" and first != "updates":
            raise TypeError(
                f"attack: {name} is no attack, since it does not take updates; write "
                f"attack(attacks.sign_flip, byzantine), for example."
            )
    if kind in _VERBS and _VERBS[kind] != verb:
        right = _VERBS[kind]
        raise TypeError(
            f"{verb}: {name} is {_mistakes.article(kind)}; write byzjax.{right}({name}, ...)."
        )


def refuses_weights(function: Callable) -> bool:
    """Whether a function is a rule of byzjax that takes no weights."""
    home, name = getattr(getattr(function, "func", function), "__module__", ""), name_of(function)
    return (home or "").startswith("byzjax.") and name in FACTS and not FACTS[name].weights


def static_hyperparameters(function: Callable, given: dict[str, Any]) -> None:
    """Checks at construction what a function would say only when it is called."""
    parameters = inspect.signature(function).parameters
    for name, value in given.items():
        if name in parameters and parameters[name].annotation in (int, "int"):
            static_int(name, value)


def loss_function(whose: str, loss_fn: Any) -> None:
    """Raises if a value is not a function of `(params, batch, key=None)`."""
    if not callable(loss_fn):
        raise TypeError(
            f"{whose}: loss_fn must be a function, loss_fn(params, batch, key=None); "
            f"got {_mistakes.shown(loss_fn)}."
        )
    if not _takes_key(loss_fn):
        raise TypeError(
            f"{whose}: {name_of(loss_fn)} must take key, used or not: write "
            "def loss_fn(params, batch, key=None)."
        )


def _takes_key(loss_fn: Callable) -> bool:
    try:
        parameters = inspect.signature(loss_fn).parameters.values()
    except (TypeError, ValueError):  # of some builtin
        return True
    return any(p.name == "key" or p.kind is p.VAR_KEYWORD for p in parameters)


def prng_key(name: str, value: Any) -> None:
    """Raises if a value is no PRNG key."""
    if wrong := _mistakes.no_key(name, value):
        raise wrong


def mask_of_workers(byzantine: Any, n: int | None = None) -> None:
    """Raises if a value is not `bool[n]`.

    Without n, when a transformation is made, None passes: whoever only checks its other arguments
    has no mask yet. An update raises.
    """
    if byzantine is None and n is None:
        return
    if isinstance(byzantine, list | tuple) and byzantine:
        byzantine = jnp.asarray(byzantine)
    shape, dtype = getattr(byzantine, "shape", None), getattr(byzantine, "dtype", None)
    if shape is not None and len(shape) == 1 and dtype == "bool" and n in (None, *shape):
        return
    size = "" if n is None else f" with n={n}"
    got = _mistakes.shown(byzantine) if shape is None else f"{dtype}{list(shape)}"
    text = f"byzantine must be bool[n]{size}; got {got}"
    if shape == (n,) and dtype != "bool":
        raise ValueError(f"{text}: for a mask of 0 and 1 write byzantine.astype(bool).")
    if isinstance(byzantine, set) or (shape and str(dtype).startswith(("int", "uint"))):
        raise ValueError(f"{text}: for indices write jnp.isin(jnp.arange(n), jnp.array(indices)).")
    if shape == () or isinstance(byzantine, int):
        raise ValueError(f"{text}: if the first k attack, write jnp.arange(n) < k.")
    raise ValueError(f"{text}: one entry per row of the updates, such as jnp.arange(n) < 2.")


def before_aggregate(updates: Any, params: Any) -> None:
    """Raises if the updates of an attack have no worker axis, but the shapes of `params`."""
    ours = [jnp.shape(leaf) for leaf in jax.tree.leaves(updates)]
    sizes = {shape[:1] for shape in ours}
    if len(sizes) > 1 and ours == [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]:
        raise ValueError(
            "attack: updates have the shapes of params, without a worker axis; "
            "in a chain, attack comes before aggregate."
        )


def reduced(name: str, updates: Any, out: Any) -> None:
    """Raises if a rule has not removed the worker axis."""
    if jax.tree.structure(out) != jax.tree.structure(updates):
        return
    for row, leaf in zip(jax.tree.leaves(updates), jax.tree.leaves(out)):
        if jnp.shape(leaf) != jnp.shape(row)[1:]:
            raise ValueError(
                f"aggregate: {name} returned shape {jnp.shape(leaf)} for updates of "
                f"{jnp.shape(row)}, expected {jnp.shape(row)[1:]}; a mixing goes to byzjax.mix."
            )


def still_stacked(name: str, updates: Any, out: Any) -> None:
    """Raises if a mixing has removed the worker axis."""
    if jax.tree.structure(out) != jax.tree.structure(updates):
        return
    for row, leaf in zip(jax.tree.leaves(updates), jax.tree.leaves(out)):
        if jnp.ndim(leaf) != jnp.ndim(row):
            raise ValueError(
                f"mix: {name} returned shape {jnp.shape(leaf)} for updates of {jnp.shape(row)}, "
                "expected rows of workers; a rule goes to byzjax.aggregate."
            )


def rows_of_params(verb: str, updates: Any, params: Any) -> None:
    """Raises if updates do not have one row per worker of the shapes of `params`."""
    if wrong := _mistakes.no_array("updates", updates):
        raise wrong
    ours, structure = jax.tree_util.tree_flatten_with_path(updates)
    theirs, other = jax.tree.flatten(params)
    if other != structure:  # not comparable; also None, if there are no params
        several = theirs and isinstance(updates, list | tuple) and updates
        if several and all(jax.tree.structure(part) == other for part in updates):
            raise TypeError(
                f"{verb}: a {type(updates).__name__} of {len(updates)} updates is not stacked; "
                "write byzjax.stack(updates)."
            )
        return
    for (path, leaf), p in zip(ours, theirs):
        shape, expected = jnp.shape(leaf), jnp.shape(p)
        if shape[1:] != expected or not shape:
            _no_rows(verb, keystr(path), shape, expected)


def _no_rows(verb: str, name: str, shape: tuple, expected: tuple) -> None:
    if shape and expected[1:] == shape:
        raise ValueError(
            f"{verb}: updates{name} has shape {shape}, but params{name} {expected}: the worker "
            "axis belongs to the updates; write tx.update(stacked_updates, state, params)."
        )
    rows = f"(n{''.join(f', {k}' for k in expected)})"
    text = f"{verb}: updates{name} has shape {shape}, params{name} {expected}; expected {rows}"
    if verb in ("mix", "per_worker") and shape == expected:
        raise ValueError(f"{text}, one row per worker: in a chain, {verb} comes before aggregate.")
    raise ValueError(
        _mistakes.fitting(
            f"{text}, one row per worker: jax.vmap(jax.grad(loss), in_axes=(None, 0))"
            "(params, batches).",
            f"{text}, one row per worker.",
        )
    )


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Checks an option that is a string."""
    if value not in allowed:
        near = _mistakes.nearest(value, allowed) if isinstance(value, str) else None
        hint = f" Did you mean {near}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.{hint}")


def positive(name: str, value: Any) -> None:
    """Checks a concrete number; a traced one is not checked."""
    if isinstance(value, int | float) and not value > 0:
        raise ValueError(f"{name} must be positive; got {name}={value}.")


def not_negative(name: str, value: Any) -> None:
    """Checks a concrete number; a traced one is not checked."""
    if isinstance(value, int | float) and not value >= 0:
        raise ValueError(f"{name} must be at least 0; got {name}={value}.")


def weights_of_workers(name: str, weights: Any) -> None:
    """Checks concrete weights; traced ones are not checked."""
    if weights is None or isinstance(weights, jax.core.Tracer):
        return
    if isinstance(weights, list | tuple):
        raise TypeError(
            f"{name} must be an array; got a {type(weights).__name__}: write jnp.asarray({name})."
        )
    dtype = getattr(weights, "dtype", None)
    real = dtype is not None and any(jnp.issubdtype(dtype, k) for k in (jnp.floating, jnp.integer))
    if not real or jnp.ndim(weights) != 1:
        got = _mistakes.shown(weights) if dtype is None else f"{dtype}{list(jnp.shape(weights))}"
        raise TypeError(f"{name} must be real numbers [n], one for each worker; got {got}.")
    values = weights.tolist()
    bad = [i for i, value in enumerate(values) if not 0 <= value < float("inf")]
    if bad:
        raise ValueError(
            f"{name} must be finite and at least 0; got {values[bad[0]]} for worker {bad[0]}."
        )
    if not any(values):
        raise ValueError(f"{name} must not all be 0; got n={len(values)} zeros.")


def one_weight_each(name: str, weights: Any, n: int) -> None:
    """Raises if there is not one weight for each of n workers."""
    if jnp.shape(weights) != (n,):
        raise ValueError(f"{name} must have shape ({n},) for n={n}; got {jnp.shape(weights)}.")
