"""The leaderboard: its rows, the thinning of attacks, and scores against a NumPy loop."""

import dataclasses
import itertools
import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest

from byzjax.facts import FACTS
from experiments.cli import commands, material
from experiments.data import datasets
from experiments.execution import cost, store, sweep
from experiments.grid import catalogue, planning, specs
from experiments.leaderboard import editions, engine, entries, price, score
from experiments.leaderboard.entries import Defence

SCENE = {"dataset": "digits", "partition": "iid", "n": 25, "f": 5, "momentum": 0.9}
TINY = editions.EDITIONS["tiny"]
SEARCH = specs.parse("attack", "strongest_alie", f=1)
CPU = editions.EDITIONS["cpu"]
ALONE = editions.EDITIONS["full"]._replace(
    scenes=("digits",), fs=(5,), momenta=(0.9,), mixings=("none",)
)
# Two rankings, the second with mixings and at an f that some attacks do not work with.
CELLS = CPU._replace(
    at=(
        editions.Cell("digits", 5, 0.9, 80, ("none",)),
        editions.Cell("mnist, iid", 12, 0.9, 40, ("none", "nearest_neighbors")),
    ),
    rules=("median", "trimmed_mean"),
    attacks=("sign_flip", "zero", "fang_krum", "strongest_alie"),
    audit=10**9,
)


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
    edition = ALONE._replace(momenta=(0.9, 0.7, 0.5, 0.3, 0.1, 0.0))
    grids = editions.first(edition)
    share = np.mean([editions.audited(grid) for grid in grids])
    assert 0.05 < share < 0.15
    grid = next(grid for grid in grids if editions.audited(grid))
    assert editions.last(edition, grid, {"zero": 0.1}).attack == grid.attack


def test_shards_share_no_row_and_leave_none_out():
    grids = editions.first(ALONE)
    parts = [editions.of_shard(ALONE, grids, i, 3) for i in (1, 2, 3)]
    assert sorted(map(editions.key_of, itertools.chain(*parts))) == sorted(
        map(editions.key_of, grids)
    )
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_in_an_edition_of_cells_the_first_one_thins_the_attacks_of_a_rule():
    grids = editions.first(CELLS)
    assert [grid.dataset for grid in grids].count("digits") == 3  # with the mean
    short = engine.first(CELLS, grids)
    assert [(grid.rule[0], grid.dataset, grid.mixing[0]) for grid in short] == [
        (rule, "digits", "none") for rule in ("mean", "median", "trimmed_mean")
    ]
    accuracies = {"sign_flip": 0.3, "zero": 0.2, "fang_krum": 0.1, "strongest_alie": 0.9}
    blocks = [
        {
            **dict(zip(("rule", "mixing", *score.SCENE), editions.key_of(grid))),
            "attack": attack,
            "runs": [{"s": 5, "accuracy": [value]}],
        }
        for grid in short
        for attack, value in accuracies.items()
    ]
    stage = engine.second(CELLS, grids, blocks)
    here = {editions.key_of(grid): grid for grid in stage.grids}
    alone = here["median", "none", "digits", "iid", 25, 5, 0.9]
    assert (alone.attack, alone.steps, alone.seeds) == (("fang_krum", "zero"), 80, 5)
    far = here["median", "none", "mnist", "iid", 25, 12, 0.9]
    assert (far.attack, far.steps) == (("zero", "sign_flip"), 40)  # fang_krum needs n >= 2f + 2
    mixed = here["median", "nearest_neighbors", "mnist", "iid", 25, 12, 0.9]
    assert mixed.attack == ("zero", "sign_flip", editions.THROUGH_MIXINGS)
    with pytest.raises(ValueError, match=r"4 blocks of the first stage are missing"):
        engine.second(CELLS, grids, blocks[4:])


def test_a_shard_of_cells_holds_whole_rules():
    grids = editions.first(CELLS)
    parts = [editions.of_shard(CELLS, grids, i, 2) for i in (1, 2)]
    assert sorted(map(editions.key_of, itertools.chain(*parts))) == sorted(
        map(editions.key_of, grids)
    )
    assert not {grid.rule for grid in parts[0]} & {grid.rule for grid in parts[1]}


def test_the_edition_for_two_cores_has_what_the_page_says():
    assert {cell.scene for cell in CPU.at} == set(CPU.scenes) == set(list(editions.SCENES)[:4])
    assert {cell.f for cell in CPU.at} == {2, 5, 10}
    assert {cell.momentum for cell in CPU.at} == {0.9, 0.0}
    assert len({mixing for cell in CPU.at for mixing in cell.mixings}) == 5
    assert CPU.seeds == 5
    assert all(cell.steps % CPU.short == 0 for cell in CPU.at)
    assert len(editions.rows(CPU, 10, ("none",))) >= 28
    assert len(editions.columns(CPU, 10)) >= 26
    assert "changes nothing" in entries.reason("majority_sign", "clip_norms(max_norm=2.0)", 25, 5)


