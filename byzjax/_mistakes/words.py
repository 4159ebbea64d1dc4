"""Values and names in a few words, for messages."""

import difflib
import numbers
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

import jax

LONGEST = 200  # characters of a message
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


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant, or None: of another case, by initials, by likeness.

    Example:
      >>> nearest("krumm", ["mean", "krum"])
      'krum'
      >>> nearest("Trimmed-Mean", ["mean", "trimmed_mean"])
      'trimmed_mean'
      >>> nearest("lr", ["--rule", "--learning-rate"])
      '--learning-rate'
    """
    known, given = list(known), plain(name)
    names = {plain(each): each for each in reversed(known)}
    if given in names:
        return names[given]
    initials = [each for each in known if len(each) > 1 and _initials(each) == given]
    if len(initials) == 1 and len(given) > 1:
        return initials[0]
    if len(given) < 3:
        return None
    begins = [each for each in names if each.startswith(given)]
    close = difflib.get_close_matches(given, names, n=1, cutoff=cutoff)
    return names[(close or begins)[0]] if close or begins else None


def plain(name: str) -> str:
    """A name without case, hyphens and underscores: `Trimmed-Mean` is `trimmedmean`."""
    return re.sub("[-_ ]", "", name).lower()


def _initials(name: str) -> str:
    return "".join(part[0] for part in re.split("[-_ ]+", name.lower()) if part)
