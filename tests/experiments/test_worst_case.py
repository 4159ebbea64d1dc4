"""The table of every attack against every rule."""

import dataclasses
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import byzjax
from byzjax import attacks, theory
from experiments.analysis import damage, worst_case
from experiments.analysis.worst_case import Setting, WorstCase, settings
from experiments.grid import calls

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "worst-case"


def test_f_is_the_rules_limit_and_half_of_it():
    config = WorstCase(data=("gaussian",), rule=("median", "krum", "minimum_eigenvalue", "huber"))
    declared = {(s.name, s.n, s.d): [] for s in settings(config)}
    for s in settings(config):
        declared[s.name, s.n, s.d].append(s.f)
    assert declared["median", 11, 100] == [5, 2]
    assert declared["krum", 25, 10_000] == [11, 5]
    assert declared["minimum_eigenvalue", 11, 100] == [5, 2]
    assert declared["minimum_eigenvalue", 25, 100] == [3, 1]
    (huber, *_) = (s for s in settings(config) if s.name == "huber")
    x, _ = worst_case.updates_of("gaussian", 11, 100, None)
    radius = np.median(np.linalg.norm(x - x.mean(axis=0), axis=1))
    assert calls.parse_call(huber.rule)[1]["threshold"] == pytest.approx(radius, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ("digits",)}, "data must be gaussian or mnist; got 'digits'."),
        ({"size": ("25",)}, "size must be WORKERSxCOORDINATES, such as 25x100; got '25'."),
        ({"rule": ("krum(f=1)",)}, "f is set to the rule's limit and half of it; omit it from"),
        ({"rule": ("krumm",)}, "unknown rule 'krumm'; did you mean krum?"),
    ],
)
def test_wrong_names(change, message):
    with pytest.raises(ValueError, match=r".") as error:
        settings(dataclasses.replace(WorstCase(), **change))
    assert message in str(error.value)


