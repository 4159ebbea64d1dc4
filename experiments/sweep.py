"""Runs grids block by block; what is finished is on disk and is not run again.

A study's folder holds `blocks/<hash>.json` (finished, each written under another name, flushed and
renamed), `failed/<hash>.json` (what could not be run, and why), `checkpoints/` (of blocks that take
long), `log.jsonl` (one line for each evaluation, to look at while it runs) and `config.json`.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

import byzjax
from experiments import config as configs
from experiments import data, devices, diagnostics, hosts, models, protocols, train
from experiments.checkpoint import Checkpoints
from experiments.config import Block, Config

# What a block holds beside its identity.
RESULTS = ("runs", "seconds", "environment")
# A block that takes longer is kept half-way, as often as this.
CHECKPOINT_SECONDS = 300.0
# Versions and device that decide the bits of a result; another one is worth a warning.
DECISIVE = ("byzjax", "jax", "jaxlib", "flax", "optax", "device", "commit")


class Task(NamedTuple):
    """A block of a grid, and where its results lie.

    Attributes:
      config: the grid that it is of.
      block: the runs.
      described: all that decides its numbers.
      path: its file, named by the hash of that.
    """

    config: Config
    block: Block
    described: dict[str, Any]
    path: pathlib.Path


def identity(config: Config, block: Block, checksum: str) -> dict[str, Any]:
    """Everything that decides the results of a block."""
    return {
        **configs.identity(config),
        "rule": str(block.rule),
        "mixing": str(block.mixing),
        "attack": str(block.attack),
        "members": [list(run) for run in block.runs],
        "data": checksum,
        "byzjax": byzjax.__version__,
    }


def block_path(folder: pathlib.Path, described: dict[str, Any]) -> pathlib.Path:
    """Where a block's results lie: its name is the hash of its identity."""
    text = json.dumps(described, sort_keys=True)
    return folder / "blocks" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes to a temporary file, then renames: no half-written file is ever found at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror}") from error


# What every finished block has.
PARTS = ("rule", "mixing", "attack", "members", "environment", "byzjax")


