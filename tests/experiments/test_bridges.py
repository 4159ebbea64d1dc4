"""Files of other projects as grids: names, definitions, and what is refused."""

import copy
import itertools
import json
import pathlib
import re

import jax
import numpy as np
import optax
import pandas as pd
import pytest

from benchmarks import bridges as comparison
from benchmarks import pages
from byzjax import stacked
from experiments.bridges import byzfl, mixings, reading
from experiments.cli import commands
from experiments.grid import planning, specs
from experiments.grid.config import Config
from experiments.training import optim

DOCS = pathlib.Path(__file__).parents[2] / "docs"
# The config.json that ByzFL 0.0.11 writes if there is none.
DEFAULT = {
    "benchmark_config": {
        "training_algorithm": {"name": "DSGD", "parameters": {}},
        "nb_steps": 800,
        "device": "cuda",
        "training_seed": 0,
        "nb_training_seeds": 3,
        "nb_honest_clients": 10,
        "f": [1, 2, 3, 4],
        "data_distribution_seed": 0,
        "nb_data_distribution_seeds": 1,
        "data_distribution": [
            {"name": "gamma_similarity_niid", "distribution_parameter": [1.0, 0.66, 0.33, 0.0]}
        ],
    },
    "model": {
        "name": "cnn_mnist",
        "dataset_name": "mnist",
        "nb_labels": 10,
        "loss": "NLLLoss",
        "learning_rate": 0.1,
        "learning_rate_decay": 1.0,
        "milestones": [],
    },
    "aggregator": [
        {"name": "GeometricMedian", "parameters": {"nu": 0.1, "T": 3}},
        {"name": "TrMean", "parameters": {}},
    ],
    "pre_aggregators": [
        {"name": "Clipping", "parameters": {}},
        {"name": "NNM", "parameters": {}},
    ],
    "honest_clients": {"momentum": 0.9, "weight_decay": 0.0001, "batch_size": 25},
    "attack": [
        {"name": "SignFlipping", "parameters": {}},
        {"name": "Optimal_InnerProductManipulation", "parameters": {}},
        {"name": "Optimal_ALittleIsEnough", "parameters": {}},
    ],
    "evaluation_and_results": {
        "evaluation_delta": 50,
        "batch_size_evaluation": 128,
        "evaluate_on_test": True,
        "store_per_client_metrics": True,
        "store_models": False,
        "data_folder": "./data",
        "results_directory": "./results",
    },
}


def changed(**values):
    """The default file with other values: `model__name="fc_mnist"`."""
    content = copy.deepcopy(DEFAULT)
    for name, value in values.items():
        *sections, last = name.split("__")
        place = content
        for section in sections:
            place = place[section]
        place[last] = value
    return content


# --- ByzFL: the whole file -----------------------------------------------------------------------


def test_the_default_file_of_byzfl():
    imported = byzfl.read(DEFAULT)
    assert [(grid.n, grid.f, grid.s) for grid in imported.grids[::4]] == [
        (11, 1, (1,)),
        (12, 2, (2,)),
        (13, 3, (3,)),
        (14, 4, (4,)),
    ]
    partitions = [grid.partition for grid in imported.grids]
    assert partitions == 4 * [f"gamma_similarity({gamma})" for gamma in (1.0, 0.66, 0.33, 0.0)]
    chained = "stages=('clip_norms(max_norm=2.0)', 'nearest_neighbors')"
    for grid in imported.grids:
        assert grid == Config(
            dataset="mnist",
            model="cnn_5x5",
            init="torch",
            rule=(
                "geometric_median(smoothing=0.1, iterations=3, start='zero')",
                "trimmed_mean",
            ),
            mixing=(f"experiments.bridges.mixings:in_turn({chained})",),
            attack=("sign_flip(of='mean')", "strongest_ipm", "strongest_alie"),
            n=grid.n,
            f=grid.f,
            s=grid.s,
            seeds=3,
            steps=800,
            batch_size=25,
            learning_rate=0.1,
            momentum=0.9,
            weight_decay=0.0001,
            weight_decay_at="server",
            partition=grid.partition,
            dealt_to="honest",
            validation=12000,
            eval_every=50,
        )
    assert sum("searches" in note for note in imported.notes) == 2


def test_the_table_beside_byzfl_is_that_of_its_file():
    rows = pd.read_csv(DOCS / "bridges" / "byzfl.csv").to_dict("records")
    page = (DOCS / "bridges.md").read_text()
    shown = page.partition("<!-- byzfl -->")[2].partition("<!-- end of byzfl -->")[0]
    assert shown.strip() == pages.markdown(comparison.summary(rows))
    steps, seeds = (50, 100, 150), range(comparison.SEEDS)
    measured = [(row["cell"], row["seed"], row["step"]) for row in rows]
    assert measured == list(itertools.product(comparison.CELLS, seeds, steps))


