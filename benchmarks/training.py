"""Training compared with ByzFL's own runner: `python -m benchmarks.training`, and `--write docs`.

First, steps per second of one training run on MNIST: ten honest workers and one Byzantine, batch
25, worker momentum, a trimmed mean under little_is_enough, with ByzFL's two networks; ours with one
seed and with eight. ByzFL runs by its `start_training`; two lengths are timed, and the time per
step is their difference divided by the additional steps, which excludes loading and startup. Ours
is a call of the compiled scan over a number of steps, timed alone, without compilation.

Second, three cells of the study `aksel` (n = 51, f = 12 Byzantine, MLP, batch 16, 300 steps, an
evaluation on the test set every 25): seconds per run. Ours are the cells of one grid with three
seeds, run like a study, including compilation, evaluation and output; and, since a study has many
runs for each compiled program, the time of a further run, from nine more seeds. ByzFL's is the time
that it records itself, for training and evaluation alone.

MNIST is read through TFDS, and written for ByzFL in the format that it reads.
"""

import contextlib
import gzip
import importlib
import importlib.util
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.pages import environment, markdown, write_csv, written
from byzjax._program import Parser
from experiments.data import datasets
from experiments.execution import sweep
from experiments.grid import planning
from experiments.grid.config import Config
from experiments.training import program as programs
from experiments.training.runs import block_runs

NETWORKS = {"mlp": "fc_mnist", "cnn_5x5": "cnn_mnist"}  # our names, and ByzFL's
GOALS = {"mlp": 20, "cnn_5x5": 3}
STEPS = {"mlp": (40, 140), "cnn_5x5": (10, 40)}  # the two lengths timed for ByzFL
RULES = {"median": "Median", "trimmed_mean": "TrMean", "krum": "Krum"}
SEEDS = (3, 12)  # the two sizes of our grid


def one(model: str, seeds: int) -> Config:
    """Ten honest workers and one Byzantine."""
    return Config(
        dataset="mnist",
        model=model,
        rule=("trimmed_mean",),
        attack=("little_is_enough(z=1.5)",),
        n=11,
        f=1,
        s=(1,),
        seeds=seeds,
        steps=10_000,
        eval_every=50 if model == "mlp" else 10,
        batch_size=25,
        learning_rate=0.1,
        momentum=0.9,
    )


def cells(seeds: int) -> Config:
    """Three rules under one attack, of the study `aksel`."""
    return Config(
        study="aksel",
        dataset="mnist",
        model="mlp",
        rule=tuple(RULES),
        attack=("little_is_enough(z=1.5)",),
        n=51,
        f=12,
        s=(12,),
        seeds=seeds,
        steps=300,
        eval_every=25,
        batch_size=16,
        learning_rate=0.02,
        momentum=0.9,
        weight_decay=1e-4,
    )


