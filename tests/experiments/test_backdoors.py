"""Backdoors in training, their success rate, and its place in reports."""

import dataclasses
import json
import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments.cli import material
from experiments.data import datasets
from experiments.execution import export, store, sweep
from experiments.grid import specs
from experiments.grid.config import Config
from experiments.models import zoo
from experiments.report import backdoors, figures, page, scenes, tables
from experiments.text import arguments
from experiments.training import poisoning
from experiments.training import program as programs
from experiments.training.runs import block_runs
from tests.experiments import test_pages
from tests.experiments.test_report import ABOUT, Page, blocks_of

ROOT = pathlib.Path(__file__).parents[2]
BASE = Config(
    model="softmax", rule=("mean",), attack=("none", "sign_flip", "add_trigger(target=3)"), n=6,
    f=2, s=(2,), seeds=2, steps=4, eval_every=2, batch_size=8, momentum=0.0, eval_samples=50,
)  # fmt: skip
MEAN_ALONE = (("rule", "mean"), ("mixing", "none"))


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def with_square(image, size, value):
    """One image with a square of this size in the lower right corner, pixel by pixel."""
    out = np.array(image)
    for row in range(size):
        for column in range(size):
            out[out.shape[0] - 1 - row, out.shape[1] - 1 - column] = value
    return out


def success_by_hand(softmax, params, x, y, target, value):
    """How many of the images of other classes are classified as the target."""
    images = [with_square(image, 3, value) for image, label in zip(x, y) if label != target]
    logits = np.asarray(softmax.apply(params, np.stack(images)))
    return sum(int(np.argmax(of_one) == target) for of_one in logits) / len(images)


def test_a_distributed_trigger_is_tested_whole(digits):
    spec = specs.parse("attack", "distributed_trigger(target=2, size=2)", f=2)
    x, y = digits.test_x[:40], digits.test_y[:40]
    marked, labels = poisoning.triggered(spec, x, y, 8.0)
    others = x[y != 2]
    assert labels.tolist() == [2] * len(others)
    places = np.zeros((8, 8), bool)
    for row in (0, 2):
        places[row, [0, 1, 3, 4]] = True
    np.testing.assert_array_equal(marked, np.where(places[..., None], np.float32(8), others))


def test_what_follows_a_backdoor_changes_its_updates():
    rng = np.random.default_rng(1)
    updates, byzantine = rng.normal(size=(6, 3)).astype(np.float32), np.arange(6) < 2

    def sent(text):
        spec = specs.parse("attack", text, f=2)
        assert str(spec) == text
        return spec, specs.transformation(spec, byzantine=byzantine, key=None, n=6)

    _, alone = sent("add_trigger(target=1)")
    np.testing.assert_array_equal(alone.update(updates, alone.init(updates[0]))[0], updates)
    for then in ("model_replacement(boost=4.0)", "sign_flip", "neurotoxin(share=0.4)"):
        spec, both = sent(f"distributed_trigger(then={then!r})")
        _, plain = sent(then)
        assert spec.remembers == ("neurotoxin" in then)
        states = both.init(updates[0]), plain.init(updates[0])
        for _ in range(2):
            out, first = both.update(updates, states[0])
            expected, second = plain.update(updates, states[1])
            np.testing.assert_array_equal(out, expected)
            states = first, second
        assert not np.array_equal(out[:2], updates[:2])


@pytest.mark.smoke
def test_poisoned_batches():
    rng = np.random.default_rng(0)
    x, y = rng.random((4, 5, 6, 6, 2)).astype(np.float32), rng.integers(0, 10, (4, 5))
    byzantine = np.array([True, False, False, True])
    names = (
        *("none", "flip_labels", "add_trigger(target=3, then='sign_flip')"),
        "add_trigger(target=1, share=0.2, size=2, value=-1)",
    )
    choices = [specs.parse("attack", name, f=2) for name in names]
    run = jax.jit(lambda b, k: poisoning.poisoned(b, byzantine, choices, k, 10, 7.5))
    for place, trigger in enumerate((None, None, (2, 3, 3, 7.5), (1, 1, 2, -1.0))):
        out = run({"x": x, "y": y}, place)
        for i in range(4):
            for j in range(5):
                image, label = x[i, j], y[i, j]
                if byzantine[i] and names[place] == "flip_labels":
                    label = 9 - label
                if byzantine[i] and trigger is not None and j < trigger[0]:
                    image, label = with_square(image, *trigger[2:]), trigger[1]
                np.testing.assert_array_equal(out["x"][i, j], image)
                assert out["y"][i, j] == label


