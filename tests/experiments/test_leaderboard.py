"""The leaderboard: its rows, the thinning of attacks, and scores against a NumPy loop."""

import itertools
import re
import shlex

import numpy as np
import pandas as pd
import pytest

from byzjax.facts import FACTS
from experiments.cli import commands
from experiments.grid import catalogue, planning
from experiments.leaderboard import editions, engine, entries, score
from experiments.leaderboard.entries import Defence

SCENE = {"dataset": "digits", "partition": "iid", "n": 25, "f": 5, "momentum": 0.9}
TINY = editions.EDITIONS["tiny"]
ALONE = editions.EDITIONS["cpu"]._replace(mixings=("none",))


def made(worst, seeds=5, attacks=("zero", "sign_flip"), spread=0.01):
    """Runs of some rules: `worst` under the first attack, 0.1 more under the second."""
    random = np.random.default_rng(3)
    shift = random.normal(0, 0.05, seeds)  # what all rules of a seed share
    out = []
    for rule, value in worst.items():
        for (i, attack), seed in itertools.product(enumerate(("none", *attacks)), range(seeds)):
            level = 0.9 if attack == "none" else value + 0.1 * (i - 1)
            accuracy = level + shift[seed] + random.normal(0, spread)
            line = {"rule": rule, "mixing": "none", "attack": attack, "s": 5 * (i > 0)}
            line |= {"seed": seed, **SCENE, "steps": 8, "stage": "last", "audited": False}
            out.append(line | {"kept": True, "accuracy": accuracy})
    return pd.DataFrame(out, columns=list(score.COLUMNS))


# --- rows and columns -----------------------------------------------------------------------------


def test_every_rule_and_attack_is_there_or_left_out_with_a_reason():
    """None is listed by hand, so one that is added to the library is in."""
    rows = {row.rule.partition("(")[0] for row in editions.rows(ALONE, 5)}
    tried = {text.partition("(")[0] for text in editions.columns(ALONE, 5)}
    out = {name.partition("(")[0] for name in entries.left_out(25, 5, ("none",))}
    assert {name for name, facts in FACTS.items() if facts.kind != "mixing"} <= rows | out
    assert catalogue.ATTACKS.keys() - {"none"} == (tried | out) & (catalogue.ATTACKS.keys())
    assert {"krum", "bulyan", "centered_clipping"} <= rows
    assert {"gradient_attack", "strongest_alie", "flip_labels", "distributed_trigger"} <= tried
    assert "add_trigger(then='model_replacement')" in editions.columns(ALONE, 5)
    assert "add_trigger" in editions.columns(ALONE, 5)
    assert not tried & entries.LEFT_OUT.keys()
    assert all(entries.left_out(25, 5, ("none",)).values())


def test_a_rule_that_needs_more_workers_is_left_out_and_the_reason_says_so():
    assert entries.reason("bulyan", "none", 25, 5) is None
    assert "n >= 4f + 3" in entries.reason("bulyan", "none", 25, 10)
    few = ALONE._replace(rules=("krum", "mean"), mixings=("bucketing(s=2)",))
    assert editions.rows(few, 10)[1:] == [Defence("mean", "bucketing(s=2)")]


def test_a_rule_of_your_own_stands_beside_the_mean():
    edition = TINY._replace(rules=("krum(m=2)",))
    assert editions.rows(edition, 1) == [editions.REFERENCE, Defence("krum(m=2)", "none")]


# --- the thinning of attacks ----------------------------------------------------------------------


def test_the_worst_attacks_are_kept_at_full_length_with_all_seeds():
    accuracies = {"zero": 0.5, "sign_flip": 0.2, "little_is_enough": 0.4, "reversed_gradient": 0.2}
    assert editions.finalists(accuracies, 3) == [
        *("sign_flip", "reversed_gradient", "little_is_enough")
    ]
    grid = next(grid for grid in editions.first(TINY) if not editions.audited(grid))
    assert (grid.steps, grid.seeds, len(grid.attack)) == (4, 1, 4)
    last = editions.last(TINY, grid, accuracies)
    assert (last.steps, last.seeds) == (8, 2)
    assert last.attack == ("sign_flip", "reversed_gradient")
    assert len(planning.plan(last)) == 3  # and without attackers


def test_about_a_tenth_of_the_rows_is_audited():
    grids = editions.first(ALONE._replace(momenta=(0.9, 0.7, 0.5, 0.3, 0.1, 0.0)))
    share = np.mean([editions.audited(grid) for grid in grids])
    assert 0.05 < share < 0.15
    grid = next(grid for grid in grids if editions.audited(grid))
    assert editions.last(TINY, grid, {"zero": 0.1}).attack == grid.attack


def test_shards_share_no_row_and_leave_none_out():
    grids = editions.first(ALONE)
    parts = [editions.of_shard(grids, i, 3) for i in (1, 2, 3)]
    assert sorted(map(score.key_of, itertools.chain(*parts))) == sorted(map(score.key_of, grids))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_audit_finds_a_worst_attack_that_the_thinning_loses():
    runs = made({"median": 0.5, "krum": 0.4}, spread=0).assign(audited=True)
    assert score.audit(runs) == (2, 0, 0.0)
    lost = (runs["rule"] == "krum") & (runs["attack"] == "zero")
    rows, count, most = score.audit(runs.assign(kept=~lost))
    assert (rows, count) == (2, 1)
    assert most == pytest.approx(0.1)


