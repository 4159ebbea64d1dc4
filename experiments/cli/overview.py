"""The help of `python -m experiments` as a whole, and the error for an unknown command."""

from collections.abc import Iterable, Mapping

from experiments import studies
from experiments.grid import catalogue
from experiments.text import names

PROG = "python -m experiments"


def text(commands: Mapping[str, str]) -> str:
    """All commands, one line each, above the options of the default one."""
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {line}" for name, line in commands.items()]
    return "\n".join(
        [
            f"usage: {PROG} [COMMAND] [OPTIONS]\n",
            "Trains rules under attack, and reports the results.\n",
            "commands:",
            *lines,
            f"\n`{PROG} COMMAND --help` describes a command.",
            "The options of run follow.\n",
        ]
    )


def unknown_command(name: str, commands: Iterable[str]) -> str:
    """The error for a word that is no command: another kind of name, or a near miss."""
    instead = _instead(name)
    if instead:
        return f"unknown command {name!r}; {instead}"
    return names.unknown("command", name, commands)


def run_takes_options(word: str) -> str:
    """The error for a word after `run` that is no option."""
    return f"run takes options only; got {word!r}; {_instead(word) or f'{PROG} --help lists them.'}"


def _instead(word: str) -> str:
    if word in studies.names():
        return f"it is a study: write {PROG} study {word}."
    for kind, table in catalogue.TABLES.items():
        if word in table:
            return f"for this {kind} write {PROG} --{kind} {word}."
    return ""
