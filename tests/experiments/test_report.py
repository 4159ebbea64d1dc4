"""Tables, figures and pages of synthetic studies."""

import html.parser
import itertools
import math
import pathlib
import re

import numpy as np
import pandas as pd
import pytest

from experiments.grid import config as configs
from experiments.grid.config import Config
from experiments.report import figures, markup, scenes, tables
from experiments.training import diagnostics

ROOT = pathlib.Path(__file__).parents[2]
ABOUT = tables.About(
    title="A claim & its <test>.",
    claim="A claim & its <test>.\n\nWords about `krum`.\n\n    python -m lab\n\n* one\n* two <b>",
    command="python -m lab --name '<x>'",
)
SMALL = Config(
    rule=("median", "krum(m=1)"),
    attack=("none", "sign_flip", "little_is_enough(z=1.5)"),
    n=11,
    f=3,
    s=(0, 1, 3),
    seeds=3,
    steps=30,
    eval_every=10,
)


def accuracy(rule, attack, s, seed, step):
    """A different value for each, between 0.5 and 1."""
    mixed = sum(map(ord, rule + attack)) % 17
    return round(0.5 + mixed / 100 + 0.01 * seed - 0.02 * s + 0.005 * step, 6)


def blocks_of(grid, measured=0.5, of=accuracy):
    """Finished blocks of a grid; `measured` is the value of all diagnostics."""
    blocks = []
    steps = list(range(grid.eval_every, grid.steps + 1, grid.eval_every))
    liars = [s for s in grid.s if s > 0]
    for rule, mixing, attack in itertools.product(grid.rule, grid.mixing, grid.attack):
        members = list(itertools.product(range(grid.seeds), [0] if attack == "none" else liars))
        runs = [
            {
                "seed": seed,
                "s": s,
                "step": steps,
                "accuracy": [of(rule, attack, s, seed, step) for step in steps],
                "loss": [measured] * len(steps),
                "finite": [True] * len(steps),
                "diverged": None,
                "per_class": [0.25, 0.75],
                **{name: [measured] * len(steps) for name in diagnostics.NAMES},
            }
            for seed, s in members
        ]
        if runs:
            blocks.append(
                {
                    **{name: getattr(grid, name) for name in configs.IDENTITY},
                    "rule": rule,
                    "mixing": mixing,
                    "attack": attack,
                    "members": [list(pair) for pair in members],
                    "data": "0123456789abcdef",
                    "byzjax": "0.1.0",
                    "runs": runs,
                    "seconds": 12.25,
                    "environment": {
                        "jax": "0.10.2",
                        "device": "cpu x 1",
                        "date": "2026-11-24 10:00 UTC",
                        "commit": "abcdef123456",
                    },
                }
            )
    return blocks


def names_of(blocks, grids):
    data = tables.curves(tables.ordered(blocks, grids))
    return set(figures.make(data, grids)), data


class Page(html.parser.HTMLParser):
    """A parser that requires every element to be closed; it keeps texts, cells, names and links."""

    VOID = frozenset({"meta", "img", "br", "wbr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        self.text = "".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._attributes(attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._attributes(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def _attributes(self, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href")]


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_the_numbers_of_the_table():
    grid = Config(rule=("median",), attack=("none",), s=(0,), seeds=3, steps=2, eval_every=1)
    values = {(0, 1): 0.1, (1, 1): 0.1, (2, 1): 0.1, (0, 2): 0.9, (1, 2): 0.8, (2, 2): 0.7}
    blocks = blocks_of(grid, of=lambda rule, attack, s, seed, step: values[seed, step])
    blocks[0]["runs"][2]["finite"] = [False, False]
    (line,) = tables.table(tables.curves(blocks)).to_dict("records")
    expected = {"mean": 0.8, "std": 0.1, "min": 0.7, "max": 0.9}
    # Student's t with two degrees of freedom: 4.302653 is its 97.5 % quantile.
    half = 4.302653 * 0.1 / math.sqrt(3)
    expected |= {"low": 0.8 - half, "high": 0.8 + half}
    for name, value in expected.items():
        assert line[name] == pytest.approx(value, abs=1e-6), name
    assert (line["seeds"], line["diverged"], line["diverged_at"]) == (3, 1, 1)


