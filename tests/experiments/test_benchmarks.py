"""The parts of the benchmarks that do not measure time."""

import ast
import csv
import math
import pathlib
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    collective,
    every_rule,
    kardam,
    language_model,
    pages,
    rules,
    strangers,
    timing,
    torch_calls,
    training,
)
from experiments.data import datasets
from experiments.grid import planning
from tests.helpers import mesh_of

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_every_module_says_how_it_is_run():
    root = pathlib.Path(rules.__file__).parents[1]
    for path in (root / "benchmarks").rglob("*.py"):
        if "def main(" in path.read_text():
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            about = ast.get_docstring(ast.parse(path.read_text())) or ""
            assert f"python -m {name.removesuffix('.__main__')}" in about, path


@pytest.mark.parametrize("n", [8, 25, 64])
def test_every_rule_has_a_fault_to_tolerate(n):
    tolerant = {name for name in every_rule.NAMES if every_rule.with_faults(name, n, 100)}
    assert set(every_rule.NAMES) - tolerant <= ({"bulyan"} if n == 8 else set())


def test_latency_has_a_line_for_each_rule(monkeypatch):
    monkeypatch.setattr(every_rule, "NAMES", ["mean", "median"])
    (first, second) = every_rule.latency([(8, 1000)], rounds=1)
    assert (first["rule"], second["rule"]) == ("mean", "median")
    assert first["ms"] > 0
    assert first["times w @ G"] > 0


def test_plots_follow_n_and_d():
    rows = [
        {"n": n, "d": d, "what": name, "ms": float(n * d)}
        for n, d in ((8, 10**5), (64, 10**5), (25, 10**4), (25, 10**6))
        for name in (*every_rule.FOLLOWED, *every_rule.BESIDE)
    ]
    figures = every_rule.plots(rows)
    assert list(figures) == ["time_against_n", "time_against_d"]
    lines = figures["time_against_n"].axes[0].get_lines()
    assert len(lines) == len(every_rule.FOLLOWED) + 2
    assert list(lines[0].get_xdata()) == [8, 64]


def test_shapes_that_fit():
    shapes = [(8, 10**4), (8, 10**6), (10**6, 10**8)]
    assert every_rule.that_fit(shapes, 10**5) == [(8, 10**4)]
    assert every_rule.that_fit(shapes, 10**9)[-1] != shapes[-1]  # 400 terabytes


def test_a_device_holds_about_its_share_of_a_language_model():
    leaves = collective.language_model("gpt_nano")
    assert all("devices" in spec for _, spec in leaves.values())
    mesh = mesh_of(devices=8)
    (row,) = collective.of_language(mesh, "gpt_nano", ("median",))
    assert row["share, MB"] == pytest.approx(4 * 205_440 / 1e6)
    assert row["held, MB"] == pytest.approx(row["share, MB"] * row["held / share"])
    # The rows and the result are 1 1/8 shares; without `sharded`, whole rows are gathered.
    assert 1.125 <= row["held / share"] < 2.5
    assert row["plain jit"] > row["held / share"] + 1


