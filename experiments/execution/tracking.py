"""Accuracy and loss of each run while it trains, for TensorBoard or Weights & Biases."""

import contextlib
import importlib.util
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.execution import store
from experiments.execution.store import Task
from experiments.text import names

# Characters of a block in the name of a run; Weights & Biases takes 128 in all.
LONGEST = 90


class Writer(NamedTuple):
    """The log of one run.

    Attributes:
      add: `add(step, {"accuracy": ..., "loss": ...})` writes one evaluation.
      close: ends the log.
    """

    add: Callable[[int, dict[str, float]], Any]
    close: Callable[[], Any]


def _tensorboard(folder: pathlib.Path, name: str, described: dict[str, Any]) -> Writer:
    import tensorboardX

    writer = tensorboardX.SummaryWriter(str(folder / "tensorboard" / name))

    def add(step: int, values: dict[str, float]) -> None:
        for what, value in values.items():
            writer.add_scalar(what, value, step)

    return Writer(add, writer.close)


def _wandb(folder: pathlib.Path, name: str, described: dict[str, Any]) -> Writer:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=folder.name,
        name=name,
        group=name.partition("/")[0],
        config=described,
        dir=str(folder),
        reinit="create_new",  # the runs of a block train together
        settings=wandb.Settings(console="off"),
    )
    return Writer(lambda step, values: run.log(values, step=step), run.finish)


class Kind(NamedTuple):
    """Where runs are logged.

    Attributes:
      package: what is imported, and the name on the package index.
      open: `open(folder, name, settings)` begins the log of one run.
    """

    package: str
    open: Callable[[pathlib.Path, str, dict[str, Any]], Writer]


KINDS = {"tensorboard": Kind("tensorboardX", _tensorboard), "wandb": Kind("wandb", _wandb)}
"""A name is also that of the extra that installs its package."""


class Tracker:
    """Writes one line for each evaluation of a run; without a kind, none.

    If the writer fails, as without a connection, training continues and nothing more is logged.

    Args:
      kind: a name in `KINDS`, or None.

    Raises:
      ValueError: the kind is unknown.
      ImportError: its package is not installed.
    """

    def __init__(self, kind: str | None = None):
        if kind is not None and kind not in KINDS:
            raise ValueError(names.unknown("log", kind, KINDS))
        self.kind = None if kind is None else KINDS[kind]
        if self.kind is not None and importlib.util.find_spec(self.kind.package) is None:
            raise ImportError(
                f"--log {kind} needs {self.kind.package}: "
                f"pip install -e '.[experiments,{kind}]' in this checkout."
            )

    @contextlib.contextmanager
    def block(
        self, task: Task, folder: pathlib.Path
    ) -> Iterator[Callable[[int, np.ndarray, np.ndarray], None]]:
        """A function `add(step, accuracy, loss)` of one number for each run of a block.

        The logs begin with its first call, and end with the `with` block.

        Args:
          task: the block.
          folder: the folder of the study.
        """
        writers: list[Writer] = []

        def add(step: int, accuracy: np.ndarray, loss: np.ndarray) -> None:
            if self.kind is None:
                return
            with self._stopping():
                if not writers:
                    for name in run_names(task):
                        writers.append(self.kind.open(folder, name, task.described))
                for writer, *values in zip(writers, accuracy, loss, strict=True):
                    writer.add(step, dict(zip(("accuracy", "loss"), map(float, values))))

        try:
            yield add
        finally:
            with self._stopping():
                for writer in writers:
                    writer.close()

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """An error of a writer is printed and ends the logs."""
        try:
            yield
        except Exception as error:  # a block that trains is not lost with its log
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"No more logs: {reason}", file=sys.stderr)
            self.kind = None


def run_names(task: Task) -> list[str]:
    """The names of a block's runs: `median_under_sign_flip-1f0c2b9a/s=5,seed=0`.

    They are paths, whose first part is the block: its words, and the beginning of its hash.
    """
    words = re.sub(r"[^\w.,=()+-]+", "_", store.in_words(task.described))[:LONGEST]
    block = f"{words}-{task.path.stem[:8]}"
    return [f"{block}/s={s},seed={seed}" for seed, s in task.block.runs]
