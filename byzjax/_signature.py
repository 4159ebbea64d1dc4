"""Signatures of functions: positional parameters are data, keyword-only ones hyperparameters."""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from byzjax import _mistakes
from byzjax._mistakes import fitting, name_of

_KINDS = {
    "attack": "attack",
    "mix": "mixing",
    "all_mix": "mixing",
    "across_devices": "factory",
    "check_attack": "attack",
}
_EXAMPLES = {"key": "jax.random.key(0)"}


class Signature(NamedTuple):
    """A function's parameters after the first ones.

    Attributes:
      name: of the function.
      data: its positional parameters.
      missing: data without a default that were not given.
      per_row: data with one number for each row: the keyword-only parameter `weights`.
    """

    name: str
    data: tuple[str, ...]
    missing: tuple[str, ...]
    per_row: tuple[str, ...]


def signature(verb: str, function: Callable, given: Iterable[str], *, skip: int) -> Signature:
    """Reads a function's signature and checks the names of the given arguments."""
    given = list(given)
    must_be_function(verb, function)
    name = name_of(function)
    kinds = inspect.Parameter
    parameters = list(inspect.signature(function).parameters.values())
    named = [p for p in parameters if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)]
    rest = {p.name: p for p in named[skip:]}
    open_ended = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
    unknown = [key for key in given if key not in rest and not open_ended]
    if unknown:
        known = [key for key in rest if key != "axis_name"]
        raise TypeError(f"{verb}: {_mistakes.unknown_keyword(name, unknown[0], known)}")
    required = [key for key, p in rest.items() if p.default is kinds.empty and key not in given]
    missing = [key for key in required if rest[key].kind is kinds.KEYWORD_ONLY]
    if missing:
        between = {"attack": ", byzantine", "all_aggregate": ", updates, axis_name"}.get(verb, "")
        text = ", ".join(f"{key}={_EXAMPLES.get(key, '...')}" for key in missing)
        needs = f"{verb}: {name} needs {', '.join(missing)}"
        write = f"{verb}({name}{between}, {text})"
        raise TypeError(fitting(f"{needs}; write {write}.", f"{needs}."))
    data = tuple(key for key, p in rest.items() if p.kind is not kinds.KEYWORD_ONLY)
    per_row = tuple(key for key in ("weights",) if key in rest and key not in data)
    return Signature(name, data, tuple(key for key in data if key in required), per_row)


def must_be_function(verb: str, function: Callable) -> None:
    """Raises if a verb was given a name, a result or a transformation instead of a function."""
    if wrong := _mistakes.no_function(verb, _KINDS.get(verb, "rule"), function):
        raise wrong


def check_axis_name(verb: str, function: Callable) -> None:
    """Raises if a function has no `axis_name`, which tells it that it sees a slice."""
    must_be_function(verb, function)
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if not ("axis_name" in parameters or open_ended):
        raise TypeError(
            f"{verb}: {name_of(function)} has no parameter axis_name, so it would take a device's "
            "slice of the coordinates to be all of them: add one, and give it to byzjax.stacked."
        )


def per_row_inputs(**functions: Callable) -> Callable[[Callable], Callable]:
    """Declares inputs of a rule that depend on whole rows, such as the loss of `zeno`.

    `all_aggregate` has each device compute them for its own workers, whose rows it holds, gathers
    the values, and passes them to the rule. Other callers, direct or from within another function,
    pass None; with an `axis_name` the rule then sees slices.

    Args:
      **functions: computes the parameter of that name: `function(updates, ...) -> [n, ...]`, where
        value i depends only on row i. Its other parameters are taken from the rule's, by name.

    Returns:
      A decorator that returns the rule itself.

    Raises:
      TypeError: the rule has no keyword-only parameter of that name with default None, or lacks
        a parameter that the function takes.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> def peaks(updates):
      ...     return jnp.max(jnp.abs(updates), axis=1)
      >>> @byzjax.per_row_inputs(peak=peaks)
      ... def of_lowest_peak(updates, *, peak=None, axis_name=None):
      ...     peak = peaks(updates) if peak is None else peak
      ...     return byzjax.stacked.take(updates, jnp.argmin(peak))
      >>> def step(gradient):  # of one worker
      ...     return byzjax.all_aggregate(of_lowest_peak, gradient, "workers")
      >>> jax.vmap(step, axis_name="workers")(jnp.array([[7.0, 0.0], [2.0, 3.0]]))
      Array([[2., 3.],
             [2., 3.]], dtype=float32)
    """

    def declared(rule: Callable) -> Callable:
        known = inspect.signature(rule).parameters
        options = [
            key for key, p in known.items() if p.kind is p.KEYWORD_ONLY and p.default is None
        ]
        for name, function in functions.items():
            if name not in options:
                raise TypeError(
                    f"per_row_inputs: {name_of(rule)} needs a keyword-only parameter {name}=None."
                )
            lacking = [key for key in _beside_updates(function) if key not in known]
            if lacking:
                raise TypeError(
                    f"per_row_inputs: {name_of(function)} takes {', '.join(lacking)}, which "
                    f"{name_of(rule)} does not."
                )
        vars(rule)["per_row_inputs"] = functions
        return rule

    return declared


def missing_row_inputs(rule: Callable, given: dict) -> dict[str, Callable]:
    """Declared inputs that are not given: by name, functions of the updates alone."""
    whole = inspect.unwrap(rule)  # of jax.jit
    functions = getattr(getattr(whole, "func", whole), "per_row_inputs", {})
    parameters = inspect.signature(rule).parameters  # bound arguments are defaults here
    known = {name: p.default for name, p in parameters.items()} | given
    return {
        name: partial(function, **{key: known[key] for key in _beside_updates(function)})
        for name, function in functions.items()
        if known[name] is None
    }


def _beside_updates(function: Callable) -> list[str]:
    return list(inspect.signature(function).parameters)[1:]
