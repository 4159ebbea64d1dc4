"""Runs grids block by block; finished blocks are on disk and are not run again."""

import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from experiments.data import datasets
from experiments.execution import block as blocks
from experiments.execution import hosts, locks, progress, store
from experiments.execution.profile import DATA, Profile
from experiments.execution.store import Task
from experiments.execution.tracking import Tracker
from experiments.grid import planning
from experiments.grid.config import NO_BASE, Config
from experiments.models import base, zoo
from experiments.text import bases
from experiments.text.names import counted
from experiments.training import assemble
from experiments.training import program as programs


def tasks(
    grids: Sequence[Config],
    folder: pathlib.Path,
    describe: Callable[[Config], datasets.Dataset | datasets.Outline],
) -> list[Task]:
    """All blocks of all grids; a block that two grids share appears once.

    Blocks that share a compiled program are adjacent.

    Args:
      grids: the grids.
      folder: the folder of the study.
      describe: the data set of a grid, or its outline.
    """
    by_path: dict[pathlib.Path, Task] = {}
    by_program: dict[tuple, list[Task]] = {}
    for config in grids:
        dataset = describe(config)
        for block in assemble.plan(config, parameters(config, dataset)):
            described = store.identity(config, block, dataset.checksum)
            path = store.block_path(folder, described)
            if path not in by_path:
                by_path[path] = Task(config, block, described, path)
                by_program.setdefault(planning.program(config, block), []).append(by_path[path])
    return [task for together in by_program.values() for task in together]


