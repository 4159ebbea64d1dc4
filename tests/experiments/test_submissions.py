"""Submissions to the leaderboard: their files, and how tampering is found."""

import itertools
import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest

from experiments.cli import commands
from experiments.grid import config as configs
from experiments.grid import planning
from experiments.leaderboard import editions, engine, score, submission, verification

TINY = editions.EDITIONS["tiny"]
RULE = """
import byzjax


def middle(updates, *, f):
    return byzjax.trimmed_mean(updates, f=f)
"""
ATTACK = """
from byzjax import stacked


def push(updates, byzantine):
    return byzjax.attacks.sign_flip(updates, byzantine)


import byzjax
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a rule of your own, whose module can be imported."""
    (tmp_path / "my_middle.py").write_text(RULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_middle:middle"


def accuracy(rule, attack, s, seed, steps):
    """Some number that differs between all runs."""
    text = repr((rule, attack, s, steps))
    return round(0.5 + 0.3 * np.sin(len(text) + sum(map(ord, text)) + 0.01 * seed), 6)


def trained(grids, of=accuracy):
    """Finished blocks with made-up accuracies."""
    blocks = []
    for grid, block in ((g, b) for g in grids for b in planning.recorded(g)):
        described = {**configs.identity(grid), "rule": str(block.rule)}
        described |= {"mixing": str(block.mixing), "attack": str(block.attack)}
        runs = [
            {
                "seed": seed,
                "s": s,
                "accuracy": [of(str(block.rule), str(block.attack), s, seed, grid.steps)],
            }
            for seed, s in block.runs
        ]
        blocks.append(described | {"runs": runs})
    return blocks


def submitted(kind, name, of=accuracy):
    edition = submission.entered(TINY, kind, name)
    grids = editions.first(edition)
    first = trained(grids, of) if editions.thinned(edition) else []
    stage = engine.second(edition, grids, first)
    parts = [score.lines(grids, first, stage.kept, "first")] if first else []
    parts.append(score.lines(stage.grids, trained(stage.grids, of), stage.kept, "last"))
    return submission.made(pd.concat(parts), kind, name, "tiny")


# --- the file -------------------------------------------------------------------------------------


def test_a_submission_holds_every_cell_of_its_rule_and_survives_the_file(module, tmp_path):
    made = submitted("rule", module)
    assert len(made.cells) == (4 + 1) + (2 + 1)  # first: four attacks and none; last: two and none
    assert {cell["rule"] for cell in made.cells} == {module}
    assert made.seeds == 2
    assert set(made.versions) == {"byzjax", "jax", "numpy"}
    assert re.fullmatch(r"my_middle=[0-9a-f]{12}", made.source)
    made.write(tmp_path / "file.json")
    again = submission.read(tmp_path / "file.json")
    assert again == made
    assert again.version == made.sha256[:12]
    submission.check_complete(again)
    verification.check_source(again)


def test_the_hash_does_not_depend_on_the_layout_of_the_file(module, tmp_path):
    made = submitted("rule", module)
    content = made.content | {"sha256": made.sha256}
    (tmp_path / "file.json").write_text(json.dumps(dict(reversed(content.items()))))
    assert submission.read(tmp_path / "file.json").sha256 == made.sha256


def test_an_attack_of_your_own_runs_against_every_rule_at_full_length(tmp_path, monkeypatch):
    (tmp_path / "my_push.py").write_text(ATTACK)
    monkeypatch.syspath_prepend(tmp_path)
    made = submitted("attack", "my_push:push")
    assert {cell["stage"] for cell in made.cells} == {"last"}
    assert {cell["rule"] for cell in made.cells} == {"mean", "median"}
    assert {cell["attack"] for cell in made.cells} == {"my_push:push"}
    submission.check_complete(made)


def test_what_is_in_the_library_is_not_submitted():
    with pytest.raises(ValueError, match=r"median is of the library, and listed already"):
        submission.made(pd.DataFrame(), "rule", "median", "tiny")


def test_files_that_are_no_submission_are_refused_in_one_line(module, tmp_path):
    made = submitted("rule", module)
    content = made.content | {"sha256": made.sha256}
    cell = content["cells"][0]
    path = tmp_path / "file.json"
    for wrong, message in {
        "{": "is not JSON",
        "[]": "has list; expected an object",
        json.dumps(content | {"format": 2}): "has format 2; expected 1",
        json.dumps(content | {"cells": [{"rule": 1}]}): r"cell 0 has \['rule'\]; expected",
        json.dumps(content | {"cells": [cell | {"s": "1"}]}): 'cell 0: s is "1"',
        json.dumps(content | {"cells": [cell | {"accuracies": [1.2]}]}): "from 0 to 1",
        json.dumps(content | {"edition": "gpu"}): "edition must be one of",
        json.dumps(content | {"kind": "data"}): "kind must be rule or attack",
        json.dumps(content | {"seeds": 3}): "was changed after it was written",
    }.items():
        path.write_text(wrong)
        with pytest.raises(ValueError, match=message) as raised:
            submission.read(path)
        assert "\n" not in str(raised.value)


def test_cells_that_are_missing_or_given_twice_or_of_fewer_seeds_are_found(module):
    made = submitted("rule", module)
    cells = made.cells
    for wrong, message in (
        (cells[1:], "of 8 cells 1 are missing and 0 have another number of seeds, and 0 are not"),
        ([*cells, cells[0]], "1 cells are given twice"),
        (
            [*cells[:-1], cells[-1] | {"accuracies": [0.5]}],
            "of 8 cells 0 are missing and 1 have another number of seeds",
        ),
        ([*cells, cells[0] | {"attack": "gaussian"}], "and 1 are not of the edition tiny"),
    ):
        with pytest.raises(ValueError, match=message):
            submission.check_complete(made._replace(cells=wrong))


def test_the_worst_attack_of_the_first_stage_cannot_be_left_out(module):
    made = submitted("rule", module)
    first = [c for c in made.cells if c["stage"] == "first" and c["s"]]
    last = {c["attack"] for c in made.cells if c["stage"] == "last" and c["s"]}
    worst = sorted(first, key=lambda cell: cell["accuracies"][0])
    assert {cell["attack"] for cell in worst[:2]} == last
    cells = [
        cell | {"attack": worst[2]["attack"]}
        if cell["stage"] == "last" and cell["attack"] == worst[0]["attack"]
        else cell
        for cell in made.cells
    ]
    with pytest.raises(ValueError, match=r"of 8 cells 1 are missing .* and 1 are not of"):
        submission.check_complete(made._replace(cells=cells))


def test_another_source_is_another_rule(module, tmp_path):
    made = submitted("rule", module)
    (tmp_path / "my_middle.py").write_text(RULE.replace("f=f", "f=0"))
    with pytest.raises(ValueError, match="my_middle:middle was run with my_middle="):
        verification.check_source(made)


# --- training again -------------------------------------------------------------------------------


def checked(made, of=accuracy, cells=None):
    """Cells beside a made-up training."""
    cells = made.cells if cells is None else cells
    edition = submission.entered(TINY, made.kind, made.name)
    return verification.checks(cells, trained(verification.grids(edition, cells), of))


def test_a_tenth_of_the_cells_is_drawn_by_the_hash_and_the_salt(module):
    made = submitted("rule", module)
    many = made._replace(cells=[made.cells[i % 8] | {"steps": i} for i in range(95)])
    one = verification.drawn(many, "a")
    assert len(one) == 10
    assert one == verification.drawn(many, "a")
    assert one != verification.drawn(many, "b")
    assert verification.drawn(many._replace(seeds=3), "a") != one
    everywhere = {c["steps"] for i in range(80) for c in verification.drawn(many, str(i))}
    assert everywhere == set(range(95))


def test_the_grids_of_cells_are_those_that_were_run(module):
    made = submitted("rule", module)
    edition = submission.entered(TINY, "rule", module)
    first, last = sorted(verification.grids(edition, made.cells), key=lambda grid: grid.steps)
    assert (first.steps, first.seeds, first.s, len(first.attack)) == (4, 1, (0, 1), 5)
    assert (last.steps, last.seeds, last.s, len(last.attack)) == (8, 2, (0, 1), 3)
    (quiet,) = [c for c in made.cells if c["stage"] == "last" and not c["s"]]
    (grid,) = verification.grids(edition, [quiet])
    assert (grid.attack, grid.s) == (("none",), (0,))


def test_honest_cells_are_verified(module):
    made = submitted("rule", module)
    checks = checked(made)
    means = [np.mean(cell["accuracies"]) for cell in made.cells]
    assert [check.again for check in checks] == pytest.approx(means)
    verification.judge("rule", checks)


def test_a_reported_accuracy_that_is_too_high_is_found(module):
    made = submitted("rule", module)
    for kind, other, by in (("rule", "attack", 0.06), ("attack", "rule", -0.06)):
        checks = checked(made, lambda *of, by=by: accuracy(*of) - by, made.cells[:1])
        with pytest.raises(ValueError, match=r"reported 0\.\d{3}, trained again 0\.\d{3}; .* 0.05"):
            verification.judge(kind, checks)
        verification.judge(other, checks)  # what is worse than it is gains nothing


def test_small_additions_to_all_cells_are_found_together(module):
    made = submitted("rule", module)
    checks = checked(made, lambda *of: accuracy(*of) - 0.03)
    verification.judge("attack", checks)
    with pytest.raises(ValueError, match=r"8 cells .* too well by 0\.030 on average; .* 0\.02"):
        verification.judge("rule", checks)


# --- attacks --------------------------------------------------------------------------------------


def test_an_attack_breaks_what_no_other_attack_breaks():
    def made(under):
        out = []
        for (rule, of), seed in itertools.product(under.items(), range(5)):
            for attack, value in of.items():
                where = dict(zip(score.SCENE, ("digits", "iid", 25, 5, 0.9)))
                line = {"rule": rule, "mixing": "none", "attack": attack, "s": 5, "seed": seed}
                line |= {**where, "steps": 8, "stage": "last", "audited": False, "kept": True}
                out.append(line | {"accuracy": value + 0.001 * seed, "s": 5 * (attack != "none")})
        return pd.DataFrame(out, columns=list(score.COLUMNS))

    mine = made(
        {
            "krum": {"none": 0.9, "my:push": 0.3},
            "median": {"none": 0.9, "my:push": 0.6},
            "mean": {"none": 0.9, "my:push": 0.2},
        }
    )
    table = made(
        {
            "krum": {"none": 0.9, "zero": 0.8},
            "median": {"none": 0.9, "zero": 0.7},
            "mean": {"none": 0.9, "zero": 0.1},
        }
    )
    both = engine.under_others(mine, table)
    assert len(both) == len(mine) + len(table) // 2
    rows, alone, worst = score.broken(both, "my:push")
    where = "(dataset digits, partition iid, n 25, f 5, momentum 0.9)"
    assert (rows, alone, worst) == (3, [f"krum {where}"], [f"krum {where}", f"median {where}"])
    with pytest.raises(ValueError, match="no other attack on these rows"):
        engine.under_others(mine, mine)


# --- the command ----------------------------------------------------------------------------------


def test_mistakes_of_submit_and_verify(capsys, tmp_path, module):
    made = submitted("rule", module)
    made.write(tmp_path / "file.json")
    text = (tmp_path / "file.json").read_text()
    (tmp_path / "false.json").write_text(text.replace('"seeds": 2', '"seeds": 3'))
    for line, message in {
        "verify": "verify needs a file",
        f"verify {tmp_path}/none.json": "No such file",
        f"verify {tmp_path}/false.json": "was changed after it was written: its content has",
    }.items():
        assert commands.main(shlex.split(f"leaderboard {line}")) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_rule_is_run_submitted_and_verified(tmp_path, capsys, module):
    def told(line):
        status = commands.main(shlex.split(f"leaderboard {line} --results {tmp_path}/results"))
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    mine = f"--edition tiny --rule {module}"
    assert "my_middle:middle" in told(f"run {mine}")
    file = tmp_path / "mine.json"
    assert "8 cells, version" in told(f"submit {file} {mine}")
    assert "is verified." in told(f"verify {file} --salt 3")