# --- scores ---------------------------------------------------------------------------------------


def test_scores_are_those_of_the_loop():
    runs = made({"mean": 0.1, "median": 0.6}, spread=0.05)
    board = score.table(runs).set_index("defence")
    accuracy = runs.set_index(["rule", "attack", "seed"])["accuracy"]
    for rule in ("mean", "median"):
        means = [
            sum(accuracy[rule, attack, seed] for seed in range(5)) / 5
            for attack in ("zero", "sign_flip")
        ]
        assert board.loc[rule, "worst"] == pytest.approx(min(means))
        quiet = sum(accuracy["mean", "none", seed] for seed in range(5)) / 5
        assert board.loc[rule, "gap"] == pytest.approx(quiet - min(means))
    random, drawn = np.random.default_rng(1), []
    for _ in range(4000):
        seeds = random.integers(0, 5, 5)
        drawn.append(
            min(np.mean([accuracy["median", a, s] for s in seeds]) for a in ("zero", "sign_flip"))
        )
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert board.loc["median", "low"] == pytest.approx(low, abs=0.01)
    assert board.loc["median", "high"] == pytest.approx(high, abs=0.01)


def test_ranks_differ_only_where_paired_intervals_do():
    """Seeds differ by far more than the rules; in pairs, a difference of 0.03 is clear."""
    runs = made({"mean": 0.1, "median": 0.60, "krum": 0.57, "aksel": 0.6005}, spread=0.002)
    board = score.table(runs).set_index("defence")
    assert dict(board["rank"]) == {"median": 1, "aksel": 1, "krum": 3, "mean": 4}
    assert board.loc["krum", "high"] > board.loc["median", "low"]  # the intervals overlap


def test_one_seed_separates_nothing():
    board = score.table(made({"mean": 0.1, "median": 0.6}, seeds=1))
    assert list(board["rank"]) == [1, 1]
    assert board["low"].isna().all()


def test_a_missing_seed_is_an_error():
    runs = made({"mean": 0.1, "median": 0.6})
    gone = (runs["rule"] == "median") & (runs["attack"] == "zero") & (runs["seed"] == 2)
    with pytest.raises(ValueError, match="seeds are missing for some attacks"):
        score.table(runs[~gone])


def test_kappa_is_that_of_a_rule_alone():
    assert score.kappa("median", "none", 7, 3) == 3.0
    assert score.kappa("median", "nearest_neighbors", 7, 3) is None
    assert score.kappa("foolsgold", "none", 7, 3) is None


def test_other_rows_join_only_if_they_are_of_the_same_scene():
    runs = made({"mean": 0.1, "krum": 0.5})
    others = made({"mean": 0.3, "median": 0.6})
    both = engine.against(runs, others)
    assert set(both["rule"]) == {"mean", "krum", "median"}
    assert len(both) == len(runs) + len(others) // 2
    with pytest.raises(ValueError, match="no other row of these scenes and steps"):
        engine.against(runs, others.assign(steps=9))
    with pytest.raises(ValueError, match="the table has no column seed"):
        engine.against(runs, others.drop(columns="seed"))


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_edition_runs_resumes_exports_and_ranks(tmp_path, capsys):
    def told(line):
        assert commands.main(shlex.split(f"leaderboard {line} --results {tmp_path}")) == 0
        return capsys.readouterr().out

    few = "--edition tiny --rule median --attack zero sign_flip reversed_gradient"
    told(f"run {few} --shard 1/2")
    out = told(f"run {few}")
    assert "runs in" in out
    assert re.search(r"\| 1 +\| median ", out)
    assert "runs in" not in told(f"run {few}")
    folder = next(tmp_path.iterdir())
    told(f"export {few}")
    runs = pd.read_csv(folder / engine.FILE)
    assert tuple(runs.columns) == (*score.COLUMNS, *score.MORE)
    assert set(runs["stage"]) == {"first", "last"}
    last = runs[(runs["stage"] == "last") & (runs["s"] > 0)]
    assert set(last.groupby("rule")["attack"].nunique()) <= {2, 3}
    written = pd.read_csv(folder / "table.csv")
    again = score.table(runs).round(6)
    np.testing.assert_allclose(again["worst"], written["worst"])
    assert list(again["defence"]) == list(written["defence"])


def test_mistakes_of_the_command(capsys, tmp_path):
    for line, message in {
        "rnu": "rows, measure, submit, verify, page; got 'rnu'.",
        "run --edition gpu": "edition must be one of tiny, cpu, full; got 'gpu'.",
        f"rank --edition tiny --results {tmp_path}": "missing or failed; repeat `run`.",
    }.items():
        assert commands.main(shlex.split(f"leaderboard {line}")) == 2
        assert message in capsys.readouterr().err
