"""What a reader sees of a report: figures, summary, colours, and what scrolls."""

import itertools
import pathlib
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from experiments.grid.config import Config
from experiments.report import figures, heat, markup, measured, panels, scenes, summary, tables
from experiments.report import page as page_of
from tests.experiments.test_report import ABOUT, Page, blocks_of

ROOT = pathlib.Path(__file__).parents[2]
REPORT = ROOT / "experiments" / "report"
# Four rules: the first two are always equal, and the last one breaks under the second attack.
GRID = Config(
    rule=("mean", "median", "krum", "aksel"),
    attack=("none", "sign_flip", "non_finite"),
    n=11,
    f=3,
    s=(0, 1, 3),
    seeds=2,
    steps=60,
    eval_every=10,
)


def accuracy(rule, attack, s, seed, step):
    if rule == "aksel" and attack == "non_finite":
        return 0.1 + 0.01 * seed
    level = {"mean": 0.9, "median": 0.9, "krum": 0.7, "aksel": 0.8}[rule]
    return level - 0.01 * s + 0.002 * seed + 0.0005 * step


def study_of(grid=GRID, of=accuracy, change=lambda block: None):
    """Blocks whose diagnostics differ between rules, like their accuracies."""
    blocks = blocks_of(grid, of=of)
    for block in blocks:
        for run in block["runs"]:
            run["liars_influence"] = run["variance_to_norm"] = run["accuracy"]
        change(block)
    return blocks


