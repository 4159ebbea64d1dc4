"""The README agrees with the repository."""

import csv
import pathlib
import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import byzjax
import byzjax.attacks.__main__ as attacks
from byzjax._numerics import FORMS, thresholds
from tests import generate

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def between(page, mark):
    """What lies between the mark and its end."""
    text = (ROOT / page).read_text()
    match = re.search(rf"<!-- {mark} -->(.*?)<!-- end of {mark} -->", text, re.DOTALL)
    assert match, mark
    return match[1].strip()


@pytest.mark.smoke
def test_the_chain_runs():
    code, doors = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert [line.split("(")[0] for line in doors.splitlines()] == [
        "gradient = byzjax.torch.Aggregator",
        "byzjax.flower.RobustStrategy",
    ]
    n, f = 5, 1
    params = jnp.zeros(3)
    batches = jnp.asarray(np.random.default_rng(0).normal(size=(n, 4, 3)), jnp.float32)
    names = {
        "n": n,
        "f": f,
        "byzantine": jnp.arange(n) < f,
        "params": params,
        "worker_batches": batches,
        "loss": lambda p, batch: jnp.mean((batch - 1.0 - p) ** 2),
    }
    start, step = code.split("grads = ")
    exec(start, names)
    body = textwrap.indent("grads = " + step, "    ")
    exec(f"def one_step(params, state):\n{body}\n    return updates, state", names)
    before = names["tx"].init(params)
    updates, after = jax.jit(names["one_step"])(params, before)
    assert updates.shape == params.shape
    assert (np.asarray(updates) != 0).all()
    assert jax.tree.structure(after) == jax.tree.structure(before)


def test_what_is_generated_is_that_of_the_code():
    for name, text in (generate.packages() | generate.pages()).items():
        assert (ROOT / name).read_text() == text, f"{name}: run python -m tests.generate"


def test_names_of_the_readme_are_rows_of_their_pages():
    for name, page, anchor in re.findall(r"\[`(\w+)`\]\((docs/\w+\.md)#(\w+)\)", README):
        assert name == anchor
        assert (ROOT / page).read_text().count(f'<a id="{name}"></a>`{name}`') == 1
    page = (ROOT / "docs" / "attacks.md").read_text()
    listed = re.findall(r'^\| <a id="(\w+)"></a>`\1` \| .+ \|', page, re.MULTILINE)
    assert sorted([*listed, *attacks.HELPERS]) == byzjax.attacks.__all__


