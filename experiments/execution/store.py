"""The folder of a study.

It holds `blocks/<hash>.json` (finished blocks, each written to a temporary file and renamed),
`failed/<hash>.json` (failed blocks, with the error), `checkpoints/` (of long blocks), `locks/` (so
that two processes do not train the same block), `log.jsonl` (one line per evaluation, to follow a
run, and one per profiled block) and `config.json`.
"""

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import io
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
from experiments.execution import strict
from experiments.grid import config as configs
from experiments.grid import planning
from experiments.grid.config import Config
from experiments.grid.planning import Block
from experiments.text.names import LONGEST
from experiments.training import devices

# Keys of a block besides its identity.
RESULTS = ("runs", "seconds", "environment")
# Versions and device that determine the bits of a result; a difference causes a warning.
DECISIVE = ("byzjax", "jax", "jaxlib", "flax", "optax", "device", "commit")
# Keys that every finished block has.
PARTS = ("rule", "mixing", "attack", "members", "environment", "byzjax", "runs")


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


# The last version of byzjax that changed what training computes, beyond rounding: later versions
# reuse the blocks of this one. Their environment names the version that trained them.
NUMBERS_OF = "0.1.0"


def identity(config: Config, block: Block, checksum: str) -> dict[str, Any]:
    """Everything that determines the results of a block."""
    return {
        **configs.identity(config),
        "rule": str(block.rule),
        "mixing": str(block.mixing),
        "attack": str(block.attack),
        "members": [list(run) for run in block.runs],
        "data": checksum,
        "byzjax": NUMBERS_OF,
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
            json.dump(strict.plain(content), file, indent=1, allow_nan=False)
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
        content = strict.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):  # a folder, not JSON, not UTF-8, nested too deep
        content = None
    is_whole = isinstance(content, dict) and content and all(name in content for name in parts)
    if is_whole and ("runs" not in parts or _has_curves(content)):
        return content
    print(f"warning: {path} is damaged; it counts as missing.", file=sys.stderr)
    return None


def _has_curves(block: dict[str, Any]) -> bool:
    """Whether the runs of a block are those of its members, with curves of equal lengths."""
    try:
        runs = [
            [run["seed"], run["s"]]
            for run in block["runs"]
            if len({len(run[name]) for name in ("step", "accuracy", "loss", "finite")}) == 1
            and all(isinstance(value, float | int) for value in run["accuracy"])
            and run["step"]
        ]
        return bool(runs) and runs == [list(pair) for pair in block["members"]]
    except (KeyError, TypeError):
        return False


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


def every(folder: pathlib.Path) -> list[dict[str, Any]]:
    """All finished blocks in a folder; damaged files are reported on stderr."""
    paths = sorted((folder / "blocks").glob("*.json"))
    return [block for path in paths if (block := read_block(path, PARTS)) is not None]


def finished(grids: Sequence[Config], folder: pathlib.Path) -> list[dict[str, Any]]:
    """The blocks in a folder that belong to these grids, each run once."""
    return belonging(grids, every(folder))


def belonging(grids: Sequence[Config], blocks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the blocks that belong to these grids, each run once.

    Blocks of former versions of a study are ignored; of two blocks with the same runs, as after
    adding seeds, the larger one counts.
    """
    wanted = _planned(grids)
    kept, seen = [], set()
    for block in sorted(blocks, key=lambda block: -len(block["members"])):
        runs = {(_settings(block), tuple(run)) for run in block["members"]}
        if runs <= wanted.keys() and not runs & seen:
            kept.append(block)
            seen |= runs
    places = {settings: i for i, (settings, _) in enumerate(wanted)}
    return sorted(kept, key=lambda block: places[_settings(block)])


def _planned(grids: Sequence[Config]) -> dict[tuple, None]:
    """The settings and members of all runs of the grids, in the order of the plan."""
    wanted: dict[tuple, None] = {}
    for config in grids:
        for block in planning.recorded(config):
            settings = _settings(identity(config, block, ""))
            wanted |= dict.fromkeys((settings, run) for run in block.runs)
    return wanted


def unfinished(grids: Sequence[Config], blocks: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """How many runs of the grids are not in these blocks, and how many runs the grids have."""
    wanted = _planned(grids)
    done = {(_settings(block), tuple(run)) for block in blocks for run in block["members"]}
    return len(wanted.keys() - done), len(wanted)


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
            some = ", ".join(sorted(there)[:3]) + f" and {len(there) - 3} more" * (len(there) > 3)
            print(
                f"warning: finished blocks have {name} {some}, here it is "
                f"{here[name]}; results may differ numerically.",
                file=sys.stderr,
            )


def blocks(count: int) -> str:
    """A number of blocks: `1 block`, `2 blocks`."""
    return f"{count} block{'s' * (count != 1)}"


def in_words(described: dict[str, Any]) -> str:
    """A block in words: `nearest_neighbors + krum under sign_flip`."""
    mixing = described.get("mixing", "none")
    before = "" if mixing == "none" else f"{mixing} + "
    return f"{before}{described.get('rule')} under {described.get('attack')}"


def failure_line(failure: dict[str, Any], path: pathlib.Path) -> str:
    """One line about a failed block: what, why, and the file with all of it."""
    start, end = f"failed: {in_words(failure)}: ", f"; {path}"
    room = max(60, LONGEST - len(start) - len(end))
    why = " ".join(str(failure.get("error")).split())
    return start + (why if len(why) <= room else f"{why[: room - 3]}...") + end


def failures(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The failed blocks that have not been finished since."""
    for path in sorted((folder / "failed").glob("*.json")):
        content = read_block(path)
        if content is not None and not (folder / "blocks" / path.name).is_file():
            yield content | {"file": path.name}


def damaged(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The damaged files of finished blocks, each as a failure without settings."""
    for path in sorted((folder / "blocks").glob("*.json")):
        with contextlib.redirect_stderr(io.StringIO()):
            content = read_block(path, PARTS)
        if content is None:
            yield {"error": f"{path} is damaged; it counts as missing."}


def write_config(
    grids: Sequence[Config], folder: pathlib.Path, over: Mesh | None = None, **more: Any
) -> None:
    """Writes the grids of a study with versions, device and commit to `config.json`."""
    content = [dataclasses.asdict(config) for config in grids]
    write_json(folder / "config.json", {"grids": content, **more, **environment(over)})