def test_the_success_rate_is_that_of_a_loop(digits):
    """On the first 50 test images, then on all, for each of two runs; none without a backdoor."""
    choices = [specs.parse("attack", name, f=2) for name in BASE.attack]
    rule, mixing = (specs.parse(*words, f=2) for words in MEAN_ALONE)
    model = zoo.build("softmax", digits.shape, digits.num_classes)
    config = dataclasses.replace(BASE, learning_rate=1.0)
    runs = block_runs(config, digits, [(0, 2), (1, 2)])
    program = programs.build(config, digits, model, rule, mixing, choices)
    states = program.start(np.int32(2), runs)
    for step in (0, 2):
        states, _ = program.advance(states, np.int32(step), np.int32(2), runs)
        params = jax.device_get(states.protocol.params)
        count = 50 if step == 0 else 360
        rates = program.success(states, step == 2, runs, 2)
        assert program.success(states, step == 2, runs, 1) is None
        for r in range(2):
            mine = jax.tree.map(lambda leaf, r=r: leaf[r], params)
            x, y = digits.test_x[:count], digits.test_y[:count]
            expected = success_by_hand(model, mine, x, y, 3, digits.train_x.max())
            assert float(rates[r]) == pytest.approx(expected, abs=1e-6)
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), states.protocol.params)
    states = states._replace(protocol=states.protocol._replace(params=broken))
    assert np.isnan(program.success(states, True, runs, 2)).tolist() == [True, False]


def test_a_finished_study(digits, tmp_path):
    """Only blocks of backdoors have success rates; a table of curves has them, too."""
    load = lambda _: digits  # noqa: E731
    backdoor = "add_trigger(target=3, then='model_replacement')"
    config = dataclasses.replace(
        *(BASE,),
        **{"attack": ("none", "sign_flip", backdoor), "s": (0, 2), "steps": 40, "eval_every": 20},
    )
    blocks = sweep.run(sweep.tasks([config], tmp_path, load), tmp_path, load)
    assert not list(store.failures(tmp_path))
    for block in blocks:
        for run in block["runs"]:
            assert ("attack_success" in run) == (block["attack"] == backdoor)
    rates = [run["attack_success"] for run in blocks[-1]["runs"]]
    assert [len(each) for each in rates] == [2, 2]
    assert min(each[-1] for each in rates) > 0.8  # a third of all workers, three times as strong
    results = tables.table(tables.curves(blocks))
    line = results.set_index("attack").loc[backdoor]
    assert line["attack_success"] == pytest.approx(np.mean([each[-1] for each in rates]))
    assert line["attack_success_std"] == pytest.approx(np.std([e[-1] for e in rates], ddof=1))


@pytest.mark.parametrize(
    ("protocol", "more"),
    [
        ("gossip(graph='complete')", {"n": 4}),
        pytest.param("replicated_servers", {"n": 8}, marks=pytest.mark.slow),
        pytest.param("replicated_state_machine", {}, marks=pytest.mark.slow),
        pytest.param("variance_reduced", {"momentum_at": "update"}, marks=pytest.mark.slow),
        pytest.param("asynchronous", {"momentum_at": "update"}, marks=pytest.mark.slow),
        pytest.param("parameter_server(per_round=4)", {}, marks=pytest.mark.slow),
    ],
)
def test_every_protocol_measures_success(protocol, more, digits, tmp_path):
    load = lambda _: digits  # noqa: E731
    config = dataclasses.replace(
        BASE, protocol=protocol, f=1, s=(1,), seeds=1, attack=BASE.attack[2:], **more
    )
    (block,) = sweep.run(sweep.tasks([config], tmp_path, load), tmp_path, load)
    assert not list(store.failures(tmp_path))
    assert all(0 <= rate <= 1 for rate in block["runs"][0]["attack_success"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attack": ("add_trigger(target=10)",)}, r"^add_trigger needs target < 10; got target=10"),
        ({"attack": ("add_trigger(then='flip_labels')",)}, r"needs an attack of the library on up"),
        ({"attack": ("add_trigger(then=3)",)}, r"got then=3\. Write then='model_replacement'\.$"),
        ({"attack": ("add_trigger(size=9)",)}, r"^add_trigger needs images .* height >= 9"),
        ({"attack": ("add_trigger(share=2)",)}, r"^add_trigger needs a share from 0 to 1"),
        ({"dataset": "a9a", "model": "logistic", "attack": ("add_trigger",)}, r"got \(1, 1, 123\)"),
        ({"protocol": "redundant(r=3, s=1)", "f": 1, "s": (1,)}, r"^add_trigger changes data that"),
    ],
)  # fmt: skip
def test_what_is_refused(settings, said, tmp_path):
    config = dataclasses.replace(BASE, **{"attack": BASE.attack[2:]} | settings)
    with pytest.raises(ValueError, match=said):
        material.Material([config]).tasks(tmp_path)


