"""Trains a base model for fine-tuning: `python -m experiments.analysis.pretrain FOLDER [OPTIONS]`.

The options are those of `python -m experiments run`, for one run: one rule, one mixing, one attack,
seed 0 and the first s. The weights go to FOLDER as bfloat16, with the loss of what was stored.
"""

import dataclasses
import math
import pathlib
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import datasets
from experiments.execution import store, sweep
from experiments.grid.config import Config
from experiments.models import base, zoo
from experiments.text import arguments as command_line
from experiments.training import assemble, runs
from experiments.training import program as programs


@dataclasses.dataclass(frozen=True)
class Command:
    """Train one model and keep its weights."""

    folder: Annotated[str, "FOLDER", command_line.POSITIONAL]
    """A new folder for the base model."""
    grid: Config


def main(arguments: Sequence[str]) -> None:
    """Trains, evaluates and saves the model."""
    prog = "python -m experiments.analysis.pretrain"
    command = command_line.parse(Command, arguments, prog=prog)
    config, begin = command.grid, time.perf_counter()
    dataset = datasets.load(config.dataset, data_dir=config.data_dir, download=config.download)
    if not dataset.vocabulary:
        raise ValueError(f"{config.dataset} is not text; expected --dataset shakespeare_first_six.")
    model = sweep.model_of(config, dataset)
    params, curve = train(config, dataset, model)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params)
    evaluate = jax.jit(lambda params, x, y: zoo.evaluate(model, params, x, y))
    last = evaluate(params, jnp.asarray(dataset.test_x), jnp.asarray(dataset.test_y))
    facts = {
        "model": config.model,
        "context": dataset.shape[0],
        "vocabulary": dataset.vocabulary,
        "dataset": config.dataset,
        "data": dataset.checksum,
        "command": f"{prog} {shlex.join(arguments)}",
        "steps": curve,
        "loss": round(float(last.loss), 4),
        "bits_per_character": round(float(last.loss) / math.log(2), 4),
        "seconds": round(time.perf_counter() - begin),
        "environment": store.environment(),
    }
    base.save(pathlib.Path(command.folder), params, facts)
    print(f"{facts['bits_per_character']} bits per character, into {command.folder}.")


def train(
    config: Config, dataset: datasets.Dataset, model: zoo.Model
) -> tuple[zoo.Params, dict[str, float]]:
    """The parameters after all steps of the grid's first run, and the loss by step.

    Args:
      config: the grid.
      dataset: its data.
      model: its model.
    """
    block = assemble.plan(dataclasses.replace(config, seeds=1), zoo.size(model))[0]
    members = block.runs[:1]
    program = programs.build(config, dataset, model, block.rule, block.mixing, [block.attack])
    drawn, attack = runs.block_runs(config, dataset, members, block.attack), np.int32(0)
    states, curve = program.start(attack, drawn), {}
    for step in range(config.eval_every, config.steps + 1, config.eval_every):
        states, _ = program.advance(states, np.int32(step - config.eval_every), attack, drawn)
        metrics = program.evaluate(states, step == config.steps, drawn)
        curve[str(step)] = round(float(metrics.loss[0]), 4)
        print(f"step {step}: loss {curve[str(step)]} nats", flush=True)
    return program.model(states, drawn), curve


if __name__ == "__main__":
    main(sys.argv[1:])