def test_a_price_counts_programs_attacks_and_searches(tmp_path):
    grids = [grid for grid in editions.first(TINY) if grid.rule == ("median",)]
    data = material.Material(grids)
    tasks = sweep.tasks(grids, tmp_path, data.describe)
    priced = price.of(tasks, data.describe)
    assert (priced.blocks, priced.runs, priced.programs) == (5, 5, 2)
    assert priced.compiling == 2 * price.PROGRAM + (1 + 4) * price.ATTACK
    gradients = cost.gradient_flops(grids[0], data.describe(grids[0])) * 5 / 30e9
    step = price.STEP + price.GRADIENTS * gradients
    assert priced.training == pytest.approx(5 * 4 * step)
    assert priced.hours == (priced.compiling + priced.training) / 7200
    searching = [t._replace(block=dataclasses.replace(t.block, attack=SEARCH)) for t in tasks[:1]]
    (times,) = {price.SEARCHES[SEARCH.name]}
    assert price.of(searching, data.describe).training == pytest.approx(4 * step * times)


@pytest.mark.slow
def test_the_edition_for_two_cores_takes_at_most_five_hours_and_one_rule_a_quarter(tmp_path):
    for edition, most in ((CPU, 5.0), (CPU._replace(rules=("bulyan",)), 0.25)):
        grids = editions.first(edition)
        data = material.Material(grids)
        tasks = sweep.tasks(engine.priced(edition, grids), tmp_path, data.describe)
        assert price.of(tasks, data.describe).hours < most


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


# --- what is read of a folder that is not finished ------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """The folder of a tiny edition with made-up results of both stages."""
    random = np.random.default_rng(2)
    checksum = datasets.OUTLINES["digits"].checksum

    def write(grids):
        for grid in grids:
            for block in planning.plan(grid):
                described = store.identity(grid, block, checksum)
                curve = {"step": [grid.steps], "finite": [True], "loss": [1.0]}
                runs = [
                    {"seed": seed, "s": s, "accuracy": [random.uniform()], **curve}
                    for seed, s in block.runs
                ]
                content = {"runs": runs, "seconds": 1.0, "environment": store.environment()}
                store.write_json(store.block_path(tmp_path, described), described | content)

    grids = editions.first(TINY)
    write(engine.first(TINY, grids))
    short = store.belonging(engine.first(TINY, grids), store.every(tmp_path))
    write(engine.second(TINY, grids, short).grids)
    return tmp_path


def lose(folder, rule, steps):
    """Removes the blocks of a rule that ran for so many steps."""
    for path in (folder / "blocks").glob("*.json"):
        block = json.loads(path.read_text())
        if (block["rule"], block["steps"]) == (rule, steps):
            path.unlink()


def test_a_row_is_left_out_until_all_of_its_runs_are_there(stored, capsys):
    grids = editions.first(TINY)
    whole = engine.read(TINY, grids, stored)
    assert not whole.missing
    lose(stored, "median", TINY.steps)
    part = engine.read(TINY, grids, stored)
    assert [grid.rule for grid in part.missing] == [("median",)]
    last = part.runs[part.runs["stage"] == "last"]
    assert set(last["rule"]) == {"mean"}
    assert len(part.runs[part.runs["stage"] == "first"]) == len(
        whole.runs[whole.runs["stage"] == "first"]
    )
    again = engine.completed(part.runs, whole.runs)
    pd.testing.assert_frame_equal(
        *(score.table(runs).reset_index(drop=True) for runs in (again, whole.runs))
    )
    line = f"leaderboard rank --edition tiny --results {stored.parent}"
    stored.rename(stored.parent / "leaderboard-tiny")
    assert commands.main(shlex.split(line)) == 0
    out = capsys.readouterr().out
    assert "1 of 2 rows are not finished and left out:" in out
    assert "momentum 0.9: 1 of 2" in out


def test_nothing_is_ranked_without_the_mean_or_the_first_stage(stored):
    lose(stored, "mean", TINY.steps)
    with pytest.raises(ValueError, match="no ranking has the mean"):
        engine.read(TINY, editions.first(TINY), stored)
    lose(stored, "median", TINY.short)
    with pytest.raises(ValueError, match="of the first stage are missing"):
        engine.read(TINY, editions.first(TINY), stored)


def test_rows_of_another_table_are_added_only_if_they_ran_as_long():
    runs, others = made({"mean": 0.1}), made({"mean": 0.3, "median": 0.6})
    assert len(engine.completed(runs, others)) == len(runs) + len(others) // 2
    for more in (others.assign(steps=9), others[others["seed"] < 4]):
        with pytest.raises(ValueError, match=r"has [45] seeds and [89] steps in .* expected 5 and"):
            engine.completed(runs, more)


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
