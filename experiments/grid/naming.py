"""Names of results folders, made of the settings that differ from the defaults."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Any

# Settings that say where things are, and do not decide any number.
PLACES = ("study", "results", "data_dir", "download")
LONGEST = 60  # characters of a name


def changed(settings: Any) -> dict[str, Any]:
    """The settings of a dataclass that differ from their defaults, but for places."""
    plain = {field.name: field.default for field in dataclasses.fields(settings)}
    defaults = getattr(settings, "defaults", plain)
    return {
        name: getattr(settings, name)
        for name, default in defaults.items()
        if name not in PLACES and getattr(settings, name) != default
    }


def decisive(settings: Any) -> dict[str, Any]:
    """All settings of a dataclass but for places."""
    fields = [field.name for field in dataclasses.fields(settings)]
    return {name: getattr(settings, name) for name in fields if name not in PLACES}


def folder_name(base: str, settings: Any, prefix: str = "") -> str:
    """`base` for the default settings, and else a name such as `learning-rate-0.1`.

    Args:
      base: the name for the defaults.
      settings: a dataclass.
      prefix: start of other names.
    """
    differing = changed(settings)
    return named(prefix, differing) if differing else base


def named(start: str, differing: dict[str, Any]) -> str:
    """A name made of settings; a long one ends with a hash instead of its last words."""
    words = [f"{name.replace('_', '-')}-{_words(value)}" for name, value in differing.items()]
    name = start + "_".join(words)
    if len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(repr(sorted(differing.items())).encode()).hexdigest()[:8]
    return f"{name[: LONGEST - 9].rstrip('-_.')}-{digest}"


def _words(value: Any) -> str:
    texts = value if isinstance(value, tuple | list) else (value,)
    plain = [re.sub(r"[^\w.=+-]+", "-", str(text), flags=re.ASCII).strip("-") for text in texts]
    return "-".join(plain)


def is_given(name: str, arguments: Sequence[str]) -> bool:
    """Whether the option `--name` is among the words of a command line."""
    options = (f"--{name}", f"--{name.replace('_', '-')}")
    return any(word.partition("=")[0] in options for word in arguments)