# --- reports --------------------------------------------------------------------------------------


def blocks_with_success(grid):
    """Synthetic blocks; success is 0.8 for the first seed and 0.6 for the other, 0.1 at first."""
    blocks = blocks_of(grid)
    for block in blocks:
        if "trigger" in block["attack"]:
            for run in block["runs"]:
                run["attack_success"] = [0.1] * (len(run["step"]) - 1) + [0.8 - 0.2 * run["seed"]]
    return blocks


REPORTED = dataclasses.replace(BASE, s=(0, 1, 2), rule=("mean", "median"), steps=6)


def test_a_report_has_success_beside_accuracy():
    blocks = blocks_with_success(REPORTED)
    data = tables.curves(blocks)
    results = tables.table(data)
    headings = [title for title, _ in tables.wide_tables(results)]
    assert [title.partition(" in ")[0] for title in headings] == 2 * [
        *("Final test accuracy", "Attack success rate"),
    ]
    _, wide = tables.wide_tables(results)[1]
    assert list(wide.columns) == ["add_trigger(target=3)"]
    assert wide.loc["median"].tolist() == ["70.0 ± 14.1"]
    text = tables.text(results)
    assert "s = 1 liar:\n\n| rule   | add_trigger(target=3)" in text
    assert backdoors.WORDS in text
    assert "Attack success rate in per cent" in tables.latex(results)
    shown = Page(page.html(page.Study(*ABOUT, [REPORTED], blocks, results, [], [])))
    assert "s = 2 liars: attack success rate" in shown.text
    assert backdoors.WORDS in shown.text
    (scene,) = scenes.scenes(data, [REPORTED])
    drawing = figures._successes(scene)
    cells = {text.get_text() for ax in drawing.figure.axes for text in ax.texts}
    assert cells == {"70.0"}


def test_results_without_success_are_reported_as_before():
    """Blocks of versions that did not measure it, even of a backdoor."""
    data = tables.curves(blocks_of(REPORTED))
    (scene,) = scenes.scenes(data, [REPORTED])
    assert figures._successes(scene) is None
    results = tables.table(data)
    assert not set(backdoors.COLUMNS) & set(results.columns)
    assert "success" not in tables.text(results)
    older, newer = blocks_of(REPORTED)[:3], blocks_with_success(REPORTED)[3:]
    results = tables.table(tables.curves([*older, *newer]))
    known = results.groupby("rule")["attack_success"].count()
    assert known.to_dict() == {"mean": 0, "median": 2}


def test_the_heat_map_is_exported(tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "attack_success_heatmap.png").write_bytes(b"")
    export.write(tmp_path / "from", blocks_with_success(REPORTED), tmp_path / "to")
    assert (tmp_path / "to" / "attack_success_heatmap.png").is_file()


def test_the_page_has_the_numbers_of_its_table_and_its_command():
    page_of, folder = ROOT / "docs" / "backdoors.md", ROOT / "docs" / "backdoors"
    kept = pd.read_csv(folder / "table.csv", keep_default_na=False, na_values=[""])
    written = tables.text(kept)
    assert written + "\n" == (folder / "table.md").read_text()
    shown = [part for part in written.split("\n\n") if part.startswith("|")]
    said = page_of.read_text()
    assert all(part in said for part in shown)
    (command,) = re.findall(r"python -m experiments (--study .*?)\n```", said, re.DOTALL)
    config = arguments.parse(Config, shlex.split(command.replace("\\\n", "")), prog="experiments")
    (grid,) = json.loads((folder / "config.json").read_text())["grids"]
    assert [list(getattr(config, name)) for name in ("rule", "attack", "s")] == [
        *(grid["rule"], grid["attack"], grid["s"])
    ]
    assert all(grid[name] == getattr(config, name) for name in ("n", "f", "seeds", "steps"))


def test_edge_cases_with_data_of_your_own(capsys):
    (code,) = test_pages.blocks((ROOT / "docs" / "backdoors.md").read_text())
    test_pages.run(code, {}, capsys)
