"""The time of a run: each part has a share of what is left, and says what it leaves out."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

Record = dict[str, Any]
"""What a part yields: a row of a table (`row`), or something not measured (`missing`)."""

LEAST = 5.0  # seconds; a part that has fewer does not start


class Part(NamedTuple):
    """One part of a run.

    Attributes:
      share: of the time, relative to the shares of the parts after it; time that a part does not
        use goes to the later ones.
      what: all that it measures, said if nothing of it was.
    """

    share: float
    what: str


class Clock:
    """The seconds of a part, and how long its steps take."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic):
        self._now, self._end = now, now() + seconds
        self._begin, self._longest = math.nan, 0.0

    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - self._now())

    def allows(self) -> bool:
        """Ends the step before; whether another one fits that takes as long as the longest."""
        now = self._now()
        if now > self._begin:  # false for the first
            self._longest = max(self._longest, now - self._begin)
        self._begin = now
        return self.left() > self._longest


def row(table: str, **values: Any) -> Record:
    """A row of a table, its columns in this order."""
    return {"table": table, "row": values}


def missing(what: str, why: str | Exception) -> Record:
    """Something that was not measured, and the reason."""
    return {"missing": what, "why": why if isinstance(why, str) else reason(why)}


NO_TIME = "too little time was left"


def guarded(what: str, records: Iterable[Record]) -> Iterator[Record]:
    """The records, and, if one raises, that the rest was not measured."""
    try:
        yield from records
    except Exception as error:  # mostly out of memory; what follows may fit
        yield missing(what, error)


def reason(error: BaseException) -> str:
    """The first line of an error, with its type."""
    lines = str(error).splitlines() or [""]
    return short(f"{type(error).__name__}: {lines[0]}")


def short(text: str) -> str:
    """At most 160 characters, fit for a table."""
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= 160 else text[:157] + "..."
