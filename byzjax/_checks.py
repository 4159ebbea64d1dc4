"""Checks of arguments, before anything is computed."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._program import nearest
from byzjax.facts import FACTS, inequality


def static_int(name: str, value: Any, *, at_least: int = 0) -> int:
    """`value` as a Python int: hyperparameters such as f must be static under `jit`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        kind = "an array" if isinstance(value, jax.Array) else type(value).__name__
        raise TypeError(f"{name} must be a Python int; got {kind}.")
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
    a, b = FACTS[name].needs if needs is None else needs
    if n < a * f + b:
        raise ValueError(f"{name} needs {inequality((a, b))}; got n={n}, f={f}.")
    return n, f


def rows_of_params(verb: str, updates: Any, params: Any) -> None:
    """Raises if updates do not have one row per worker of the shapes of `params`."""
    ours, structure = jax.tree_util.tree_flatten_with_path(updates)
    theirs, other = jax.tree.flatten(params)
    if other != structure:  # not comparable; also None, if there are no params
        return
    for (path, leaf), p in zip(ours, theirs):
        shape, expected = jnp.shape(leaf), jnp.shape(p)
        if shape[1:] != expected or not shape:
            name = jax.tree_util.keystr(path)
            whole = ", ".join(map(str, ("n", *expected)))
            raise ValueError(
                f"{verb}: updates{name} has shape {shape}, but params{name} {expected}, so "
                f"({whole}) was expected, one row per worker, as from "
                "jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batches)."
            )


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Checks an option that is a string."""
    if value not in allowed:
        near = nearest(value, allowed) if isinstance(value, str) else None
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