def test_one_seed_has_no_interval():
    results = tables.table(tables.curves(blocks_of(Config(seeds=1, s=(0, 1)))))
    assert results[["std", "low", "high", "diverged_at"]].isna().all().all()
    assert "±" not in tables.text(results).replace("mean ± standard", "")


def test_each_run_ends_at_its_own_last_step():
    grids = [Config(steps=steps, eval_every=10, s=(0,), attack=("none",)) for steps in (10, 30)]
    blocks = [block for grid in grids for block in blocks_of(grid)]
    results = tables.table(tables.curves(blocks))
    assert set(results["steps"]) == {10, 30}
    assert len(results) == 2 * len(grids[0].rule)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the report of `SMALL`."""
    folder = tmp_path_factory.mktemp("written")
    tables.write(folder, blocks_of(SMALL), [SMALL], ABOUT)
    return folder


def test_the_table_of_one_grid_has_the_columns_that_it_always_had(written):
    always = (ROOT / "docs" / "main-job" / "table.csv").read_text().partition("\n")[0]
    assert (written / "table.csv").read_text().startswith(always[: always.index("diverged") + 8])
    assert (written / "curves.csv").read_text().startswith("rule,mixing,attack,s,seed,step,")


def test_the_text_of_the_main_job_is_as_it_was():
    results = pd.read_csv(ROOT / "docs" / "main-job" / "table.csv", keep_default_na=False)
    numbers = results.astype({name: float for name in ("mean", "std")})
    assert tables.text(numbers) + "\n" == (ROOT / "docs" / "main-job" / "table.md").read_text()


def test_settings_that_differ_are_columns_and_tables():
    grids = [
        Config(rule=("median",), mixing=("nearest_neighbors",), f=f, s=(0, f), partition=p)
        for f in (2, 5)
        for p in ("iid", "dirichlet(0.3)")
    ]
    blocks = [block for grid in grids for block in blocks_of(grid)]
    data = tables.curves(blocks)
    results = tables.table(data)
    assert scenes.settings(data) == scenes.settings(results) == ["f", "partition"]
    assert list(results)[:6] == ["rule", "mixing", "attack", "s", "f", "partition"]
    text = tables.text(results)
    assert "standard deviation, f = 5, partition = dirichlet(0.3), s = 5 liars:" in text
    assert text.count("| nearest_neighbors + median |") == 4


def test_the_order_is_that_of_the_grids():
    blocks = blocks_of(SMALL)
    mixed = [blocks[i] for i in (5, 0, 3, 2, 4, 1)]
    again = tables.ordered(mixed, [SMALL])
    assert [(b["rule"], b["attack"]) for b in again] == [(b["rule"], b["attack"]) for b in blocks]


def test_blocks_in_pieces_are_one_group():
    whole = blocks_of(SMALL)
    pieces = []
    for block in whole:
        for runs in (block["runs"][:2], block["runs"][2:]):
            pieces.append(block | {"runs": runs})
    a, b = (tables.table(tables.curves(blocks)) for blocks in (whole, pieces))
    pd.testing.assert_frame_equal(a, b)


def test_latex_is_balanced_and_escaped():
    grids = [SMALL, Config(**{**vars(SMALL), "momentum_at": "server"})]
    blocks = [block for grid in grids for block in blocks_of(grid)]
    made = tables.latex(tables.table(tables.curves(blocks)))
    body = made.partition("\n")[2]  # the first line is a comment
    plain = re.sub(r"\\[\\%_&#${}]", "", body)
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"[%#_^~±]", plain)
    assert plain.count("$") == 2 * body.count(r"$\pm$")
    assert r"little\_is\_enough(z=1.5)" in body
    assert r"momentum\_at = server" in body
    for begin, columns, rows in re.findall(
        r"\\begin\{(tabular)\}\{(\w+)\}(.*?)\\end\{tabular\}", body, re.DOTALL
    ):
        assert begin
        for row in re.findall(r"^(.*) \\\\$", rows, re.MULTILINE):
            assert row.count(" & ") == len(columns) - 1
    assert body.count(r"\begin{table}") == body.count(r"\end{table}") == 4
    assert tables.latex_escape("a_b%{~^\\}") == (
        r"a\_b\%\{\textasciitilde{}\textasciicircum{}\textbackslash{}\}"
    )


# --- figures --------------------------------------------------------------------------------------


def test_the_figures_of_one_grid():
    names, _ = names_of(blocks_of(SMALL), [SMALL])
    assert names == {
        "accuracy_against_s",
        "accuracy_against_step",
        "accuracy_heatmap",
        "influence",
        "variance_to_norm",
    }


def test_a_figure_with_nothing_to_show_is_not_made():
    alone = Config(rule=("median",), attack=("none",), s=(0,), seeds=1, steps=30, eval_every=10)
    assert names_of(blocks_of(alone, measured=None), [alone])[0] == {"accuracy_against_step"}
    once = Config(**{**vars(SMALL), "eval_every": 30})
    assert names_of(blocks_of(once), [once])[0] == {"accuracy_against_s", "accuracy_heatmap"}
    one_s = Config(**{**vars(SMALL), "s": (3,), "attack": ("sign_flip",)})
    assert "accuracy_against_s" not in names_of(blocks_of(one_s), [one_s])[0]


def test_f_against_partition_where_both_vary():
    shared = {"rule": ("median", "krum"), "steps": 20, "eval_every": 10, "seeds": 1}
    shared["attack"] = ("none", "sign_flip", "little_is_enough(z=1.5)")
    both = [
        Config(f=f, s=(0, f), partition=p, **shared)
        for f, p in itertools.product((2, 5), ("iid", "sorted"))
    ]
    data = tables.curves(tables.ordered([b for grid in both for b in blocks_of(grid)], both))
    made = figures.make(data, both)
    assert "accuracy_heatmap_f_5_partition_sorted" in made
    panel = made["worst_accuracy_f_partition"].figure.axes[0]
    shown = [float(text.get_text()) for text in panel.texts]
    expected = [
        100 * min(accuracy("median", a, s, 0, 20) for a, s in tried)
        for tried in (
            [("none", 0), *((a, f) for a in both[0].attack if a != "none")] for f in (2, 2, 5, 5)
        )
    ]
    np.testing.assert_allclose(shown, expected, atol=0.05001)
    only_f = both[::2]
    names, _ = names_of([b for grid in only_f for b in blocks_of(grid)], only_f)
    assert not any("partition" in name for name in names)


@pytest.mark.parametrize(
    ("rule", "n", "f", "expected"),
    [
        ("krum", 11, 3, 1 / math.sqrt(2 * (8 + 3 * (11 + 3 * 6 - 2) / 3))),
        ("krum(f=2)", 11, 3, 1 / math.sqrt(2 * (9 + 2 * (11 + 2 * 7 - 2) / 5))),
        ("bulyan", 11, 2, 1 / math.sqrt(2 * (9 + 2 * (11 + 2 * 7 - 2) / 5))),
        ("krum(m=3)", 11, 3, None),
        ("median", 11, 2, 1 / 3),
        ("minimum_diameter", 11, 3, 8 / (math.sqrt(8) * 3)),
        ("minimum_diameter", 11, 0, None),
        ("aksel", 11, 3, None),
    ],
)
def test_thresholds(rule, n, f, expected):
    assert scenes.threshold(rule, n, f) == (expected and pytest.approx(expected))


def test_the_same_figure_has_the_same_bytes(written):
    data = tables.curves(blocks_of(SMALL))
    with figures.style():
        drawings = figures.make(data, [SMALL])
        made = {k: figures.render(v.figure) for k, v in drawings.items()}
    assert len(made) == 5
    for name, (vector, raster) in made.items():
        assert (written / f"{name}.svg").read_text() == vector
        assert (written / f"{name}.png").read_bytes() == raster
        assert "<dc:date>" not in vector


@pytest.mark.slow
def test_titles_lie_within_their_figure():
    many = Config(
        rule=("median", "geometric_median", "minimum_diameter", "krum(f=3, m=1)"),
        mixing=("none", "nearest_neighbors"),
        attack=("none", *(f"inner_product_manipulation(epsilon={i}.5)" for i in range(7))),
        f=3,
        s=(0, 1, 3),
        seeds=1,
        steps=20,
        eval_every=10,
    )
    data = tables.curves(tables.ordered(blocks_of(many), [many]))
    with figures.style():
        for name, drawing in figures.make(data, [many]).items():
            figure = drawing.figure
            figure.draw_without_rendering()
            whole = figure.bbox
            titles = [ax.title.get_window_extent() for ax in figure.axes if ax.title.get_text()]
            legends = [legend.get_window_extent() for legend in figure.legends]
            assert figure._suptitle is not None
            for box in [*titles, *legends, figure._suptitle.get_window_extent()]:
                assert whole.x0 - 1 <= box.x0 <= box.x1 <= whole.x1 + 1, name
                assert whole.y0 - 1 <= box.y0 <= box.y1 <= whole.y1 + 1, name
            for a, b in itertools.combinations([*titles, *legends], 2):
                assert not a.overlaps(b), name


# --- the page -------------------------------------------------------------------------------------


def test_the_page_holds_the_results(tmp_path):
    blocks = blocks_of(SMALL)
    blocks[0]["environment"]["jax"] = "0.9.0"
    blocks[1]["runs"][0]["finite"] = [True, False, False]
    failed = {"rule": "bulyan", "attack": "sign_flip", "error": "ValueError: <n> & f"}
    results = tables.write(tmp_path, blocks, [SMALL], ABOUT, [failed])
    made = (tmp_path / "index.html").read_text()
    read = Page(made)
    assert read.open == []
    assert "script" not in read.tags
    assert all(link.startswith(("data:", "#")) for link in read.links)
    assert "<test>" not in made
    assert "<b>" not in made
    assert "A claim & its <test>" in read.text
    assert ABOUT.command in read.text
    for name in (*SMALL.rule, *SMALL.attack, "bulyan", "ValueError: <n> & f"):
        assert name in read.text, name
    everything = made.partition("All numbers")[2].partition("</table>")[0]
    head, *lines = (
        re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", everything)
    )
    for line, result in zip(lines, results.to_dict("records"), strict=True):
        cells = dict(zip(head, line, strict=True))
        for name in ("mean", "std", "min", "max"):
            assert cells[name] == f"{100 * result[name]:.2f}", (name, line)
        assert cells["95 % interval"] == f"{100 * result['low']:.2f} to {100 * result['high']:.2f}"
    assert f"not finite at 20, 1 of {SMALL.seeds}" in read.text
    assert "jax differ" in read.text
    assert "0.9.0 (1 block)" in read.text
    assert f"{12.25 * len(blocks):.1f} seconds" in read.text
    assert "abcdef123456" in read.text
    assert len(read.ids) == len(set(read.ids))
    assert read.tags.count("figure") == 5
    assert "svg" in read.tags
    for name in ("table.csv", "table.md", "table.tex", "curves.csv"):
        assert (tmp_path / name).stat().st_size > 0
    for ending in ("png", "svg"):
        assert len(list(tmp_path.glob(f"*.{ending}"))) == 5


def test_prose():
    made = markup.prose(ABOUT.claim)
    assert "<p>Words about <code>krum</code>.</p>" in made
    assert "<pre><code>python -m lab</code></pre>" in made
    assert "<ul><li>one</li><li>two &lt;b&gt;</li></ul>" in made


def test_missing_results_are_no_error(tmp_path):
    blocks = blocks_of(SMALL, measured=None, of=lambda *_: math.nan)
    for block in blocks:
        del block["environment"]
        for run in block["runs"]:
            run["finite"], run["diverged"] = [False] * 3, 10
            run["per_class"] = [math.nan, math.nan]
    results = tables.write(tmp_path / "nan", blocks, [SMALL], ABOUT)
    assert (results["diverged"] == SMALL.seeds).all()
    assert not list((tmp_path / "nan").glob("*.png"))
    assert Page((tmp_path / "nan" / "index.html").read_text()).open == []


def test_no_finished_block_is_no_error(tmp_path):
    results = tables.write(tmp_path, [], [SMALL], ABOUT, [{"error": "RuntimeError: no memory"}])
    assert not len(results)
    text = Page((tmp_path / "index.html").read_text()).text
    assert "No run is finished." in text
    assert "no memory" in text