def made_up() -> datasets.Dataset:
    """Random images and labels of the size of MNIST's."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 28, 28, 1)).astype(np.float32)
    y = rng.integers(0, 10, 6000).astype(np.int32)
    return datasets.Dataset("made up", x[1000:], y[1000:], x[:1000], y[:1000], 10, "")


def advancing(config: Config, dataset: datasets.Dataset) -> Callable[[], Any]:
    """The compiled scan over `eval_every` steps of all runs, which continues with each call."""
    model = sweep.model_of(config, dataset)
    (block,) = planning.plan(config, 0)
    among = planning.choices(config, block)
    program = programs.build(config, dataset, model, block.rule, block.mixing, among)
    place = jnp.int32([spec.family for spec in among].index(block.attack.family))
    runs = block_runs(config, dataset, block.runs, block.attack)
    states, step = program.start(place, runs), 0

    def call() -> Any:
        nonlocal states, step
        states, _ = program.advance(states, jnp.int32(step), place, runs)
        step += config.eval_every
        return jax.block_until_ready(states)

    return call


def our_steps(config: Config, dataset: datasets.Dataset, rounds: int = 5) -> float:
    """Steps per second of all runs together: the median over calls of the compiled scan."""
    call = advancing(config, dataset)
    call()
    seconds = [timing.once(call) for _ in range(rounds)]
    return len(config.s) * config.seeds * config.eval_every / float(np.median(seconds))


def our_cells(dataset: datasets.Dataset, seeds: int) -> float:
    """Seconds for the cells with this many seeds, from scratch to results on disk."""
    config = cells(seeds)
    with tempfile.TemporaryDirectory() as name:
        jax.clear_caches()
        jax.config.update("jax_enable_compilation_cache", False)
        begin = time.perf_counter()
        todo = sweep.tasks([config], pathlib.Path(name), lambda _: dataset)
        blocks = sweep.run(todo, pathlib.Path(name), lambda _: dataset)
        seconds = time.perf_counter() - begin
    runs = sum(len(block["runs"]) for block in blocks)
    if runs != seeds * len(RULES):
        raise RuntimeError(f"expected {seeds * len(RULES)} finished runs; got {runs}.")
    return seconds


def write_idx(dataset: datasets.Dataset, folder: pathlib.Path) -> None:
    """Writes MNIST in the format that torchvision reads."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, x, y in (
        ("train", dataset.train_x, dataset.train_y),
        ("t10k", dataset.test_x, dataset.test_y),
    ):
        pixels = np.asarray(x, np.float64).reshape(len(y), 28, 28)
        pixels = np.round(255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", np.asarray(y, np.uint8))):
            sizes = np.array(array.shape, ">i4").tobytes()
            content = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
            (raw / f"{name}-{kind}-ubyte").write_bytes(content)
            with gzip.open(raw / f"{name}-{kind}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(content)


def byzfl_seconds(
    folder: pathlib.Path, network: str, rule: str, config: Config, steps: int, evaluate: int
) -> float:
    """The training time that ByzFL records."""
    start_training = importlib.import_module("byzfl.benchmark.train").start_training
    f = config.f
    with tempfile.TemporaryDirectory() as results:
        setting = {
            "benchmark_config": {
                "device": "cpu",
                "training_seed": 0,
                "nb_workers": config.n,
                "nb_honest_clients": config.n - f,
                "f": f,
                "tolerated_f": f,
                "size_train_set": 1.0,
                "data_distribution_seed": 0,
                "data_distribution": {"name": "iid", "distribution_parameter": 1.0},
                "training_algorithm": {"name": "DSGD", "parameters": {}},
                "nb_steps": steps,
            },
            "model": {
                "name": network,
                "dataset_name": "mnist",
                "nb_labels": 10,
                "loss": "NLLLoss",
                "learning_rate": config.learning_rate,
                "learning_rate_decay": 1.0,
                "milestones": [],
            },
            "aggregator": {"name": rule, "parameters": {"f": f}},
            "pre_aggregators": [],
            "honest_clients": {
                "momentum": config.momentum,
                "weight_decay": config.weight_decay,
                "batch_size": config.batch_size,
            },
            "attack": {"name": "ALittleIsEnough", "parameters": {"tau": 1.5}},
            "evaluation_and_results": {
                "evaluation_delta": evaluate,
                "batch_size_evaluation": 128,
                "evaluate_on_test": True,
                "store_per_client_metrics": False,
                "store_models": False,
                "data_folder": str(folder),
                "results_directory": results,
            },
        }
        start_training(setting)
        (file,) = pathlib.Path(results).rglob("train_time_*.txt")
        return float(np.loadtxt(file))


def byzfl_steps(folder: pathlib.Path, model: str) -> float:
    """Steps per second of ByzFL."""
    config = one(model, 1)
    short, long = (
        byzfl_seconds(folder, NETWORKS[model], "TrMean", config, steps, 10_000)
        for steps in STEPS[model]
    )
    return (STEPS[model][1] - STEPS[model][0]) / (long - short)


def measure(dataset: datasets.Dataset, networks: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Both tables."""
    peers = importlib.util.find_spec("byzfl") is not None
    steps, runs = [], []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if peers:
            write_idx(dataset, folder)
        for model in networks:
            ours = {seeds: our_steps(one(model, seeds), dataset) for seeds in (1, 8)}
            theirs = byzfl_steps(folder, model) if peers else None
            steps.append(
                {
                    "network": model,
                    "byzjax, steps/s": f"{ours[1]:.1f}",
                    "8 seeds together, steps/s": f"{ours[8]:.1f}",
                    "8 seeds over 1": f"{ours[8] / ours[1]:.2f}",
                    "byzfl, steps/s": f"{theirs:.2f}" if theirs else "not installed",
                    "times byzfl": f"{ours[1] / theirs:.1f}" if theirs else "",
                    "goal": GOALS[model],
                }
            )
            print(steps[-1], flush=True)
        few, many = (our_cells(dataset, seeds) for seeds in SEEDS)
        alone = few / (SEEDS[0] * len(RULES))
        further = (many - few) / ((SEEDS[1] - SEEDS[0]) * len(RULES))
        for rule, name in RULES.items():
            theirs = None
            if peers:
                theirs = byzfl_seconds(folder, "fc_mnist", name, cells(1), 300, 25)
            runs.append(
                {
                    "cell": rule,
                    "byzjax, s a run (mean of nine, all counted)": f"{alone:.2f}",
                    "byzjax, s a further run": f"{further:.2f}",
                    "byzfl, s a run": f"{theirs:.1f}" if theirs else "not installed",
                    "times byzfl": f"{theirs / alone:.1f}" if theirs else "",
                    "times byzfl, further run": f"{theirs / further:.1f}" if theirs else "",
                    "goal": 20,
                }
            )
            print(runs[-1], flush=True)
    return {"training": steps, "training-cells": runs}


def write(folder: pathlib.Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """The tables of throughput.md."""
    text = "\n\n".join([environment(), *map(markdown, tables.values())])
    page = folder / "throughput.md"
    page.write_text(written(page.read_text(), "training", text))


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument(
        "--write", type=pathlib.Path, help="folder of throughput.md, for its tables"
    )
    options = parser.parse_args()
    tables = measure(datasets.load("mnist"), options.networks)
    print("\n\n".join([environment(), *map(markdown, tables.values())]))
    if options.write:
        write_csv(options.write / "benchmarks", tables)
        write(options.write, tables)


if __name__ == "__main__":
    main()
