"""The paired intervals of the earlier studies, and what their page says of them."""

import pathlib

import numpy as np
import pytest

from experiments.analysis import paired, pairs
from experiments.execution import export

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "studies"
PAGE = " ".join((DOCS / "README.md").read_text().split())


def final(block):
    """The last accuracy of each run of a block, by seed and s."""
    return {(run["seed"], run["s"]): run["accuracy"][-1] for run in block["runs"]}


def test_differences_of_momentum_are_those_of_the_blocks():
    """Block by block, without tables."""
    differences = pairs.momentum_differences(DOCS / "momentum-cpu")
    blocks = export.read(DOCS / "momentum-cpu")
    assert len(differences) == 16
    for line in differences.itertuples():
        values = {
            block["momentum_at"]: final(block)
            for block in blocks
            if (block["f"], block["rule"], block["attack"]) == (line.f, line.rule, line.attack)
        }
        seeds = [seed for seed, s in values["worker"] if s == line.f]
        each = [values["worker"][seed, line.f] - values["update"][seed, line.f] for seed in seeds]
        assert (line.mean, line.seeds) == (pytest.approx(np.mean(each)), len(each))
        half = 4.302652729749464 * np.std(each, ddof=1) / np.sqrt(3)  # t with two degrees
        assert line.high - line.mean == pytest.approx(half)
    above, below, _ = paired.counts(differences)
    (other,) = differences[differences["high"] < 0].itertuples()
    assert (other.rule, other.f) == ("krum", 24)
    assert other.attack.startswith("inner_product_manipulation")
    assert (above, below) == (14, 1)
    assert f"agree: {above} above zero, one below (Krum" in PAGE


def test_what_is_said_of_the_worst_attacks():
    differences = pairs.ranking_differences(DOCS / "attacks-cpu").set_index("rule")
    certain = set(differences.index[differences["low"] > 0])
    assert certain == {"aksel", "geometric_median"}
    assert "the first place is certain for Aksel and the geometric median only" in PAGE


def test_what_is_said_of_aksel_beside_the_mean():
    differences = pairs.aksel_differences(DOCS / "aksel-cpu")
    quiet = differences[(differences["attack"] == "none") & (differences["rule"] == "mean")]
    assert len(quiet) == 2
    assert (quiet["high"] < 0).all()
    (points,) = set((-100 * quiet["mean"]).round(1))
    assert f"Aksel is {points} points below the mean for both f" in PAGE


def test_what_is_said_of_distances_to_the_optimum():
    differences = pairs.convex_differences(DOCS / "convex-cpu")
    above, below, unclear = paired.counts(differences)
    assert (below, above + unclear) == (0, 20)
    assert f"this is certain in {above} of the {len(differences)} cells" in PAGE
    assert paired.counts(differences[differences["rule"] == "krum"])[0] == 1
    assert "and for Krum in one of four" in PAGE


def test_what_is_said_of_mixings():
    differences = pairs.heterogeneity_differences(DOCS / "heterogeneity-cpu")
    unlike = differences[differences["partition"] == "dirichlet(0.1)"]
    assert paired.counts(unlike) == (0, 0, 18)
    assert "paired by seed, all intervals at alpha = 0.1 contain zero" in PAGE


def test_what_is_said_of_replicated_servers():
    differences = pairs.protocol_differences(DOCS / "protocols-cpu")
    servers = differences[differences["protocol"].str.startswith("replicated_servers")].set_index(
        "attack"
    )
    quiet = servers.loc[["little_is_enough", "inner_product_manipulation(epsilon=0.5)"]]
    assert paired.counts(quiet) == (0, 0, 2)
    assert "paired by seed, neither of these two differences is certain" in PAGE
    same = differences[differences["protocol"].str.startswith("replicated_state_machine")]
    assert (same[["mean", "low", "high"]] == 0).all(axis=None)
