"""FLPoison's YAML as grids: names, definitions in its own units, and what is refused."""

import json
import re

import jax
import numpy as np
import optax
import pytest
import yaml

from experiments.bridges import flpoison, reading
from experiments.cli import commands
from experiments.grid import specs
from experiments.grid.config import Config
from experiments.training import optim

BASIC = {
    "seed": 4,
    "epochs": 300,
    "algorithm": "FedSGD",
    "optimizer": "SGD",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "num_clients": 50,
    "batch_size": 64,
    "learning_rate": 0.01,
    "model": "lenet",
    "dataset": "MNIST",
    "distribution": "iid",
    "im_iid_gamma": 0.01,
    "tail_cls_from": 4,
    "dirichlet_alpha": 0.5,
    "cache_partition": False,
    "gpu_idx": [0],
    "num_workers": 0,
    "record_time": False,
    "num_adv": 0.48,
    "attack": "ALIE",
    "defense": "Krum",
    "attacks": [
        {"attack": "NoAttack"},
        {"attack": "IPM", "attack_params": {"scaling_factor": 0.5}},
        {"attack": "ALIE"},
    ],
    "defenses": [
        {"defense": "Mean"},
        {"defense": "Krum", "defense_params": {"enable_check": False}},
        {"defense": "TrimmedMean", "defense_params": {"beta": 0.1}},
    ],
}


def changed(**values):
    return {k: v for k, v in (BASIC | values).items() if v is not ...}


def of(attack=None, defense=None, **values):
    """The one grid of an attack and a defence, given with their parameters."""
    for kind, given in (("attack", attack), ("defense", defense)):
        if given is not None:
            name, parameters = given
            values |= {kind: name, f"{kind}_params": parameters}
    (grid,) = flpoison.read(changed(**values)).grids
    return grid


def test_a_file_is_its_attack_with_its_defence():
    imported = flpoison.read(BASIC)
    (grid,) = imported.grids
    assert grid == Config(
        dataset="mnist",
        model="lenet",
        init="torch",
        rule=("krum(neighbors='n-f-1', squared=False)",),
        attack=(grid.attack[0],),
        n=50,
        f=24,
        s=(24,),
        seeds=1,
        steps=300,
        batch_size=64,
        learning_rate=0.01,
        momentum=0.9,
        momentum_kind="undamped",
        weight_decay=5e-4,
    )
    # The quantile of (50 - 24 - 2) / (50 - 24), of the standard normal distribution.
    spec = specs.parse("attack", grid.attack[0], f=24)
    assert spec.given == {"z": pytest.approx(1.4260768722728472), "ddof": 0}
    assert len(imported.notes) == len(flpoison.ALWAYS) + 2


def test_a_benchmark_is_all_pairs():
    grids = flpoison.read(BASIC, benchmark=True).grids
    rules = ("mean", "krum(neighbors='n-f-1', squared=False)", "trimmed_mean(f=5)")
    assert [(grid.rule, grid.s) for grid in grids] == [(rules, (0,)), (rules, (24,))]
    assert grids[0].attack == ("none",)
    assert grids[1].attack[0] == "inner_product_manipulation(epsilon=0.5)"
    assert len(grids[1].attack) == 2


def test_settings_of_training():
    assert of(lr_scheduler="MultiStepLR", milestones=[0.8, 0.6]).schedule == "steps(180, 240)"
    assert of(lr_scheduler="CosineAnnealingLR").schedule == "cosine"
    assert of(distribution="non-iid").partition == "dirichlet(0.5)"
    kind, _, beta = of(distribution="class-imbalanced_iid").partition.rstrip(")").partition("(")
    assert kind == "long_tail"
    assert float(beta) ** 9 == pytest.approx(0.01)
    assert of(num_adv=3).s == (3,)
    assert of(attack=("NoAttack", None), num_adv=3, defense=("Median", None)).f == 3
    for dataset, name in (("FashionMNIST", "fashion_mnist"), ("CIFAR10", "cifar10")):
        assert of(dataset=dataset).dataset == name
    assert of(model="lr").model == "softmax"


