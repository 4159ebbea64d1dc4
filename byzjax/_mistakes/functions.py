"""Something else where a rule, an attack, a mixing or a transformation is needed."""

import inspect
from collections.abc import Callable
from typing import Any

from byzjax._mistakes.names import whereabouts
from byzjax._mistakes.words import article, is_transformation, name_of, shown

_CALLS = {
    "all_aggregate": "all_aggregate({}, updates, axis_name, ...)",
    "all_mix": "all_mix({}, updates, axis_name, ...)",
    "attack": "attack({}, byzantine, ...)",
    "influence": "influence({}, updates, ...)",
    "sharded": "sharded({}, shardings)",
}


def no_function(verb: str, kind: str, value: Any) -> TypeError | None:
    """The error for something else where a verb takes a function.

    Args:
      verb: what it was given to, such as `aggregate`.
      kind: what it takes: rule, attack or mixing.
      value: what was given.
    """
    write = _CALLS.get(verb, f"{verb}({{}}, ...)")
    takes = f"{verb} takes {article(kind)}, a function; got {shown(value)}"
    example = {"attack": "attacks.sign_flip", "mixing": "byzjax.nearest_neighbors"}.get(kind)
    example = example or "byzjax.krum"
    if isinstance(value, str):
        place = whereabouts("byzjax", value) or example
        return TypeError(f"{takes}, a name: write {write.format(place)}.")
    if isinstance(value, type):
        return TypeError(f"{takes}: write {write.format(value.__name__ + '(...)')}.")
    if is_transformation(value):
        other = getattr(value.update, "verb", None)
        if kind == "factory":
            partial = "functools.partial(byzjax.aggregate, byzjax.krum, f=f)"
            return TypeError(f"{takes}: write {verb}({partial}, axis_name).")
        if other is None:
            return TypeError(f"{takes}, which needs no {verb}: write optax.chain(transformation).")
        if other == verb:
            return TypeError(f"{takes}, which {verb} made: write {verb} only once.")
        return TypeError(f"{takes}: write optax.chain({other}(...), {verb}({kind}, ...)).")
    if not callable(value):
        called = f"{example}(updates, ...)"
        return TypeError(f"{takes}: write {write.format(example)}, not {verb}({called}).")
    if kind != "factory" and makes_transformation(value):
        name = name_of(value)
        return TypeError(
            f"{verb} takes {article(kind)}; {name} makes a transformation itself: "
            f"write {name}(...) instead of {verb}({name}, ...)."
        )
    return None


def makes_transformation(function: Callable) -> bool:
    """Whether a function returns an optax transformation, by its annotation."""
    try:
        made = inspect.signature(function).return_annotation
    except (TypeError, ValueError):
        return False
    return "GradientTransformation" in str(made)


def no_transformation(where: str, name: str, value: Any, write: str) -> TypeError | None:
    """The error for something else where an optax transformation is needed."""
    if is_transformation(value):
        return None
    return TypeError(
        f"{where}: {name} must be an optax transformation; got {shown(value)}: write {write}."
    )
