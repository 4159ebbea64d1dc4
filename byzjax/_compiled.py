"""Functions of arrays, compiled where they are defined.

    @compiled
    def trimmed_mean(updates, *, f: int, axis_name: str | None = None): ...

A direct call then runs one program, which later calls with the same shapes reuse. Inside a user's
`jit` the function is inlined, and the program is the same as without the decorator.

The annotation of a parameter decides how it is treated. `int`, `bool`, `str`, `tuple`, functions
and None are static: a new value compiles a new program. Everything else is data, including Python
floats: a new value runs the same program.

Functions given as arguments share a program if they are equal: same code, equal defaults, equal
values in their closures and, for `functools.partial`, equal arguments. So a lambda may be written
where it is used. An array in a closure is equal only to itself: a lambda around a new array each
time compiles, and keeps, a program each time. Give such an array as data instead.
"""

import ast
import functools
import inspect
import numbers
import os
import threading
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax

from byzjax import _mistakes


class _Tracing(threading.local):
    """Whether this thread is tracing a compiled function: nested calls then compile nothing."""

    now = False


_tracing = _Tracing()


def compiled(
    function: Callable | None = None,
    *,
    static: Sequence[str] = (),
    check: Callable | None = None,
    **checks: Callable,
) -> Callable:
    """Compiles a function of arrays where it is defined.

    Args:
      function: takes arrays and trees of them, static values and floats; returns arrays.
      static: names of parameters that are static regardless of their annotation.
      check: `check(**keywords)` of the keyword arguments. It runs at each call, before the
        program, where floats are traced and have no value.
      **checks: the same for one keyword-only parameter: `check(name, value)`.

    Returns:
      The function, with the same signature, documentation and errors.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax._checks import positive
      >>> @compiled(limit=positive)
      ... def clipped(x: jax.Array, *, limit: float) -> jax.Array:
      ...     return jnp.minimum(x, limit)
      >>> clipped(jnp.array([1.0, 3.0]), limit=2.0)
      Array([1., 2.], dtype=float32)
      >>> clipped(jnp.array([1.0, 3.0]), limit=-2.0)
      Traceback (most recent call last):
      ValueError: limit must be positive; got limit=-2.0.
    """
    if function is None:
        return functools.partial(compiled, static=static, check=check, **checks)
    parameters = inspect.signature(function).parameters
    kinds = {name: _kind(p) for name, p in parameters.items()} | dict.fromkeys(static, _lenient)
    positional = [p for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
    names = [p.name for p in positional if p.kind is not p.VAR_KEYWORD]
    last = len(names) - 1

    def traced(fixed: _Static, args: tuple, kwargs: dict) -> Any:
        places = {**dict(enumerate(args)), **kwargs, **dict(fixed.values)}
        whole = [places.pop(place) for place in range(len(args))]
        before, _tracing.now = _tracing.now, True
        try:
            return function(*whole, **places)
        finally:
            _tracing.now = before

    traced.__name__ = traced.__qualname__ = function.__name__
    program = jax.jit(traced, static_argnums=0, inline=True)

    def call(args: tuple, kwargs: dict) -> Any:
        check_hyperparameters(wrapper, kwargs)
        if _tracing.now:
            return function(*args, **kwargs)
        places = [*enumerate(args), *kwargs.items()]
        fixed, data = [], {}
        for place, value in places:
            name = place if isinstance(place, str) else names[place if place < last else last]
            is_fixed, value = kinds.get(name, _by_value)(value)
            if is_fixed:
                fixed.append((place, value))
            else:
                data[place] = value
        if _mistakes.Float64.unsaid:
            for value in data.values():
                _mistakes.notice_float64(value)
        positionals = tuple(data.get(i) for i in range(len(args)))
        keywords = {name: data[name] for name in kwargs if name in data}
        return program(_Static(tuple(fixed)), positionals, keywords)

    def raised(error: Exception, args: tuple, kwargs: dict) -> Exception:
        return _shortened(_explained(error, function, kinds, args, kwargs))

    wrapper = _at_definition(function, call, raised)
    functools.update_wrapper(wrapper, function)
    vars(wrapper).update(checks=(check, checks), static=tuple(static))
    return wrapper


def check_hyperparameters(function: Callable, hyperparameters: dict[str, Any]) -> None:
    """Runs a compiled function's checks, for callers that pass hyperparameters as data."""
    of_all, of_one = getattr(function, "checks", (None, {}))
    if of_all is not None:
        of_all(**hyperparameters)
    for name, check in of_one.items():
        if name in hyperparameters:
            check(name, hyperparameters[name])


def static_of(function: Callable, hyperparameters: dict[str, Any]) -> list[str]:
    """Those of the hyperparameters that a compiled function declares static by name."""
    return [name for name in getattr(function, "static", ()) if name in hyperparameters]


def static_key(*values: Any) -> "_Static":
    """A hashable object; equal for values that share a program, see the top of this module."""
    return _Static(tuple(enumerate(values)))


# --- static or data ------------------------------------------------------------------------------


def _kind(parameter: inspect.Parameter) -> Callable:
    """A function of a value of this parameter: (whether it is static, the value to pass on)."""
    annotation = parameter.annotation
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return _by_value
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    members = set(typing.get_args(annotation) if union else (annotation,))
    if all(_is_static(member) for member in members):
        return _static
    if float in members:
        return _number
    return _by_value if any(map(_is_static, members - {types.NoneType})) else _data


def _is_static(annotation: Any) -> bool:
    origin = typing.get_origin(annotation) or annotation
    if origin is Sequence:
        return _is_static(typing.get_args(annotation)[0])
    return origin in (int, bool, str, tuple, types.NoneType, Callable)


def _static(value: Any) -> tuple[bool, Any]:
    if _mistakes.is_array(value):
        raise TypeError("an array where a static value is needed")  # explained below
    return True, value


def _lenient(value: Any) -> tuple[bool, Any]:
    return not _mistakes.is_array(value), value


def _data(value: Any) -> tuple[bool, Any]:
    return False, value


def _number(value: Any) -> tuple[bool, Any]:
    """One program for all numbers, ints and floats alike."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return False, float(value) if plain else value


def _by_value(value: Any) -> tuple[bool, Any]:
    if isinstance(value, numbers.Integral | str | types.NoneType) or callable(value):
        return True, value
    if isinstance(value, tuple) and all(_by_value(part)[0] for part in value):
        return True, value
    return _number(value)


class _Static:
    """Static values by position; equal if all values and their types are equal."""

    def __init__(self, values: tuple) -> None:
        self.values = values
        self.key = tuple((place, _key(value)) for place, value in values)
        self.hash = hash(self.key)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.key == other.key


def _key(value: Any, within: tuple = ()) -> Any:
    """The key by which a value is compared: 1, 1.0 and True differ; equal functions do not."""
    if any(value is outer for outer in within):
        return _Same(value)
    key = functools.partial(_key, within=(*within, value))
    if isinstance(value, tuple | list):
        return type(value), *map(key, value)
    if isinstance(value, functools.partial):
        keywords = ((name, key(value.keywords[name])) for name in sorted(value.keywords))
        return functools.partial, key(value.func), key(value.args), *keywords
    if isinstance(value, types.FunctionType) and "<" in value.__qualname__:  # local, or a lambda
        return _key_of_function(value, key)
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return type(value), value


def _key_of_function(function: types.FunctionType, key: Callable) -> Any:
    try:
        closure = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # an empty cell
        return _Same(function)
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
    return function.__code__, _Same(function.__globals__), key(closure), key(defaults)


class _Same:
    """Equal only to itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


# --- errors --------------------------------------------------------------------------------------


def taught(function: Callable) -> Callable:
    """A function that is not compiled, whose arguments are explained if they do not fit."""

    def call(args: tuple, kwargs: dict) -> Any:
        return function(*args, **kwargs)

    def raised(error: Exception, args: tuple, kwargs: dict) -> Exception:
        wrong = _mistakes.unbound(function, args, kwargs) if type(error) is TypeError else None
        return _shortened(error if wrong is None else wrong)

    return functools.update_wrapper(_at_definition(function, call, raised), function)


def _explained(
    error: Exception, function: Callable, kinds: dict, args: tuple, kwargs: dict
) -> Exception:
    """The error, or one that says what to write if the arguments cannot work."""
    if isinstance(error, NameError) and "axis name" in str(error) and not _tracing.now:
        return _mistakes.no_axis(function.__name__, kwargs.get("axis_name"))
    if not isinstance(error, TypeError | ValueError | AttributeError):
        return error
    if wrong := _mistakes.unbound(function, args, kwargs):
        return wrong
    if str(error).startswith("updates must be") and not _tracing.now:
        return TypeError(f"{function.__name__}: {error}")
    whole = inspect.signature(function)
    for name, value in whole.bind(*args, **kwargs).arguments.items():
        parameter = whole.parameters[name]
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        static = kinds[name] is _static or kinds[name](value)[0]
        wrong = _mistakes.no_value(function, parameter, value, error, static=static)
        if wrong is not None:
            return wrong
    return error


_HIDDEN = (os.path.dirname(jax.__file__) + os.sep, __file__)


def _shortened(error: Exception) -> Exception:
    """The error without the frames of JAX and of this module, and without JAX's note on them."""
    if getattr(jax.config, "jax_traceback_filtering", None) == "off":
        return error
    entries, here = [], error.__traceback__
    while here is not None:
        entries.append(here)
        here = here.tb_next
    shown = None
    for entry in reversed(entries[1:]):  # the first is the wrapper, which raising adds again
        if not entry.tb_frame.f_code.co_filename.startswith(_HIDDEN):
            shown = types.TracebackType(shown, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    notes = getattr(error, "__notes__", [])
    notes[:] = [note for note in notes if "JAX has removed its internal frames" not in note]
    return error.with_traceback(shown)


_WRAPPER = """
def make(call, raised):
    def {name}(*args, **kwargs):
        try:
            return call(args, kwargs)
        except Exception as error:
            wrong = raised(error, args, kwargs)
        try:
            raise wrong
        finally:
            del wrong
    return {name}
"""


def _at_definition(function: Callable, call: Callable, raised: Callable) -> Callable:
    """`call` as a function that tracebacks locate at the decorated definition.

    Its globals are those of the function's module, where `doctest` looks for them.
    """
    tree = ast.parse(_WRAPPER.format(name=function.__name__))
    for node in ast.walk(tree):
        if hasattr(node, "lineno"):
            line = function.__code__.co_firstlineno
            vars(node).update(lineno=line, end_lineno=line, col_offset=0, end_col_offset=0)
    made: dict[str, Any] = {}
    exec(compile(tree, function.__code__.co_filename, "exec"), function.__globals__, made)
    return made["make"](call, raised)
