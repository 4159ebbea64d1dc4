"""The answers of the study `claims`: every number on the page, computed again by loops."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments import studies
from experiments.analysis import abstract, findings
from experiments.grid import planning

DEFENCES = ("aksel", "aksel(mode='n-f')", "mean", "median", "krum")
PARTITIONS = ("iid", "one_class")
ATTACKS = ("zero", "sign_flip")
SEEDS = range(4)
F = 8


@pytest.fixture(scope="module")
def accuracy():
    """Of every run: the level of its rule, noise of its seed, which pairs cancel, and its own."""
    random = np.random.default_rng(2)
    level = dict(zip(DEFENCES, (0.88, 0.87, 0.9, 0.87, 0.7)))
    of_seed = {seed: random.normal(0, 0.05) for seed in SEEDS}
    cells = [("none", 0), *itertools.product(ATTACKS, (1, 2, F))]
    return {
        (d, p, a, s, seed): level[d] - 0.01 * s + of_seed[seed] + random.normal(0, 0.01)
        for d, p, (a, s), seed in itertools.product(DEFENCES, PARTITIONS, cells, SEEDS)
    }


def runs_of(accuracy):
    lines = []
    for (rule, partition, attack, s, seed), value in accuracy.items():
        run = {"rule": rule, "mixing": "none", "attack": attack, "s": s, "seed": seed}
        for step, seen in ((10, 0.1), (20, value)):
            run |= {"partition": partition, "step": step, "accuracy": seen, "finite": True}
            lines.append(dict(run))
    return pd.DataFrame(lines)


@pytest.fixture(scope="module")
def answers(accuracy):
    return abstract.answers(runs_of(accuracy))


def interval(values):
    values = np.array(values)
    mean, k = values.mean(), len(values)
    half = stats.t.ppf(0.975, k - 1) * np.sqrt(((values - mean) ** 2).sum() / (k - 1) / k)
    return mean, mean - half, mean + half


def rows(text):
    """The first table of a text: head and rows."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return cells[0], [line for line in cells[1:] if not line[0].startswith(":")]


def verdicts(intervals, at=0.0):
    above = sum(low > at for _, low, _ in intervals)
    below = sum(high < at for _, _, high in intervals)
    return above, below, len(intervals) - above - below


def test_top_accuracy(accuracy, answers):
    def losses(rule, some):
        return [
            interval(
                [accuracy[rule, p, a, s, k] - accuracy["mean", p, "none", 0, k] for k in SEEDS]
            )
            for s in some
            for p in PARTITIONS
            for a in (ATTACKS if s else ("none",))
        ]

    head, table = rows(answers[0])
    assert [row[0] for row in table] == list(DEFENCES)
    assert head[1:4] == [f"s = {s}: top, lower, open" for s in (0, 1, 2)]
    for rule, *cells, largest in table:
        for s, cell in zip((0, 1, 2), cells):
            assert cell == "{}, {}, {}".format(*verdicts(losses(rule, [s]), -0.01))
        mean, low, high = (100 * value for value in min(losses(rule, (0, 1, 2))))
        assert largest == f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
    reached = {rule: verdicts(losses(rule, (0, 1, 2)), -0.01)[0] for rule in DEFENCES}
    for mode in DEFENCES[:2]:
        assert f"`{mode}` in {reached[mode]}" in answers[0]
    best = max(reached[mode] for mode in DEFENCES[:2])
    rivals = [rule for rule in ("median", "krum") if reached[rule] >= best]
    said = f"as many as {', '.join(f'`{r}`' for r in rivals)}, or fewer" if rivals else "more than"
    assert said in answers[0]
    assert "Of 10 cells for each rule" in answers[0]


def check_beside(accuracy, text, others, pairs_of_cell):
    """A table of Aksel's modes beside other rules."""
    head, table = rows(text)
    assert head == ["rule", *DEFENCES[:2]]
    assert [row[0] for row in table] == list(others)
    for other, *cells in table:
        for mode, cell in zip(DEFENCES[:2], cells):
            intervals = [
                interval([pick(mode, k) - pick(other, k) for k in SEEDS])
                for pick in pairs_of_cell(accuracy)
            ]
            points = 100 * np.mean([mean for mean, _, _ in intervals])
            assert cell == "{}, {}, {}; {:+.1f}".format(*verdicts(intervals), points)


def test_defence_against_the_worst_attack_of_each_seed(accuracy, answers):
    def hardest(accuracy):
        for p in PARTITIONS:
            yield lambda d, k, p=p: min(accuracy[d, p, a, F, k] for a in ATTACKS)

    check_beside(accuracy, answers[1], ("mean", "median", "krum"), hardest)


def test_whole_gradients(accuracy, answers):
    def cells(liars):
        def of(accuracy):
            for s, p, a in itertools.product(liars, PARTITIONS, ("none", *ATTACKS)):
                if (s == 0) == (a == "none"):
                    yield lambda d, k, s=s, p=p, a=a: accuracy[d, p, a, s, k]

        return of

    few, more = answers[2].split("With more liars")
    check_beside(accuracy, few, ["median"], cells((0, 1, 2)))
    check_beside(accuracy, more, ["median"], cells((F,)))


def test_modes(accuracy, answers):
    narrow, wide = DEFENCES[:2]

    def intervals(attack, s):
        return [
            interval([accuracy[wide, p, attack, s, k] - accuracy[narrow, p, attack, s, k]
                      for k in SEEDS])
            for p in PARTITIONS
        ]  # fmt: skip

    head, table = rows(answers[3])
    assert head == ["attack", "s = 0", "s = 1", "s = 2", f"s = {F}"]
    every = []
    for attack, *cells in table:
        for s, cell in zip((0, 1, 2, F), cells):
            if cell:
                here = intervals(attack, s)
                points = 100 * np.mean([mean for mean, _, _ in here])
                assert cell == "{}, {}, {}; {:+.1f}".format(*verdicts(here), points)
                every += here
    above, below, open_ = verdicts(every)
    assert (
        f"Of {len(every)} cells `n-f` is better in {above}, `mid` in {below}, and {open_}"
        in (answers[3])
    )
    ends = re.findall(r"^\* .*: ([+-]\d+\.\d)", answers[3], re.MULTILINE)
    means = sorted(mean for mean, _, _ in every)
    assert ends == [f"{100 * mean:+.1f}" for mean in (*means[:3], *means[-3:])]


def test_rules_may_be_trained_in_different_numbers_of_cells(accuracy):
    runs = runs_of(accuracy)
    fewer = (runs["rule"] == "krum") & (runs["partition"] == "one_class")
    assert "Of 5 to 10 cells for each rule" in abstract.answers(runs[~fewer])[0]


def test_without_blocks_the_page_says_that_there_are_none(tmp_path):
    planned = sum(
        len(block.runs) for grid in studies.grids("claims", "cpu")
        for block in planning.recorded(grid)
    )  # fmt: skip
    page = "<!-- claims -->\n<!-- end of claims -->\n"
    said = f"0 of {planned:,} runs so far."
    assert said in findings.written(page, tmp_path)
