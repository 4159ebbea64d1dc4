"""Dataclasses as command lines: a field is an option, and its docstring the help of that option.

An annotation may hold the metavar, `Annotated[str | None, "PATH"]`; with `POSITIONAL` as well, the
field is a positional argument.
"""

import argparse
import ast
import dataclasses
import inspect
import pathlib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from byzjax._program import Parser

T = TypeVar("T")
POSITIONAL = object()
SHOWN = "shown"  # key of a field's metadata: its default as text, if it follows from other fields
_KINDS = {int: ("INT", "an integer"), float: ("NUMBER", "a number")}


class UsageError(ValueError):
    """The command line has an unknown option, a wrong value, or lacks an argument."""


class HelpShown(Exception):  # noqa: N818
    """The help was asked for, and has been printed."""


def parse(kind: type[T], arguments: Sequence[str], *, prog: str) -> T:
    """An instance of a dataclass from the command line.

    Args:
      kind: the dataclass.
      arguments: the words of the command line.
      prog: the command, for the help.

    Raises:
      UsageError: an option is unknown, missing or has a wrong value.
      HelpShown: the help was asked for.
    """
    places = " ".join(f" {each}" for each in _positionals(kind))
    parser = _Raising(
        prog=prog, usage=f"{prog}{places} [OPTIONS]", description=inspect.getdoc(kind)
    )
    _add(parser, parser, kind)
    return _made(kind, vars(parser.parse_args([_hyphens(word) for word in arguments])))


def rewrite(page: str, written: Callable[[str, pathlib.Path], str], about: str | None) -> None:
    """A program that rewrites a page in the folder that its one argument names.

    Args:
      page: the name of the page.
      written: the new text, from the old one and the folder.
      about: its help.
    """
    parser = Parser(description=about)
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path, help=f"holds {page}")
    folder = parser.parse_args().folder
    try:
        (folder / page).write_text(written((folder / page).read_text(), folder))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}; expected the folder that holds {page}.")


def docs(kind: type) -> dict[str, str]:
    """The docstring below each field."""
    (definition,) = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, after in zip(definition.body, definition.body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(after.value, ast.Constant)
            texts[field.target.id] = " ".join(str(after.value.value).split())
    return texts


class _Raising(Parser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("argument ")
        missing = words.removeprefix("the following arguments are required: ")
        if missing != words:
            words = f"{self.prog} needs {missing}; {self.prog} --help explains it."
        raise UsageError(words.replace(": expected one argument", " needs a value."))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpShown


def _add(parser: Parser, group: Any, kind: type) -> None:
    """Adds the fields of a dataclass; those of a nested one are a group of their own."""
    texts, hints = docs(kind), typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, metadata = _annotation(hints[field.name])
        if dataclasses.is_dataclass(hint):
            title, _, about = (inspect.getdoc(hint) or "").partition("\n\n")
            group_of = parser.add_argument_group(" ".join(title.split()).rstrip("."), about)
            _add(parser, group_of, typing.cast(type, hint))
            continue
        options = _options(field, hint, texts.get(field.name, ""))
        for metavar in metadata:
            options |= {"metavar": metavar} if isinstance(metavar, str) else {}
        if POSITIONAL in metadata:
            if field.default is not dataclasses.MISSING:
                options["nargs"] = "?"
            group.add_argument(field.name, **options)
        else:
            name = f"--{field.name.replace('_', '-')}"
            group.add_argument(name, dest=field.name, **options)


def _options(field: dataclasses.Field, hint: Any, text: str) -> dict[str, Any]:
    """The options of `add_argument`; fields that are not given are left to the dataclass."""
    value = field.metadata.get(SHOWN, field.default)
    if value is not dataclasses.MISSING and value is not None and value is not False:
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        text += f" (default: {shown})"
    options = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if hint is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    several = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if several else hint
    options |= {"nargs": "*"} if several else {}
    metavar = _KINDS[kind][0] if kind in _KINDS else field.name.upper()
    return options | {"type": _reader(kind), "metavar": metavar}


def _reader(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            message = f"expected {_KINDS[kind][1]}; got {text!r}."
            raise argparse.ArgumentTypeError(message) from None

    return read


def _annotation(hint: Any) -> tuple[Any, tuple]:
    """The type without None, and the metadata of its annotation."""
    metadata: tuple = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *rest = typing.get_args(hint)
        metadata = tuple(rest)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    return hint, metadata


def _positionals(kind: type) -> list[str]:
    """The metavars of the positional arguments, in brackets if they have a default."""
    out = []
    for field in dataclasses.fields(kind):
        _, metadata = _annotation(typing.get_type_hints(kind, include_extras=True)[field.name])
        if POSITIONAL in metadata:
            (metavar,) = (each for each in metadata if isinstance(each, str))
            out.append(metavar if field.default is dataclasses.MISSING else f"[{metavar}]")
    return out


def _hyphens(word: str) -> str:
    """An option written with underscores, as its field is."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _made(kind: type, given: dict[str, Any]) -> Any:
    """The dataclass of these values, with nested dataclasses."""
    values = {}
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            values[name] = _made(typing.cast(type, hint), given)
        elif name in given:
            value = given[name]
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
