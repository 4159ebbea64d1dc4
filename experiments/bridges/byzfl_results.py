"""Result folders of ByzFL's benchmark, as blocks that tables and figures are made of.

The format is that of ByzFL 0.0.11: a folder for each combination of settings, with its
`config.json`, and for each pair of seeds one line of accuracies, which were measured before the
steps 0, delta, 2 delta, ..., and after the last step.
"""

import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from experiments.bridges.reading import merged
from experiments.execution import store
from experiments.grid import specs
from experiments.grid.calls import written
from experiments.grid.config import Config
from experiments.grid.planning import Block

_SEEDS = re.compile(r"test_accuracy_tr_seed_(\d+)_dd_seed_(\d+)\.txt")


class Results(NamedTuple):
    """The results of a benchmark.

    Attributes:
      grids: its settings, with ByzFL's names of rules, attacks, models and data.
      blocks: its runs, one block for each combination; a pair of seeds is a seed here, in order.
      unfinished: how many runs ended early, which are left out.
    """

    grids: list[Config]
    blocks: list[dict[str, Any]]
    unfinished: int


def read(folder: pathlib.Path) -> Results:
    """Reads a `results_directory`.

    Raises:
      FileNotFoundError: no folder in it has results of test samples.
      ValueError: a file is damaged.
    """
    folders = [place for place in sorted(folder.glob("*/")) if list(place.glob("test_accuracy_*"))]
    if not folders:
        raise FileNotFoundError(
            f"{folder} has no results of ByzFL; expected folders with test_accuracy_*.txt, as "
            "evaluate_on_test writes them."
        )
    combinations, blocks, unfinished = [], [], 0
    for place in folders:
        settings = _settings(place / "config.json")
        runs, short = _runs(place, settings["steps"], settings["eval_every"], settings["s"][0])
        unfinished += short
        if runs:
            settings["seeds"] = len(runs)
            combinations.append(settings)
            blocks.append(_block(place, settings, runs))
    if not blocks:
        raise ValueError(f"{folder} has no finished run of ByzFL; {unfinished} ended early.")
    return Results(merged(combinations), blocks, unfinished)


def _settings(path: pathlib.Path) -> dict[str, Any]:
    """The settings of a combination."""
    try:
        content = json.loads(path.read_text())
        benchmark, model = content["benchmark_config"], content["model"]
        workers, s = content["honest_clients"], int(benchmark["f"])
        spread, mixings = benchmark["data_distribution"], content["pre_aggregators"]
        partition = spread["name"]
        if partition not in ("iid", "extreme_niid"):
            partition += f"({spread['distribution_parameter']})"
        return {
            "dataset": str(model["dataset_name"]),
            "model": str(model["name"]),
            "init": "torch",
            "rule": _text(content["aggregator"]),
            "mixing": _together(mixings) if mixings else "none",
            "attack": _text(content["attack"]) if s else "none",
            "n": int(benchmark["nb_workers"]),
            "f": int(benchmark["tolerated_f"]),
            "s": (s,),
            "steps": int(benchmark["nb_steps"]),
            "batch_size": int(workers["batch_size"]),
            "learning_rate": float(model["learning_rate"]),
            "schedule": _schedule(model),
            "momentum": float(workers["momentum"]),
            "weight_decay": float(workers["weight_decay"]),
            "weight_decay_at": "server",
            "partition": str(partition),
            "dealt_to": "honest",
            "eval_every": int(content["evaluation_and_results"]["evaluation_delta"]),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{path} is no configuration of a run of ByzFL ({reason}).") from None


def _text(named: dict[str, Any]) -> str:
    """A rule, mixing or attack with its parameters; f is a setting of the grid."""
    given = {k: v for k, v in (named.get("parameters") or {}).items() if k != "f"}
    return written(named["name"], given)


def _together(mixings: list[dict[str, Any]]) -> str:
    """Several mixings as one name, as in the names of ByzFL's folders."""
    parameters = {k: v for each in mixings for k, v in (each.get("parameters") or {}).items()}
    return _text({"name": "_".join(each["name"] for each in mixings), "parameters": parameters})


def _schedule(model: dict[str, Any]) -> str:
    milestones, decay = model["milestones"] or [], float(model["learning_rate_decay"])
    if decay == 1 or not milestones:
        return "constant"
    return f"steps({', '.join(map(str, milestones))}), times {decay}"


def _runs(place: pathlib.Path, steps: int, every: int, s: int) -> tuple[list[dict[str, Any]], int]:
    """The finished runs of a combination, in the order of their seeds, and how many ended early."""
    paths = {}
    for path in place.glob("test_accuracy_*"):
        if match := _SEEDS.fullmatch(path.name):
            paths[int(match[1]), int(match[2])] = path
    measured, runs, short = [*range(0, steps, every), steps], [], 0
    for seeds in sorted(paths):
        accuracy = _numbers(paths[seeds])
        if len(accuracy) != len(measured):
            short += 1
            continue
        run = {"seed": len(runs), "s": s, "step": measured, "accuracy": accuracy}
        run |= {"loss": [None] * len(measured), "finite": [True] * len(measured)}
        held_out = paths[seeds].with_name(paths[seeds].name.replace("test_", "val_", 1))
        if held_out.is_file():
            run["validation"] = _numbers(held_out)
        runs.append(run)
    return runs, short


def _numbers(path: pathlib.Path) -> list[float]:
    try:
        numbers = np.loadtxt(path, delimiter=",", ndmin=1)
    except ValueError:
        numbers = np.array([np.nan])
    if numbers.ndim != 1 or not np.all((numbers >= 0) & (numbers <= 1)):
        raise ValueError(f"{path} is damaged; expected accuracies from 0 to 1 in one line.")
    return numbers.tolist()


def _block(
    place: pathlib.Path, settings: dict[str, Any], runs: list[dict[str, Any]]
) -> dict[str, Any]:
    rule, mixing, attack = (specs.read(k, settings[k]) for k in ("rule", "mixing", "attack"))
    (grid,) = merged([settings])
    members = tuple((run["seed"], run["s"]) for run in runs)
    block = Block(rule, mixing, attack, members)
    day = place / "day.txt"
    environment = {"made by": "ByzFL"}
    if day.is_file():
        environment["day of the last run"] = day.read_text().strip()
    times = [float(path.read_text()) for path in place.glob("train_time_*.txt")]
    return {
        **store.identity(grid, block, ""),
        "runs": runs,
        "seconds": round(sum(times), 2),
        "environment": environment,
    }