@pytest.mark.parametrize("schedule", [None, "CosineAnnealingLR", "MultiStepLR"])
def test_steps_are_those_of_a_clients_own_optimizer(schedule):
    """PyTorch's SGD with momentum and weight decay at a client, whose steps the server adds."""
    more = {"epochs": 4, "milestones": [2], "lr_scheduler": schedule, "learning_rate": 0.1}
    grid = of(defense=("Mean", None), weight_decay=0.2, momentum=0.5, **more)
    parts = optim.stages(Config(**vars(grid) | {"n": 1, "f": 0, "s": (0,)}))
    gradients = np.float32([[1, -2], [0.5, 3], [-1, 1], [2, 2]])
    params = expected = np.float32([2, 1])
    states = [parts[name].init(params) for name in ("send", "server")]
    buffer = np.zeros(2)
    for t, gradient in enumerate(gradients):
        rate = {None: 0.1, "MultiStepLR": 0.1 if t < 2 else 0.01}.get(
            schedule, 0.05 * (1 + np.cos(np.pi * t / 4))
        )
        buffer = 0.5 * buffer + gradient + 0.2 * expected
        expected = expected - rate * buffer
        sent, states[0] = parts["send"].update(gradient[None], states[0], params)
        step, states[1] = parts["server"].update(sent[0], states[1], params)
        params = optax.apply_updates(params, step)
        np.testing.assert_allclose(params, expected, rtol=1e-5)


# --- definitions, in the units of a client's steps -----------------------------------------------

N, F, RATE = 11, 3, 0.25
ROWS = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32) + 1
STEPS = -RATE * ROWS  # what clients of FLPoison send where workers send ROWS
BYZANTINE = np.arange(N) < F
HONEST = STEPS[F:]
SMALL = {"num_clients": N, "num_adv": F, "learning_rate": RATE, "attacks": ..., "defenses": ...}


def krum(m):
    distances = np.linalg.norm(STEPS[:, None] - STEPS[None], axis=-1)
    scores = np.sort(distances, axis=1)[:, 1 : N - F].sum(axis=1)
    return STEPS[np.argsort(scores)[:m]].mean(axis=0)


def weiszfeld(steps, epsilon):
    v = np.zeros(6)
    for _ in range(steps):
        weights = 1 / np.maximum(np.linalg.norm(STEPS - v, axis=1), epsilon)
        v = weights @ STEPS / weights.sum()
    return v


def clipped(rows, most):
    return rows * np.minimum(1, most / np.linalg.norm(rows, axis=1, keepdims=True))


DEFENSES = {
    "Mean": ({}, lambda: STEPS.mean(axis=0)),
    "Median": ({}, lambda: np.median(STEPS, axis=0)),
    "TrimmedMean": ({"beta": 0.2}, lambda: np.sort(STEPS, axis=0)[2:-2].mean(axis=0)),
    "Krum": ({"enable_check": True}, lambda: krum(1)),
    "MultiKrum": ({"avg_percentage": 0.4}, lambda: krum(4)),
    "RFA": ({"num_iters": 2, "epsilon": 0.5}, lambda: weiszfeld(2, 0.5)),
    "CenteredClipping": ({"norm_threshold": 0.6}, lambda: clipped(STEPS, 0.6).mean(axis=0)),
    "NormClipping": ({"norm_threshold": 0.7}, lambda: clipped(STEPS, 0.7).mean(axis=0)),
}


def applied(spec, rows):
    draws = {"byzantine": BYZANTINE, "key": jax.random.key(0)} if spec.kind == "attack" else {}
    tx = specs.transformation(spec, **({"byzantine": None, "key": None} | draws), n=N)
    return tx.update(rows, tx.init(rows[0]))[0]


@pytest.fixture(scope="module")
def aggregates():
    """The aggregates of all defences' mixings and rules, by one program."""

    def server(grid, rows):
        for kind in ("mixing", "rule"):
            rows = applied(specs.parse(kind, *getattr(grid, kind), f=F), rows)
        return rows

    grids = {
        name: of(attack=("SignFlipping", None), defense=(name, given), **SMALL)
        for name, (given, _) in DEFENSES.items()
    }
    return jax.jit(lambda rows: {name: server(grid, rows) for name, grid in grids.items()})(ROWS)


@pytest.mark.parametrize("name", DEFENSES)
def test_defences_are_those_of_flpoison(name, aggregates):
    expected = DEFENSES[name][1]()
    np.testing.assert_allclose(-RATE * aggregates[name], expected, rtol=1e-5, atol=1e-6)


def test_noise_of_weak_dp_is_that_of_a_mean_of_noises():
    given = {"weakDP": True, "norm_threshold": 0.7, "noise_std": 0.3}
    grid = of(attack=("SignFlipping", None), defense=("NormClipping", given), **SMALL)
    spec = specs.parse("mixing", grid.mixing[0], f=F)
    assert spec.given["max_norm"] == pytest.approx(0.7 / RATE)
    assert RATE * spec.given["sigma"] == pytest.approx(0.3 / np.sqrt(N))


