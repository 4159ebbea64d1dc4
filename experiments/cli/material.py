"""The data of a study: outlines while nothing has to be trained, arrays as soon as something has.

A study whose blocks are all finished needs no data, nor does a dry run.
"""

import pathlib
from collections.abc import Sequence

from experiments.data import batches, cache, datasets, partitions
from experiments.execution import sweep
from experiments.execution.store import Task
from experiments.grid import planning
from experiments.grid.config import Config
from experiments.training import assemble, poisoning


class Material:
    """The data sets of some grids, each loaded at most once.

    Args:
      grids: the grids; all of their settings are checked, without running anything.
    """

    def __init__(self, grids: Sequence[Config]):
        self.grids = grids
        self._loaded: dict[tuple, datasets.Dataset] = {}
        for grid in grids:
            assemble.plan(grid)
        for grid in grids:
            self._check(grid)

    def describe(self, grid: Config) -> datasets.Dataset | datasets.Outline:
        """The data set if it is on this machine, else its outline, if known; never downloads."""
        try:
            return self._load(grid.dataset, grid.data_dir, False)
        except (cache.MissingDataError, ImportError):  # not there, or TensorFlow must read it
            if grid.dataset not in datasets.OUTLINES:
                raise
            return datasets.OUTLINES[grid.dataset]

    def load(self, grid: Config) -> datasets.Dataset:
        """The data set; downloaded if that is allowed and necessary.

        Raises:
          MissingDataError: it is not on this machine.
          ValueError: its samples do not suffice for the grid.
        """
        before = self.describe(grid)
        dataset = self._load(grid.dataset, grid.data_dir, grid.download)
        if before is not dataset:
            self._check(grid)
        return dataset

    def tasks(self, folder: pathlib.Path) -> list[Task]:
        """The blocks of the grids, with the data that training the missing ones needs."""
        tasks = sweep.tasks(self.grids, folder, self.describe)
        checksums = [self.describe(grid).checksum for grid in self.grids]
        for grid in dict.fromkeys(task.config for task in tasks if not task.path.is_file()):
            self.load(grid)
        if [self.describe(grid).checksum for grid in self.grids] != checksums:
            return sweep.tasks(self.grids, folder, self.describe)  # downloaded, and not as expected
        return tasks

    def absent(self, tasks: Sequence[Task], command: str) -> str | None:
        """What must be done before these blocks can be trained; None if their data are there.

        Args:
          tasks: the blocks.
          command: the command that trains them.
        """
        for grid in dict.fromkeys(task.config for task in tasks):
            try:
                self._load(grid.dataset, grid.data_dir, False)
            except cache.MissingDataError as error:
                return error.text(command)
            except ImportError as error:
                return str(error)
        return None

    def _load(self, name: str, folder: str | None, download: bool) -> datasets.Dataset:
        key = (name, folder)
        if key not in self._loaded:
            self._loaded[key] = datasets.load(name, data_dir=folder, download=download)
        return self._loaded[key]

    def _check(self, grid: Config) -> None:
        dataset = self.describe(grid)
        sweep.model_of(grid, dataset)
        poisoning.check(planning.attacks(grid), dataset)
        if isinstance(dataset, datasets.Dataset):
            rest, _, _ = batches.hold_out(dataset, grid.validation)
            partitions.partition(rest.train_y, grid.n, grid.partition, seed=0)
        else:
            batches.check_hold_out(dataset.sizes[0], grid.validation)
            partitions.check(grid.partition, text=bool(dataset.vocabulary))
