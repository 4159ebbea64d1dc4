"""ByzFL's result folders as tables and figures, and the comparison with its own runner."""

import csv
import json
import pathlib
import sys
import types

import numpy as np
import pandas as pd
import pytest

from benchmarks import bridges
from experiments.bridges import byzfl_results
from experiments.cli import commands
from experiments.data import datasets
from experiments.report import tables

ACCURACIES = {  # by the pair of seeds: before the first step, after 50, and after the last
    (0, 0): [0.1, 0.5, 0.75],
    (1, 0): [0.125, 0.25, 0.25],
    (0, 1): [0.1, 0.375, 0.5],
}


def written(root, setting, accuracies):
    """What ByzFL writes for one combination."""
    benchmark, model = setting["benchmark_config"], setting["model"]
    names = [each["name"] for each in setting["pre_aggregators"]]
    rule, attack = setting["aggregator"]["name"], setting["attack"]["name"]
    parts = [model["name"], rule, "_".join(names), attack, f"f_{benchmark['f']}"]
    folder = root / "_".join([*parts, f"lr_{model['learning_rate']}"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(setting))
    (folder / "day.txt").write_text("30_11_26")
    for (training_seed, data_seed), values in accuracies.items():
        end = f"_tr_seed_{training_seed}_dd_seed_{data_seed}.txt"
        np.savetxt(folder / f"test_accuracy{end}", [values], fmt="%.4f", delimiter=",")
        held_out = [value / 2 for value in values]
        np.savetxt(folder / f"val_accuracy{end}", [held_out], fmt="%.4f", delimiter=",")
        np.savetxt(folder / f"train_time{end}", np.array([1.5]), fmt="%.4f")
    return folder


def setting(f=2, attack="SignFlipping", mixings=(), **model):
    content = bridges.configuration("TrMean under SignFlipping", 75, 50, 3)
    content["benchmark_config"] |= {"f": f, "tolerated_f": 2, "nb_workers": 10}
    content["aggregator"] = {"name": "TrMean", "parameters": {"f": 2}}
    content["attack"] = {"name": attack, "parameters": {"tau": 1.5}}
    content["pre_aggregators"] = [{"name": n, "parameters": {"f": 2, **p}} for n, p in mixings]
    content["model"] |= model
    return content


def test_accuracies_by_seed_and_step(tmp_path):
    written(tmp_path, setting(), ACCURACIES)
    imported = byzfl_results.read(tmp_path)
    (grid,), (block,) = imported.grids, imported.blocks
    assert (grid.dataset, grid.model, grid.rule) == ("mnist", "fc_mnist", ("TrMean",))
    assert (grid.attack, grid.mixing) == (("SignFlipping(tau=1.5)",), ("none",))
    assert (grid.n, grid.f, grid.s, grid.seeds) == (10, 2, (2,), 3)
    assert (grid.steps, grid.eval_every, grid.partition) == (75, 50, "iid")
    assert (grid.learning_rate, grid.momentum, grid.weight_decay) == (0.1, 0.9, 0.0001)
    assert block["seconds"] == 4.5
    data = tables.curves([block])
    for seed, pair in enumerate(sorted(ACCURACIES)):
        mine = data[data["seed"] == seed]
        assert mine["step"].tolist() == [0, 50, 75]
        assert mine["accuracy"].tolist() == ACCURACIES[pair]
        assert mine["validation"].tolist() == [value / 2 for value in ACCURACIES[pair]]
    (line,) = tables.table(data).to_dict("records")
    assert line["mean"] == pytest.approx(0.5)
    assert line["std"] == pytest.approx(0.25)
    assert line["seeds"] == 3
    assert imported.unfinished == 0


def test_combinations_that_differ(tmp_path):
    mixings = [("Clipping", {"c": 2.0}), ("NNM", {})]
    one = {(0, 0): [0.1, 0.5, 0.75]}
    written(tmp_path, setting(mixings=mixings), one)
    written(tmp_path, setting(f=0, attack="NoAttack", mixings=mixings), one)
    slow = {"learning_rate": 0.01, "milestones": [50], "learning_rate_decay": 0.5}
    written(tmp_path, setting(**slow), one)
    imported = byzfl_results.read(tmp_path)
    blocks = {(b["mixing"], b["attack"], b["learning_rate"]) for b in imported.blocks}
    assert blocks == {
        ("Clipping_NNM(c=2.0)", "SignFlipping(tau=1.5)", 0.1),
        ("Clipping_NNM(c=2.0)", "none", 0.1),
        ("none", "SignFlipping(tau=1.5)", 0.01),
    }
    assert {grid.schedule for grid in imported.grids} == {"constant", "steps(50), times 0.5"}


def test_runs_that_ended_early_are_left_out(tmp_path):
    written(tmp_path, setting(), ACCURACIES | {(0, 0): [0.1, 0.5]})
    imported = byzfl_results.read(tmp_path)
    assert imported.unfinished == 1
    assert [run["accuracy"][-1] for run in imported.blocks[0]["runs"]] == [0.5, 0.25]


def test_the_command_writes_tables_and_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "mine", setting(), ACCURACIES | {(2, 0): [0.1]})
    assert commands.main(["import", "byzfl-results", "mine"]) == 0
    out, err = capsys.readouterr()
    assert "50.0 ± 25.0" in out
    assert err == "note: 1 run ended early and left out.\n"
    table = pd.read_csv(tmp_path / "mine-report" / "table.csv")
    assert table[["rule", "attack", "mean"]].to_numpy().tolist() == [
        ["TrMean", "SignFlipping(tau=1.5)", 0.5]
    ]
    page = (tmp_path / "mine-report" / "index.html").read_text()
    assert "python -m experiments import byzfl-results mine" in page
    assert list((tmp_path / "mine-report").glob("accuracy_against_step*.svg"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cell: None, "mine has no results of ByzFL; expected folders with test_accuracy_"),
        (
            lambda cell: written(cell, setting(), {(0, 0): [0.1]}),
            "mine has no finished run of ByzFL; 1 ended early.",
        ),
        (
            lambda cell: written(cell, setting(), {(0, 0): [0.1, 0.5, 1.5]}),
            "is damaged; expected accuracies from 0 to 1 in one line.",
        ),
        (
            lambda cell: (written(cell, setting(), ACCURACIES) / "config.json").write_text("{}"),
            "config.json is no configuration of a run of ByzFL (KeyError: 'benchmark_config').",
        ),
    ],
)
def test_what_is_no_result_is_said(change, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    change(tmp_path / "mine")
    assert commands.main(["import", "byzfl-results", "mine"]) == 2
    assert message in capsys.readouterr().err


def test_results_of_a_study_are_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "mine", setting(), ACCURACIES)
    (tmp_path / "config.json").write_text("{}")
    assert commands.main(["import", "byzfl-results", "mine", "--to", "."]) == 2
    assert capsys.readouterr().err == (
        "error: . holds results already; add --to with another folder.\n"
    )


