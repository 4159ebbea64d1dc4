"""Arguments that do not fit a function's parameters."""

import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax

from byzjax._mistakes.leaves import is_array, no_array, no_key
from byzjax._mistakes.words import fitting, listed, name_of, nearest, shown

_FAULTS = ("byz", "fault", "attacker", "malicious", "trim", "ratio", "fraction", "beta")


def unbound(function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> TypeError | None:
    """The error for arguments that do not fit a function's parameters, if they do not."""
    parameters = inspect.signature(function).parameters.values()
    name = name_of(function)
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    known = [p.name for p in (*places[1:], *options) if p.name != "axis_name"]
    kinds, described = {p.kind for p in parameters}, (name, places, options)
    open_ended = inspect.Parameter.VAR_KEYWORD in kinds
    if len(args) > len(places) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        return TypeError(_too_many(*described, args[len(places) :], kwargs, open_ended))
    taken = {p.name for p in places[: len(args)]}
    unknown = [key for key in kwargs if key not in known and key != "axis_name"]
    unknown = [key for key in unknown if not (places and key == places[0].name)]
    if unknown and not open_ended:
        return TypeError(unknown_keyword(name, unknown[0], known))
    if twice := taken & set(kwargs):
        more = any(p.name not in ("axis_name", "weights") for p in options)
        once = ", ".join([p.name for p in places] + ["..."] * more)
        return TypeError(
            f"{name} got {listed(twice)} twice, by position and by name; write {name}({once})."
        )
    given = taken | set(kwargs)
    required = [p for p in (*places, *options) if p.default is p.empty]
    missing = [p.name for p in required if p.name not in given]
    if not missing:
        return None
    named = [*(p.name for p in options), "num_workers"]
    shape = [f"{p.name}=..." if p.name in named else p.name for p in required]
    needs = f"{name} needs {listed(missing)}"
    if missing[0] == "updates" and kwargs:
        bound = ", ".join([name, *(f"{key}=..." for key in kwargs)])
        return TypeError(f"{needs}; to give them later, write functools.partial({bound}).")
    return TypeError(fitting(f"{needs}; write {name}({', '.join(shape)}).", f"{needs}."))


def _too_many(
    name: str, places: list, options: list, extra: tuple, kwargs: Mapping, open_ended: bool
) -> str:
    """`krum(x, 4)`: the values that have no place are hyperparameters, in their order."""
    hidden = {"axis_name", "weights", *kwargs}
    free = [p.name for p in options if p.name not in hidden]
    free = [key for key in ("f",) if key not in kwargs] if open_ended else free
    whole = [p.name for p in places if p.default is p.empty]
    plain = (value if isinstance(value, int | float | str) else None for value in extra)
    pairs = [f"{key}={'...' if v is None else repr(v)}" for key, v in zip(free, plain)]
    takes = f"{len(places)} positional argument{'s' * (len(places) != 1)}"
    if places:
        takes += f" ({listed(p.name for p in places)})"
    call = f"{name}({', '.join([*whole, *pairs])})"
    return fitting(f"{name} takes {takes}; write {call}.", f"{name} takes {takes}.")


def unknown_keyword(name: str, key: str, known: list[str]) -> str:
    """`krum has no parameter F; did you mean f? It takes f, m, ...`."""
    if key == "weights":
        return (
            f"{name} takes no weights: docs/weights.md says which rules do and why others refuse, "
            "such as geometric_median(updates, weights=w)."
        )
    meant = nearest(key, known)
    if "f" in known and any(word in key.lower() for word in _FAULTS):
        meant = "f"
    takes = listed(known) or "nothing else"
    if meant is None:
        return f"{name} has no parameter {key}; it takes {takes}."
    return f"{name} has no parameter {key}; did you mean {meant}? It takes {takes}."


def no_value(
    function: Callable, parameter: inspect.Parameter, value: Any, error: Exception, *, static: bool
) -> TypeError | None:
    """The error for a value that its parameter cannot take, judged by the annotation."""
    name, wanted = parameter.name, parameter.annotation
    if str(error).startswith(f"{name} "):  # the function's own words
        return None
    kinds = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if any(map(_is_function, kinds)) and (isinstance(value, str) or is_array(value)):
        return TypeError(f"{name} must be a function; got {shown(value)}.")
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if wanted is int and not (whole or is_array(value)):
        return TypeError(no_int(name, value))
    if _is_function(wanted):
        wrong = TypeError(f"{name} must be a function; got {shown(value)}.")
        return None if callable(value) else wrong
    if static and is_array(value):
        kind = "a Python int" if wanted is int else "a static value"
        return TypeError(not_static(name, kind, value, function.__name__))
    if name == "key" and (wrong := no_key(name, value)):
        return wrong
    number = float in kinds
    if (value is None or isinstance(value, str)) and number and value is not parameter.default:
        return TypeError(f"{name} must be a number; got {shown(value)}.")
    plain = isinstance(value, list | tuple | dict | types.NoneType)
    if wanted is jax.Array and plain and not isinstance(error, ValueError):
        write = "" if isinstance(value, dict | types.NoneType) else f": write jnp.asarray({name})"
        return TypeError(f"{name} must be an array; got {shown(value)}{write}.")
    return None if static else no_array(name, value)


def _is_function(annotation: Any) -> bool:
    return (typing.get_origin(annotation) or annotation) is Callable


def no_int(name: str, value: Any) -> str:
    """The error for a value that is not a Python int."""
    if is_array(value):
        return not_static(name, "a Python int", value)
    got = f"{name} must be a Python int; got {type(value).__name__}"
    if (isinstance(value, float) and value.is_integer()) or isinstance(value, str | bool):
        text = str(int(value)) if not isinstance(value, str) or value.isdecimal() else "2"
        return f"{got}, {value!r}: write {name}={text}."
    if isinstance(value, float):
        fraction = name == "f" and 0 < value < 1
        counts = f": it counts workers, write f=int({value} * n)" if fraction else ""
        return f"{got}, {value}{counts}."
    return f"{got}: write {name}=2, for example."


def not_static(name: str, kind: str, value: Any, function: str | None = None) -> str:
    """The error for an array where a static value is needed."""
    if not isinstance(value, jax.core.Tracer):
        got = shown(value)
        write = ""
        if kind == "a Python int":
            counted = getattr(value, "ndim", 0) == 1 and value.dtype == "bool"
            write = f": write {name}=int({name}{'.sum()' * counted})"
        return f"{name} must be {kind}; got {got}{write}."
    call = function or "rule"
    return (
        f"{name} must be {kind}; got a traced array: write "
        f'jax.jit({call}, static_argnames="{name}") or functools.partial({call}, {name}=...) '
        "before jax.jit or jax.vmap."
    )