def read_block(path: pathlib.Path, parts: Sequence[str] = ()) -> dict[str, Any] | None:
    """A finished block, or None where there is none; one that is damaged is named on stderr.

    Args:
      path: of the file, in JSON.
      parts: names that the block must have.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):  # a folder, no JSON, no UTF-8, nested too deep
        found = None
    if isinstance(found, dict) and found and all(name in found for name in parts):
        return found
    print(f"warning: {path} is damaged; it counts as missing.", file=sys.stderr)
    return None


def environment(over: Mesh | None = None) -> dict[str, str]:
    """Versions, machine, date and commit, to stand beside every result.

    Args:
      over: the devices that the workers are spread over; None for one.
    """
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "byzjax": byzjax.__version__,
        **{name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "device": f"{jax.devices()[0].device_kind} x {devices.size(over)}",
        "cores": str(os.cpu_count()),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
    }


@functools.cache
def _commit() -> str:
    """The commit of this checkout, with a `+` if something is changed; empty outside of one."""
    folder = pathlib.Path(__file__).parent
    try:
        found = [
            subprocess.run(
                ["git", *command],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
            for command in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        ]
    except (OSError, subprocess.SubprocessError):
        return ""
    return found[0] + ("+" if found[1] else "")


def tasks(
    grids: Sequence[Config], folder: pathlib.Path, load: Callable[[Config], data.Dataset]
) -> list[Task]:
    """All blocks of all grids; a block that two grids share is there once.

    Those that share a compiled program are neighbours.
    """
    found: dict[pathlib.Path, Task] = {}
    programs: dict[tuple, list[Task]] = {}
    for config in grids:
        dataset = load(config)
        blocks = configs.plan(config, parameters(config, dataset))
        for block in blocks:
            described = identity(config, block, dataset.checksum)
            path = block_path(folder, described)
            if path not in found:
                found[path] = Task(config, block, described, path)
                programs.setdefault(configs.program(config, block), []).append(found[path])
    return [task for together in programs.values() for task in together]


def stretch(tasks: Sequence[Task], shard: int, shards: int) -> list[Task]:
    """The tasks of one shard, from 1: neighbours, which share compiled programs."""
    first, last = (len(tasks) * part // shards for part in (shard - 1, shard))
    return list(tasks[first:last])


def finished(grids: Sequence[Config], folder: pathlib.Path) -> list[dict[str, Any]]:
    """The blocks in a folder that are of these grids, each run once.

    A study that was changed leaves blocks of its former grids behind; of two blocks that hold the
    same runs, as with more seeds than before, the larger one counts.
    """
    wanted: dict[tuple, None] = {}  # in the order of the plan
    for config in grids:
        for block in configs.recorded(config):
            settings = _settings(identity(config, block, ""))
            wanted |= dict.fromkeys((settings, run) for run in block.runs)
    paths = sorted((folder / "blocks").glob("*.json"))
    blocks = [block for path in paths if (block := read_block(path, PARTS)) is not None]
    kept, seen = [], set()
    for block in sorted(blocks, key=lambda block: -len(block["members"])):
        runs = {(_settings(block), tuple(run)) for run in block["members"]}
        if runs <= wanted.keys() and not runs & seen:
            kept.append(block)
            seen |= runs
    places = {settings: i for i, (settings, _) in enumerate(wanted)}
    return sorted(kept, key=lambda block: places[_settings(block)])


def _settings(block: dict[str, Any]) -> str:
    """What two runs of the same seed and s have in common, as text."""
    names = (*configs.IDENTITY, "rule", "mixing", "attack", "byzjax")
    return json.dumps([block.get(name) for name in names])


def parameters(config: Config, dataset: data.Dataset) -> int:
    """How many numbers the model has."""
    model = models.build(config.model, dataset.train_x.shape[1:], dataset.num_classes)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def warn_of_other_versions(found: Sequence[dict[str, Any]], over: Mesh | None = None) -> None:
    """Says on stderr what differs between this machine and those that finished blocks come from."""
    here = environment(over)
    for name in DECISIVE:
        there = {block["environment"].get(name, "") for block in found} - {here[name]}
        if there:
            print(
                f"warning: finished blocks have {name} {', '.join(sorted(there))}, here it is "
                f"{here[name]}; results may differ in digits.",
                file=sys.stderr,
            )


def run(
    todo: Sequence[Task],
    folder: pathlib.Path,
    load: Callable[[Config], data.Dataset],
    over: Mesh | None = None,
) -> list[dict[str, Any]]:
    """Runs what is missing and returns all finished blocks; what fails is written down.

    Of several processes the first reads and writes, and the others get no block back. There an
    error stops them all: who failed alone would leave the others waiting.

    Args:
      todo: the blocks.
      folder: of the study.
      load: the data set of a grid.
      over: the devices that the workers are spread over; None for one.
    """
    lead = hosts.leads()
    hosts.check_same([task.path.name for task in todo])
    found: dict[pathlib.Path, dict[str, Any]] = {}
    if lead:
        read = {task.path: read_block(task.path, PARTS) for task in todo}
        found = {path: content for path, content in read.items() if content is not None}
    if found:
        print(f"{len(found)} of {len(todo)} blocks are in {folder} already.")
        warn_of_other_versions(list(found.values()), over)
    absent = hosts.told(np.array([task.path not in found for task in todo]))
    missing = [task for task, is_missing in zip(todo, absent) if is_missing]
    steps = sum(task.config.steps * len(task.block.runs) for task in missing)
    begin, programs, compiling, failed = time.perf_counter(), 0, 0.0, 0
    held: tuple[Any, train.Program | None] = (None, None)
    with tqdm(total=steps, unit="step", unit_scale=True, disable=not (missing and lead)) as bar:
        for task in missing:
            config, block = task.config, task.block
            bar.set_postfix_str(f"{block.rule} under {block.attack}")
            before, length = bar.n, config.steps * len(block.runs)
            among = configs.choices(config, block)
            place = [spec.family for spec in among].index(block.attack.family)
            with _alone(folder / "locks" / task.path.stem, bool(lead)):
                if lead and (content := read_block(task.path, PARTS)) is not None:
                    found[task.path] = content  # by another process, in the meantime
                    bar.update(length)
                    continue
                try:
                    key = configs.program(config, block)
                    if held[0] != key:
                        dataset = load(config)
                        model = models.build(
                            config.model, dataset.train_x.shape[1:], dataset.num_classes
                        )
                        held = (
                            key,
                            train.program(
                                config, dataset, model, block.rule, block.mixing, among, over
                            ),
                        )
                    program = held[1]
                    assert program is not None
                    known = len(program.compiled)
                    kept = _checkpoints(task, folder, over)
                    content = _train(task, load(config), program, place, bar, folder, kept, over)
                    programs += known == 0
                    compiling += sum(program.compiled[known:])
                except Exception as error:
                    failed += 1
                    bar.update(before + length - bar.n)
                    first_line = (str(error).strip() or "no more is known").splitlines()[0]
                    failure = {
                        "error": f"{type(error).__name__}: {first_line}",
                        "traceback": traceback.format_exc(),
                        "environment": environment(over),
                    }
                    if lead:
                        write_json(folder / "failed" / task.path.name, task.described | failure)
                    if hosts.several():
                        raise
                    continue
                if not lead:
                    continue
                found[task.path] = task.described | content | {"environment": environment(over)}
                write_json(task.path, found[task.path])
                kept.forget()
                (folder / "failed" / task.path.name).unlink(missing_ok=True)
    if missing and lead:
        _say(missing, programs, compiling, time.perf_counter() - begin, failed, folder)
    return [found[task.path] for task in todo if task.path in found]


@contextlib.contextmanager
def _alone(path: pathlib.Path, lead: bool) -> Iterator[None]:
    """While a block trains, other processes on the same folder wait for it.

    Of several hosts, which share one run, only the first holds the lock; `lead` says which it is.
    """
    if not lead or hosts.several():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path.stem} is being trained by another process; waiting.", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(missing, programs: int, compiling: float, seconds: float, failed: int, folder) -> None:
    """What was run, and where the time went."""
    runs = sum(len(task.block.runs) for task in missing)
    print(
        f"{runs} runs in {programs} programs and {seconds:.0f} s: {seconds / runs:.2f} s a run, "
        f"{100 * compiling / seconds:.0f} % of the time spent compiling."
    )
    if failed:
        print(f"{failed} blocks failed; {folder / 'failed'} says why.", file=sys.stderr)


def failures(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """What could not be run."""
    for path in sorted((folder / "failed").glob("*.json")):
        content = read_block(path)
        if content is not None:
            yield content


def _train(
    task: Task,
    dataset: data.Dataset,
    program: train.Program,
    attack: int,
    bar: tqdm,
    folder: pathlib.Path,
    kept: Checkpoints,
    over: Mesh | None,
) -> dict[str, Any]:
    """Trains all runs of a block, from its checkpoint if there is one."""
    config, block, lead = task.config, task.block, hosts.leads()
    begin = time.perf_counter()
    runs = devices.on_each(train.runs(config, dataset, block.runs, block.attack), over)
    index = np.int32(attack)
    states, done, curves = program.start(index, runs), 0, []
    if (found := kept.restore(devices.on_one(states, over))) is not None:
        done, states, curves = found
        states = devices.on_each(states, over)
        bar.update(done * len(block.runs))
    saved = time.perf_counter()
    for step in range(done + config.eval_every, config.steps + 1, config.eval_every):
        states, found = program.advance(states, np.int32(step - config.eval_every), index, runs)
        if not lead:
            continue
        metrics = program.evaluate(states, step == config.steps, runs)
        curves.append(jax.tree.map(np.asarray, (metrics, found)))
        _log(task, step, curves[-1], time.perf_counter() - begin, folder)
        bar.update(config.eval_every * len(block.runs))
        if step < config.steps and time.perf_counter() - saved > CHECKPOINT_SECONDS:
            kept.save(step, devices.on_one(states, over), curves)
            saved = time.perf_counter()
    if not lead:
        return {}
    return {
        "runs": [_run(config, seed, s, r, curves) for r, (seed, s) in enumerate(block.runs)],
        "seconds": round(time.perf_counter() - begin, 2),
    }


def _checkpoints(task: Task, folder: pathlib.Path, over: Mesh | None) -> Checkpoints:
    """Not gone on from with other versions: a block's digits all come from one of them."""
    here = environment(over)
    versions = hashlib.sha256("".join(here[name] for name in DECISIVE).encode()).hexdigest()[:8]
    return Checkpoints(folder / "checkpoints" / f"{task.path.stem}-{versions}")


