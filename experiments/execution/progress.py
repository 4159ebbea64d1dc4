"""The progress bar of a sweep, and how it estimates the time that is left.

A program is compiled once for each number of runs, and then trains several blocks. The estimate
keeps the two apart: seconds for each program still to be compiled, and seconds for each step.
"""

import shutil
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

WIDEST = 100  # columns
# Prior for a program of k attacks, from measurements of the main job (seconds on two cores): it
# only matters relative to others, and until a program of that size has been compiled.
BASE, PER_ATTACK = 6.0, 1.0


class Part(NamedTuple):
    """A block, as the estimate sees it.

    Attributes:
      program: what is compiled for it; parts with equal ones share it.
      attacks: number of attacks that the program can select.
      like: groups of parts that take similar times, the most similar first.
      steps: steps of all its runs.
    """

    program: Hashable
    attacks: int
    like: tuple[Hashable, ...]
    steps: int


class Seen(NamedTuple):
    """What was measured of a part so far.

    Attributes:
      part: the part.
      compiling: seconds of compilation and start; 0 if its program had been compiled before.
      running: all other seconds.
      steps: steps done in them; those that were trained while the part started are left out.
    """

    part: Part
    compiling: float
    running: float
    steps: int


def remaining(seen: Sequence[Seen], todo: Sequence[Part]) -> float | None:
    """The seconds that `todo` will take; None as long as nothing was measured.

    Args:
      seen: the measured parts, in any order; at most one of them is unfinished.
      todo: the other parts, and what is left of the unfinished one.
    """
    if not any(one.steps for one in seen):
        return None
    compiled = {one.part.program for one in seen if one.compiling or one.steps}
    total = 0.0
    for part in todo:
        if part.program not in compiled:
            compiled.add(part.program)
            total += _compiling(seen, part)
        total += part.steps * _per_step(seen, part)
    return total


def _compiling(seen: Sequence[Seen], part: Part) -> float:
    """By the programs of as many attacks, else by all, in proportion to their priors."""
    known = [one for one in seen if one.compiling]
    # The last ones, since a machine may become faster or slower.
    alike = ([one for one in known if one.part.attacks == part.attacks] or known)[-3:]
    if not alike:
        return 0.0
    seconds = sum(one.compiling for one in alike)
    return seconds * _prior(part) / sum(_prior(one.part) for one in alike)


def _prior(part: Part) -> float:
    return BASE + PER_ATTACK * part.attacks


def _per_step(seen: Sequence[Seen], part: Part) -> float:
    """Seconds for each step of the most similar parts."""
    known = [one for one in seen if one.steps]
    for group in part.like:
        alike = [one for one in known if group in one.part.like]
        if alike:
            break
    else:
        alike = known
    return sum(one.running for one in alike) / sum(one.steps for one in alike)


class Progress:
    """A progress bar in steps, with the time that is left.

    Args:
      parts: all parts, in the order in which they run.
      shown: whether to show it.
      now: the clock, in seconds.
    """

    def __init__(
        self, parts: Sequence[Part], *, shown: bool, now: Callable[[], float] = time.perf_counter
    ):
        self.now, self.todo = now, list(parts)
        self.seen: list[Seen] = []
        self.doing = ""
        # Of the part that runs: its begin, its first evaluation (seconds, steps, compilation), the
        # measured steps, and the finished ones.
        self.begun, self.steps, self.done = now(), 0, 0
        self.first: tuple[float, int, float] | None = None
        self.bar = _Bar(self, sum(part.steps for part in parts), disable=not shown)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()

    def begin(self, doing: str) -> None:
        """The next part begins."""
        part = self.todo.pop(0)
        self.seen.append(Seen(part, 0.0, 0.0, 0))
        self.begun, self.first, self.steps, self.done = self.now(), None, 0, 0
        compiled = any(one.part.program == part.program and one.steps for one in self.seen)
        self.doing = doing if compiled else f"compiling {doing}"
        self.bar.refresh()

    def advance(self, steps: int, compiling: float, *, resumed: bool = False) -> None:
        """Steps of this part are done.

        Args:
          steps: how many, since the last call.
          compiling: seconds of compilation for this part so far.
          resumed: whether they were done before, and only read.
        """
        self.doing = self.doing.removeprefix("compiling ")
        self.done += steps
        if not resumed:
            self.seen[-1] = self._measured(steps, compiling)
        self.bar.update(steps)

    def _measured(self, steps: int, compiling: float) -> Seen:
        """What is known of the part that runs; later steps tell how long its start took."""
        part, elapsed = self.seen[-1].part, self.now() - self.begun
        if any(one.part.program == part.program and one.steps for one in self.seen[:-1]):
            self.steps += steps
            return Seen(part, compiling, max(0.0, elapsed - compiling), self.steps)
        if self.first is None:
            self.first = (elapsed, steps, compiling)
            if self.done < part.steps:
                return Seen(part, elapsed, 0.0, 0)
            return Seen(part, compiling, max(0.0, elapsed - compiling), steps)
        self.steps += steps
        before, with_start, compiled = self.first
        running = max(0.0, elapsed - before - (compiling - compiled))
        start = max(compiling, before - with_start * running / self.steps)
        return Seen(part, start, running, self.steps)

    def end(self) -> None:
        """The part is finished, or has failed: what is missing of it counts as done."""
        missing = self.seen[-1].part.steps - self.done
        self.done += missing
        self.bar.update(missing)

    def left(self) -> float | None:
        """The estimate of the seconds that are left."""
        begun = []
        if self.seen:
            part = self.seen[-1].part
            begun = [part._replace(steps=part.steps - self.done)]
        return remaining(self.seen, [*begun, *self.todo])

    def describe(self) -> dict[str, str]:
        """The fields of the bar."""
        left, steps = self.left(), sum(one.steps for one in self.seen)
        running = sum(one.running for one in self.seen)
        return {
            "left": "" if left is None else f", about {tqdm.format_interval(round(left))} left",
            "speed": f", {tqdm.format_sizeof(steps / running)} step/s" if running else "",
            "doing": f", {self.doing}" if self.doing else "",
        }


class _Bar(tqdm):
    """One line, at most as wide as the terminal."""

    def __init__(self, progress: Progress, total: int, **options: Any):
        self.progress = progress
        super().__init__(
            total=total,
            unit="step",
            unit_scale=True,
            ncols=min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns) - 1,
            bar_format="{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} steps, {elapsed}"
            "{left}{speed}{doing}",
            **options,
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """The fields of `bar_format`."""
        return dict(super().format_dict) | self.progress.describe()
