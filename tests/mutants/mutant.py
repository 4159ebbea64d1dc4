"""A small mistake in the code that some test has to notice."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
      what: the mistake in a few words; unique, since it names the mutant.
      file: the file that it changes, from the root of the repository.
      old: a text that occurs there exactly once.
      new: what it becomes.
      tests: arguments of pytest that select the fewest tests which should fail: files or node ids,
        and `-k` with an expression in double quotes.
    """

    what: str
    file: str
    old: str
    new: str
    tests: str
