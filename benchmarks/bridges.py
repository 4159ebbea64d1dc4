"""The same file in ByzFL's own runner and here: `python -m benchmarks.bridges`, and `--write docs`.

Three cells of ByzFL's benchmark on MNIST, from four seeds each: test accuracies of its
`start_training`, and of the imported file (docs/bridges.md), which starts from weights of PyTorch's
distribution, and again from Flax's. MNIST is read through TFDS, and
written for ByzFL in the format that it reads.
"""

import copy
import csv
import dataclasses
import importlib
import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks import training
from benchmarks.pages import environment, markdown, written
from byzjax._program import Parser
from experiments.bridges import byzfl, byzfl_results
from experiments.data import datasets
from experiments.execution import sweep
from experiments.report import tables

WHO = ("byzfl", "byzjax", "flax")  # flax: byzjax from weights of Flax's distribution
SEEDS = 4
HONEST, F = 8, 2
# Pre-aggregators, rule, attack and partition of each cell.
CELLS: dict[str, tuple[list[str], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "TrMean under SignFlipping": (
        [],
        {"name": "TrMean", "parameters": {}},
        {"name": "SignFlipping", "parameters": {}},
        {"name": "iid", "distribution_parameter": 1.0},
    ),
    "GeometricMedian under InnerProductManipulation": (
        [],
        {"name": "GeometricMedian", "parameters": {"nu": 0.1, "T": 3}},
        {"name": "InnerProductManipulation", "parameters": {"tau": 2.0}},
        {"name": "iid", "distribution_parameter": 1.0},
    ),
    "NNM and TrMean under ALittleIsEnough": (
        ["NNM"],
        {"name": "TrMean", "parameters": {}},
        {"name": "ALittleIsEnough", "parameters": {"tau": 1.5}},
        {"name": "gamma_similarity_niid", "distribution_parameter": 0.5},
    ),
}
Row = dict[str, Any]


def configuration(cell: str, steps: int, every: int, seeds: int) -> dict[str, Any]:
    """A cell as ByzFL's `config.json`."""
    mixings, rule, attack, partition = CELLS[cell]
    return {
        "benchmark_config": {
            "training_algorithm": {"name": "DSGD", "parameters": {}},
            "nb_steps": steps,
            "device": "cpu",
            "training_seed": 0,
            "nb_training_seeds": seeds,
            "nb_honest_clients": HONEST,
            "f": F,
            "size_train_set": 0.8,
            "data_distribution_seed": 0,
            "nb_data_distribution_seeds": 1,
            "data_distribution": partition,
        },
        "model": {
            "name": "fc_mnist",
            "dataset_name": "mnist",
            "nb_labels": 10,
            "loss": "NLLLoss",
            "learning_rate": 0.1,
            "learning_rate_decay": 1.0,
            "milestones": [],
        },
        "aggregator": rule,
        "pre_aggregators": [{"name": name, "parameters": {}} for name in mixings],
        "honest_clients": {"momentum": 0.9, "weight_decay": 0.0001, "batch_size": 25},
        "attack": attack,
        "evaluation_and_results": {
            "evaluation_delta": every,
            "batch_size_evaluation": 128,
            "evaluate_on_test": True,
            "store_per_client_metrics": False,
            "store_models": False,
        },
    }


def byzfl_accuracies(content: dict[str, Any], data: pathlib.Path) -> dict[tuple[int, int], float]:
    """The accuracies in ByzFL's runner, by step and seed."""
    start_training = importlib.import_module("byzfl.benchmark.train").start_training
    with tempfile.TemporaryDirectory() as results:
        for seed in range(content["benchmark_config"]["nb_training_seeds"]):
            # What its `run_benchmark` adds for each training.
            setting = copy.deepcopy(content)
            setting["benchmark_config"] |= {
                "training_seed": seed,
                "tolerated_f": F,
                "nb_workers": HONEST + F,
            }
            for each in (setting["aggregator"], *setting["pre_aggregators"]):
                each["parameters"]["f"] = F
            places = {"data_folder": str(data), "results_directory": results}
            setting["evaluation_and_results"] |= places
            start_training(setting)
        return _by_step_and_seed(byzfl_results.read(pathlib.Path(results)).blocks)


def our_accuracies(
    content: dict[str, Any], dataset: datasets.Dataset, init: str
) -> dict[tuple[int, int], float]:
    """The accuracies of the imported file with these initial weights, by step and seed."""
    grids = [dataclasses.replace(grid, init=init) for grid in byzfl.read(content).grids]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        todo = sweep.tasks(grids, folder, lambda _: dataset)
        blocks = sweep.run(todo, folder, lambda _: dataset)
    if len(blocks) < len(todo):
        raise RuntimeError(f"{len(todo) - len(blocks)} of {len(todo)} blocks failed.")
    return _by_step_and_seed(blocks)


def _by_step_and_seed(blocks: Sequence[dict[str, Any]]) -> dict[tuple[int, int], float]:
    lines = tables.curves(blocks)[["step", "seed", "accuracy"]].itertuples(index=False)
    return {(step, seed): round(accuracy, 4) for step, seed, accuracy in lines}


def measure(
    dataset: datasets.Dataset,
    *,
    steps: int = 150,
    every: int = 50,
    seeds: int = SEEDS,
    cells: Sequence[str] = tuple(CELLS),
    known: Sequence[Row] | None = None,
) -> list[Row]:
    """A line for each cell, seed and step after the first.

    Args:
      dataset: MNIST.
      steps: training steps.
      every: steps between evaluations, which divide them.
      seeds: number of seeds.
      cells: names in `CELLS`.
      known: lines of an earlier call, from which ByzFL's accuracies are taken; None to train them.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        data = pathlib.Path(name)
        if known is None:
            training.write_idx(dataset, data)
        for cell in cells:
            content = configuration(cell, steps, every, seeds)
            if known is None:
                theirs = byzfl_accuracies(content, data)
            else:
                mine = [row for row in known if row["cell"] == cell]
                theirs = {(int(r["step"]), int(r["seed"])): float(r["byzfl"]) for r in mine}
            ours, flax = (our_accuracies(content, dataset, init) for init in ("torch", "flax"))
            for seed in range(seeds):
                for step in range(every, steps + 1, every):
                    seen = zip(WHO, (each[step, seed] for each in (theirs, ours, flax)))
                    rows.append({"cell": cell, "step": step, "seed": seed, **dict(seen)})
    return rows


def summary(rows: Sequence[Row]) -> list[Row]:
    """Means and standard deviations after the last step, in per cent."""
    out = []
    for cell in dict.fromkeys(row["cell"] for row in rows):
        last = max(int(row["step"]) for row in rows)
        final = [row for row in rows if row["cell"] == cell and int(row["step"]) == last]
        means, texts = {}, {}
        for who in WHO:
            values = [100 * float(row[who]) for row in final]
            means[who] = statistics.mean(values)
            texts[who] = f"{means[who]:.1f} ± {statistics.stdev(values):.1f}"
        line = {"cell": cell, "ByzFL": texts["byzfl"]}
        for who, name in (("byzjax", "byzjax"), ("flax", "byzjax, Flax's weights")):
            line[name] = f"{texts[who]} ({means[who] - means['byzfl']:+.1f})"
        out.append(line)
    return out


def write(folder: pathlib.Path, rows: Sequence[Row]) -> None:
    """Writes bridges/byzfl.csv, and the table of bridges.md."""
    with (folder / "bridges" / "byzfl.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["cell", "step", "seed", *WHO])
        for row in rows:
            accuracies = (f"{float(row[who]):.4f}" for who in WHO)
            writer.writerow([row["cell"], row["step"], row["seed"], *accuracies])
    page = folder / "bridges.md"
    page.write_text(written(page.read_text(), "byzfl", markdown(summary(rows))))


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--ours",
        type=pathlib.Path,
        metavar="FILE",
        help="train here only; ByzFL's accuracies are those of this CSV file",
    )
    parser.add_argument("--write", type=pathlib.Path, help="folder of bridges.md")
    options = parser.parse_args()
    known = None
    if options.ours:
        with options.ours.open(newline="") as file:
            known = list(csv.DictReader(file))
    rows = measure(datasets.load("mnist"), known=known)
    print(f"{environment()}\n\n{markdown(summary(rows))}")
    if options.write:
        write(options.write, rows)


if __name__ == "__main__":
    main()