def _run(config: Config, seed: int, s: int, place: int, curves: list) -> dict[str, Any]:
    """What is kept of one run."""
    finite = [bool(metrics.finite[place]) for metrics, _ in curves]
    steps = list(range(config.eval_every, config.steps + 1, config.eval_every))
    asked = {}
    if config.validation:
        asked["validation"] = [_number(metrics.validation[place]) for metrics, _ in curves]
    if config.optimum:
        asked["to_optimum"] = [_number(metrics.to_optimum[place]) for metrics, _ in curves]
    if protocols.many_models(config):
        asked["worst_accuracy"] = [_number(metrics.worst[place]) for metrics, _ in curves]
        asked["spread"] = [_number(metrics.spread[place]) for metrics, _ in curves]
    return {
        "seed": seed,
        "s": s,
        "step": steps,
        "accuracy": [round(float(metrics.accuracy[place]), 6) for metrics, _ in curves],
        # JSON knows no NaN: a model that is not finite has no loss.
        "loss": [_number(metrics.loss[place]) for metrics, _ in curves],
        "finite": finite,
        **asked,
        "diverged": None if all(finite) else steps[finite.index(False)],
        "per_class": [round(float(v), 4) for v in curves[-1][0].per_class[place]],
        **{
            name: [_number(found[name][place]) for _, found in curves] for name in diagnostics.NAMES
        },
    }


def _log(task: Task, step: int, found: tuple, seconds: float, folder: pathlib.Path) -> None:
    """One line for each evaluation."""
    metrics, _ = found
    line = {
        "block": task.path.stem,
        "rule": str(task.block.rule),
        "mixing": str(task.block.mixing),
        "attack": str(task.block.attack),
        "step": step,
        "accuracy": [round(float(a), 4) for a in metrics.accuracy],
        "seconds": round(seconds, 2),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def write_config(
    grids: Sequence[Config], folder: pathlib.Path, over: Mesh | None = None, **more: Any
) -> None:
    """The grids of a study with versions, device and commit, as `config.json`."""
    content = [dataclasses.asdict(config) for config in grids]
    write_json(folder / "config.json", {"grids": content, **more, **environment(over)})


def _number(value: np.ndarray) -> float | None:
    return float(f"{float(value):.6g}") if np.isfinite(value) else None
