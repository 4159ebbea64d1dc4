"""Errors about unknown names, and numbers with their nouns."""

from collections.abc import Iterable, Mapping, Sequence

from byzjax._mistakes import LONGEST, SYNONYMS, nearest, plain


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: `1 block`, `2 blocks`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def unknown(
    kind: str, name: object, known: Iterable[str], also: Mapping[str, str] | None = None
) -> str:
    """The error for an unknown name: the name that was probably meant, else the known ones.

    Args:
      kind: what was named, such as `rule`.
      name: the wrong name.
      known: the right ones.
      also: other names of known ones, beside those in papers.
    """
    return f"unknown {kind} {_short(name)}; {hint(str(name), known, also)}"


def one_of(option: str, value: object, known: Iterable[str]) -> str:
    """The error for an option that has only some values."""
    known = list(known)
    listed = known[0] if len(known) == 1 else f"{', '.join(known[:-1])} or {known[-1]}"
    if len(known) > 2:
        listed = f"one of {', '.join(known)}"
    near = nearest(str(value), known)
    more = f" Did you mean {near}?" if near else ""
    return f"{option} must be {listed}; got {_short(value)}.{more}"


def wrong_form(kind: str, text: object, forms: Mapping[str, str]) -> str:
    """The error for a name with numbers: how it is written, if the name is right.

    Args:
      kind: what was named, such as `schedule`.
      text: as written, such as `hyperbolic`.
      forms: how each name is written, such as `hyperbolic(k) with k > 0`.
    """
    name = str(text).partition("(")[0].strip()
    if name in forms:
        return f"cannot read {kind} {_short(text)}; expected {forms[name]}."
    near = nearest(name, forms)
    more = f"did you mean {forms[near]}?" if near else f"known: {', '.join(forms)}."
    return f"unknown {kind} {_short(text)}; {more}"


def no_parameter(name: str, wrong: Sequence[str], known: Iterable[str]) -> str:
    """The error for hyperparameters that a function does not have."""
    known = list(known)
    near = nearest(wrong[0], known)
    more = f" Did you mean {near}?" if near else ""
    return f"{name} has no parameter {', '.join(wrong)}; it takes {', '.join(known)}.{more}"


def hint(name: str, known: Iterable[str], also: Mapping[str, str] | None = None) -> str:
    """`did you mean krum?`, or the known names, as many as fit into an error."""
    known, also = list(known), dict(also or {})
    near = also.get(name.lower().replace("-", "_"))
    meant = SYNONYMS.get(plain(name))
    if near is None and meant in known and plain(name) not in map(plain, known):
        near = meant
    near = near or nearest(name, known)
    if near:
        return f"did you mean {near}?"
    room = LONGEST - 110
    listed = ", ".join(known)
    if len(listed) <= room:
        return f"known: {listed}."
    end = listed.rfind(", ", 0, room - 10)
    return f"known: {listed[:end]}, ... (`python -m experiments list` shows all {len(known)})."


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[0]}"
