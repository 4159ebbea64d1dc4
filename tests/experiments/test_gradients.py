"""Gradients across workers: their statistics, the errors of rules on them, and the page."""

import itertools
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree

from byzjax import attacks
from experiments.analysis import findings
from experiments.analysis.gradients import blocks, draw, measure, page, plots, run
from experiments.data import datasets
from experiments.models import zoo
from tests import oracles

DOCS = pathlib.Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "gradients"
RNG = np.random.default_rng(0)


# --- statistics ----------------------------------------------------------------------------------


def test_the_covariance_by_loops():
    rows, g = RNG.normal(size=(6, 9)), RNG.normal(size=9)
    away = rows - g
    trace = sum(float(a @ a) for a in away) / 6
    pairs = [float(a @ b) ** 2 for a, b in itertools.permutations(away, 2)]
    variances = [sum(x**2 for x in column) / 6 for column in away.T]
    eigenvalues = np.linalg.svd(away)[1] ** 2
    values = measure.covariance(rows, g)
    assert values["rank"] == pytest.approx(trace**2 / np.mean(pairs))
    assert values["even"] == pytest.approx(sum(variances) ** 2 / (9 * sum(v**2 for v in variances)))
    assert values["signal"] == pytest.approx(math.sqrt(sum(g**2) / trace))
    assert values["leading"] == pytest.approx(1.0)  # six rows have no more than six directions
    assert eigenvalues.sum() == pytest.approx(6 * trace)


def test_the_rank_is_that_of_the_covariance():
    """For independent coordinates d; for k equal groups of coordinates k."""
    independent = measure.covariance(RNG.normal(size=(200, 2000)), np.zeros(2000))
    assert independent["rank"] == pytest.approx(2000, rel=0.05)
    groups = np.repeat(RNG.normal(size=(200, 20)), 100, axis=1)
    assert measure.covariance(groups, np.zeros(2000))["rank"] == pytest.approx(20, rel=0.1)


def test_statistics_of_normal_and_of_sparse_values():
    rows = RNG.normal(size=(65, 400))
    normal = measure.statistics(rows, np.zeros(400), np.arange(400))
    assert 0.91 < normal["normal"] < 0.99
    assert abs(normal["kurtosis"]) < 0.2
    rows[:, :100] = 0  # constant
    rows[:, 100:200] *= RNG.random((65, 100)) < 0.1  # sparse
    mixed = measure.statistics(rows, np.zeros(400), np.arange(400))
    assert mixed["constant"] == 0.25
    assert mixed["zeros"] == pytest.approx((100 + 90) / 400, abs=0.01)
    assert mixed["normal"] == pytest.approx(2 / 3 * normal["normal"], abs=0.03)


def test_kurtosis_and_skewness_by_loops():
    """The unbiased forms; for one coordinate, the medians are its own."""
    x = RNG.exponential(size=65)
    values = measure.statistics(x[:, None], np.zeros(1), np.arange(1))
    n, away = 65, x - sum(x) / 65
    m2, m3, m4 = (sum(a**k for a in away) / n for k in (2, 3, 4))
    skewness = math.sqrt(n * (n - 1)) / (n - 2) * m3 / m2**1.5
    kurtosis = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (m4 / m2**2 - 3) + 6)
    assert values["skewness"] == pytest.approx(abs(skewness))
    assert values["kurtosis"] == pytest.approx(kurtosis)
    assert values["normal"] == 0


def test_gaussian_rows_of_the_same_covariance():
    rows, g = RNG.exponential(size=(40, 3)) @ RNG.normal(size=(3, 3)), np.ones(3)
    many = np.concatenate([measure.like(rows, g, RNG) for _ in range(500)]).astype(float)
    covariance = (rows - g).T @ (rows - g) / 40
    np.testing.assert_allclose(many.mean(axis=0), g, atol=0.1)
    np.testing.assert_allclose(np.cov(many.T), covariance, atol=0.05 * np.trace(covariance))


# --- errors --------------------------------------------------------------------------------------


def test_errors_are_those_of_the_papers_loops():
    n, g = 7, RNG.normal(size=5)
    rows = (g + RNG.normal(size=(n, 5))).astype(np.float32)
    cases = {case: (error, angle) for case, error, angle in measure.errors(rows, g, 2.0)}
    assert set(cases) == set(measure.CASES)
    for case, (error, angle) in cases.items():
        f = {measure.NONE: 0, measure.FIFTH: 1, measure.HALF: 3}[case.liars]
        sent = rows
        if f:
            sent = np.asarray(getattr(attacks, case.attack)(rows, jnp.arange(n) >= n - f))
        options = {"f": 3} if case.rule == "aksel" else {}
        result = getattr(oracles, case.rule)(sent, **options)
        assert error == pytest.approx(np.linalg.norm(result - g) / 2, rel=1e-4), case
        cosine = result @ g / np.linalg.norm(result) / np.linalg.norm(g)
        assert angle == pytest.approx(math.degrees(math.acos(cosine)), abs=0.05), case


def test_angles():
    e = np.eye(3)
    assert measure.angle(e[0], 3 * e[0]) == 0
    assert measure.angle(e[0], -e[0]) == 180
    assert measure.angle(e[0], e[0] + e[1]) == pytest.approx(45)
    assert measure.angle(0 * e[0], e[0]) == 90


# --- gradients -----------------------------------------------------------------------------------