def test_the_readme_fits_two_screens():
    assert len(README.splitlines()) <= 110


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\((?!\w+:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_table_of_numerics_has_every_threshold():
    named = {name for form in FORMS for name in form.names}
    assert named == {name for name in vars(thresholds) if name.isupper()}


def test_every_rule_has_its_facts():
    kinds = {name: facts.kind for name, facts in byzjax.facts.FACTS.items()}
    rules = {name for name in byzjax.rules.__all__}
    assert rules == {name for name, kind in kinds.items() if kind == "rule"}
    assert set(kinds) <= set(byzjax.__all__)
    assert all(facts.promise in byzjax.facts.PROMISES for facts in byzjax.facts.FACTS.values())


def test_the_tables_of_the_main_job_are_its_own():
    made = (ROOT / "docs" / "main-job" / "table.md").read_text().splitlines()
    lines = between("docs/main-job/README.md", "main job").splitlines()
    shown = [line for line in lines if "|" in line]
    assert len(shown) >= 8
    for line in shown:
        assert line in made, line


def test_the_numbers_in_the_text_are_in_the_table():
    with (ROOT / "docs" / "main-job" / "table.csv").open() as file:
        percentages = {f"{100 * float(row['mean']):.1f}" for row in csv.DictReader(file)}
    lines = between("docs/main-job/README.md", "main job").splitlines()
    text = "\n".join(line for line in lines if "|" not in line)
    numbers = re.findall(r"(\d+\.\d) %", text)
    assert numbers
    for number in numbers:
        assert number in percentages, number


def test_the_intervals_in_the_text_are_in_the_table():
    with (ROOT / "docs" / "main-job" / "table.csv").open() as file:
        rows = [
            tuple(f"{100 * float(row[name]):.1f}" for name in ("mean", "low", "high"))
            for row in csv.DictReader(file)
        ]
    text = between("docs/main-job/README.md", "main job").replace("\n", " ")
    given = re.findall(r"(\d+\.\d) %(?:,| \() *(\d+\.\d) to (\d+\.\d)\)", text)
    assert len(given) >= 10
    assert set(given) <= set(rows)


def test_the_accuracy_on_mnist_is_in_its_table():
    with (ROOT / "docs" / "mnist" / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    pattern = r"reached\s+([\d.]+) % test accuracy \(mean of 3 seeds, standard deviation ([\d.]+);"
    ((mean, std),) = re.findall(pattern, (ROOT / "docs" / "laboratory.md").read_text())
    assert (mean, std) == (f"{100 * float(row['mean']):.1f}", f"{100 * float(row['std']):.1f}")


def test_the_speed_is_that_of_the_benchmark():
    with (ROOT / "docs" / "benchmarks" / "claims.csv").open() as file:
        made = {row["what"]: float(row["measured"]) for row in csv.DictReader(file)}
    table = between("docs/speed.md", "speed")
    shown = re.findall(r"^\| (.+?) \| ([\d.]+) \|", table, re.MULTILINE)
    assert len(shown) >= 5
    for what, value in shown:
        assert f"{made[what]:.2f}" == value, what
    assert (ROOT / "docs" / "benchmarks.md").exists()


@pytest.mark.slow
def test_the_page_of_protocols_runs():
    page = (ROOT / "docs" / "protocols.md").read_text()
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert {"server", "servers", "replicas", "peers", "one_by_one", "groups"} <= set(names)


def test_the_page_of_protocols_has_all_of_them_and_their_pictures():
    page = (ROOT / "docs" / "protocols.md").read_text()
    for name in ("parameter_server", "replicated_servers", "replicated_state_machine", "gossip"):
        assert f"## {name}" in page
    for picture in re.findall(r"\]\((protocols/\w+\.png)\)", page):
        assert (ROOT / "docs" / picture).exists(), picture
    with (ROOT / "docs" / "benchmarks" / "protocols.csv").open() as file:
        made = {row["protocol"]: row for row in csv.DictReader(file)}
    shown = page.split("<!-- cost -->")[1].split("<!-- end of cost -->")[0]
    lines = [line.strip("| ").split(" | ") for line in shown.splitlines() if line.startswith("| ")]
    assert len(lines) == len(made) + 2
    for name, _, ratio, messages, _ in lines[2:]:
        assert float(made[name]["time over plain SGD"]) == pytest.approx(float(ratio), rel=0.01)
        assert float(made[name]["messages"]) == pytest.approx(float(messages), rel=0.01)


def test_distances_of_honest_models_are_those_measured():
    page = (ROOT / "docs" / "protocols.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    lines = [[cell.strip() for cell in line] for line in lines]
    for name in ("spread_servers", "spread_gossip"):
        with (ROOT / "docs" / "benchmarks" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            (shown,) = [line for line in lines if line[:2] == list(row.values())[:2]]
            assert [cell for cell in shown if cell] == [v for v in row.values() if v]
            if row.get("pull and contract") in ("median", "aksel"):
                assert float(row["1 lying"]) <= float(row["no liar"]) + 0.051


def test_what_is_said_of_kardam():
    page = (ROOT / "docs" / "protocols.md").read_text()
    with (ROOT / "docs" / "benchmarks" / "kardam.csv").open() as file:
        rows = list(csv.DictReader(file))
    shown = page.split("<!-- kardam -->")[1].split("<!-- end of kardam -->")[0]
    lines = [line for line in shown.splitlines() if line.startswith("| ")][2:]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == [
        list(row.values()) for row in rows
    ]
    judged = [row for row in rows if row["judge"] == "kardam"]
    loud = [row for row in judged if row["attack"].startswith(("gaussian", "reversed"))]
    quiet = [row for row in judged if row not in loud and row["attack"] != "none"]
    assert len(loud) == 4
    assert all(float(row["to plain, no liars"]) >= -1.5 for row in loud)
    assert {row["liars accepted, %"] for row in loud} == {"0.0"}
    passed = [float(row["liars accepted, %"]) for row in quiet]
    assert (round(min(passed)), round(max(passed))) == (24, 36)
    assert all(float(row["honest accepted, %"]) <= 32 for row in judged)
    plain = {row["data"]: float(row["arrivals to 90 %"]) for row in rows if row["judge"] == "none"}
    slower = [
        float(row["arrivals to 90 %"]) / plain[row["data"]]
        for row in judged
        if row["attack"] == "none"
    ]
    assert (f"{min(slower):.1f}", f"{max(slower):.1f}") == ("2.7", "3.3")
    (mnist,) = [r for r in quiet if r["attack"] == "little_is_enough" and r["data"] == "mnist"]
    assert (mnist["accuracy"], mnist["arrivals to 90 %"]) == ("67.2", "nan")


@pytest.mark.slow
def test_the_page_of_scaling_runs_on_eight_devices():
    page = (ROOT / "docs" / "scaling.md").read_text()
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert names["mesh"].size == 8
    params, on_each = names["state"].params, names["states"].params
    assert on_each.shape == (8, *params.shape)
    np.testing.assert_allclose(on_each, np.broadcast_to(params, on_each.shape), rtol=1e-6)
    assert (params != 0).all()


@pytest.mark.slow  # test_collective and test_sharded check them
def test_the_page_of_rules_across_devices_runs():
    """Word for word, on the devices available; code that is only shown runs as well."""
    page = (ROOT / "docs" / "collective.md").read_text()
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for code in blocks:
        exec(code, names)
    assert names["n"] == 8
    params, batch, on_mesh = names["params"], names["batch"], names["on_mesh"]
    np.testing.assert_allclose(params["w"], [1.0, 2.0, 3.0], atol=1e-2)
    fresh = jax.tree.map(jnp.zeros_like, params), names["state"]
    assert not np.isfinite(names["train"](*fresh, batch)[0]["w"]).all()
    for step in ("step_of_two", "mixed_step"):
        moved, _ = on_mesh(names[step])(*fresh, batch)
        assert np.isfinite(moved["w"]).all()
        assert (moved["w"] != 0).all()
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf] * 50), batch)
    many = jax.shard_map(
        names["many_steps"],
        mesh=names["mesh"],
        in_specs=(P(), P(None, "workers")),
        out_specs=P(),
        check_vma=False,
    )
    trained = jax.jit(many)(fresh[0], batches)
    assert names["loss"](trained, {k: v[4:] for k, v in batch.items()}) < 2.0
    assert (names["model"]["w"] < 0).all()
    assert names["model"]["w"].sharding == names["shardings"]["w"]


def test_what_rules_send_and_hold_is_what_was_measured():
    page = (ROOT / "docs" / "collective.md").read_text()
    shown = page.split("<!-- rules -->")[1].split("<!-- end of rules -->")[0]
    with (ROOT / "docs" / "benchmarks" / "collective_rules.csv").open() as file:
        made = {row["rule"]: row for row in csv.DictReader(file)}
    rules = {name for name, facts in byzjax.facts.FACTS.items() if facts.kind == "rule"}
    assert len(made) >= 26  # a newer rule may not have been measured yet
    assert set(made) <= rules | {"lax.pmean"}
    for name, row in made.items():
        (line,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", shown, re.MULTILINE)
        cells = [cell.strip() for cell in line.split("|")]
        for cell, value in zip(cells, list(row.values())[1:], strict=True):
            if value:
                assert float(cell) == pytest.approx(float(value), rel=0.01, abs=0.005), (name, cell)
        assert float(row["sent / d"]) <= (3.5 if name == "zeno" else 3)
        assert float(row["numbers besides"]) <= 20 * 8**2
        if row["held / share"] and name != "geometric_median_of_means":
            assert float(row["held / share"]) <= float(row["goal"]), name
