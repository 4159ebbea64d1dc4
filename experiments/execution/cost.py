"""Estimates the cost of a study before it runs."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from experiments.data import datasets
from experiments.execution.sweep import Task, model_of
from experiments.grid import planning, protocols
from experiments.grid.config import Config
from experiments.text.names import counted

# Sustained rates of whole studies (an MLP on MNIST, batch 16, all parts of a step included, on 2
# cores of an AMD EPYC, JAX 0.10.2); for the GPU from the vendor's figure, not measured. Then the
# seconds to compile one program.
GFLOPS = {"2 CPU cores": 30.0, "one H100 at a third of its float32 peak": 20_000.0}
COMPILE_SECONDS = 9.0


def gradient_flops(config: Config, dataset: datasets.Dataset | datasets.Outline) -> float:
    """Floating-point operations of one worker's gradient, as counted by XLA."""
    model = model_of(config, dataset)
    params = jax.eval_shape(model.init, jax.random.key(0))
    shape = (config.batch_size, *dataset.shape)
    text = bool(dataset.vocabulary)
    batch = {
        "x": jax.ShapeDtypeStruct(shape, jnp.int32 if text else jnp.float32),
        "y": jax.ShapeDtypeStruct(shape if text else shape[:1], jnp.int32),
    }
    counted = jax.jit(jax.grad(model.loss)).lower(params, batch).cost_analysis()
    return float((counted or {}).get("flops", 0.0))


def estimate(
    tasks: Sequence[Task], describe: Callable[[Config], datasets.Dataset | datasets.Outline]
) -> str:
    """One line per grid and their sum: runs, operations, and minutes on some machines.

    Counts the operations of the gradients only, not those of attacks that search.
    """
    flops: dict[Config, float] = {}
    runs: dict[Config, int] = {}
    for task in tasks:
        config = task.config
        if config not in flops:
            dataset = describe(config)
            samples = (dataset.sizes[0] - config.validation) // config.n
            gradients = protocols.gradients(config) * protocols.batches(config, samples)
            flops[config] = gradient_flops(config, dataset) * gradients * config.steps
        runs[config] = runs.get(config, 0) + len(task.block.runs)
    lines = [
        f"  {config.dataset}, {config.model}, n = {config.n}, f = {config.f}, "
        f"{config.partition}, {config.momentum_at}, lr {config.learning_rate:g}: "
        f"{counted(count, 'run')}, {count * flops[config] / 1e12:,.1f} TFLOP"
        for config, count in runs.items()
    ]
    total = sum(count * flops[config] for config, count in runs.items())
    programs = len({planning.program(task.config, task.block) for task in tasks})
    for machine, rate in GFLOPS.items():
        training, compiling = total / rate / 1e9, programs * COMPILE_SECONDS
        lines.append(
            f"About {counted(round((training + compiling) / 60), 'minute')} on {machine}: "
            f"{training / 60:,.0f} to train, {compiling / 60:,.0f} to compile "
            f"{counted(programs, 'program')}."
        )
    return "\n".join(lines)
