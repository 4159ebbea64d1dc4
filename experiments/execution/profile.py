"""Where the time of a command goes: a profiler's trace of each block, and seconds of each stage."""

import contextlib
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from experiments.execution import stages
from experiments.text.names import counted
from experiments.training import program as programs
from experiments.training.compiled import CALL

# Lines beside the stages.
DATA = "data and runs"
COMPILE = "compile"
TRACE = "the profiler itself"
REPORT = "report"
FUSED = "smaller fusions"
REST = "everything else"

# Part of the key of JAX's compilation cache: without it, a program compiled by an earlier version
# would be read from there with the scopes of that version, or with none.
_METADATA = "jax_compilation_cache_include_metadata_in_key"


class Profile:
    """Seconds of a command by what they were spent on; without a folder, nothing is traced.

    Args:
      folder: where the traces go, one folder per block; None for no profile.
      begin: when the command began, by `time.perf_counter`; None for now.

    Raises:
      ValueError: the folder cannot be written.
    """

    def __init__(self, folder: str | None = None, begin: float | None = None):
        self.folder = None if folder is None else _writable(pathlib.Path(folder))
        self.begin = time.perf_counter() if begin is None else begin
        self.wanted = self.folder is not None
        self.spent: dict[str, float] = {}
        self.blocks = 0
        self.known: tuple[list, list[stages.Labels]] = [], []  # the last program and its labels

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Counts the time of a `with` block, outside of any other, as `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._add({name: time.perf_counter() - begin})

    def _add(self, spent: dict[str, float]) -> None:
        for name, seconds in spent.items():
            self.spent[name] = self.spent.get(name, 0.0) + seconds

    @contextlib.contextmanager
    def traced(
        self, block: str, program: programs.Program, log: pathlib.Path
    ) -> Iterator[programs.Program]:
        """Traces the training of a block, to be done by the program that this returns.

        Args:
          block: the name of the block.
          program: its program.
          log: a line with the block's seconds is appended to this file.
        """
        if self.folder is None:
            yield program
            return
        known, before = len(program.compiled), getattr(jax.config, _METADATA)
        folder, options = self.folder / block, jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # calls of Python functions would be most of the trace
        with self.timed(TRACE):
            jax.profiler.start_trace(str(folder), profiler_options=options)
        jax.config.update(_METADATA, True)
        try:
            yield _blocking(program)
        finally:
            jax.config.update(_METADATA, before)
            compiling = sum(each.seconds for each in program.compiled[known:])
            with self.timed(TRACE):
                block_seconds = {COMPILE: compiling} | self._stopped(folder, program)
                _append(log, {"block": block, "profile": _rounded(block_seconds)})
            self._add(block_seconds)
            self.blocks += 1

    def _stopped(self, folder: pathlib.Path, program: programs.Program) -> dict[str, float]:
        """Ends the trace: the seconds of its stages; none, and no more traces, if that fails."""
        try:
            jax.profiler.stop_trace()
            if self.known[0] is not program.compiled:
                self.known = program.compiled, []
            labels = self.known[1]
            for each in program.compiled[len(labels) :]:
                labels.append(stages.labels(each.executable.as_text() or ""))
            ran = stages.labelled(stages.operations(folder, CALL), labels)
            stages.write(folder / "stages.trace.json.gz", ran)
            by_stages = stages.seconds(ran)
        except Exception as error:  # a block that has been trained is not lost with its profile
            print(f"No more profiles after {folder}: {error}", file=sys.stderr)
            self.folder = None
            return {}
        return {stages.line_of(names): seconds for names, seconds in by_stages.items()}

    def report(self) -> str:
        """A line for each stage and for what else took time; empty without a profile.

        The lines sum to the time since the beginning.
        """
        if not self.wanted:
            return ""
        if not self.blocks:
            return "No profile: all blocks were finished already, so nothing was trained."
        total = time.perf_counter() - self.begin
        spent = {name: self.spent.get(name, 0.0) for name in (DATA, COMPILE, *stages.STAGES)}
        last = (FUSED, stages.OUTSIDE, stages.UNNAMED, stages.BETWEEN, REPORT, TRACE)
        for name in sorted(set(self.spent) - {*spent, *last}):
            line = name if self.spent[name] >= 0.001 * total else FUSED
            spent[line] = spent.get(line, 0.0) + self.spent[name]
        for name in last:
            spent[name] = spent.pop(name, 0.0) + self.spent.get(name, 0.0)
        spent[REST] = total - sum(spent.values())
        width = max(map(len, spent))
        lines = [f"Seconds by stage, {counted(self.blocks, 'block')} traced (docs/throughput.md):"]
        for name, seconds in (*spent.items(), ("all", total)):
            lines.append(f"  {name:<{width}} {seconds:10.2f} {100 * seconds / total:5.1f} %")
        return "\n".join(lines)


def _writable(folder: pathlib.Path) -> pathlib.Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ValueError(f"--profile cannot write to {folder}: {error.strerror}.") from error


def _blocking(program: programs.Program) -> programs.Program:
    """A program whose results are ready when it returns, so that one call ends before the next."""

    def waiting(function: Callable) -> Callable:
        return lambda *args: jax.block_until_ready(function(*args))

    return program._replace(
        start=waiting(program.start),
        advance=waiting(program.advance),
        evaluate=waiting(program.evaluate),
        success=waiting(program.success),
        write=waiting(program.write),
    )


def _rounded(spent: dict[str, float]) -> dict[str, float]:
    return {name: round(seconds, 6) for name, seconds in spent.items()}


def _append(log: pathlib.Path, line: dict[str, Any]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
