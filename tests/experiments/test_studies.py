"""The shipped studies: their grids are valid, and their pages describe them."""

import dataclasses
import pathlib
import re

import pandas as pd
import pytest

from byzjax.facts import FACTS
from experiments import studies
from experiments.analysis import findings
from experiments.data import datasets
from experiments.execution import cost, export, sweep
from experiments.grid import calls
from experiments.grid.config import Config
from experiments.models import zoo
from experiments.report import tables
from experiments.training import assemble

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "studies"
ALL = [(name, edition) for name in studies.names() for edition in studies.load(name).editions]


@pytest.mark.parametrize("name", studies.names())
def test_a_study_says_what_it_is(name):
    study = studies.load(name)
    assert study.title
    assert "Claim" in study.about
    assert f"python -m experiments study {name} --edition cpu" in study.about
    assert set(study.editions) == {"full", "cpu"}
    samples = {
        edition: sum(
            len(grid.rule) * len(grid.attack) * len(grid.s) * grid.seeds * grid.steps * grid.n
            for grid in studies.grids(name, edition)
        )
        for edition in study.editions
    }
    assert samples["cpu"] < samples["full"]


@pytest.mark.slow
@pytest.mark.parametrize("name", studies.names())
def test_the_grids_of_two_cores_are_possible(name):
    for grid in studies.grids(name, "cpu"):
        assert assemble.plan(grid)