def stretch(tasks: Sequence[Task], shard: int, shards: int) -> list[Task]:
    """The tasks of one shard, from 1: adjacent ones, which share compiled programs."""
    first, last = (len(tasks) * part // shards for part in (shard - 1, shard))
    return list(tasks[first:last])


def of_first_seeds(tasks: Sequence[Task], seeds: int) -> list[Task]:
    """The tasks whose runs are all of the first `seeds` seeds; all tasks if it is 0."""
    return [t for t in tasks if not seeds or all(seed < seeds for seed, _ in t.block.runs)]


def model_of(config: Config, dataset: datasets.Dataset | datasets.Outline) -> zoo.Model:
    """The model of a grid, with the weights of its base model."""
    started = None
    if config.base != NO_BASE:
        *_, context = dataset.shape
        folder = bases.folder(config.base)
        known = {"model": config.model, "context": context, "vocabulary": dataset.vocabulary}
        started = base.load(folder, **known).params
    return assemble.network(config, dataset, started)


def parameters(config: Config, dataset: datasets.Dataset | datasets.Outline) -> int:
    """The number of parameters that are trained."""
    return zoo.size(assemble.network(config, dataset))


def run(
    todo: Sequence[Task],
    folder: pathlib.Path,
    load: Callable[[Config], datasets.Dataset],
    over: Mesh | None = None,
    profile: Profile | None = None,
    tracker: Tracker | None = None,
) -> list[dict[str, Any]]:
    """Runs the missing blocks and returns all finished ones; failures are written to `failed/`.

    With several processes, only the first one reads, writes and returns blocks, and an error stops
    all of them, since the others would wait for the one that failed.

    Args:
      todo: the blocks.
      folder: the folder of the study.
      load: loads the data set of a grid.
      over: the devices that the workers are distributed over; None for one.
      profile: traces the training; None for no profile.
      tracker: logs the curves of runs; None for no log.
    """
    lead = hosts.leads()
    hosts.check_same([task.path.name for task in todo])
    finished: dict[pathlib.Path, dict[str, Any]] = {}
    if lead:
        read = {task.path: store.read_block(task.path, store.PARTS) for task in todo}
        finished = {path: content for path, content in read.items() if content is not None}
    if finished:
        of = f"{len(finished)} of {counted(len(todo), 'block')}"
        print(f"{of} {'is' if len(todo) == 1 else 'are'} in {folder} already.")
        store.warn_of_other_versions(list(finished.values()), over)
    absent = hosts.told(np.array([task.path not in finished for task in todo]))
    missing = [task for task, is_missing in zip(todo, absent) if is_missing]
    parts = [_part(task) for task in missing]
    with progress.Progress(parts, shown=bool(missing) and lead) as bar:
        trainer = _Trainer(folder, load, over, bar, profile or Profile(), tracker or Tracker())
        for task in missing:
            with locks.alone(folder / "locks" / task.path.stem, store.in_words(task.described)):
                if (content := trainer.train(task)) is not None:
                    finished[task.path] = content
    if missing and lead:
        trainer.report(missing)
    return [finished[task.path] for task in todo if task.path in finished]


def _part(task: Task) -> progress.Part:
    """A block, as the estimate of the time sees it."""
    config, block = task.config, task.block
    program, runs = planning.program(config, block), len(block.runs)
    attacks = len(planning.choices(config, block))
    like = (program, block.attack.family), program, (program[0], attacks > 1), (program[0],)
    return progress.Part((program, runs), attacks, like, config.steps * runs)


class _Trainer:
    """Trains blocks one after another, and keeps the program that adjacent ones share.

    Args:
      folder: the folder of the study.
      load: loads the data set of a grid.
      over: the devices that the workers are distributed over; None for one.
      bar: the progress bar.
      profile: traces the training.
      tracker: logs the curves of runs.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        load: Callable,
        over: Mesh | None,
        bar: progress.Progress,
        profile: Profile,
        tracker: Tracker,
    ):
        self.folder, self.load, self.over, self.bar = folder, load, over, bar
        self.profile, self.tracker = profile, tracker
        self.key: tuple | None = None  # of the program
        self.program: programs.Program | None = None
        self.shared: dict[str, jax.stages.Compiled] = {}  # executables of all programs, by text
        self.begin, self.compiling = time.perf_counter(), 0.0
        self.compiled = self.failed = self.taken = 0

    def train(self, task: Task) -> dict[str, Any] | None:
        """Trains, writes and returns a block; None if it failed or another process writes."""
        lead = hosts.leads()
        self.bar.begin(f"{task.block.rule} under {task.block.attack}")
        if not hosts.several() and (content := store.read_block(task.path, store.PARTS)):
            self.bar.end()  # another process has finished it in the meantime
            self.taken += len(task.block.runs)
            return content
        checkpoints = blocks.checkpoints(task, self.folder, self.over)
        try:
            content = self._run(task, checkpoints)
        except Exception as error:
            self.failed += 1
            self.bar.end()
            if lead:
                self._write_failure(task, error)
            if hosts.several():
                raise
            return None
        if not lead:
            return None
        content = task.described | content | {"environment": store.environment(self.over)}
        store.write_json(task.path, content)
        checkpoints.forget()
        self._failure(task).unlink(missing_ok=True)
        return content

    def _run(self, task: Task, checkpoints: blocks.Checkpoints) -> dict[str, Any]:
        config, choices = task.config, planning.choices(task.config, task.block)
        with self.profile.timed(DATA):
            dataset = self.load(config)
            if self.key != planning.program(config, task.block):
                model = model_of(config, dataset)
                self.program = programs.build(
                    config,
                    dataset,
                    model,
                    task.block.rule,
                    task.block.mixing,
                    choices,
                    self.over,
                    self.shared,
                )
                self.key = planning.program(config, task.block)
        assert self.program is not None
        known = len(self.program.compiled)
        attack = [spec.family for spec in choices].index(task.block.attack.family)
        compiled = self.program.compiled

        def advance(steps: int, resumed: bool = False) -> None:
            spent = sum(each.seconds for each in compiled[known:])
            self.bar.advance(steps, spent, resumed=resumed)

        log = self.folder / "log.jsonl"
        with (
            self.tracker.block(task, self.folder) as track,
            self.profile.traced(task.path.stem, self.program, log) as program,
        ):
            place = blocks.Place(self.folder, checkpoints, self.over, self.profile, track)
            content = blocks.train(task, dataset, program, attack, place, advance)
        self.compiled += known == 0
        self.compiling += sum(each.seconds for each in compiled[known:])
        return content

    def _failure(self, task: Task) -> pathlib.Path:
        return self.folder / "failed" / task.path.name

    def _write_failure(self, task: Task, error: Exception) -> None:
        reason = "out of memory" if isinstance(error, MemoryError) else "no message"
        first_line = (str(error).strip() or reason).splitlines()[0]
        failure = {
            "error": f"{type(error).__name__}: {first_line}",
            "traceback": traceback.format_exc(),
            "environment": store.environment(self.over),
        }
        path = self._failure(task)
        store.write_json(path, task.described | failure)
        tqdm.write(store.failure_line(task.described | failure, path), file=sys.stderr)

    def report(self, missing: Sequence[Task]) -> None:
        """Prints the number of runs and their times."""
        runs = sum(len(task.block.runs) for task in missing) - self.taken
        seconds = time.perf_counter() - self.begin
        if runs:
            print(
                f"{counted(runs, 'run')} in {counted(self.compiled, 'program')} and {seconds:.0f} "
                f"s: {seconds / runs:.2f} s per run, {100 * self.compiling / seconds:.0f} % of the "
                "time spent compiling."
            )
        if self.taken:
            were = "run was" if self.taken == 1 else "runs were"
            print(f"{self.taken} {were} trained by another process at the same time.")
        if self.failed:
            failed = f"{store.blocks(self.failed)} failed; see {self.folder / 'failed'}."
            print(failed, file=sys.stderr)
