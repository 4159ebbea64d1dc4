"""Values and names in a few words, for messages."""

import difflib
import numbers
import types
import typing
from collections.abc import Iterable
from typing import Any

import jax

LONGEST = 200
ARRAYS = typing.get_args(jax.typing.ArrayLike)[:2]  # of JAX and of NumPy


def shown(value: Any) -> str:
    """A value as the object of `got ...`."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, types.ModuleType):
        return f"the module {value.__name__}"
    if isinstance(value, ARRAYS):
        return f"an array of shape {value.shape}"
    if is_transformation(value):
        return "an optax transformation"
    if callable(value):
        return f"the function {name_of(value)}"
    if isinstance(value, list | tuple | set | dict) and not value:
        return f"an empty {type(value).__name__}"
    if isinstance(value, str | numbers.Number | types.NoneType) and len(repr(value)) < 40:
        return repr(value)
    return article(type_of(value))


def article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def type_of(value: Any) -> str:
    """The name of a value's type; with the library's name if it is not of Python."""
    kind = type(value)
    home = kind.__module__.partition(".")[0]
    return kind.__qualname__ if home == "builtins" else f"{home}.{kind.__qualname__}"


def name_of(function: Any) -> str:
    """The name of a function, also of one bound by `functools.partial`."""
    whole = getattr(function, "func", function)
    return getattr(whole, "__name__", None) or article(type_of(whole))


def is_transformation(value: Any) -> bool:
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def keystr(path: Any) -> str:
    """The path of a leaf; a long one without its beginning."""
    whole = jax.tree_util.keystr(path)
    return whole if len(whole) <= 36 else f"...{whole[-33:]}"


def listed(names: Iterable[str], most: int = 60) -> str:
    """Names with commas, up to a length."""
    text = ", ".join(names)
    return text if len(text) <= most else text[:most].rpartition(",")[0] + ", ..."


def fitting(*forms: str) -> str:
    """The first of these messages that is short enough; the last one is cut."""
    return next((form for form in forms if len(form) <= LONGEST), forms[-1][: LONGEST - 4] + " ...")


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name that was probably meant: of another case, or spelt similarly."""
    plain = {known.replace("_", "").lower(): known for known in names}
    given = name.replace("_", "").lower()
    if given in plain:
        return plain[given]
    if len(given) < 3:
        return None
    begins = [known for known in plain if known.startswith(given)]
    close = difflib.get_close_matches(given, plain, n=1, cutoff=cutoff if len(given) > 4 else 0.75)
    return plain[(close or begins)[0]] if close or begins else None