def test_dnc_and_bucketing():
    dnc = ("DnC", {"subsample_frac": 0.1, "num_iters": 2})
    grid = of(attack=("SignFlipping", None), defense=dnc, **SMALL)
    assert grid.rule == ("spectral_filter(coordinates=6170, iterations=2, remove=1.0)",)
    bucketing = ("Bucketing", {"bucket_size": 3, "selected_aggregator": "MultiKrum"})
    grid = of(attack=("SignFlipping", None), defense=bucketing, **SMALL | {"num_clients": 50})
    assert grid.mixing == ("bucketing(s=3)",)
    assert grid.rule == ("krum(m=3, neighbors='n-f-1', squared=False)",)  # a fifth of 17 buckets


ATTACKS = {
    "IPM": ({"scaling_factor": 2.0}, lambda: -2 * HONEST.mean(axis=0)),
    "ALIE": ({"z_max": 0.7}, lambda: HONEST.mean(axis=0) + 0.7 * HONEST.std(axis=0)),
    "SignFlipping": ({}, lambda: -STEPS[:F]),
    "Mimic": ({"choice": 5}, lambda: STEPS[5]),
}


@pytest.fixture(scope="module")
def sent():
    """What attackers send, by one program, in the units of steps."""
    given = {name: each for name, (each, _) in ATTACKS.items()} | {"MinMax": {}, "MinSum": {}}
    grids = {n: of(attack=(n, given[n]), defense=("Mean", None), **SMALL) for n in given}
    attacks = {name: specs.parse("attack", grids[name].attack[0], f=F) for name in grids}
    rows = jax.jit(lambda rows: {name: applied(attacks[name], rows) for name in attacks})(ROWS)
    return {name: -RATE * np.asarray(each)[:F] for name, each in rows.items()}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_those_of_flpoison(name, sent):
    expected = np.broadcast_to(ATTACKS[name][1](), (F, 6))
    np.testing.assert_allclose(sent[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["MinMax", "MinSum"])
def test_the_farthest_steps_within_the_honest_ones(name, sent):
    """The largest factor along the mean that keeps the distances within those of honest steps."""

    def measure(rows):
        norms = np.linalg.norm(rows, axis=1)
        return norms.max() if name == "MinMax" else (norms**2).sum()

    most = max(measure(HONEST - row) for row in HONEST)
    mean = HONEST.mean(axis=0, dtype=np.float64)
    unit = mean / np.linalg.norm(mean)
    factors = np.linspace(0, 3, 30_001)
    within = [factor for factor in factors if measure(HONEST - (mean - factor * unit)) <= most]
    expected = mean - max(within) * unit
    np.testing.assert_allclose(sent[name], np.tile(expected, (F, 1)), atol=2e-4)


def test_noise_has_the_deviation_of_a_step():
    grid = of(attack=("Gaussian", {"noise_std": 2}), defense=("Mean", None), **SMALL)
    assert grid.attack == (f"gaussian(sigma={2 / RATE})",)


def test_labels_are_flipped_in_all_classes():
    params = {"attack_model": "all2all", "poisoning_ratio": 0.32}
    assert of(attack=("LabelFlipping", params)).attack == ("flip_labels",)


# --- what is refused -----------------------------------------------------------------------------

REFUSED = {
    "algorithm": (changed(algorithm="FedAvg"), '"FedAvg"', '"FedSGD"'),
    "optimizer": (changed(optimizer="Adam"), '"Adam"', '"SGD"'),
    "model": (changed(model="vgg16"), '"vgg16"', '"lenet", "lr"'),
    "dataset": (changed(dataset="EMNIST"), '"EMNIST"', '"MNIST", "FashionMNIST", "CIFAR10"'),
    "distribution": (changed(distribution="pat"), '"pat"', '"iid", "class-imbalanced_iid"'),
    "dirichlet_alpha": (
        changed(distribution="non-iid", dirichlet_alpha=...),
        "null",
        "a number of at least",
    ),
    "im_iid_gamma": (
        changed(distribution="class-imbalanced_iid", im_iid_gamma=2.0),
        "2.0",
        "a number of at most 1",
    ),
    "lr_scheduler": (changed(lr_scheduler="StepLR"), '"StepLR"', '"MultiStepLR", "Cosine'),
    "milestones": (
        changed(lr_scheduler="MultiStepLR", milestones=[0.001]),
        "[0.001]",
        "different steps, from 1 on",
    ),
    "num_adv": (changed(num_adv=50), "50", "fewer than num_clients = 50"),
    "attack": (changed(attack="BadNets"), '"BadNets"', '"NoAttack", "IPM", "ALIE"'),
    "defense": (changed(defense="FLAME"), '"FLAME"', '"Mean", "Median"'),
    "attacks": (changed(attacks={}), "{}", "a list"),
    "server": (changed(server=1), "1", "the keys algorithm, optimizer"),
    "attack_params.z_max": (
        changed(num_adv=26),
        "null",
        "a number (26 of 50 clients attack)",
    ),
    "attack_params.choice": (
        changed(attack="Mimic"),
        "0",
        "an honest client, from 24 to 49",
    ),
    "attack_params.attack_start_epoch": (
        changed(attack="IPM", attack_params={"attack_start_epoch": 11}),
        "11",
        "null",
    ),
    "attack_params.noise_mean": (
        changed(attack="Gaussian", attack_params={"noise_mean": 1}),
        "1.0",
        "0",
    ),
    "attack_params.attack_model": (changed(attack="LabelFlipping"), '"targeted"', '"all2all"'),
    "attack_params.strength": (
        changed(attack="IPM", attack_params={"strength": 2}),
        "2",
        "the keys scaling_factor, attack_start_epoch",
    ),
    "defense_params.beta": (
        changed(defense="TrimmedMean", defense_params={"beta": 0.01}),
        "0.01",
        "from 0.02 to below 0.5",
    ),
    "defense_params.avg_percentage": (
        changed(defense="MultiKrum", defense_params={"avg_percentage": 0.8}),
        "0.8",
        "from 0.02 to 0.52",
    ),
    "defense_params.norm_threshold": (
        changed(defense="NormClipping", lr_scheduler="CosineAnnealingLR"),
        "3.0",
        "a learning rate without lr_scheduler",
    ),
    "defense_params.fliter_frac": (
        changed(defense="DnC", defense_params={"fliter_frac": 0.3}),
        "0.3",
        "a multiple of 1 / 24",
    ),
    "defense_params.selected_aggregator": (
        changed(defense="Bucketing", defense_params={"selected_aggregator": "Bulyan"}),
        '"Bulyan"',
        '"Mean", "Median"',
    ),
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_setting_without_a_counterpart_is_named(key):
    content, shown, accepted = REFUSED[key]
    line = f"{key} = {shown} has no counterpart here; accepted: {accepted}"
    with pytest.raises(ValueError, match=f"^{re.escape(line)}.*\\.$"):
        flpoison.read(content)


@pytest.mark.parametrize(
    ("content", "benchmark", "message"),
    [
        (
            changed(momentum=...),
            False,
            "momentum is missing; expected a configuration of FLPoison.",
        ),
        (changed(attack=...), False, "attack is missing; expected the name of one, or --benchmark"),
        (changed(attacks=...), True, "attacks is missing; expected a list for --benchmark."),
        (
            changed(num_adv=0),
            False,
            'attack = "ALIE" has no counterpart here; accepted: NoAttack',
        ),
    ],
)
def test_what_is_missing_is_named(content, benchmark, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        flpoison.read(content, benchmark=benchmark)


# --- the commands --------------------------------------------------------------------------------


def test_import_and_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(BASIC))
    assert commands.main(["import", "flpoison", "mine.yaml", "--benchmark"]) == 0
    assert "2 grids in mine-grid.json; " in capsys.readouterr().out
    expected = flpoison.read(BASIC, benchmark=True)
    assert reading.grids(tmp_path / "mine-grid.json") == expected.grids
    assert json.loads((tmp_path / "mine-grid.json").read_text())["source"] == "flpoison mine.yaml"

    monkeypatch.setenv("TFDS_DATA_DIR", "none")  # MNIST need not be here
    assert commands.main(["run", "mine.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.count("note: ") == len(flpoison.read(BASIC).notes)
    assert err.rstrip().endswith("then python -m experiments run mine.yaml --download")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["import", "flpoison", "broken.yaml"], "error: broken.yaml is not YAML: "),
        (["run", "broken.yaml"], "error: broken.yaml is not YAML: "),
        (["run", "few.yaml"], "error: krum needs n >= 2f + 1; got n=50, f=30."),
        (["import", "flpoison", "few.yaml"], "error: krum needs n >= 2f + 1; got n=50, f=30."),
        (["import", "byzfl", "x.json", "--benchmark"], "error: --benchmark is for flpoison; got b"),
    ],
)
def test_mistakes_of_the_commands(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("a: [")
    few = changed(num_adv=30, attack="SignFlipping")
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(few))
    assert commands.main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
