"""`python -m experiments list`: what a run may name, as text."""

import inspect
import re
import shutil
from collections.abc import Callable
from typing import NamedTuple

from byzjax._program import wrapped
from byzjax.facts import FACTS, inequality
from experiments import studies
from experiments.data import datasets
from experiments.grid import catalogue, compressors
from experiments.models import zoo
from experiments.text import names
from experiments.training import assemble

WIDEST = 100
# A table of each kind, by the word after `list`.
KINDS = ("rules", "mixings", "attacks", "protocols", "compressors", "data", "models", "studies")

BRACKETS = (
    "In brackets: the hyperparameters with their defaults; those with ... must be given. Without a "
    "value of its own, f is that of the run."
)


class Entry(NamedTuple):
    """What is listed of one name.

    Attributes:
      line: what it is, in one sentence.
      call: its hyperparameters with their defaults, `(f, m=1)`, and its requirement.
    """

    line: str
    call: str = ""


def text(kind: str = "all") -> str:
    """The tables, wrapped at the width of the terminal.

    Raises:
      ValueError: the kind is unknown.
    """
    if kind not in ("all", *KINDS):
        raise ValueError(names.unknown("kind", kind, ("all", *KINDS)))
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    parts = []
    if kind in ("all", "rules", "mixings", "attacks", "protocols", "compressors"):
        parts += [_filled(BRACKETS, width, ""), ""]
    for each in KINDS if kind == "all" else (kind,):
        parts.append(f"{'data sets' if each == 'data' else each}:")
        parts += [_wrapped(name, entry, width) for name, entry in entries(each).items()]
        if each in ("rules", "mixings", "attacks"):
            missing = catalogue.not_offered(each.removesuffix("s"))
            parts += [
                _filled(f"not offered: {name} {reason}.", width) for name, reason in missing.items()
            ]
        parts.append("")
    return "\n".join(parts).rstrip()


def entries(kind: str) -> dict[str, Entry]:
    """The names of a kind, one of `KINDS`."""
    if kind == "protocols":
        return {
            name: Entry(_first_sentence(function), f"({', '.join(_of_protocol(function))})")
            for name, function in assemble.PROTOCOLS.items()
        }
    if kind == "compressors":
        return {
            name: Entry(_first_sentence(function), _of_compressor(function))
            for name, function in compressors.COMPRESSORS.items()
        }
    if kind == "data":
        return {name: Entry(line) for name, line in datasets.DESCRIPTIONS.items()}
    if kind == "models":
        return {name: Entry(line) for name, line in zoo.DESCRIPTIONS.items()}
    if kind == "studies":
        return {name: Entry(studies.load(name).title) for name in studies.names()}
    return {
        name: Entry(_first_sentence(function), _call(name, function))
        for name, function in catalogue.TABLES[kind.removesuffix("s")].items()
    }


def plain(sentence: str) -> str:
    """A sentence without LaTeX and Markdown: mu for its command, and neither $ nor backquotes."""
    out = re.sub(r"\\operatorname\{(\w+)\}", r"\1", sentence)
    out = re.sub(r"\\sum_\{i \\in H\} x_i", "(sum of the honest x_i)", out)
    out = out.replace(r"\dots", "...").replace(r"\sim", "~").replace(r"\,", "").replace("`", "")
    out = re.sub(r"(?<=\w)(?=\\)", " ", re.sub(r"\$([^$]*)\$", r"\1", out))
    return " ".join(re.sub(r"\\(\w+)", r"\1", out).split())


def _first_sentence(function: Callable) -> str:
    first = (function.__doc__ or "").strip().partition("\n")[0]
    return plain(first.partition(". Cost")[0].rstrip(".") + ".")


def _call(name: str, function: Callable) -> str:
    given = ", ".join(catalogue.hyperparameters(function))
    facts = FACTS.get(name)
    needs = f"needs {inequality(facts.needs)}" if facts is not None else ""
    return "  ".join(part for part in (f"({given})" if given else "", needs) if part)


def _of_protocol(function: Callable) -> list[str]:
    return [each for each in catalogue.hyperparameters(function) if not each.startswith("parts")]


def _of_compressor(function: Callable) -> str:
    parameters = inspect.signature(function).parameters.values()
    needed = [f"{p.name}=..." for p in parameters if p.default is p.empty and p.name != "key"]
    own = [*needed, *catalogue.hyperparameters(function)]
    return f"({', '.join([*own, 'feedback=None', 'byzantine=False'])})"


def _wrapped(name: str, entry: Entry, width: int) -> str:
    first = f"  {name}  {entry.call}".rstrip()
    if not entry.call and len(f"{first}  {entry.line}") <= width:
        return f"{first}  {entry.line}"
    return "\n".join([_filled(first.strip(), width), _filled(entry.line, width, " " * 6)])


def _filled(line: str, width: int, indent: str = "  ") -> str:
    more = " " * (6 - len(indent)) if indent else ""
    return "\n".join(wrapped(line, width, indent, more))
