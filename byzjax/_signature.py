"""What a function takes: positional parameters are data, keyword-only ones hyperparameters."""

import inspect
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Signature(NamedTuple):
    """A function's parameters after the first ones.

    Attributes:
      name: of the function.
      data: its positional parameters.
      missing: those of the data without a default that were not given.
    """

    name: str
    data: tuple[str, ...]
    missing: tuple[str, ...]


def signature(verb: str, function: Callable, given: Iterable[str], *, skip: int) -> Signature:
    """Reads a function's signature, and checks the names of what its verb was given."""
    given = list(given)
    name = name_of(function)
    kinds = inspect.Parameter
    parameters = list(inspect.signature(function).parameters.values())
    named = [p for p in parameters if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)]
    rest = {p.name: p for p in named[skip:]}
    open_ended = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
    unknown = [key for key in given if key not in rest and not open_ended]
    if unknown:
        known = ", ".join(key for key in rest if key != "axis_name") or "nothing else"
        raise TypeError(f"{verb}: {name} has no parameter {', '.join(unknown)}; it takes {known}.")
    required = [key for key, p in rest.items() if p.default is kinds.empty and key not in given]
    missing = [key for key in required if rest[key].kind is kinds.KEYWORD_ONLY]
    if missing:
        text = ", ".join(f"{key}=..." for key in missing)
        raise TypeError(f"{verb}: {name} needs {', '.join(missing)}; write {verb}({name}, {text}).")
    data = tuple(key for key, p in rest.items() if p.kind is not kinds.KEYWORD_ONLY)
    return Signature(name, data, tuple(key for key in data if key in required))


def check_axis_name(verb: str, function: Callable) -> None:
    """Raises where a function cannot be told that it sees a slice of the coordinates."""
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if not ("axis_name" in parameters or open_ended):
        raise TypeError(
            f"{verb}: {name_of(function)} has no parameter axis_name, so it would take a device's "
            "slice of the coordinates for all of them."
        )


def name_of(function: Callable) -> str:
    whole = getattr(function, "func", function)  # of functools.partial
    return getattr(whole, "__name__", None) or repr(function)