@pytest.fixture(scope="module")
def drawn():
    """The figures of `GRID`, rendered."""
    with figures.style():
        made = figures.make(tables.curves(study_of()), [GRID])
        for drawing in made.values():
            drawing.figure.draw_without_rendering()
    return made


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of `GRID`: its table and its page."""
    folder = tmp_path_factory.mktemp("page")
    results = tables.write(folder, study_of(), [GRID], ABOUT)
    return results, (folder / "index.html").read_text()


def legend(figure):
    """Colour, dashes and marker of each name in the legend."""
    handles = [handle for box in figure.legends for handle in box.legend_handles]
    return {h.get_label(): to_hex(h.get_color()) for h in handles if h.get_marker() != "None"}


# --- figures --------------------------------------------------------------------------------------


def test_a_colour_stands_for_one_rule_in_all_figures(drawn):
    names = {}
    for drawing in drawn.values():
        for name, color in legend(drawing.figure).items():
            assert names.setdefault(name, color) == color
    assert set(names) == set(GRID.rule)
    assert len(set(names.values())) == len(names)


def test_every_rule_of_a_large_study_has_its_own_colour():
    looks = [panels.look(place) for place in range(len(panels.COLORS))]
    assert len({look.color for look in looks}) == len(looks) >= 16
    again = panels.look(len(looks))
    assert again.color == looks[0].color
    assert again.linestyle != looks[0].linestyle
    assert len({*panels.COLORS, *panels.COLORS.values()}) == 2 * len(panels.COLORS)


def luminance(color):
    part = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    part = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return part @ (0.2126, 0.7152, 0.0722)


def test_lines_are_seen_on_bright_and_on_dark_pages():
    for bright, dark in panels.COLORS.items():
        assert 1.05 / (luminance(bright) + 0.05) > 2, bright
        assert (luminance(dark) + 0.05) / (luminance("#1e2226") + 0.05) > 4, dark


@pytest.mark.parametrize(
    "name", ["accuracy_against_step", "influence", "variance_to_norm", "accuracy_against_s"]
)
def test_lines_that_coincide_have_markers_of_their_own(drawn, name):
    for ax in drawn[name].figure.axes:
        marked = [
            line for line in ax.get_lines() if line.get_marker() not in ("None", "_", "|", "")
        ]
        places = [
            np.round(np.asarray(line.get_xdata(), float), 6)
            for line in marked
            if len(line.get_xdata()) > 1
        ]
        assert len(places) == len(GRID.rule)
        for a, b in itertools.combinations(places, 2):
            assert not set(a) & set(b)


def test_markers_lie_on_their_line():
    from matplotlib.figure import Figure

    for scale in ("linear", "log"):
        ax = Figure().subplots()
        ax.set_yscale(scale)
        curves = pd.DataFrame({"mean": [1.0, 10.0, 1000.0]}, index=[0, 10, 20])
        curves = curves.assign(min=curves["mean"], max=curves["mean"])
        panels.line(ax, curves, panels.look(0), turn=(1, 4))
        marks = ax.get_lines()[1]
        known = np.log(curves["mean"]) if scale == "log" else curves["mean"]
        values = np.log(marks.get_ydata()) if scale == "log" else marks.get_ydata()
        expected = np.interp(marks.get_xdata(), curves.index, known)
        np.testing.assert_allclose(values, expected)


def test_the_caption_says_which_lines_coincide(drawn):
    caption = drawn["accuracy_against_step"].caption
    assert "Lines that coincide within 1 % of the axis: mean and median (4 panels)." in caption
    assert panels.note([]) == ""
    many = [(f"p{i}", (f"a{i}", f"b{i}")) for i in range(6)]
    assert panels.note(many).endswith("; and 2 more groups.")


def test_lines_that_differ_are_not_said_to_coincide():
    def part(*values):
        return pd.DataFrame({"mean": values}, index=[0, 1])

    curves = {"a": part(0.5, 0.6), "b": part(0.505, 0.6), "c": part(0.5, 0.62), "d": part(0.5, 0.6)}
    assert panels.coinciding(curves, 1.0) == [("a", "b", "d")]
    assert panels.coinciding(curves, 0.1) == [("a", "d")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"finite": [False] * 6}, "the model is not finite"),
        ({"distance": [2.0] * 6, "honest_norm": [2.0] * 6, "angle": None}, "the aggregate is zero"),
        ({"distance": [2.0] * 6, "honest_norm": [1.0] * 6}, "no function of the updates"),
        ({"distance": None}, "the aggregate is not finite"),
    ],
)
def test_the_figure_of_the_influence_says_why_a_rule_is_missing(change, reason):
    def missing(block):
        if (block["rule"], block["attack"]) == ("krum", "non_finite"):
            for run in block["runs"]:
                run |= {"liars_influence": None} | change

    drawing = influence(study_of(change=missing))
    (said,) = re.findall(r"Not drawn: (.*)\.$", drawing.caption)
    assert said.startswith("krum under non_finite (")
    assert reason in said


def influence(blocks):
    (scene,) = scenes.scenes(tables.curves(blocks), [GRID])
    return measured.influence(scene)


def test_no_rule_is_said_to_be_missing_where_all_are_drawn():
    assert "Not drawn" not in influence(study_of()).caption


def test_a_page_without_a_figure_of_the_influence_says_why():
    vectors = '<svg viewBox="0 0 9 9"><g id="a"/></svg>'
    kinds = ["accuracy_against_step", "accuracy_heatmap", "influence"]
    pictures = [markup.Picture(kind, "", {}, "title", vectors) for kind in kinds]
    results = tables.table(tables.curves(study_of()))
    for some, said in ((pictures, 0), (pictures[:2], 1), (pictures[:1], 0)):
        study = page_of.Study(*ABOUT, [GRID], [], results, some, [])
        made = " ".join(page_of.html(study).split())
        assert made.count("The influence of the attackers is not drawn") == said
        assert made.count("a rule has a state or draws random numbers") == said


# --- heat maps ------------------------------------------------------------------------------------


def named(axis):
    return [text.get_text() for text in axis.get_ticklabels() if text.get_text()]


def test_a_heat_map_has_no_rule_that_was_not_run_and_no_empty_panel():
    def only_at_the_end(block):
        if block["rule"] != "krum" and block["attack"] != "none":
            block["runs"] = [run for run in block["runs"] if run["s"] == 3]

    data = tables.curves(study_of(change=only_at_the_end))
    figure = figures.make(data, [GRID])["accuracy_heatmap"].figure
    first, last, bar = figure.axes
    assert named(first.yaxis) == ["krum"]
    assert named(last.yaxis) == list(GRID.rule)
    assert bar.get_ylabel() == "accuracy (%)"
    assert all(len(ax.texts) for ax in (first, last))
    assert [ax.get_title() for ax in (first, last)] == ["s = 1 liar", "s = 3 liars"]


@pytest.mark.parametrize("count", range(1, 8))
def test_each_panel_of_a_heat_map_has_names_where_its_neighbour_has_not(count):
    cells = pd.DataFrame(0.5, index=["a", "b"], columns=["p", "q"])
    figure = heat.tables({f"t{i}": cells for i in range(count)}, ".1f", xlabel="x", ylabel="y")
    used = figure.axes[:-1]
    assert len(used) == count
    places = [
        (ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in used
    ]
    for ax, (row, column) in zip(used, places):
        assert bool(named(ax.yaxis)) == (column == 0)
        assert bool(ax.get_ylabel()) == (column == 0)
        assert bool(named(ax.xaxis)) == bool(ax.get_xlabel()) == ((row + 1, column) not in places)
    columns = 1 + max(column for _, column in places)
    assert count % columns == 0 or count > 4  # full rows


def test_numbers_are_read_on_every_cell():
    for share in np.linspace(0, 1, 21):
        red, green, blue = heat.mpl.colormaps["cividis"](share)[:3]
        back = luminance(to_hex((red, green, blue)))
        light, dark = sorted((back, luminance(heat._on(share))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4, share


# --- layout ---------------------------------------------------------------------------------------


def test_titles_and_legends_cover_no_data(drawn):
    for name, drawing in drawn.items():
        figure = drawing.figure
        boxes = [legend.get_window_extent() for legend in figure.legends]
        boxes.append(figure._suptitle.get_window_extent())
        boxes += [ax.title.get_window_extent() for ax in figure.axes if ax.title.get_text()]
        for ax, box in itertools.product(figure.axes, boxes):
            inside = ax.get_window_extent().padded(-2)
            assert not inside.overlaps(box), (name, ax.get_title())
        for a, b in itertools.combinations(boxes, 2):
            assert not a.padded(-1).overlaps(b), name
        assert not any(ax.get_legend() for ax in figure.axes)


def test_axes_are_named(drawn):
    for name, drawing in drawn.items():
        labels = [ax.get_ylabel() for ax in drawing.figure.axes]
        assert labels[0], name
        assert any(ax.get_xlabel() for ax in drawing.figure.axes), name
        whole = drawing.figure._suptitle.get_text()
        assert whole[0].isupper()
        assert "digits, mlp" in whole


# --- the page -------------------------------------------------------------------------------------


def test_the_summary_comes_first_and_its_numbers_are_those_of_the_table(page):
    results, made = page
    assert made.index('id="in-short"') < made.index("<h2>Final test accuracy") < made.index("<svg")
    text = " ".join(Page(made).text.split()).replace("\N{NO-BREAK SPACE}", " ")
    clean = results[results["attack"] == "none"].set_index("rule")["mean"]
    low, high = clean.idxmin(), clean.idxmax()
    ends = [f"{100 * clean[name]:.1f} % ({name})" for name in (low, high)]
    assert f"Without attackers: the final test accuracy is between {ends[0]} and {ends[1]}." in text
    worst = results[(results["s"] == 3)].set_index(["rule", "attack"])["mean"]
    left = f"{100 * worst['aksel', 'non_finite']:.1f}"
    broke = f"at the largest s: aksel under non_finite ({left} %)."
    assert f"1 of 8 combinations of rule and attack, {broke}" in text
    assert "Held, that is, lost at most 5 points: 7 of 8" in text
    assert "Under every attack: mean, median and krum." in text
    assert "Trained: mlp on digits, n = 11 workers, of which s in {0, 1, 3}" in text
    lines = summary.table(results)[1]
    for rule, before, attack, s, after, held, broke in lines:
        assert before == f"{100 * clean[rule]:.1f}"
        assert s == 3
        assert after == f"{100 * worst[rule].min():.1f}"
        assert worst[rule, attack] == worst[rule].min()
        count = sum(worst[rule] >= clean[rule] - 0.05)
        assert held == f"{count}\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}2"
        assert broke[0] == str(sum(worst[rule] < clean[rule] / 2))


def test_models_that_are_not_finite_break_whatever_their_accuracy():
    def diverge(block):
        if (block["rule"], block["attack"]) == ("mean", "non_finite"):
            (run,) = (run for run in block["runs"] if (run["seed"], run["s"]) == (0, 3))
            run["finite"] = [True] * 5 + [False]

    cases = summary.cases(tables.table(tables.curves(study_of(change=diverge))))
    broke = [str(case) for case in cases if case.broke]
    assert [case.split(" (")[0] for case in broke] == [
        "mean under non_finite",
        "aksel under non_finite",
    ]
    assert broke[0].endswith(", not finite)")
    assert not any(case.held for case in cases if case.broke)


def test_the_introduction_is_not_the_help_text():
    said = summary.introduction([GRID])
    assert "n = 11 workers" in said
    assert "s = 3 of the workers are Byzantine" in said
    assert "f = 3" in said
    assert "60 steps, from 2 seeds" in said
    assert "results/" not in said
    assert summary.title([GRID]) == "4 rules under 2 attacks: mlp on digits"
    commands = (ROOT / "experiments" / "cli" / "commands.py").read_text()
    assert "Config.__doc__" not in commands


def test_a_study_of_several_settings_counts_rather_than_lists():
    grids = [Config(**{**vars(GRID), "f": f, "s": (0, f)}) for f in (2, 3)]
    blocks = [block for grid in grids for block in study_of(grid)]
    results = tables.table(tables.curves(blocks))
    said = " ".join(summary.sentences(results, grids))
    assert "2 of 16 combinations" in said
    assert "aksel under non_finite, f = 2" in said
    assert "Under every attack: 6 of 8 rules and settings." in said
    assert "setting" in summary.table(results)[0]


def test_figures_follow_the_colours_of_the_page(page):
    _, made = page
    style, body = made.split("</style>", 1)
    assert "<img" not in body
    bright, dark = style.rsplit("@media (prefers-color-scheme: dark)", 1)
    for light, other in panels.COLORS.items():
        assert f"--{light[1:]}: {light};" in bright
        assert f"--{light[1:]}: {other};" in dark
    css = (REPORT / "page.css").read_text()
    night = re.search(
        r"@media \(prefers-color-scheme: dark\) \{ :root \{(.*?)\} \}", css, re.DOTALL
    )
    for name in {*re.findall(r"var\(--(\w+)", body)} - {name[1:] for name in panels.COLORS}:
        assert f"--{name}: #" in night[1], name
    # A colour of text, of a line or of the ground is never written without its variable.
    for color in (*markup._VARIABLES, *panels.COLORS):
        assert not re.search(rf"(?<!, ){color}\b", body), color
    assert "fill: currentColor" in css


def test_wide_tables_and_figures_scroll_by_themselves(page):
    _, made = page
    for tag in ("table", "svg"):
        inside = len(re.findall(rf'<div class="scroll" tabindex="0"><{tag}\b', made))
        assert inside == len(re.findall(rf"<{tag}\b", made)) > 0
    css = (REPORT / "page.css").read_text()
    assert re.search(r"\.scroll \{ overflow-x: auto", css)
    assert re.search(r"\npre \{[^}]*overflow-x: auto", css)
    for width in re.findall(r"<svg [^>]*min-width: (\d+)px", made):
        assert 300 < int(width) <= 950


def test_the_title_of_a_figure_is_text_of_the_page(page):
    _, made = page
    titles = re.findall(r'<figure id="\w+"><p class="title">(.*?)</p>', made)
    assert len(titles) == made.count("<figure") == 5
    assert titles[0].startswith("Final test accuracy against s: digits, mlp")
    assert '[id$="-title"] { display: none; }' in (REPORT / "page.css").read_text()
    assert made.count('-title">') == len(titles)
    for left, top, width, height in re.findall(r'viewBox="(\S+) (\S+) (\S+) (\S+)"', made):
        assert float(left) == 0
        assert 10 < float(top) < 60
        assert float(width) > 200
        assert float(height) > 100


def test_the_site_shows_pictures_dark_and_lets_them_scroll():
    css = (ROOT / "docs" / "_static" / "byzjax.css").read_text()
    dark = "article img { filter: invert(0.92) hue-rotate(180deg); }"
    assert f'body[data-theme="dark"] {dark}' in css
    assert (
        f'body:not([data-theme="light"]) {dark}' in css.partition("prefers-color-scheme: dark")[2]
    )
    narrow = css.partition("@media (max-width: 45rem)")[2]
    assert "overflow-x: auto" in narrow
    assert "max-width: none" in narrow