def test_every_value_may_be_a_list():
    content = changed(
        model__learning_rate=[0.1, 0.2],
        honest_clients__momentum=[0.0, 0.9, 0.99],
        benchmark_config__f=[0, 2],
        benchmark_config__data_distribution=[{"name": "iid"}, {"name": "extreme_niid"}],
        pre_aggregators=[[], [{"name": "NNM"}]],
        attack=[{"name": "InnerProductManipulation", "parameters": {"tau": [1.0, 3.0]}}],
    )
    grids = byzfl.read(content).grids
    assert len(grids) == 2 * 3 * 2 * 2
    assert {grid.learning_rate for grid in grids} == {0.1, 0.2}
    assert {grid.partition for grid in grids} == {"iid", "sorted"}
    for grid in grids:
        assert grid.mixing == ("none", "nearest_neighbors")
        epsilons = ("epsilon=1.0", "epsilon=3.0")
        attacks = tuple(f"inner_product_manipulation({each})" for each in epsilons)
        assert grid.attack == (attacks if grid.s == (2,) else ("none",))


def test_declared_and_actual_numbers_of_attackers():
    """Real f above the declared one is left out, as ByzFL does."""
    content = changed(benchmark_config__f=[1, 3], benchmark_config__tolerated_f=[2, 3])
    content["benchmark_config"]["data_distribution"] = {"name": "iid"}
    sizes = [(grid.n, grid.f, grid.s) for grid in byzfl.read(content).grids]
    assert sizes == [(11, 2, (1,)), (11, 3, (1,)), (13, 3, (3,))]
    content["benchmark_config"]["set_honest_clients_as_clients"] = True
    assert {grid.n for grid in byzfl.read(content).grids} == {10}


def test_a_tenth_at_the_milestones():
    content = changed(model__milestones=[300, 100, 900], model__learning_rate_decay=0.1)
    (schedule,) = {grid.schedule for grid in byzfl.read(content).grids}
    assert schedule == "steps(100, 300, 900)"
    rate, expected = optim.schedule(Config(schedule=schedule, learning_rate=0.1)), 0.1
    # PyTorch's MultiStepLR: the step of index t has the rate after all milestones <= t.
    for t in (0, 99, 100, 299, 300, 799):
        expected = 0.1 * 0.1 ** sum(each <= t for each in (100, 300, 900))
        assert float(rate(t)) == pytest.approx(expected, rel=1e-5), t


def named(name, **parameters):
    return {"name": name, "parameters": parameters}


REFUSED = {
    "benchmark_config.training_algorithm.name": (named("FedAvg"), '"FedAvg"', '"DSGD"'),
    "benchmark_config.size_train_set": (1.5, "1.5", "a share of at most 1"),
    "benchmark_config.nb_steps": ("many", '"many"', "an integer of at least 1"),
    "benchmark_config.f": ([-1], "-1", "an integer of at least 0"),
    "benchmark_config.data_distribution.name": (named("shards"), '"shards"', '"iid", "extreme_'),
    "model.name": ("logreg_mnist", '"logreg_mnist"', '"fc_mnist", "cnn_mnist"'),
    "model.dataset_name": ("cifar10", '"cifar10"', '"mnist", "fashionmnist"'),
    "model.loss": ("MSELoss", '"MSELoss"', '"NLLLoss", "CrossEntropyLoss"'),
    "model.nb_labels": (47, "47", "10"),
    "model.optimizer_name": ("Adam", '"Adam"', '"SGD"'),
    "model.learning_rate": (0, "0", "a number of at least"),
    "model.gamma": (1, "1", "the keys name, dataset_name"),
    "server": ({}, "{}", "the keys benchmark_config, model"),
    "honest_clients.momentum": (1.0, "1.0", "a number of at least 0 and below 1"),
    "evaluation_and_results.evaluation_delta": (30, "30", "a divisor of nb_steps = 800"),
    "aggregator.name": (named("MoNNA"), '"MoNNA"', '"Average", "Median"'),
    "aggregator.parameters.nu": (named("GeometricMedian", nu="x"), '"x"', "a number"),
    "attack.name": (named("NoAttack"), '"NoAttack"', "an attack, or f = 0 (f is 1)"),
    "attack.parameters.evals": (named("Optimal_ALittleIsEnough", evals=5), "5", "the keys f"),
    "attack.parameters": (named("Gaussian", mu=1.0), '{"mu": 1.0}', "mu = 0 of Gaussian"),
    "pre_aggregators": (named("NNM"), '{"name": "NNM", "parameters": {}}', "a list"),
    "pre_aggregators.name": ([named("Smooth")], '"Smooth"', '"NNM", "Bucketing"'),
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_setting_without_a_counterpart_is_named(key):
    value, shown, accepted = REFUSED[key]
    section, *rest = key.split(".")
    whole = not rest or section in ("aggregator", "attack", "pre_aggregators")
    content = changed(**{section if whole else f"{section}__{rest[0]}": value})
    if key.startswith("benchmark_config.data_distribution"):
        del value["parameters"]
    line = f"{key} = {shown} has no counterpart here; accepted: {accepted}"
    with pytest.raises(ValueError, match=f"^{re.escape(line)}.*\\.$"):
        byzfl.read(content)


def test_decays_other_than_a_tenth_are_refused():
    content = changed(model__milestones=[100], model__learning_rate_decay=0.5)
    with pytest.raises(ValueError, match=r"model.learning_rate_decay = 0.5 has no .*: 0.1 at diff"):
        byzfl.read(content)


# --- ByzFL: the definitions ----------------------------------------------------------------------

N, F = 9, 2
ROWS = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32) + 1
BYZANTINE = np.arange(N) >= N - F


