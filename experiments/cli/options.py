"""The options of each command."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

from jax.sharding import Mesh

from experiments.execution import hosts
from experiments.grid import protocols
from experiments.grid.config import Config
from experiments.text.arguments import POSITIONAL
from experiments.training import devices


@dataclasses.dataclass(frozen=True)
class Machines:
    """Devices and hosts (docs/scaling.md)."""

    devices: int = 1
    """Devices per process over which the workers' gradients are distributed; 0 for all."""
    coordinator: Annotated[str | None, "HOST:PORT|auto"] = None
    """Address of the first of several processes that train together. auto detects this and the next
    two under SLURM, on TPU pods and on Kubernetes (GKE)."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Index of this process, from 0; process 0 writes the results."""

    def join(self) -> None:
        """Joins this process with the others, if any; to be called before any computation."""
        hosts.join(self.coordinator, self.num_processes, self.process_id)

    def mesh(self, grids: Sequence[Config]) -> Mesh | None:
        """The devices to distribute the workers of these grids over; None for one."""
        over = devices.mesh(self.devices)
        for grid in grids:
            protocols.check_devices(grid, devices.size(over))
        return over


@dataclasses.dataclass(frozen=True)
class Places:
    """Where results and data are."""

    results: str = "results"
    """Folder of all studies."""
    data_dir: Annotated[str | None, "PATH"] = None
    """Folder of prepared data sets, as for `run`."""
    download: bool = False
    """Let TFDS fetch what is missing, as for `run`."""

    def of(self, grid: Config, **changes: Any) -> Config:
        """The grid with these places."""
        return dataclasses.replace(grid, **dataclasses.asdict(self), **changes)


@dataclasses.dataclass(frozen=True)
class Watch:
    """Profiles and logs; results stay the same, bit for bit."""

    profile: Annotated[str | None, "DIR"] = None
    """Write a profiler's trace of each block to this folder, for Perfetto or TensorBoard, and print
    the seconds of each stage of training (docs/throughput.md)."""
    log: Annotated[str | None, "tensorboard|wandb"] = None
    """Also write the accuracy and the loss of every evaluation for TensorBoard, or with Weights &
    Biases, one run for each rule, attack, s and seed (docs/laboratory.md)."""


def shard(text: str) -> tuple[int, int]:
    """Reads i/N, the i-th of N parts.

    Raises:
      ValueError: the text does not have this form.
    """
    i, _, count = text.partition("/")
    if not (i.isdigit() and count.isdigit() and 1 <= int(i) <= int(count)):
        raise ValueError(f"shard must be i/N with 1 <= i <= N; got {text!r}.")
    return int(i), int(count)


@dataclasses.dataclass(frozen=True)
class RunCommand:
    """Run the grid that the options describe, or resume it."""

    grid: Config
    machines: Machines
    watch: Watch


@dataclasses.dataclass(frozen=True)
class FileCommand:
    """Run the grids of a file, or resume them: see `python -m experiments import`.

    Finished blocks and the report (index.html) go to a folder named as the file is.
    """

    file: Annotated[str, "FILE", POSITIONAL]
    """A grid file, which ends in .json, or a configuration of FLPoison, in .yaml."""
    places: Places = Places()
    watch: Watch = Watch()
    machines: Machines = Machines()


@dataclasses.dataclass(frozen=True)
class ImportCommand:
    """Read another project's file into a grid file, which `run FILE` trains, or its results.

    Definitions that differ from those here are printed as notes; a setting without a counterpart
    stops with a line that names it (docs/bridges.md).
    """

    source: Annotated[str, "SOURCE", POSITIONAL]
    """byzfl, for the config.json of its benchmark, flpoison, for its YAML, or byzfl-results, for a
    folder of its results, whose tables and figures are written."""
    file: Annotated[str, "FILE", POSITIONAL]
    """The file, or the folder of results."""
    to: Annotated[str | None, "PATH"] = None
    """The grid file; default is the file's name with -grid.json in this folder. Of results, the
    folder of tables and figures; default is the folder's name with -report."""
    benchmark: bool = False
    """Of flpoison, all pairs of the lists attacks and defenses, as with its own --benchmark."""


