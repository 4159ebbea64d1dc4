"""The parts of the benchmarks that do not measure time."""

import importlib
import pathlib
import struct

import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from benchmarks import every_rule, kardam, pages, pallas, rules, timing, training
from experiments.data import datasets
from tests.helpers import compiled


def test_every_module_says_how_it_is_run():
    for path in pathlib.Path(rules.__file__).parent.glob("*.py"):
        if "def main(" in path.read_text():
            about = importlib.import_module(f"benchmarks.{path.stem}").__doc__ or ""
            name = "" if path.stem == "__main__" else f".{path.stem}"
            assert f"python -m benchmarks{name}" in about, path


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


def test_aksel_on_the_kernel_is_aksel():
    x = np.random.default_rng(0).normal(size=(11, 700)).astype(np.float32)
    x[2, 5] = np.nan
    x[7] *= 1e3
    expected = compiled(byzjax.aksel, f=5)(x)
    for target in ("cuda", "tpu"):
        actual = compiled(pallas.aksel, interpret=target)(x)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_kernels_and_rules_have_a_line_each():
    rows = pallas.latency(8, 1000, rounds=1, kernels=False)
    assert [row["rule"] for row in rows if row["form"] == "XLA"] == ["median", "aksel"]
    assert all(row["ms"] > 0 for row in rows)


def test_a_share_of_one_is_the_bandwidth_of_a_copy():
    # A copy of 8 rows moves 16 rows; a median that moves 9 at that speed takes 9/16 of the time.
    assert pallas.share("median", 8, 9.0, 16.0) == pytest.approx(1)
    assert pallas.share("aksel", 8, 36.0, 16.0) == pytest.approx(0.5)
