"""The page of the leaderboard: its content, and its behaviour in a browser."""

import html
import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from experiments.cli import commands
from experiments.leaderboard import measures, page, score
from experiments.leaderboard.entries import Defence

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
SCENES = [("digits", "iid", 25, 5, 0.9), ("mnist", "dirichlet(0.1)", 25, 10, 0.0)]
ATTACKS = ("sign_flip", "little_is_enough", "strongest_alie", "flip_labels", "non_finite")


def made(rules, scenes=SCENES, seeds=5):
    """A table of runs whose rules differ by much more than their seeds, but for equal ones."""
    random, out = np.random.default_rng(0), []
    for where, (rule, mixing, level) in itertools.product(scenes, rules):
        shared = dict(zip(score.SCENE, where)) | {"rule": rule, "mixing": mixing}
        for (i, attack), seed in itertools.product(enumerate(("none", *ATTACKS)), range(seeds)):
            noise = 0.002 * random.standard_normal()
            accuracy = 0.95 if attack == "none" else level + 0.03 * i
            stage = "first" if attack == "non_finite" else "last"
            if stage == "first" and seed:
                continue
            line = {"attack": attack, "s": where[3] * (i > 0), "seed": seed, "steps": 200}
            line |= {"stage": stage, "audited": False, "kept": True, "version": "byzjax 0.2.0"}
            line |= {"accuracy": accuracy + noise, "damage": 3.5, "ms": 0.25}
            out.append(shared | line)
    return pd.DataFrame(out)


RULES = [
    *(("mean", "none", 0.1), ("krum", "none", 0.6), ("median", "none", 0.75)),
    *(("aksel", "none", 0.75), ("krum", "nearest_neighbors", 0.8)),
]


@pytest.fixture(scope="module")
def written():
    return page.html(made(RULES))


def data(text):
    script = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(script[1])


# --- content --------------------------------------------------------------------------------------


def test_rows_that_the_seeds_do_not_separate_share_a_rank_and_are_in_order_of_their_names(written):
    rows = [row for row in data(written) if row["dataset"] == "digits"]
    assert [(row["rank"], row["tied"], row["defence"]) for row in rows] == [
        (1, False, "nearest_neighbors + krum"),
        (2, True, "aksel"),
        (2, True, "median"),
        (4, False, "krum"),
        (5, False, "mean"),
    ]


def test_a_row_has_its_numbers_and_the_attacks_with_the_worst_first(written):
    runs = made(RULES)
    (row,) = [r for r in data(written) if r["rule"] == "aksel" and r["f"] == 5]
    mine = runs[(runs["rule"] == "aksel") & (runs["f"] == 5)]
    worst = mine[mine["attack"] == "sign_flip"]["accuracy"].mean()
    assert row["worst"] == pytest.approx(worst, abs=1e-6)
    assert row["low"] < worst < row["high"]
    assert (row["attack"], row["family"], row["seeds"], row["steps"]) == (
        *("sign_flip", "statistical", 5, 200),
    )
    assert (row["damage"], row["ms"], row["attack_success"]) == (3.5, 0.25, None)
    points = [(point["attack"], point["short"]) for point in row["points"]]
    assert points == [*((attack, False) for attack in ATTACKS[:4]), ("non_finite", True)]
    assert row["points"][-1]["low"] is None
    assert row["version"] == "byzjax 0.2.0"


def test_families_are_those_of_the_modules():
    assert {page.family(attack) for attack in ("little_is_enough(z=1.5)", "fang_krum")} == {
        *("statistical", "targeted"),
    }
    assert page.family("strongest_ipm") == page.family("gradient_attack") == "adaptive"
    assert page.family("alternating") == page.family("stale(delay=10)") == "over time"
    assert page.family("sleeping") == "over time"
    assert page.family("byz_mean") == "statistical"
    assert page.family("flip_labels") == page.family("add_trigger(target=1)") == "data"
    assert page.family("my_attacks:push") == "your own"


def test_the_page_needs_no_other_file_and_escapes_names():
    runs = made([("mean", "none", 0.1), ("my_rules:x(a='</script><b>')", "none", 0.5)])
    text = page.html(runs)
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert "</script><b>" not in text
    assert html.escape("</script>") in text
    assert any("</script><b>" in row["rule"] for row in data(text))


def test_a_column_without_numbers_is_left_out(written):
    assert 'data-name="damage"' in written
    assert 'data-name="attack_success"' not in written
    text = page.html(made(RULES).assign(attack_success=0.25, damage=np.inf))
    assert 'data-name="attack_success"' in text
    assert "25.0" in text
    assert {row["damage"] for row in data(text)} == {"inf"}
    older = page.html(made(RULES).drop(columns=["damage", "ms", "version"]))
    assert 'data-name="damage"' not in older


