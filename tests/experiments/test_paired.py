"""Paired differences: against a NumPy loop, and what makes them pairs."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.analysis import paired
from experiments.data import datasets
from experiments.execution import sweep
from experiments.grid.config import Config
from experiments.report import tables

RULES = ("mean", "median", "krum")
FS = (2, 3)


@pytest.fixture(scope="module")
def runs():
    """Of three rules in two cells; one seed of a rule is missing, and lines are in no order."""
    random = np.random.default_rng(0)
    lines = [
        {"defence": rule, "f": f, "seed": seed, "accuracy": random.uniform()}
        for rule, f, seed in itertools.product(RULES, FS, range(5))
        if (rule, f, seed) != ("krum", 3, 2)
    ]
    return pd.DataFrame(lines).sample(frac=1, random_state=0)


def loop(runs, rule, reference, f, level):
    """The definition: one difference for each seed that both have."""
    result = {(r, g, s): a for r, g, s, a in runs.itertuples(index=False)}
    values = []
    for seed in range(5):
        if (rule, f, seed) in result and (reference, f, seed) in result:
            values.append(result[rule, f, seed] - result[reference, f, seed])
    k = len(values)
    mean = sum(values) / k
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (k - 1))
    half = stats.t.ppf(1 - (1 - level) / 2, k - 1) * spread / math.sqrt(k)
    return mean, mean - half, mean + half, k, sum(v > 0 for v in values)


@pytest.mark.parametrize("level", [0.95, 0.5])
@pytest.mark.parametrize("reference", RULES)
def test_differences_are_those_of_the_loop(runs, reference, level):
    lines = paired.against(runs, "defence", reference, ["f"], level=level)
    assert len(lines) == 4
    for line in lines.itertuples():
        expected = loop(runs, line.defence, reference, line.f, level)
        seen = line.mean, line.low, line.high, line.seeds, line.better
        np.testing.assert_allclose(seen, expected, rtol=1e-12)


def test_an_interval_of_pairs_covers_the_mean_difference():
    """95 % of intervals do, although the seeds differ by far more than the rules."""
    random = np.random.default_rng(1)
    hits = width = 0
    for _ in range(2000):
        seed = random.normal(0, 10, 6)
        one, other = seed + random.normal(0.5, 1, 6), seed + random.normal(0, 1, 6)
        result = paired.interval(one - other)
        hits += result.low <= 0.5 <= result.high
        width += result.high - result.low
    assert abs(hits / 2000 - 0.95) < 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert width / 2000 < 4  # unpaired ones would be about 25 wide


def test_one_seed_has_no_interval():
    result = paired.interval([0.25])
    assert (result.mean, result.seeds) == (0.25, 1)
    assert math.isnan(result.low)
    assert math.isnan(result.high)
    assert paired.shown(pd.Series(result._asdict())) == "+25.0"


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([], 0.95, r"one difference per seed; got shape \(0,\)"),
        ([[1.0]], 0.95, r"got shape \(1, 1\)"),
        ([1.0], 1.0, "between 0 and 1; got 1.0"),
    ],
)
def test_what_has_no_interval(values, level, message):
    with pytest.raises(ValueError, match=message):
        paired.interval(values, level)


def test_what_cannot_be_paired(runs):
    with pytest.raises(ValueError, match="no run has defence = 'aksel'"):
        paired.against(runs, "defence", "aksel", ["f"])
    with pytest.raises(ValueError, match="two runs have the same seed, defence"):
        paired.against(runs, "defence", "mean", [])


def test_the_worst_of_each_seed(runs):
    lines = paired.worst(runs, "f", ["defence"], "accuracy")
    assert len(lines) == 15
    for line in lines.itertuples():
        of_run = runs[(runs["defence"] == line.defence) & (runs["seed"] == line.seed)]
        assert line.accuracy == min(of_run["accuracy"])


def test_intervals_are_counted_by_where_they_lie():
    lines = pd.DataFrame({"low": [0.1, -0.2, -0.3, -2.0], "high": [0.2, -0.1, 0.3, -1.0]})
    assert paired.counts(lines) == (1, 2, 1)
    assert paired.counts(lines, margin=-1.0) == (3, 0, 1)
    assert paired.shown(pd.Series({"mean": 0.012, "low": -0.005, "high": 0.03})) == (
        "+1.2 [-0.5, +3.0]"
    )


# --- what a seed shares ---------------------------------------------------------------------------

SHARED = ("honest_norm", "variance_to_norm", "loss", "accuracy")


@pytest.mark.parametrize(
    "partition", ["one_class", pytest.param("dirichlet(0.3)", marks=pytest.mark.slow)]
)
def test_rules_of_one_seed_have_the_same_data_batches_and_liars(partition, tmp_path):
    """With a step size that moves no parameter, honest updates depend on nothing else.

    The momenta collect all batches, so that their norm and variance would tell a single other
    sample or liar.
    """
    config = Config(
        model="softmax", rule=("mean", "krum"), attack=("sign_flip", "zero"), n=14,
        f=2, s=(1, 2), seeds=2, steps=4, eval_every=2, batch_size=1,
        learning_rate=1e-30, partition=partition, dealt_to="honest",
    )  # fmt: skip
    if partition != "one_class":
        attacks = ("none", "sign_flip", "pushed", "flip_labels")
        config = dataclasses.replace(config, attack=attacks, s=(0, 1, 2), rule=("mean", "aksel"))
        config = dataclasses.replace(config, mixing=("none", "bucketing(s=2)"))
    data = datasets.load("digits")
    tasks = sweep.tasks([config], tmp_path, lambda _: data)
    result = sweep.run(tasks, tmp_path, lambda _: data)
    assert len(result) == len(tasks)
    curves = tables.curves(result)
    for (seed, s, step), part in curves.groupby(["seed", "s", "step"]):
        for name in SHARED:
            values = part[name].to_numpy()
            np.testing.assert_allclose(values, values[0], rtol=2e-5, err_msg=f"{seed, s, step}")
    last = curves[curves["step"] == 4].groupby(["seed", "s"])["honest_norm"].first()
    assert last.nunique() == len(last)  # and other seeds, and other liars, are told apart
