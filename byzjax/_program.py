"""Command lines of the programs in this repository: help that wraps, errors of one line."""

import argparse
import pathlib
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from byzjax._mistakes import nearest

WIDEST = 100  # columns of a help text
_NO_BREAK = "\xa0"


def wrapped(text: str, width: int, indent: str = "", more: str = "") -> list[str]:
    """The lines of a text, each after `indent`; not broken within quotes or an inequality.

    Args:
      text: one paragraph.
      width: columns.
      indent: before every line.
      more: before every line but the first, too.
    """
    kept = re.sub(r'"[^"]*"|`[^`]*`|n >= [^,;.]*', _unbroken, " ".join(text.split()))
    lines = textwrap.wrap(
        kept,
        width,
        initial_indent=indent,
        subsequent_indent=indent + more,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]


def _unbroken(match: re.Match[str]) -> str:
    return match[0].replace(" ", _NO_BREAK)


class Parser(argparse.ArgumentParser):
    """`argparse` with errors of one line, which name the option or the choice nearest to it.

    Args:
      description: paragraphs, which are wrapped; indented lines stay as they are.
      options: those of `argparse.ArgumentParser`.
    """

    def __init__(self, *, description: str | None = None, **options: Any):
        defaults: dict[str, Any] = {"formatter_class": _Formatter, "allow_abbrev": False}
        options = defaults | {"prog": _prog()} | options
        super().__init__(description=description, **options)

    def add_argument(self, *names: str, **options: Any) -> Any:
        """As in `argparse`; with `choices`, a wrong one is an error that names the nearest."""
        if (choices := options.get("choices")) is not None:
            options.setdefault("type", _one_of(tuple(choices)))
            if options.get("nargs") in ("+", "*"):
                options.setdefault("metavar", "NAME")
                options["help"] = f"{options.get('help', 'any')}: {', '.join(choices)}"
        return super().add_argument(*names, **options)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """As in `argparse`."""
        given, rest = self.parse_known_args(*args, **kwargs)
        if rest:
            self.error(self.unexpected(rest))
        return given

    def unexpected(self, rest: Sequence[str]) -> str:
        """The error for arguments that no option takes."""
        wrong = next((word for word in rest if word.startswith("-")), rest[0]).partition("=")[0]
        if not wrong.startswith("-"):
            return f"unexpected {wrong!r}; {self.prog} --help shows what it takes."
        options = [word for action in self._actions for word in action.option_strings]
        near = nearest(wrong, options)
        hint = f"did you mean {near}?" if near else f"{self.prog} --help lists the options."
        return f"unknown option {wrong}; {hint}"

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with status 2."""
        self.exit(2, f"error: {message.removeprefix('argument ')}\n")


def _prog() -> str:
    """The command of the module that runs: `python -m byzjax.facts`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return pathlib.Path(sys.argv[0]).name
    return f"python -m {spec.name.removesuffix('.__main__')}"


def prints(about: str, pages: Mapping[str, Callable[[], str]]) -> None:
    """A program that prints one of several texts, the first one without an argument.

    Args:
      about: its help.
      pages: the texts by name.
    """
    parser = Parser(description=about)
    if len(pages) > 1:
        first = next(iter(pages))
        parser.add_argument(
            "what", nargs="?", choices=tuple(pages), default=first, help=f"default: {first}"
        )
    chosen = vars(parser.parse_args()).get("what", next(iter(pages)))
    text = pages[chosen]()
    print(text, end="" if text.endswith("\n") else "\n")


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def chosen(text: str) -> str:
        if text not in choices:
            near = nearest(text, choices)
            hint = f"did you mean {near}?" if near else f"known: {', '.join(choices)}."
            raise argparse.ArgumentTypeError(f"unknown {text!r}; {hint}")
        return text

    return chosen


class _Formatter(argparse.HelpFormatter):
    """Wraps paragraphs one by one, and no line beyond `WIDEST` columns."""

    def __init__(self, prog: str, **options: Any):
        width = min(WIDEST, shutil.get_terminal_size().columns) - 1
        super().__init__(prog, **({"width": width} | options))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            textwrap.indent(part, indent)
            if part.startswith(" ")
            else "\n".join(wrapped(part, width, indent))
            for part in textwrap.dedent(text).strip().split("\n\n")
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(text, width)