@pytest.mark.parametrize(("name", "edition"), ALL)
def test_every_rule_has_enough_workers(name, edition):
    """Also behind bucketing; nothing is traced, so it is quick."""
    for grid in studies.grids(name, edition):
        assert grid.study == name
        assert grid.dataset in datasets.NAMES
        assert grid.model in zoo.MODELS
        rows = min(-(-grid.n // 2) if "bucketing" in m else grid.n for m in grid.mixing)
        for text in grid.rule:
            facts = FACTS.get(calls.parse_call(text)[0])
            assert facts is None or rows >= facts.needs[0] * grid.f + facts.needs[1], (text, grid)


def test_the_ranking_of_attacks_is_that_of_its_table():
    page, measured = (DOCS / "README.md").read_text(), {}
    table = pd.read_csv(DOCS / "attacks-cpu" / "table.csv")
    for line in table.itertuples():
        measured[line.rule, line.attack] = f"{100 * line.mean:.1f} ± {100 * line.std:.1f}"
    ranking = page.split("<!-- ranking -->")[1].split("<!-- end of ranking -->")[0]
    lines = [line.split("|")[1:-1] for line in ranking.strip().splitlines()[2:]]
    assert [line[0].strip() for line in lines] == list(dict.fromkeys(table["rule"]))
    for rule, none, worst in lines:
        assert none.strip() == measured[rule.strip(), "none"]
        shown = re.findall(r"`(.+?)` ([\d.]+ ± [\d.]+)", worst)
        assert len(shown) == 5
        means = table[(table["rule"] == rule.strip()) & (table["attack"] != "none")]
        assert [name for name, _ in shown] == list(means.sort_values("mean")["attack"][:5])
        for name, value in shown:
            assert value == measured[rule.strip(), name]


def test_tables_are_what_the_files_say():
    page = (DOCS / "README.md").read_text()
    assert findings.written(page, DOCS) == page
    assert page.count("<!-- end of ") >= 2


def test_what_is_said_of_momentum():
    results = pd.read_csv(DOCS / "momentum-cpu" / "table.csv")
    cells = results[results["s"] > 0].set_index(["f", "rule", "attack", "momentum_at"])
    worker = cells.xs("worker", level="momentum_at")
    update = cells.xs("update", level="momentum_at").loc[worker.index]
    better, clearly = worker["mean"] > update["mean"], worker["low"] > update["high"]
    page = (DOCS / "README.md").read_text().replace("\n", " ")
    said = f"in {better.sum()} of the {len(better)} cells"
    assert said in page
    assert f"wholly above in {clearly.sum()} of them" in page


def test_what_is_said_of_compression():
    results = pd.read_csv(DOCS / "compression-cpu" / "table.csv")
    names = results["compressor"].str.partition("(")[0]
    keys = [names, results["rule"], results["attack"]]
    means = results["mean"].mul(100).set_axis(pd.MultiIndex.from_arrays(keys))
    quiet, aksel = means.xs("none", level=2), "aksel(mode='n-f')"
    page = (DOCS / "README.md").read_text().replace("\n", " ")
    lost = quiet["none", "mean"] - quiet["top_k", "mean"]
    share = results["bits"][names == "top_k"].max() / results["bits"].max()
    for said in (
        f"{100 * share:.1f} % of the bits cost the mean {lost:.1f} points",
        f"ends at {quiet['top_k', 'median']:.1f} with top_k",
        f"4 bits is no better ({quiet['quantize', 'median']:.1f})",
        f"Shared coordinates ({quiet['rand_k', 'median']:.1f})",
        f"error feedback ({quiet['sign', 'median']:.1f})",
        f"keeps at least {means.xs(aksel, level=1).min():.1f} in every cell",
    ):
        assert said in page, said
    for name in ("top_k", "quantize"):
        assert 9 < quiet["none", "trimmed_mean"] - quiet[name, "trimmed_mean"] < 11
    assert quiet["sign", "median"] > quiet["none", "median"] > quiet["rand_k", "median"] - 0.1
    diverged = results[results["diverged"] > 0]
    assert set(diverged["rule"]) == {"mean"}
    assert set(diverged["attack"].str.partition("(")[0]) == {
        "sign_flip",
        "inner_product_manipulation",
    }
    assert set(diverged["compressor"].str.partition("(")[0]) == {"rand_k"}


def test_what_is_said_of_privacy():
    results = pd.read_csv(DOCS / "privacy-cpu" / "table.csv")
    chosen = results[results["s"].isin((0, 3))]
    keys = ["noise_multiplier", "mixing", "rule"]
    table = chosen.pivot(index=keys, columns="attack", values="mean")
    losses = table.rsub(table["none"], axis=0)
    flipped = losses["sign_flip"].groupby(["mixing", "rule"], sort=False)
    for _, by_noise in flipped:
        assert by_noise.is_monotonic_increasing
    for noise, part in losses.groupby("noise_multiplier"):
        least = set(part["sign_flip"].nsmallest(2).index.get_level_values("rule"))
        mixed = part["sign_flip"].nsmallest(2).index.get_level_values("mixing")
        assert least == {"minimum_eigenvalue", "trimmed_mean"}
        assert "nearest_neighbors" in mixed
        most = part["inner_product_manipulation(epsilon=0.5)"].idxmax()
        assert noise == 0 or most[-1] == "median"


def test_what_is_said_of_aksel():
    """Every accuracy in the text is in the table, and the conclusions follow from it."""
    results = pd.read_csv(DOCS / "aksel-cpu" / "table.csv")
    percentages = {f"{100 * mean:.1f}" for mean in results["mean"]}
    page = (DOCS / "README.md").read_text()
    text = page.split("What the abstract of AKSEL says")[1].split("![")[0]
    said = re.findall(r"\b\d\d\.\d\b", text)
    assert len(said) > 8
    assert set(said) <= percentages
    means = results.set_index(["f", "s", "attack", "rule"])["mean"].mul(100).sort_index()
    quiet = means.loc[12, 0, "none"]
    assert (quiet.drop("krum") > quiet["mean"] - 0.45).all()
    for attack in results.loc[results["s"] > 0, "attack"].unique():
        half = means.loc[12, 6, attack]
        assert half.max() - half["multi_krum"] <= half.max() - half["aksel"] <= 0.55
        assert means.loc[12, 12, attack, "aksel"] > quiet["aksel"] - 1.55
    little = means.loc[12, 12, "little_is_enough(z=1.5)"]
    best = ["aksel", "aksel(mode='radius')"]
    assert set(little.nlargest(2).index) == set(best)
    short = means.loc[24, 24, "inner_product_manipulation(epsilon=0.1)"]
    assert short.idxmax() == "mean"


def test_what_is_said_of_unlike_data():
    results = pd.read_csv(DOCS / "heterogeneity-cpu" / "table.csv")
    worst = results.groupby(["rule", "mixing", "f", "partition"])["mean"].min().mul(100).round(1)
    page = (DOCS / "README.md").read_text().replace("\n", " ")

    def at(rule, f, mixing="none"):
        return worst[rule, mixing, f, "dirichlet(0.1)"]

    mixed = [at(rule, 6, "nearest_neighbors") for rule in ("median", "trimmed_mean")]
    for said in (
        f"the median falls from {at('median', 2)} to {at('median', 6)} as f grows",
        f"the trimmed mean from {at('trimmed_mean', 2)} to {at('trimmed_mean', 6)}",
        f"mixing brings them to {mixed[0]} and {mixed[1]};",
        f"Aksel loses least without a mixing ({at('aksel', 6)})",
    ):
        assert said in page, said
    assert at("aksel", 6) > max(at("median", 6), at("trimmed_mean", 6))


def test_what_is_said_of_the_optimum():
    rows = table_of((DOCS / "README.md").read_text(), "convex")
    quiet = {
        (r["data"], r["f"], r["rule"]): float(r["distance to the optimum, s = 0"].split()[0])
        for r in rows
    }
    assert {v for key, v in quiet.items() if key[2] == "mean"} == {0.07}
    robust = [v for key, v in quiet.items() if key[2] != "mean"]
    assert (min(robust), max(robust)) == (0.27, 2.01)
    ratios = [(float(r["squared error over variance, s = 0"].split()[0]), r) for r in rows]
    assert all(ratio < float(r["f / (n - f)"]) for ratio, r in ratios)
    assert max(ratios, key=lambda pair: pair[0])[0] == 0.75
    far = {(r["data"], r["rule"]): float(r["farthest, s = f"]) for r in rows if r["f"] == "11"}
    assert max(v for key, v in far.items() if key[1] in ("median", "trimmed_mean")) == 3.66
    carried = [v for key, v in far.items() if key[1].startswith(("aksel", "krum"))]
    assert (round(min(carried)), round(max(carried))) == (35, 150)


def table_of(page, name):
    """The rows of a table of the page, as dicts."""
    part = page.split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
    head, *rows = [line for line in lines if line and not line[0].startswith(":")]
    return [dict(zip(head, row)) for row in rows]


def test_what_is_said_of_protocols():
    page = (DOCS / "README.md").read_text()
    text = " ".join(page.split("<!-- end of protocols -->")[1].split("## bucketing")[0].split())
    rows = {row["protocol"]: row for row in table_of(page, "protocols")}
    mean = {name: {k: v.split()[0] for k, v in row.items()} for name, row in rows.items()}
    server, servers, replicas = list(mean)[:3]
    one, many = mean[server], mean[servers]
    quiet = ("little_is_enough", "inner_product_manipulation(epsilon=0.5)")
    apart = {a: float(many[a]) - float(one[a]) for a in (*quiet, *LOUD)}
    assert all(abs(apart[attack]) <= 0.31 for attack in LOUD)
    low, high = sorted(apart[attack] for attack in quiet)
    assert f"{low:.1f} to {high:.1f} above it" in text
    costs = pd.read_csv(DOCS.parent / "benchmarks" / "protocols.csv").set_index("protocol")
    more = costs.loc[f"{servers}, aksel"] / costs.loc[f"{server}, aksel"]
    assert f"for {more['million floats']:.1f} times the numbers sent" in text
    assert f"and {more['ms a step']:.0f} times the simulated time" in text
    assert all(mean[replicas][attack] == one[attack] for attack in (*quiet, *LOUD))
    curves = tables.curves(export.read(DOCS / "protocols-cpu"))
    needed = {level: findings.steps_to(curves, level) for level in (0.9, 0.92, 0.93)}
    ratio = {level: steps[servers] / steps[server] - 1 for level, steps in needed.items()}
    assert f"here {many['steps to 92 %']} steps to 92 %" in text
    assert f"takes {one['steps to 92 %']}, so {100 * ratio[0.92]:.0f} % more" in text
    assert f"at 90 % it is {100 * ratio[0.9]:.0f} %, at 93 % {100 * ratio[0.93]:.0f} %" in text
    plain = needed[0.92]["redundant(code='cyclic')"]
    over = 100 * (needed[0.92][servers] / plain - 1)
    assert f"takes {plain:.0f} steps, it is {over:.0f} % more" in text
    peers = mean["gossip(graph='complete')"]["little_is_enough"]
    assert f"({peers} under" in text
    assert {mean["redundant(code='cyclic')"][attack] for attack in (*quiet, *LOUD)} == {"94.9"}
    accuracies = mean["asynchronous"]
    accuracies = [accuracies["gaussian(sigma=200)"], accuracies["reversed_gradient(kappa=100)"]]
    assert f"({accuracies[0]}, {accuracies[1]})" in text


LOUD = ("none", "sign_flip", "gaussian(sigma=200)", "reversed_gradient(kappa=100)")


def test_what_is_said_of_buckets():
    page = (DOCS / "README.md").read_text()
    close = [abs(float(row["difference"])) <= 3 for row in table_of(page, "bucketing")]
    assert close == [True, True, False, True]
    curves = tables.curves(export.read(DOCS / "bucketing-cpu")).set_index(
        ["rule", "attack", "step"]
    )
    low = curves.xs(270, level="step")["accuracy"].round(3)
    assert low.min() == 0.177
    last = curves.xs(600, level="step")["accuracy"]
    assert last.min() == 0.1135


def test_how_long_mimic_takes():
    blocks = pd.read_csv(DOCS / "bucketing-cpu" / "blocks.csv")
    runs = sum(len(g.rule) * len(g.mixing) * g.seeds for g in studies.grids("mimic", "cpu"))
    page = " ".join((DOCS / "README.md").read_text().split())
    seconds = blocks["seconds"].mean()
    assert f"takes the {seconds:.0f} s that one" in page
    assert f"all {runs} take {runs * seconds / 3600:.1f} hours" in page


def test_what_it_would_cost(tmp_path):
    """Softmax regression: two products, forward and backward, of 2 * 64 * 10 operations each."""
    digits = datasets.load("digits")
    config = Config(
        model="softmax", rule=("mean",), attack=("none",), s=(0,), n=10, f=1, seeds=2,
        steps=10_000_000, batch_size=8,
    )  # fmt: skip
    flops = cost.gradient_flops(config, digits)
    assert 2 * 8 * 2 * 64 * 10 <= flops <= 1.5 * 2 * 8 * 2 * 64 * 10
    tasks = sweep.tasks(
        [config, dataclasses.replace(config, n=20)], tmp_path, lambda config: digits
    )
    text = cost.estimate(tasks, lambda config: digits)
    assert text.count("2 runs") == 2
    minutes = 2 * (10 + 20) * config.steps * flops / 30e9 / 60  # two seeds, at 30 GFLOPS
    assert f"minutes on 2 CPU cores: {minutes:,.0f} to train, 0 to compile 2 programs." in text
