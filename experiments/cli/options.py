"""The options of each command."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro
from jax.sharding import Mesh

from experiments.execution import hosts
from experiments.grid import protocols
from experiments.grid.config import Config
from experiments.training import devices

Command = Annotated[str, tyro.conf.Positional]


@dataclasses.dataclass(frozen=True)
class Machines:
    """Devices and hosts (docs/scaling.md)."""

    devices: int = 1
    """Devices of each process that the workers' gradients are spread over; 0 for all."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT|auto")] = None
    """Of several processes that train together: where the first of them is. auto finds this and the
    next two under SLURM, on TPU pods and on Kubernetes (GKE)."""
    num_processes: int | None = None
    """How many they are."""
    process_id: int | None = None
    """Which of them this is, from 0; 0 writes the results."""

    def join(self) -> None:
        """Before anything is computed: makes this process one of several, if it is."""
        hosts.join(self.coordinator, self.num_processes, self.process_id)

    def mesh(self, grids: Sequence[Config]) -> Mesh | None:
        """The devices to spread the workers of these grids over; None for one."""
        over = devices.mesh(self.devices)
        for grid in grids:
            protocols.check_devices(grid, devices.size(over))
        return over


@dataclasses.dataclass(frozen=True)
class RunCommand:
    """Run the grid that the options describe, or continue it."""

    grid: tyro.conf.OmitArgPrefixes[Config]
    machines: tyro.conf.OmitArgPrefixes[Machines]


@dataclasses.dataclass(frozen=True)
class StudyCommand:
    """Run a study that is shipped, or continue it.

    Finished blocks lie in <results>/<name>-<edition>/, which an index.html shows.
    """

    name: Command
    """Which one; `python -m experiments list` names them."""
    edition: str = "cpu"
    """full (the published setting; needs an accelerator or a cluster) or cpu (two cores)."""
    dry_run: bool = False
    """Only tell what is missing, in how many programs, and about how long it would take."""
    machines: tyro.conf.OmitArgPrefixes[Machines] = Machines()
    shard: str = "1/1"
    """i/N: run the i-th of N parts, for arrays of jobs; report puts them together."""
    fresh: bool = False
    """Compute all of it here, without the finished blocks that are shipped in docs/studies."""
    results: str = "results"
    """Folder of all studies."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Folder of prepared data sets, as for `run`."""
    download: bool = False
    """Let TFDS fetch what is missing, as for `run`."""


@dataclasses.dataclass(frozen=True)
class ReportCommand:
    """Write tables, figures and index.html from the finished blocks of a study."""

    folder: Command
    """A study's folder, such as results/momentum-cpu."""
    export: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Also write its blocks, tables and figures there, small enough to be committed; such as
    docs/studies. A study that is shipped goes on from what it finds in docs/studies."""


@dataclasses.dataclass(frozen=True)
class ChooseCommand:
    """Print the best setting of each rule: that of the best worst case on held-out samples."""

    folder: Command
    """A study's folder; the study must have been run with --validation."""


@dataclasses.dataclass(frozen=True)
class DataCommand:
    """Show how a data set's labels are dealt out to the workers."""

    dataset: str = "digits"
    """Its name."""
    partition: str = "iid"
    """How samples are dealt out."""
    n: int = 25
    """Number of workers."""
    seed: int = 0
    """Seed of the partition."""
    figure: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Where to draw it, as PNG or SVG."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Folder of prepared data sets, as for `run`."""
    download: bool = False
    """Let TFDS fetch what is missing, as for `run`."""