def test_stages_of_a_training(monkeypatch):
    """The true gradient is that of all samples, and a step goes against that of its batch."""
    monkeypatch.setattr(draw, "CHUNK", 50)
    monkeypatch.setattr(draw, "TOGETHER", 10)
    data = datasets.load("digits")
    x, y = data.train_x[:100], data.train_y[:100]
    model = zoo.build("softmax", x.shape[1:], 10)
    sizes = {"steps": (0, 2), "batches": (1, 3), "workers": 4, "seed": 5}
    first, second = draw.stages(model, x, y, **sizes)
    params = model.init(jax.random.key(5))
    loss, gradient = jax.value_and_grad(model.loss)(params, {"x": x, "y": y})
    assert (first.step, second.step) == (0, 2)
    assert first.loss == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(first.gradient, ravel_pytree(gradient)[0], atol=1e-6)
    rng = np.random.default_rng(5)
    for batch in (1, 3):
        chosen = rng.integers(100, size=(4, batch))
        for row, own in zip(first.rows[batch], chosen):
            each = jax.grad(model.loss)(params, {"x": x[own], "y": y[own]})
            np.testing.assert_allclose(row, ravel_pytree(each)[0], atol=1e-6)
    for i in range(2):
        key = jax.random.fold_in(jax.random.key(5), i)
        own = np.asarray(jax.random.randint(key, (10,), 0, 100))
        gradient = jax.grad(model.loss)(params, {"x": x[own], "y": y[own]})
        params = jax.tree.map(lambda p, g: p - draw.LEARNING_RATE * g, params, gradient)
    assert second.loss == pytest.approx(float(model.loss(params, {"x": x, "y": y})), rel=1e-5)


def test_the_interval():
    assert run.interval(np.full((2, 4), 2.0)) == (2.0, 2.0, 2.0)
    apart = np.repeat([[0.0], [1.0]], 3, axis=1)  # only the seeds differ
    assert run.interval(apart) == (0.5, 0.0, 1.0)
    drawn = RNG.normal(size=(20, 400))
    mean, low, high = run.interval(drawn)
    assert low < mean < high
    # Two levels: the variance of seeds' means, and that within a seed, which is as large here.
    assert high - low == pytest.approx(3.92 * math.sqrt(2 / 8000), rel=0.3)


def test_the_width_of_a_model():
    wide = zoo.build("mlp", (8, 8, 1), 10, units=30)
    params = jax.eval_shape(wide.init, jax.random.key(0))
    assert ravel_pytree(jax.tree.map(jnp.zeros_like, params))[0].size == 65 * 30 + 31 * 10
    assert jax.eval_shape(wide.apply, params, jnp.zeros((2, 8, 8, 1))).shape == (2, 10)


def test_the_command(tmp_path, monkeypatch, capsys):
    """Twice, the second time from the files; small enough to compile in seconds."""
    tiny = {"workers": (5,), "pool": 10, "group": 5, "n": 5, "coordinates": (20,), "d": 20}
    small = blocks.QUICK._replace(
        **tiny, settings=(("digits", "softmax"),), steps=(0,), batches=(8,)
    )
    monkeypatch.setattr(run, "QUICK", small)
    monkeypatch.setattr(run.plots, "write", lambda folder: [])
    command = ["--quick", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert run.main(command) == 0
    tables = {part: (tmp_path / "out" / f"{part}.csv") for part in ("statistics", "workers")}
    before = {part: path.read_bytes() for part, path in tables.items()}
    assert len(pd.read_csv(tables["workers"])) == 2 * len(measure.CASES)
    monkeypatch.setattr(blocks, "_stages", None)
    assert run.main(command) == 0
    assert {part: path.read_bytes() for part, path in tables.items()} == before
    assert "Results: " in capsys.readouterr().out


# --- the page ------------------------------------------------------------------------------------

TEXT = (DOCS / "gradients.md").read_text()


def read(part):
    return pd.read_csv(FOLDER / f"{part}.csv", keep_default_na=False)


def said(text):
    return " ".join(text.split()) in " ".join(TEXT.split())


def test_the_files_hold_all_that_the_full_form_measures():
    sizes = blocks.FULL
    trained = [setting for setting in sizes.settings if setting != blocks.INDEPENDENT]
    lines = {
        "statistics": {("gaussian", "independent", 0, blocks.IN_D)}
        | {(*at, s, b) for at in trained for s in sizes.steps for b in sizes.batches},
        "workers": {("gaussian", "independent", 0, blocks.IN_D)}
        | {(*at, s, b) for at in trained for s in sizes.steps for b in blocks.IN_N},
        "coordinates": {("gaussian", "independent", 0, blocks.IN_D)}
        | {(*at, s, blocks.IN_D) for at in trained for s in sizes.steps},
    }
    each = {
        "statistics": 1,
        "workers": 2 * len(sizes.workers) * len(measure.CASES),
        "coordinates": len(sizes.coordinates) * len(measure.ALONG_D),
    }
    for part, expected in lines.items():
        counts = read(part).groupby(["data", "model", "step", "batch"]).size()
        assert set(counts.index) == expected, part
        assert set(counts) == {each[part]}, part
    assert said(f"the first {sizes.samples:,} images")
    assert said(f"{sizes.pool} other workers")
    assert said(f"{sizes.tested} random coordinates, in groups of {sizes.group} workers")


def test_the_tables_are_what_the_files_say():
    assert findings.written(TEXT, DOCS, page.PARTS) == TEXT
    assert set(re.findall(r"<!-- end of (.+?) -->", TEXT)) == set(page.PARTS)


def test_the_figures():
    assert set(re.findall(r"\]\(gradients/(\w+)\.png\)", TEXT)) == set(plots.FIGURES)
    for name in plots.FIGURES:
        assert (FOLDER / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_figures_can_be_drawn(tmp_path):
    for name in ("statistics", "workers"):
        (tmp_path / f"{name}.csv").write_bytes((FOLDER / f"{name}.csv").read_bytes())
    for path in plots.write(tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")