def test_the_command_writes_the_page(tmp_path, capsys):
    made(RULES[:2], SCENES[:1]).to_csv(tmp_path / "runs.csv", index=False)
    line = ["leaderboard", "page", f"{tmp_path}/runs.csv", f"{tmp_path}/out.html"]
    assert commands.main(line) == 0
    assert "krum" in (tmp_path / "out.html").read_text()
    assert commands.main(line[:3]) == 2
    assert "page needs two files" in capsys.readouterr().err
    (tmp_path / "runs.csv").write_text("rule\nkrum\n")
    assert commands.main(line) == 2
    assert "the table has no column mixing" in capsys.readouterr().err


# --- measures -------------------------------------------------------------------------------------


def test_the_damage_of_the_mean_is_that_of_the_loop(monkeypatch):
    from experiments.analysis import worst_case

    n, f = 5, 1
    monkeypatch.setattr(measures, "ROOM", 10)
    table = measures.table([(Defence("mean", "none"), n, f)])
    x, _ = worst_case.updates_of("gaussian", n, measures.D, None)
    honest = x[: n - f].astype(float)
    mean = honest.mean(axis=0)
    error = np.sqrt(sum(np.sum((row - mean) ** 2) for row in honest) / (4 * 3))
    sent = worst_case.fixed_rows("gaussian", n, measures.D, f, None)
    away = [np.linalg.norm(rows.mean(axis=0) - mean) / error for rows in sent.values()]
    assert not np.isfinite(away).all()  # non_finite
    assert table["damage"].item() == np.inf
    mild = {name: rows for name, rows in sent.items() if np.abs(rows).max() < 1e6}
    monkeypatch.setattr(worst_case, "fixed_rows", lambda *of: mild)
    kept = [each for each, name in zip(away, sent) if name in mild]
    assert len(kept) > 20
    again = measures.table([(Defence("mean", "none"), n, f)])
    assert again["damage"].item() == pytest.approx(max(kept), rel=1e-3)
    assert again["ms"].item() > 0
    runs = pd.DataFrame({"rule": ["mean", "krum"], "mixing": "none", "n": n, "f": f, "ms": None})
    assert list(measures.joined(runs, again)["ms"].notna()) == [True, False]


# --- in a browser ---------------------------------------------------------------------------------

PROBE = """
<script>
const seen = [];
const names = () => [...document.querySelectorAll("#board tbody tr")]
  .filter((line) => !line.hidden && !line.classList.contains("details"))
  .map((line) => line.querySelector("button.open").textContent);
const say = (what) => seen.push(what);
say(names());
const head = (name) => document.querySelector(`th[data-name="${name}"]`);
head("worst").querySelector("button").click();
say([head("worst").getAttribute("aria-sort"), head("rank").getAttribute("aria-sort"), ...names()]);
head("worst").querySelector("button").click();
say([head("worst").getAttribute("aria-sort"), ...names()]);
document.getElementById("search").value = "krum";
document.getElementById("search").dispatchEvent(new Event("input"));
say([document.getElementById("count").textContent, ...names()]);
const scene = document.querySelector('select[data-name="scene"]');
scene.value = "";
scene.dispatchEvent(new Event("change"));
for (const name of ["f", "momentum"]) {
  const select = document.querySelector(`select[data-name="${name}"]`);
  select.value = "";
  select.dispatchEvent(new Event("change"));
}
say(names());
const button = document.querySelector("#board tbody tr:not([hidden]) button.open");
button.focus();
button.click();
const below = document.querySelector("tr.details");
say([button.getAttribute("aria-expanded"), below.querySelectorAll("circle").length,
  below.querySelectorAll("circle.short").length, below.querySelectorAll(".interval").length,
  below.querySelector("svg").getAttribute("aria-label"), document.activeElement === button]);
button.click();
say([button.getAttribute("aria-expanded"), document.querySelector("tr.details") === null]);
say(csv().trim().split("\\n").length);
say(document.documentElement.scrollWidth <= document.documentElement.clientWidth);
document.body.append(element("pre", JSON.stringify(seen), { id: "seen" }));
</script>
"""


def browsed(path, *options):
    """The page after its scripts, as the browser shows it."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    ran = subprocess.run(
        [*command, f"--user-data-dir={path.parent / 'browser'}", *options, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return ran.stdout


def test_the_page_sorts_filters_and_opens_rows_in_a_browser(written, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(written.replace("</body>", PROBE + "</body>"))
    out = browsed(path, "--window-size=500,900", "--dump-dom")
    seen = json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', out, re.DOTALL)[1]))
    first, up, down, searched, everywhere, opened, closed, lines, fits = seen
    assert first == ["nearest_neighbors + krum", "aksel", "median", "krum", "mean"]
    assert up[:3] == ["ascending", "none", "mean"]
    assert down[:2] == ["descending", "nearest_neighbors + krum"]
    assert sorted(searched) == ["2 of 10 rows", "krum", "nearest_neighbors + krum"]
    assert len(everywhere) == 4
    assert opened[:4] == ["true", 5, 1, 4]
    assert "under 5 attacks; the lowest is" in opened[4]
    assert opened[5]
    assert closed == ["false", True]
    assert lines == 5
    assert fits
