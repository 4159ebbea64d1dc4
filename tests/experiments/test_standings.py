"""The results on the page of the leaderboard, computed again by loops from made-up runs."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from experiments.leaderboard import page, score, standings

SCENES = [("digits", "iid", 25, 5, 0.9), ("mnist", "dirichlet(0.1)", 25, 2, 0.0)]
ROWS = [("mean", "none"), ("median", "none"), ("krum", "none"), ("median", "bucketing(s=2)")]
ATTACKS = ("none", "zero", "little_is_enough(z=1.5)", "little_is_enough")
SEEDS = 3


@pytest.fixture(scope="module")
def runs():
    random, out = np.random.default_rng(4), []
    for scene, (place, (rule, mixing)) in itertools.product(SCENES, enumerate(ROWS)):
        if (scene[0], mixing) == ("mnist", "bucketing(s=2)"):
            continue
        for attack, seed in itertools.product(ATTACKS, range(SEEDS)):
            level = 0.9 if attack == "none" else random.uniform(0.2, 0.3) + 0.1 * place
            line = dict(zip(score.SCENE, scene)) | {"rule": rule, "mixing": mixing}
            line |= {"attack": attack, "s": scene[3] * (attack != "none"), "seed": seed}
            line |= {"steps": 10, "stage": "last", "audited": rule == "krum"}
            out.append(line | {"kept": attack != "zero", "accuracy": level})
    return pd.DataFrame(out)[list(score.COLUMNS)]


def tables(text):
    """Each table of a text: its columns and its lines."""
    for part in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        head, _, *lines = ([c.strip() for c in x.split("|")[1:-1]] for x in part.splitlines())
        yield head, lines


def worst(runs, scene, rule, mixing):
    """Loop: the lowest mean over the seeds, and the attack."""
    of = runs[(runs["dataset"] == scene[0]) & (runs["rule"] == rule) & (runs["mixing"] == mixing)]
    means = {a: of[of["attack"] == a]["accuracy"].mean() for a in ATTACKS[1:]}
    attack = min(means, key=lambda name: means[name])
    return means[attack], attack


def test_cells_are_the_worst_accuracies_and_the_best_rule_comes_first(runs):
    (alone, lines), (mixed, behind), (_, attacks) = tables(standings.results(runs))
    digits, mnist = "digits, f = 5, momentum 0.9", "mnist, dirichlet(0.1), f = 2, momentum 0"
    assert (alone, mixed) == (["rule", digits, mnist], ["rule", "none", "bucketing(s=2)"])
    assert [line[0] for line in lines] == ["`krum`", "`median`", "`mean`"]
    for line, (column, scene) in itertools.product(lines, enumerate(SCENES, start=1)):
        value, _ = worst(runs, scene, line[0].strip("`"), "none")
        assert line[column].split()[0] == f"{100 * value:.1f}"
    cells = {line[0].strip("`"): line[1:] for line in behind}
    value, _ = worst(runs, SCENES[0], "median", "bucketing(s=2)")
    assert cells["median"][1] == f"{100 * value:.1f} (1)"  # it is the best of the ranking
    assert cells["krum"][1] == ""
    names = [
        worst(runs, scene, *row)[1].partition("(")[0]
        for scene, row in itertools.product(SCENES, ROWS)
        if (scene[0], row[1]) != ("mnist", "bucketing(s=2)")
    ]
    assert {line[0].strip("`"): int(line[-1]) for line in attacks} == {
        name: names.count(name) for name in names
    }


def test_the_audit_is_said(runs):
    lost = []
    for scene in SCENES:
        of = runs[(runs["dataset"] == scene[0]) & (runs["rule"] == "krum")]
        means = {a: of[of["attack"] == a]["accuracy"].mean() for a in ATTACKS[1:]}
        lost.append(min(v for a, v in means.items() if a != "zero") - min(means.values()))
    said = f"In {sum(x > 0 for x in lost)} of 2 audited rows the thinning lost the worst attack, "
    assert f"{said}by at most {100 * max(lost):.1f} points." in standings.results(runs)


def test_the_page_and_the_html_are_written_from_the_table(runs, tmp_path):
    (tmp_path / "leaderboard").mkdir()
    runs.to_csv(tmp_path / "leaderboard" / standings.TABLE, index=False)
    before = f"a\n{standings.BEGIN}\nold\n{standings.END}\nb"
    after = standings.written(before, tmp_path)
    assert after.startswith("a\n")
    assert after.endswith("\nb")
    assert "old" not in after
    assert standings.written(after, tmp_path) == after
    again = pd.read_csv(tmp_path / "leaderboard" / standings.TABLE)
    assert standings.results(again) in after
    assert (tmp_path / "leaderboard" / standings.PAGE).read_text() == page.html(again)