def aggregate(text):
    spec = specs.parse("rule", text, f=F)
    tx = specs.transformation(spec, byzantine=None, key=None, n=N)
    out, _ = jax.jit(lambda rows: tx.update(rows, tx.init(rows[0])))(ROWS)
    return np.asarray(out)


def counterpart(table, name, **given):
    defaults, written = table[name]
    return written(N, F, defaults | given)


def krum_scores():
    squares = ((ROWS[:, None] - ROWS[None]) ** 2).sum(axis=-1)
    return np.sort(squares, axis=1)[:, 1 : N - F].mean(axis=1)


def geometric_median(nu, steps):
    z = np.zeros(5)
    for _ in range(steps):
        weights = 1 / np.maximum(np.linalg.norm(ROWS - z, axis=1), nu)
        z = (weights[:, None] * ROWS).sum(axis=0) / weights.sum()
    return z


def centered_clipping(tau, steps):
    v = np.zeros(5)
    for _ in range(steps):
        away = ROWS - v
        factors = np.minimum(1, tau / np.linalg.norm(away, axis=1))
        v = v + (factors[:, None] * away).mean(axis=0)
    return v


RULES = {
    "Average": ({}, lambda: ROWS.mean(axis=0)),
    "Median": ({}, lambda: np.median(ROWS, axis=0)),
    "TrMean": ({}, lambda: np.sort(ROWS, axis=0)[F : N - F].mean(axis=0)),
    "GeometricMedian": ({"nu": 0.5, "T": 2}, lambda: geometric_median(0.5, 2)),
    "Krum": ({}, lambda: ROWS[krum_scores().argmin()]),
    "MultiKrum": ({}, lambda: ROWS[np.argsort(krum_scores())[: N - F]].mean(axis=0)),
    "CenteredClipping": ({"tau": 1.5, "L": 3}, lambda: centered_clipping(1.5, 3)),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_are_those_of_byzfl(name):
    given, oracle = RULES[name]
    text = counterpart(byzfl.RULES, name, **given)
    np.testing.assert_allclose(aggregate(text), oracle(), rtol=1e-5, atol=1e-6)


HONEST = ROWS[~BYZANTINE]
ATTACKS = {
    "SignFlipping": ({}, lambda: -HONEST.mean(axis=0)),
    "InnerProductManipulation": ({"tau": 3.0}, lambda: -3 * HONEST.mean(axis=0)),
    "ALittleIsEnough": (
        {"tau": 0.7},
        lambda: HONEST.mean(axis=0) + 0.7 * HONEST.std(axis=0, ddof=1),
    ),
    "Mimic": ({"epsilon": 3}, lambda: HONEST[3]),
    "Inf": ({}, lambda: np.full(5, np.inf)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_those_of_byzfl(name):
    given, oracle = ATTACKS[name]
    spec = specs.parse("attack", counterpart(byzfl.ATTACKS, name, **given), f=F)
    tx = specs.transformation(spec, byzantine=BYZANTINE, key=None, n=N)
    out, _ = jax.jit(lambda rows: tx.update(rows, tx.init(rows[0])))(ROWS)
    np.testing.assert_array_equal(np.asarray(out)[~BYZANTINE], HONEST)
    np.testing.assert_allclose(np.asarray(out)[BYZANTINE], np.stack([oracle()] * F), rtol=1e-5)


def test_every_counterpart_can_be_planned():
    for kind, table in (("rule", byzfl.RULES), ("mixing", byzfl.MIXINGS)):
        for name in table:
            spec = specs.parse(kind, counterpart(table, name), f=F)
            specs.check(spec, N)
    for name in byzfl.ATTACKS:
        specs.check(specs.parse("attack", counterpart(byzfl.ATTACKS, name), f=F), N)


def test_mixings_in_turn():
    stages = ("clip_norms(max_norm=1.0)", "nearest_neighbors", "bucketing(s=2)")
    out = jax.jit(lambda x: mixings.in_turn(x, stages=stages, f=F, key=jax.random.key(3)))(ROWS)
    norms = np.linalg.norm(ROWS, axis=1, keepdims=True)
    clipped = ROWS * np.minimum(1, 1 / norms)
    distances = ((clipped[:, None] - clipped[None]) ** 2).sum(axis=-1)
    near = np.stack([clipped[np.argsort(row)[: N - F]].mean(axis=0) for row in distances])
    assert stacked.num_workers(out) == 5
    # Buckets of two, and one of one: with these weights the mean is that of the rows.
    weights = np.array([2, 2, 2, 2, 1])
    np.testing.assert_allclose(
        weights @ np.asarray(out) / N, near.mean(axis=0), rtol=1e-5, atol=1e-6
    )


def test_weight_decay_at_the_server():
    """One step of PyTorch's SGD with weight decay on the aggregate; workers send plain momentum."""
    config = Config(n=3, f=0, momentum=0.5, weight_decay=0.1, learning_rate=0.2)
    config = Config(**vars(config) | {"weight_decay_at": "server"})
    parts, params, update = optim.stages(config), np.float32([1, -2]), np.float32([3, 4])
    server = parts["server"]
    step, _ = server.update(update, server.init(params), params)
    after = optax.apply_updates(params, step)
    np.testing.assert_allclose(after, params - 0.2 * (update + 0.1 * params), rtol=1e-6)
    rows = np.stack([update] * 3)
    sent, _ = parts["send"].update(rows, parts["send"].init(params), params)
    np.testing.assert_allclose(sent, 0.5 * rows, rtol=1e-6)
    with pytest.raises(ValueError, match="weight_decay_at must be worker or server; got 'both'"):
        planning.plan(Config(weight_decay_at="both"))


# --- grid files ----------------------------------------------------------------------------------


def test_a_grid_file_is_read_as_it_was_written(tmp_path):
    imported = byzfl.read(DEFAULT)
    reading.write(tmp_path / "grid.json", imported, "byzfl config.json")
    assert reading.grids(tmp_path / "grid.json") == imported.grids
    assert json.loads((tmp_path / "grid.json").read_text())["notes"] == imported.notes


def test_import_and_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(changed(model__name="fc_mnist")))
    assert commands.main(["import", "byzfl", "config.json"]) == 0
    out, err = capsys.readouterr()
    assert "16 grids in config-grid.json; python -m experiments run config-grid.json trains." in out
    assert err.count("note: ") == len(byzfl.read(DEFAULT).notes)
    # MNIST need not be here: the same rules on digits, and few of them.
    small = Config(rule=("mean",), attack=("sign_flip",), n=4, f=1, s=(1,), steps=2, seeds=1)
    two = [small, Config(**vars(small) | {"weight_decay": 0.1, "weight_decay_at": "server"})]
    reading.write(tmp_path / "small.json", reading.Imported(two, []), "a test")
    assert commands.main(["run", "small.json"]) == 0
    assert "small.json: 2 grids, 2 blocks, 2 runs, into results/small." in capsys.readouterr().out
    assert (
        "python -m experiments run small.json"
        in (tmp_path / "results/small/index.html").read_text()
    )
    assert commands.main(["run", "small.json"]) == 0
    assert "2 of 2 blocks are in results/small already." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["import", "bizfl", "x.json"], "unknown source 'bizfl'; did you mean byzfl?"),
        (["import", "byzfl", "broken.json"], "broken.json is not JSON: "),
        (["import", "byzfl", "config.json", "--to", "x.toml"], "a grid file ends in .json; got --"),
        (["run", "none.json"], "none.json does not exist; expected a grid file."),
        (["run", "config.json"], "config.json has no grids; python -m experiments import writes"),
    ],
)
def test_mistakes_of_the_commands(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(DEFAULT))
    (tmp_path / "broken.json").write_text("{")
    assert commands.main(words) == 2
    assert message in capsys.readouterr().err


def test_missing_data_name_a_command_that_can_be_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", "none")
    grid = Config(dataset="mnist", rule=("mean",), attack=("sign_flip",), n=4, f=1, s=(1,))
    reading.write(tmp_path / "small.json", reading.Imported([grid], []), "a test")
    assert commands.main(["run", "small.json"]) == 2
    err = capsys.readouterr().err
    assert err.rstrip().endswith("then python -m experiments run small.json --download")
