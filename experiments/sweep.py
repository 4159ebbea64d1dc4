"""Runs a study block by block; what is finished is on disk and is not run again."""

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import platform
import time
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import byzjax
from experiments import data, models, train
from experiments.config import Block, Config

# What decides the numbers of a block. The rest of the config says where things lie, or which other
# blocks there are.
_IDENTITY = (
    "dataset",
    "model",
    "n",
    "f",
    "seeds",
    "steps",
    "batch_size",
    "learning_rate",
    "momentum",
    "partition",
    "eval_every",
)


def identity(config: Config, block: Block, checksum: str) -> dict[str, Any]:
    """Everything that decides the results of a block."""
    return {
        **{name: getattr(config, name) for name in _IDENTITY},
        "rule": str(block.rule),
        "attack": str(block.attack),
        "s": list(block.s),
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
    with temporary.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_block(path: pathlib.Path) -> dict[str, Any] | None:
    """A finished block, or None where there is none or it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def environment() -> dict[str, str]:
    """Versions, machine and date, to stand beside every result."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "byzjax": byzjax.__version__,
        **{name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "device": f"{jax.devices()[0].device_kind} x {jax.device_count()}",
        "cores": str(os.cpu_count()),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def run(config: Config, blocks: list[Block], dataset: data.Dataset) -> list[dict[str, Any]]:
    """Runs what is missing of a study and returns all its blocks."""
    folder = pathlib.Path(config.results) / config.study
    model = models.build(config.model, dataset.train_x.shape[1:], dataset.num_classes)
    described = [identity(config, block, dataset.checksum) for block in blocks]
    paths = [block_path(folder, d) for d in described]
    write_json(
        folder / "config.json",
        {"config": dataclasses.asdict(config), "data": dataset.checksum, **environment()},
    )
    found = [read_block(path) for path in paths]
    done = sum(content is not None for content in found)
    if done:
        print(f"{done} of {len(blocks)} blocks are in {folder} already.")
    left = sum(
        len(block.s) * config.seeds * config.steps
        for block, content in zip(blocks, found)
        if content is None
    )
    programs: dict[tuple, train.Program] = {}
    choices = list({str(b.attack): b.attack for b in blocks if b.attack.name != "none"}.values())
    with tqdm(total=left, unit="step", unit_scale=True, disable=left == 0) as bar:
        for i, block in enumerate(blocks):
            if found[i] is not None:
                continue
            bar.set_postfix_str(f"{block.rule} under {block.attack}")
            # Without an attack there is one s, so the shapes differ, and the switch is not needed.
            among = [block.attack] if block.attack.name == "none" else choices
            key = (str(block.rule), block.attack.name == "none")
            if key not in programs:
                programs = {key: train.program(config, dataset, model, block.rule, among)}
            content = _train(config, block, dataset, programs[key], among.index(block.attack), bar)
            found[i] = {**described[i], **content, "environment": environment()}
            write_json(paths[i], found[i])
    return [content for content in found if content is not None]


def _train(
    config: Config,
    block: Block,
    dataset: data.Dataset,
    program: train.Program,
    attack: int,
    bar: tqdm,
) -> dict[str, Any]:
    """Trains all runs of a block."""
    begin = time.perf_counter()
    runs = train.runs(config, dataset.train_y, block.s)
    index = jnp.asarray(attack, jnp.int32)
    states = program.start(index, runs)
    curves = []
    for step in range(0, config.steps, config.eval_every):
        states, metrics = program.advance(states, jnp.asarray(step, jnp.int32), index, runs)
        curves.append(jax.tree.map(np.asarray, metrics))
        bar.update(config.eval_every * runs.key.shape[0])
    labels = [(seed, s) for seed in range(config.seeds) for s in block.s]
    steps = list(range(config.eval_every, config.steps + 1, config.eval_every))
    return {
        "runs": [
            {
                "seed": seed,
                "s": s,
                "step": steps,
                "accuracy": [round(float(m.accuracy[r]), 6) for m in curves],
                # JSON knows no NaN: a model that is not finite has no loss.
                "loss": [_number(m.loss[r]) for m in curves],
                "finite": [bool(m.finite[r]) for m in curves],
            }
            for r, (seed, s) in enumerate(labels)
        ],
        "seconds": round(time.perf_counter() - begin, 2),
    }


def _number(value: np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None
