"""The folder of a study.

It holds `blocks/<hash>.json` (finished blocks, each written to a temporary file and renamed),
`failed/<hash>.json` (failed blocks, with the error), `checkpoints/` (of long blocks), `locks/` (so
that two processes do not train the same block), `log.jsonl` (one line per evaluation, to follow a
run, and one per profiled block) and `config.json`.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

import byzjax
from experiments.grid import config as configs
from experiments.grid import planning
from experiments.grid.config import Config
from experiments.grid.planning import Block
from experiments.training import devices

# Keys of a block besides its identity.
RESULTS = ("runs", "seconds", "environment")
# Versions and device that determine the bits of a result; a difference causes a warning.
DECISIVE = ("byzjax", "jax", "jaxlib", "flax", "optax", "device", "commit")
# Keys that every finished block has.
PARTS = ("rule", "mixing", "attack", "members", "environment", "byzjax")


class Task(NamedTuple):
    """A block of a grid, and the file of its results.

    Attributes:
      config: the grid of the block.
      block: the runs.
      described: everything that determines its numbers.
      path: its file, named by the hash of `described`.
    """

    config: Config
    block: Block
    described: dict[str, Any]
    path: pathlib.Path


def identity(config: Config, block: Block, checksum: str) -> dict[str, Any]:
    """Everything that determines the results of a block."""
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
    """The file of a block's results, named by the hash of its identity."""
    text = json.dumps(described, sort_keys=True)
    return folder / "blocks" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes atomically, by renaming a temporary file: `path` is never half-written."""
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


def read_block(path: pathlib.Path, parts: Sequence[str] = ()) -> dict[str, Any] | None:
    """A finished block, or None without one; a damaged file is reported on stderr.

    Args:
      path: the JSON file.
      parts: keys that the block must have.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):  # a folder, not JSON, not UTF-8, nested too deep
        content = None
    if isinstance(content, dict) and content and all(name in content for name in parts):
        return content
    print(f"warning: {path} is damaged; it counts as missing.", file=sys.stderr)
    return None


def environment(over: Mesh | None = None) -> dict[str, str]:
    """Versions, machine, date and commit, stored with every result.

    Args:
      over: the devices that the workers are distributed over; None for one.
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
    """The commit of this checkout, with a `+` for uncommitted changes; empty outside of one."""
    folder = pathlib.Path(__file__).parent
    try:
        outputs = [
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
    return outputs[0] + ("+" if outputs[1] else "")


def finished(grids: Sequence[Config], folder: pathlib.Path) -> list[dict[str, Any]]:
    """The blocks in a folder that belong to these grids, each run once.

    Blocks of former versions of a study are ignored; of two blocks with the same runs, as after
    adding seeds, the larger one counts.
    """
    wanted: dict[tuple, None] = {}  # in the order of the plan
    for config in grids:
        for block in planning.recorded(config):
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
    """All settings of a block other than seeds and s, as text."""
    names = (*configs.IDENTITY, "rule", "mixing", "attack", "byzjax")
    return json.dumps([block.get(name) for name in names])


def warn_of_other_versions(found: Sequence[dict[str, Any]], over: Mesh | None = None) -> None:
    """Warns on stderr if finished blocks come from other versions or devices than these."""
    here = environment(over)
    for name in DECISIVE:
        there = {block["environment"].get(name, "") for block in found} - {here[name]}
        if there:
            print(
                f"warning: finished blocks have {name} {', '.join(sorted(there))}, here it is "
                f"{here[name]}; results may differ numerically.",
                file=sys.stderr,
            )


def failures(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The failed blocks."""
    for path in sorted((folder / "failed").glob("*.json")):
        content = read_block(path)
        if content is not None:
            yield content


def write_config(
    grids: Sequence[Config], folder: pathlib.Path, over: Mesh | None = None, **more: Any
) -> None:
    """Writes the grids of a study with versions, device and commit to `config.json`."""
    content = [dataclasses.asdict(config) for config in grids]
    write_json(folder / "config.json", {"grids": content, **more, **environment(over)})