# --- the comparison ------------------------------------------------------------------------------


@pytest.fixture
def byzfl(monkeypatch):
    """ByzFL's runner, of which only the files are real: constant accuracies."""

    def start_training(given):
        benchmark, evaluation = given["benchmark_config"], given["evaluation_and_results"]
        assert (benchmark["nb_workers"], benchmark["tolerated_f"]) == (10, 2)
        assert given["aggregator"]["parameters"]["f"] == 2
        seed, place = benchmark["training_seed"], evaluation["results_directory"]
        assert list(pathlib.Path(evaluation["data_folder"]).rglob("train-images-idx3-*"))
        written(pathlib.Path(place), given, {(seed, 0): [0.1, 0.2, 0.25 + 0.25 * seed]})

    modules = {name: types.ModuleType(name) for name in ("byzfl", "byzfl.benchmark")}
    modules["byzfl.benchmark.train"] = types.SimpleNamespace(start_training=start_training)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


CELL = "TrMean under SignFlipping"


def few_images(count):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 28, 28, 1)).astype(np.float32)
    y = np.arange(20, dtype=np.int32) % 10
    many = np.arange(count) % 20
    return datasets.Dataset("mnist", x[many], y[many], x, y, 10, "")


@pytest.mark.slow
def test_our_accuracies_are_those_of_the_imported_file():
    content = bridges.configuration(CELL, 2, 1, 2)
    ours = bridges.our_accuracies(
        content, few_images(12_100), "torch"
    )  # of which 12,000 are held out
    assert ours.keys() == {(step, seed) for step in (1, 2) for seed in (0, 1)}
    assert all(0 <= accuracy <= 1 for accuracy in ours.values())


def test_a_cell_in_both(byzfl, tmp_path, monkeypatch):
    ours = {(1, 0): 0.3, (2, 0): 0.35, (1, 1): 0.4, (2, 1): 0.45}
    asked = []

    def our_accuracies(content, dataset, init):
        asked.append(init)
        return ours if init == "torch" else {place: 1.0 for place in ours}

    monkeypatch.setattr(bridges, "our_accuracies", our_accuracies)
    sizes = {"steps": 2, "every": 1, "seeds": 2}
    rows = bridges.measure(few_images(20), cells=[CELL], **sizes)
    assert [(row["step"], row["seed"]) for row in rows] == [(1, 0), (2, 0), (1, 1), (2, 1)]
    assert [row["byzfl"] for row in rows] == [0.2, 0.25, 0.2, 0.5]
    assert [row["byzjax"] for row in rows] == [0.3, 0.35, 0.4, 0.45]
    assert {row["flax"] for row in rows} == {1.0}
    assert asked == ["torch", "flax"]
    again = bridges.measure(few_images(20), cells=[CELL], known=rows, **sizes)
    assert again == rows

    (tmp_path / "bridges").mkdir()
    (tmp_path / "bridges.md").write_text("a\n<!-- byzfl -->\nold\n<!-- end of byzfl -->\nb\n")
    bridges.write(tmp_path, rows)
    with (tmp_path / "bridges" / "byzfl.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["byzjax"]) for row in read] == [row["byzjax"] for row in rows]
    page = (tmp_path / "bridges.md").read_text()
    assert f"| {CELL} | 37.5 ± 17.7 | 40.0 ± 7.1 (+2.5) | 100.0 ± 0.0 (+62.5) |" in page
    assert "old" not in page