@dataclasses.dataclass(frozen=True)
class StudyCommand:
    """Run a predefined study, or resume it.

    Finished blocks and the report (index.html) go to <results>/<name>-<edition>/.
    """

    name: Annotated[str, "NAME", POSITIONAL]
    """Name of the study; `python -m experiments list` lists them."""
    edition: str = "cpu"
    """full (the published setting; needs an accelerator or a cluster) or cpu (two cores)."""
    dry_run: bool = False
    """Only print what is missing, in how many programs, and the estimated time."""
    shard: str = "1/1"
    """i/N: run the i-th of N parts, for job arrays; report combines them."""
    seeds: int = 0
    """Train only blocks whose runs are all of the first so many seeds; 0 for all blocks."""
    fresh: bool = False
    """Recompute everything, ignoring the finished blocks in docs/studies."""
    places: Places = Places()
    watch: Watch = Watch()
    machines: Machines = Machines()


@dataclasses.dataclass(frozen=True)
class ReportCommand:
    """Write tables, figures and index.html from the finished blocks of a study."""

    folder: Annotated[str, "FOLDER", POSITIONAL]
    """A study's folder, such as results/momentum-cpu."""
    export: Annotated[str | None, "PATH"] = None
    """Also write its blocks, tables and figures to this folder, small enough to be committed, such
    as docs/studies. A predefined study resumes from the blocks in docs/studies."""


@dataclasses.dataclass(frozen=True)
class ChooseCommand:
    """Print the best setting of each rule, by the worst case on held-out samples."""

    folder: Annotated[str, "FOLDER", POSITIONAL]
    """A study's folder; the study must have been run with --validation."""


@dataclasses.dataclass(frozen=True)
class LeaderboardCommand:
    """Rank every rule, alone and behind mixings, by its worst accuracy over all attacks.

    Results go to <results>/leaderboard-<edition>/, with --rule or --attack to a folder named after
    them; running the command again resumes.
    """

    action: Annotated[str, "ACTION", POSITIONAL] = "run"
    """run (train what is missing, then rank), export (write all runs to one CSV file), rank (print
    the table of what is finished), rows (list the rows, and what is left out and why), measure
    (damage of one step and time of one call of each row, which export adds), submit (write the file
    of one rule or attack that a pull request adds), verify (train some of the cells of such a file
    again) or page (write an exported file as one HTML page)."""
    file: Annotated[str | None, "FILE", POSITIONAL] = None
    """What submit writes, by default named after the rule, or what verify and page read."""
    to: Annotated[str | None, "OUT.html", POSITIONAL] = None
    """The file that page writes."""
    edition: str = "cpu"
    """tiny (half a minute), cpu (digits and MNIST, five hours on two cores) or full (all scenes;
    needs an accelerator)."""
    rule: tuple[str, ...] = ()
    """Rules in place of all, such as my_rules:nearest; the mean is always there."""
    attack: tuple[str, ...] = ()
    """Attacks in place of all, such as my_attacks:push_back, on the rules without a mixing."""
    against: Annotated[str | None, "FILE"] = None
    """An exported CSV file: its other rows are ranked with these, its attacks are compared with one
    of your own, and export adds the rows that are not finished here."""
    salt: Annotated[str | None, "TEXT"] = None
    """What verify draws cells by, with the hash of the file; drawn and printed by default."""
    shard: str = "1/1"
    """i/N: run the i-th of N parts; rank and export combine them."""
    dry_run: bool = False
    """Only print what is missing, and an estimate of the time."""
    places: Places = Places()


@dataclasses.dataclass(frozen=True)
class ListCommand:
    """List what a run may name: rules, mixings, attacks, protocols, and so on.

    In the brackets are the hyperparameters with their defaults; n is the least number of workers
    for f faults. What the library has and a run cannot use is listed with the reason.
    """

    kind: Annotated[str, "KIND", POSITIONAL] = "all"
    """What to list: rules, mixings, attacks, protocols, compressors, data, models, studies, all."""


@dataclasses.dataclass(frozen=True)
class DataCommand:
    """Show how a data set's labels are partitioned among the workers."""

    dataset: str = "digits"
    """Name of the data set."""
    partition: str = "iid"
    """Kind of partition, as for `run`."""
    n: int = 25
    """Number of workers."""
    seed: int = 0
    """Seed of the partition."""
    figure: Annotated[str | None, "PATH"] = None
    """File for a figure of the partition, PNG or SVG."""
    data_dir: Annotated[str | None, "PATH"] = None
    """Folder of prepared data sets, as for `run`."""
    download: bool = False
    """Let TFDS fetch what is missing, as for `run`."""
