"""The epsilon of private runs: what a worker releases, and what the report says."""

import math
import re

import numpy as np
import pytest

from byzjax import privacy
from experiments.grid import config as configs
from experiments.grid import private
from experiments.report import private as report


@pytest.mark.parametrize(
    ("protocol", "steps", "noise"),
    [
        ("parameter_server", 1, 2.0),
        ("parameter_server(local_steps=4, local_rate=0.1)", 1, 2.0),  # a part of the batch each
        ("parameter_server(local_steps=4, local_rate=0.1, whole_batch=True)", 4, 1.0),
        ("parameter_server(per_round=3)", 1, 2.0),
        ("gossip(graph='ring', local_steps=2)", 1, 2.0),
    ],
)
def test_a_round_is_one_gaussian_mechanism(protocol, steps, noise):
    """How far a sample moves what a worker sends in a round, over the noise: 2C in each step."""
    assert private.release(protocol, 2.0, 7) == (noise, 7)
    moved = math.sqrt(steps * 2**2)
    assert moved / 2.0 == pytest.approx(2 / noise)


def test_nothing_is_said_of_samples_that_others_release_too():
    assert private.release("redundant(r=3, s=1)", 2.0, 7) is None


@pytest.mark.parametrize(
    ("samples", "delta"), [(1, 0.1), (9, 0.1), (10, 0.01), (999, 1e-3), (1000, 1e-4), (5454, 1e-4)]
)
def test_delta_is_the_largest_power_of_ten_below(samples, delta):
    assert private.delta(samples) == pytest.approx(delta)
    assert private.delta(samples) < 1 / samples <= 10 * private.delta(samples) * (1 + 1e-9)


def block(z, samples, protocol="parameter_server", **more):
    given = {"protocol": protocol, "noise_multiplier": z, "steps": 400, "batch_size": 64}
    runs = [{"seed": 0, "s": 0} | ({private.SAMPLES: m} if z else {}) for m in samples]
    identity = {name: None for name in configs.IDENTITY}
    return identity | given | more | {"runs": runs}


@pytest.fixture
def asked(monkeypatch):
    """The calls of the accountant, which here returns the noise multiplier over 7."""
    calls = []

    def epsilon(**given):
        calls.append(given)
        return given["noise_multiplier"] / 7

    report._epsilon.cache_clear()
    monkeypatch.setattr(privacy, "epsilon", epsilon)
    yield calls
    report._epsilon.cache_clear()


def test_each_noise_has_the_epsilon_of_the_fewest_samples(asked):
    blocks = [block(3.0, [5454, 5400]), block(0.0, [10]), block(1.0, [6000]), block(3.0, [5450])]
    (sentence,) = report.sentences(blocks)
    assert asked == [
        {"noise_multiplier": z, "batch_size": 64, "samples": m, "steps": 400, "delta": 1e-4}
        for z, m in ((1.0, 6000), (3.0, 5400))
    ]
    assert sentence == (
        "Privacy of one sample: of the worker with the fewest samples, against whoever sees all "
        "that it sends in one run, epsilon 0.143 at delta 1e-04 (noise multiplier 1, 400 steps of "
        "batches of 64 among 6,000); epsilon 0.429 at delta 1e-04 (noise multiplier 3, 400 steps "
        "of batches of 64 among 5,400)."
    )
    assert report.sentences(blocks) == [sentence]
    assert len(asked) == 2  # the accountant takes seconds


def test_public_and_shared_samples_have_no_epsilon(asked):
    assert report.sentences([block(0.0, [10])]) == []
    (sentence,) = report.sentences([block(2.0, [500], protocol="redundant(r=3, s=1)")])
    assert "none is stated for redundant(r=3, s=1) (noise multiplier 2, 400 steps" in sentence
    assert not asked


def test_without_the_accountant_the_report_says_what_to_install(monkeypatch):
    def missing(**given):
        raise ImportError

    report._epsilon.cache_clear()
    monkeypatch.setattr(privacy, "epsilon", missing)
    (sentence,) = report.sentences([block(2.0, [500])])
    assert 'epsilon needs pip install "byzjax[privacy]" (noise multiplier 2, 400' in sentence


def test_epsilon_of_the_study():
    """Its docstring says what the CPU edition costs."""
    pytest.importorskip("dp_accounting", reason="needs dp-accounting")
    blocks = [block(z, [5454]) for z in (1.0, 3.0, 10.0)]
    (sentence,) = report.sentences(blocks)
    told = [float(x) for x in re.findall(r"epsilon (\S+) at delta 1e-04", sentence)]
    assert told == [pytest.approx(x, abs=0.005) for x in (13.8, 1.34, 0.30)]


def test_private_runs_keep_their_samples_and_the_report_tells_epsilon(tmp_path, asked):
    pytest.importorskip("flax", reason="needs the laboratory")
    from experiments.data import datasets, partitions
    from experiments.execution import sweep
    from experiments.grid.config import Config
    from experiments.report import page, tables

    config = Config(
        model="softmax", n=3, f=0, s=(0,), seeds=2, steps=2, eval_every=1, batch_size=4,
        momentum=0.0, clip_examples=0.5, noise_multiplier=2.0, rule=("mean",), attack=("none",),
        partition="dirichlet(0.5)",
    )  # fmt: skip
    digits = datasets.load("digits")
    load = lambda config: digits  # noqa: E731
    blocks = sweep.run(sweep.tasks([config], tmp_path, load), tmp_path, load)
    fewest = [
        min(map(len, partitions.partition(digits.train_y, 3, "dirichlet(0.5)", seed=run["seed"])))
        for run in blocks[0]["runs"]
    ]
    assert [run[private.SAMPLES] for run in blocks[0]["runs"]] == fewest
    assert np.ptp(fewest) > 0
    results = tables.table(tables.curves(blocks))
    expected = f"noise multiplier 2, 2 steps of batches of 4 among {min(fewest):,}"
    study = page.Study("t", "c", "x", [config], blocks, results, [], [])
    assert expected in page.html(study).replace("<wbr>", "")
    for width in (None, 60):  # table.md, a terminal
        assert expected in " ".join(tables.text(results, width, blocks).split())
