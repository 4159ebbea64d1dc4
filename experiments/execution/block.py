"""Trains the runs of one block, resuming from its checkpoint if there is one."""

import hashlib
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.data import datasets, language
from experiments.execution import hosts, store, strict
from experiments.execution.checkpoint import Checkpoints
from experiments.execution.profile import DATA, Profile
from experiments.execution.store import Task
from experiments.grid import catalogue, private, protocols
from experiments.training import devices, diagnostics, texts
from experiments.training import program as programs
from experiments.training.runs import block_runs

# Seconds between checkpoints of a block.
CHECKPOINT_SECONDS = 300.0


class Place(NamedTuple):
    """Where a block is trained.

    Attributes:
      folder: the folder of the study.
      checkpoints: the checkpoints of the block.
      over: the devices that the workers are distributed over; None for one.
      profile: counts the seconds of preparing the runs.
      track: `track(step, accuracy, loss)` of all runs, called at each evaluation.
    """

    folder: pathlib.Path
    checkpoints: Checkpoints
    over: Mesh | None
    profile: Profile
    track: Callable[[int, np.ndarray, np.ndarray], Any]


def checkpoints(task: Task, folder: pathlib.Path, over: Mesh | None) -> Checkpoints:
    """The checkpoints of a block; they are not resumed under different versions or devices."""
    here = store.environment(over)
    decisive = "".join(here[name] for name in store.DECISIVE)
    versions = hashlib.sha256(decisive.encode()).hexdigest()[:8]
    return Checkpoints(folder / "checkpoints" / f"{task.path.stem}-{versions}")


def train(
    task: Task,
    dataset: datasets.Dataset,
    program: programs.Program,
    attack: int,
    place: Place,
    advance: Callable[..., Any],
) -> dict[str, Any]:
    """Trains all runs of a block.

    Args:
      task: the block.
      dataset: its data.
      program: the program of its rule.
      attack: index of its attack in the program.
      place: folder, checkpoints, devices, profile and log.
      advance: called with the number of steps since the last call, `resumed=True` for those of a
        checkpoint.

    Returns:
      The curves of its runs, and the seconds; empty on processes other than the first.
    """
    config, block, lead = task.config, task.block, hosts.leads()
    folder, kept, over, profile, track = place
    begin = time.perf_counter()
    with profile.timed(DATA):
        runs = devices.on_each(block_runs(config, dataset, block.runs, block.attack), over)
    index = np.int32(attack)
    states, done, curves = program.start(index, runs), 0, []
    if (resumed := kept.restore(devices.on_one(states, over))) is not None:
        done, states, curves = resumed
        states = devices.on_each(states, over)
        advance(done * len(block.runs), resumed=True)
    saved = time.perf_counter()
    for step in range(done + config.eval_every, config.steps + 1, config.eval_every):
        states, seen = program.advance(states, np.int32(step - config.eval_every), index, runs)
        if not lead:
            continue
        last = step == config.steps
        metrics = program.evaluate(states, last, runs)
        if (success := program.success(states, last, runs, attack)) is not None:
            metrics = metrics._replace(success=success)
        curves.append(jax.tree.map(np.asarray, (metrics, seen)))
        _log(task, step, metrics, time.perf_counter() - begin, folder)
        track(step, curves[-1][0].accuracy, curves[-1][0].loss)
        advance(config.eval_every * len(block.runs))
        if step < config.steps and time.perf_counter() - saved > CHECKPOINT_SECONDS:
            kept.save(step, devices.on_one(states, over), curves)
            saved = time.perf_counter()
    if not lead:
        return {}
    results = [_run(task, seed, s, r, curves) for r, (seed, s) in enumerate(block.runs)]
    if config.noise_multiplier:
        for run, sizes in zip(results, np.asarray(runs.sizes)):
            run[private.SAMPLES] = int(sizes.min())
    if dataset.vocabulary:
        _add_text(results, dataset.vocabulary, lambda place: program.write(states, place, runs))
    return {"runs": results, "seconds": round(time.perf_counter() - begin, 2)}


def _add_text(
    results: list[dict[str, Any]], vocabulary: str, write: Callable[[int], np.ndarray]
) -> None:
    """Adds bits per character to runs on text, and to those of seed 0 what their model writes."""
    for place, run in enumerate(results):
        losses = run["loss"]
        bits = [None if loss is None else loss / math.log(2) for loss in losses]
        run[texts.BITS] = [None if each is None else float(f"{each:.6g}") for each in bits]
        if run["seed"] == 0 and run["finite"][-1]:
            run[texts.SAMPLE] = language.decode(write(place), vocabulary)


def _run(task: Task, seed: int, s: int, place: int, curves: list) -> dict[str, Any]:
    """The stored results of one run."""
    config = task.config
    finite = [bool(metrics.finite[place]) for metrics, _ in curves]
    steps = list(range(config.eval_every, config.steps + 1, config.eval_every))
    asked = {}
    if config.validation:
        asked["validation"] = [_number(metrics.validation[place]) for metrics, _ in curves]
    if config.optimum:
        asked["to_optimum"] = [_number(metrics.to_optimum[place]) for metrics, _ in curves]
    if task.block.attack.name in catalogue.BACKDOORS:
        asked["attack_success"] = [_number(metrics.success[place]) for metrics, _ in curves]
    if protocols.drawn(config) is not None:
        counts = np.cumsum([int(seen[diagnostics.EXCESS][place]) for _, seen in curves]).tolist()
        asked["excess_rounds"] = counts
        asked["excess_share"] = [count / step for count, step in zip(counts, steps)]
    if protocols.many_models(config):
        asked["worst_accuracy"] = [_number(metrics.worst[place]) for metrics, _ in curves]
        asked["spread"] = [_number(metrics.spread[place]) for metrics, _ in curves]
    return {
        "seed": seed,
        "s": s,
        "step": steps,
        "accuracy": [round(float(metrics.accuracy[place]), 6) for metrics, _ in curves],
        # JSON has no NaN: a model that is not finite has no loss.
        "loss": [_number(metrics.loss[place]) for metrics, _ in curves],
        "finite": finite,
        **asked,
        "diverged": None if all(finite) else steps[finite.index(False)],
        # Likewise the accuracy on a class without test samples.
        "per_class": [
            round(float(v), 4) if np.isfinite(v) else None for v in curves[-1][0].per_class[place]
        ],
        **{name: [_number(seen[name][place]) for _, seen in curves] for name in diagnostics.NAMES},
    }


def _log(
    task: Task, step: int, metrics: programs.Metrics, seconds: float, folder: pathlib.Path
) -> None:
    """Appends one line per evaluation to the log."""
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
        file.write(strict.dumps(line) + "\n")


def _number(value: np.ndarray) -> float | None:
    return float(f"{float(value):.6g}") if np.isfinite(value) else None
