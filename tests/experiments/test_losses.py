"""The page of the study `diloco`: every number, computed again by loops from made-up runs."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from experiments import studies
from experiments.analysis import findings, losses
from experiments.data import datasets
from experiments.execution import export, store
from experiments.grid import planning
from tests.experiments.test_abstract import interval, rows

STEPS = {1: 20, 10: 2}
RULES = (("mean", "none"), ("median", "none"), ("median", "nearest_neighbors"))
ATTACKS = ("none", "zero", "sign_flip")
SEEDS = range(3)
BROKEN = ("mean", "none", 10, "zero", 1)  # not finite


@pytest.fixture(scope="module")
def loss():
    random = np.random.default_rng(0)
    cells = itertools.product(RULES, STEPS, ATTACKS, SEEDS)
    return {(*rule, h, a, seed): random.uniform(2, 3) for rule, h, a, seed in cells}


@pytest.fixture(scope="module")
def curves(loss):
    lines = []
    for key, value in loss.items():
        rule, mixing, h, attack, seed = key
        protocol = f"parameter_server(local_steps={h}, local='adamw', local_rate=0.1)"
        run = {"rule": rule, "mixing": mixing, "attack": attack, "s": 3 * (attack != "none")}
        run |= {"seed": seed, "protocol": protocol, "steps": STEPS[h], "accuracy": 0.5}
        last = math.nan if key == BROKEN else value
        for step, seen in ((STEPS[h] // 2, 9.0), (STEPS[h], last)):
            lines.append(run | {"step": step, "loss": seen, "finite": not math.isnan(seen)})
    return pd.DataFrame(lines)


def cells_of(text):
    head, lines = rows(text)
    return {(line[0], line[head.index("rule")]): dict(zip(head, line)) for line in lines}


def name_of(rule, mixing):
    return rule if mixing == "none" else f"{mixing} + {rule}"


def test_losses_are_those_of_the_last_evaluation(loss, curves):
    table = cells_of(losses.written(curves, 2 * 10**9).partition("The loss less")[0])
    assert len(table) == len(RULES) * len(STEPS)
    for (rule, mixing), h, attack in itertools.product(RULES, STEPS, ATTACKS):
        line = table[str(h), name_of(rule, mixing)]
        values = [loss[rule, mixing, h, attack, seed] for seed in SEEDS]
        more = ""
        if (rule, mixing, h, attack) == BROKEN[:4]:
            del values[BROKEN[4]]
            more = " (1 not finite)"
        assert line["rounds"] == str(STEPS[h])
        assert line["Gbit"] == f"{2 * STEPS[h]}.0"
        assert line[attack] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}{more}"


def test_costs_are_paired_with_the_mean_without_attackers(loss, curves):
    table = cells_of(losses.written(curves, 1).partition("The loss less")[2])
    for (rule, mixing), h in itertools.product(RULES, STEPS):
        of = {
            attack: np.array([loss[rule, mixing, h, attack, seed] for seed in SEEDS])
            for attack in ATTACKS
        }
        base = np.array([loss["mean", "none", h, "none", seed] for seed in SEEDS])
        worst = max(ATTACKS[1:], key=lambda attack: of[attack].mean())
        lost = (rule, mixing, h) == BROKEN[:3]
        line = table[str(h), name_of(rule, mixing)]
        assert line["worst attack"] == ("`zero`" if lost else f"`{worst}`")
        for label, attack in (("without attackers", "none"), ("under the worst attack", worst)):
            mean, low, high = interval(of[attack] - base)
            said = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            assert line[label] == ("not finite" if lost and attack != "none" else said)


def test_the_study_is_written_from_its_blocks_when_all_are_there(tmp_path):
    """Made-up results of every run: the page has a line for each H and rule."""
    grids, folder = studies.grids("diloco", "cpu"), tmp_path / "diloco-cpu"
    random, checksum = np.random.default_rng(1), datasets.OUTLINES["tiny_shakespeare"].checksum
    for config in grids:
        for block in planning.plan(config):
            curve = {"step": [config.steps], "accuracy": [0.4], "finite": [True]}
            runs = [
                {"seed": seed, "s": s, "loss": [random.uniform(2, 3)], **curve}
                for seed, s in block.runs
            ]
            described = store.identity(config, block, checksum)
            content = {"runs": runs, "seconds": 1.0, "environment": store.environment()}
            store.write_json(store.block_path(tmp_path, described), described | content)
    assert findings.diloco(folder) == "0 of 378 runs so far. Not compared with anything."
    export.write(tmp_path, store.every(tmp_path), folder)
    head, lines = rows(findings.diloco(folder).partition("The loss less")[0])
    rounds, sent = (head.index(name) for name in ("rounds", "Gbit"))
    for line in lines:  # 205,440 numbers of 32 bits from each of 16 workers
        assert line[sent] == f"{int(line[rounds]) * 16 * 32 * 205_440 / 1e9:.1f}"
    assert [name.partition("(")[0] for name in head[4:]] == [
        *("none", "sign_flip", "little_is_enough", "inner_product_manipulation"),
        *("gaussian", "sleeping"),
    ]
    assert [line[0] for line in lines] == [str(h) for h in (1, 10, 50) for _ in range(7)]
    assert "" not in itertools.chain(*lines)