def test_images_for_byzfl_are_those_that_were_read(tmp_path):
    pixels = np.arange(2 * 784).reshape(2, 28, 28, 1) % 256
    x = ((pixels - 33.0) / 78).astype(np.float32)
    y = np.array([3, 7], np.int32)
    training.write_idx(datasets.Dataset("mnist", x, y, x[:1], y[:1], 10, ""), tmp_path)
    raw = (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()
    assert struct.unpack(">iiii", raw[:16]) == (2051, 2, 28, 28)
    np.testing.assert_array_equal(np.frombuffer(raw[16:], np.uint8), pixels.reshape(-1))
    labels = (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").read_bytes()
    assert labels == struct.pack(">ii", 2049, 1) + bytes([3])


def test_diloco_is_compared_with_one_worker_and_with_itself_without_attackers():
    losses = {
        (1, "mean", "none", 0): [2.0, 2.2],
        (16, "mean", "none", 0): [2.0, 2.3],
        (16, "trimmed_mean", "none", 0): [2.2, 2.4],
        (16, "mean", "sign_flip", 3): [math.inf, 2.9],
        (16, "trimmed_mean", "sign_flip", 3): [2.4, 2.6],
    }
    lines = [list(row.values())[5:] for row in strangers.table(losses)]
    assert lines == [
        ["2.100", "", "", "", ""],
        ["2.150", "one worker", "+0.050", "<= 0.05", "yes"],
        ["2.300", "one worker", "+0.200", "", ""],
        ["inf", "the mean without attackers", "+inf", "", ""],
        ["2.500", "the mean without attackers", "+0.350", "<= 0.15", "no"],
    ]


def test_the_best_step_size_is_that_of_the_highest_accuracy():
    tried = [(1, "0.001", "0.31"), (1, "0.002", "0.30"), (16, "0.001", "0.25"), (16, "4", "0.26")]
    tuned = [dict(zip(("workers", "step size", "accuracy, held out"), line)) for line in tried]
    assert [strangers.best(tuned, n) for n in (1, 16)] == [0.001, 4.0]


def test_both_sides_of_the_comparison_see_as_many_characters():
    one, many = strangers.alone(0.001), strangers.together(0.001, ["mean"], ["none"])
    assert one.steps * one.batch_size == many.steps * many.batch_size * many.n
    for config in (one, many):
        assert len(planning.plan(config)) == 1


def test_the_language_model_is_compared_with_the_fastest_form():
    table = [{"loop": name, "times as fast as it": x} for name, x in (("byzjax", 1.0), ("a", 3.0))]
    (line,) = language_model.goals([*table, {"loop": "b", "times as fast as it": 1.5}])
    assert (line["measured"], line["reached"]) == (1.5, "no")


def test_where_a_curve_reaches_the_level():
    assert kardam.first(np.array([0.5, 0.8, 1.0]), 100) == pytest.approx(250)
    assert kardam.first(np.array([0.95, 0.8]), 100) == 100
    assert np.isnan(kardam.first(np.array([0.5, 0.8]), 100))


def test_a_table_between_its_marks():
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb"
    assert pages.written(page, "x", "new") == "a\n<!-- x -->\n\nnew\n\n<!-- end of x -->\nb"
    assert pages.markdown([{"a": 1.0, "b": None}]).splitlines()[-1] == "| 1.00 |  |"


def test_growth_is_the_exponent():
    sizes = jnp.array([1.0, 10.0, 100.0])
    assert timing.slope(sizes, 3 * sizes**1.5) == pytest.approx(1.5, abs=1e-4)


def value_of(cell: str) -> int | float | str:
    """A cell of a file as it was before it was written."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell


@pytest.mark.parametrize(
    ("page", "name", "read"),
    [
        ("flower.md", "flower_inputs", str),
        ("flower.md", "flower_few", str),
        ("flower.md", "flower_precision", str),
        ("flower.md", "flower_bulyan", str),
        ("protocols.md", "variance", str),
        ("collective.md", "collective_language", value_of),
        ("scaling.md", "devices", value_of),
        ("scaling.md", "devices_bits", str),
    ],
)
def test_tables_of_pages_are_those_of_their_files(page, name, read):
    text = (DOCS / page).read_text()
    with (DOCS / "benchmarks" / f"{name}.csv").open(newline="") as file:
        rows = [{k: read(v) for k, v in row.items()} for row in csv.DictReader(file)]
    mark = name.removeprefix("collective_")
    table = text.partition(f"<!-- {mark} -->")[2].partition(f"<!-- end of {mark} -->")[0]
    assert len(rows) >= 1
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert "\n".join(lines) == pages.markdown(rows)


def test_the_page_on_pytorch_shows_the_measured_file():
    with (DOCS / "benchmarks" / "torch.csv").open(newline="") as file:
        rows = [{k: value_of(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert len(rows) >= 20
    tables = f"{pages.markdown(rows)}\n\n{pages.markdown(torch_calls.goals(rows))}\n"
    assert tables in (DOCS / "pytorch.md").read_text()