def test_rules_with_their_own_update():
    rng = np.random.default_rng(0)
    x, own = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((7, 5), (5,)))
    config = WorstCase(data=("gaussian",), size=("7x5",), rule=tuple(worst_case.WITH_OWN))
    out = {s.name: worst_case.deployed(s, own)(x) for s in settings(config) if s.limit == "half"}
    np.testing.assert_array_equal(out["fl_trust"], byzjax.fl_trust(x, own))
    (radius,) = {
        calls.parse_call(s.rule)[1]["radius"] for s in settings(config) if s.name == "centered_clip"
    }
    clipped = byzjax.centered_clip(x, own, radius=radius)
    np.testing.assert_array_equal(out["centered_clip"], clipped)
    # Zeno's loss has the gradient `own`, so it keeps rows that point in that direction.
    scores = [float(own @ (0.1 * row)) - float(jnp.sum((0.1 * row) ** 2)) / 2 for row in x]
    scores -= 0.01 * np.sum(np.asarray(x) ** 2, axis=1)
    (f,) = {s.f for s in settings(config) if s.name == "zeno" and s.limit == "half"}
    best = np.argsort(-scores)[: 7 - f]
    np.testing.assert_allclose(out["zeno"], x[best].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_damage_and_bound_are_in_errors_of_the_honest_mean(monkeypatch):
    """By hand, for the median of the honest 0, 0, 3 and one attacker: their mean is 1.

    The error of the mean is 1 as well: the root of (1 + 1 + 4) / (3 * 2).
    """
    x = np.array([[0.0], [0.0], [3.0], [0.0]], np.float32)
    rows = {"far": 9.0, "below": -9.0, "not finite": np.nan}
    sent = {name: np.append(x[:3], [[lie]], axis=0) for name, lie in rows.items()}
    monkeypatch.setattr(worst_case, "updates_of", lambda *_: (x, x[0]))
    monkeypatch.setattr(worst_case, "fixed_rows", lambda *_: sent)
    for name in ("strongest", "fang_krum", "gradient_attack"):
        monkeypatch.setattr(attacks, name, lambda updates, byzantine, **_: updates)
    config = WorstCase()
    cell = worst_case.measure(Setting(*3 * ["median"], "gaussian", 4, 1, 1, "limit"), config)
    # Medians 1.5 and 0; the proved kappa is 1/2, so sqrt(6 / 3 / 2) = 1.
    assert cell["damage"]["far"] == pytest.approx(0.5)
    assert cell["damage"]["below"] == cell["bound"] == pytest.approx(1.0)
    cell = worst_case.measure(Setting(*3 * ["mean"], "gaussian", 4, 1, 1, "limit"), config)
    assert cell["damage"]["far"] == pytest.approx(2.0)  # the mean of all is 3
    assert cell["damage"]["not finite"] is None
    assert cell["bound"] is None


def test_labels_of_cells():
    values = {math.inf: "∞", 0.0: "0", 1e-9: "0", 0.51: "0.51", 12.3: "12", 8.5e18: "8e18"}
    assert {value: damage._label(value) for value in values} == values


@pytest.mark.slow
def test_a_small_table_is_written_and_continued(tmp_path):
    config = WorstCase(
        results=str(tmp_path), data=("gaussian",), size=("5x6",), rule=("mean", "median"), steps=3
    )
    table = damage.run(config)
    paths = damage.write(config, table)
    assert [p.name for p in paths] == [
        "damage.csv",
        "summary.md",
        "gaussian-5x6-limit.png",
        "gaussian-5x6-half.png",
    ]
    assert all(p.stat().st_size > 300 for p in paths)
    assert "| mean   |   2 | unbounded" in paths[1].read_text()
    read = pd.read_csv(paths[0])
    assert len(read) == len(table)
    of_mean = read[(read["rule"] == "mean") & (read["attack"] == "gradient_attack")]
    assert np.isinf(of_mean["damage"]).all()
    median = table[(table["rule"] == "median") & (table["at"] == "limit")]
    white_box = median.loc[median["attack"] == "gradient_attack", "damage"].item()
    assert white_box >= median["damage"].max() * (1 - 1e-6)
    assert white_box <= median["bound"].iloc[0] * (1 + 1e-4)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(before) == 5  # four blocks and config.json
    assert damage.run(config).equals(table)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


def test_the_published_table_holds_what_its_page_says():
    table = pd.read_csv(DOCS / "damage.csv")
    cases = table.groupby(["data", "n", "d", "at", "rule"])
    assert f"in all {cases.ngroups} cases" in " ".join((DOCS / "README.md").read_text().split())
    for case, cells in cases:
        of_attacks = cells.set_index("attack")["damage"]
        assert len(of_attacks) >= 30, case
        white_box = of_attacks["gradient_attack"]
        assert white_box >= of_attacks.max() * (1 - 1e-3), case
        bound = cells["bound"].iloc[0]
        assert pd.isna(bound) or of_attacks.max() <= bound * (1 + 1e-4), case
        _, n, _, _, rule = case
        f = cells["f"].iloc[0]
        kappa = theory.proved("kappa", rule, n, int(f)) if rule in byzjax.rules.__all__ else None
        assert (
            pd.isna(bound)
            if kappa is None
            else bound == pytest.approx(math.sqrt(kappa * (n - f - 1)), rel=1e-4)
        ), case
    medoid = table[table["rule"] == "medoid"]
    assert (medoid["damage"] / medoid["bound"]).max() > 0.98
    assert damage.summary(table) == (DOCS / "summary.md").read_text()


def test_the_limit_of_a_user_defined_rule_is_in_its_facts(tmp_path, monkeypatch):
    (tmp_path / "own_worst.py").write_text(
        "from byzjax import median\n"
        "from byzjax.facts import Facts\n"
        'FACTS = {"third": Facts("rule", (3, 1), "nd", "n > 3f", True, "range", "")}\n'
        "def third(updates, *, f):\n    return median(updates)\n"
        "def unknown(updates):\n    return median(updates)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = WorstCase(rule=("own_worst:third",), data=("gaussian",), size=("25x100",))
    assert [s.f for s in settings(config)] == [8, 4]
    with pytest.raises(ValueError, match=r"^own_worst:unknown has no facts, .* a dict FACTS with"):
        settings(dataclasses.replace(config, rule=("own_worst:unknown",)))
