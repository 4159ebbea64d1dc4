"""A study as one page that stands by itself: no other file, no script, no address."""

import base64
import collections
import dataclasses
import html as markup
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments import config as configs
from experiments import figures
from experiments.config import Config

_WHERE = ("study", "results", "data_dir", "download")  # where things lie: of no interest here
_STYLE = """
:root { color-scheme: light dark; --back: #fcfcfa; --card: #ffffff; --text: #24292e;
  --soft: #626a73; --line: #dfe2e5; --accent: #0b6aa2; --bad: #b3261e; --code: #f2f3f1; }
@media (prefers-color-scheme: dark) { :root { --back: #16191c; --card: #1e2226; --text: #dfe3e6;
  --soft: #98a1a9; --line: #363c42; --accent: #6cb8e6; --bad: #ff8a80; --code: #262b30; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 2rem 1.5rem 4rem; background: var(--back);
  color: var(--text); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "Liberation Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p, ul { max-width: 46rem; }
.soft, figcaption, caption, small { color: var(--soft); }
pre, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  font-size: .9em; background: var(--code); border-radius: 4px; }
code { padding: .1em .3em; }
pre { padding: .7rem .9rem; overflow-x: auto; }
pre code { padding: 0; font-size: 1em; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); margin: .5rem 0 1.25rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  width: 100%; }
th, td { padding: .4rem .75rem; text-align: right; white-space: nowrap; vertical-align: top; }
th { font-weight: 600; white-space: normal; }
thead th { border-bottom: 1px solid var(--line); vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tr > th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); }
.wide tr > th:first-child { min-width: 12rem; }
.words td, .words th, .long td:first-of-type, .long th:nth-child(2) { text-align: left; }
.words td { white-space: normal; }
td small { display: block; font-size: .8em; }
.bad { color: var(--bad); }
.notice { border-left: 4px solid var(--bad); padding: .1rem 0 .1rem .9rem; }
figure { margin: 0 0 2rem; }
figure .scroll { background: #ffffff; padding: .5rem; margin-bottom: .4rem; }
figure svg, figure img { display: block; width: 100%; height: auto; margin: 0 auto; }
figcaption { font-size: .9rem; max-width: 46rem; }
details { margin: .75rem 0; }
summary { cursor: pointer; font-weight: 600; color: var(--accent); }
@media (max-width: 40rem) { body { padding: 1.25rem 1rem 3rem; } h1 { font-size: 1.4rem; }
  th, td { padding: .35rem .55rem; }
  tr > th:first-child { max-width: 9.5rem; } .wide tr > th:first-child { min-width: 7rem; } }
@media print { .scroll { overflow: visible; } }
"""


class Picture(NamedTuple):
    """A figure as it was rendered.

    Attributes:
      setting: the part of the study that it is of.
      svg: as vectors.
      png: as pixels.
    """

    name: str
    caption: str
    setting: dict[str, Any]
    svg: str
    png: bytes


class Study(NamedTuple):
    """All that is on a page.

    Attributes:
      title: one line.
      claim: what it tests, as plain text.
      command: what starts it.
      grids: what was planned.
      blocks: what is finished.
      results: the table.
      pictures: the figures.
      failures: what could not be run, and why.
    """

    title: str
    claim: str
    command: str
    grids: Sequence[Config]
    blocks: Sequence[dict[str, Any]]
    results: pd.DataFrame
    pictures: Sequence[Picture]
    failures: Sequence[dict[str, Any]]


def html(study: Study) -> str:
    """The page of a study."""
    sections = [
        _head(study),
        *_section("Final test accuracy", _accuracy(study)),
        *_section("Figures", _figures(study.pictures)),
        *_section("Failures", _failures(study)),
        *_section("How it was made", _made(study)),
    ]
    body = "\n".join(sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(study.title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _escape(value: Any) -> str:
    return markup.escape(str(value))


def _name(value: Any) -> str:
    """A long name that may be broken where it has joints."""
    return re.sub(r"(_|,|(?=\())", r"\1<wbr>", _escape(value))


def _section(title: str, content: str) -> list[str]:
    return [f"<h2>{title}</h2>", content] if content else []


def _groups(groups: Sequence[tuple[str, str]]) -> str:
    """What there is for each setting; of many, only the first is open at first."""
    out = []
    for i, (title, content) in enumerate(groups):
        if not title:
            out.append(content)
        elif len(groups) <= 3:
            out.append(f"<h3>{_escape(title)}</h3>\n{content}")
        else:
            out.append(_details(title, content, unfold=i == 0))
    return "\n".join(out)


def _details(title: str, content: str, unfold: bool = False) -> str:
    start = "<details open>" if unfold else "<details>"
    return f"{start}<summary>{_escape(title)}</summary>\n{content}\n</details>"


def _table(head: Sequence[Any], lines: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table whose cells are HTML already; the first of each line is its header."""
    top = "".join(f'<th scope="col">{_name(cell)}</th>' for cell in head)
    rows = []
    for first, *cells in lines:
        rest = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{first}</th>{rest}</tr>')
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table class="{kind}">\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def prose(text: str) -> str:
    """Plain text as HTML: paragraphs, lists with `*` or `-`, indented commands and `code`."""
    out = []
    for part in re.split(r"\n[ \t]*\n", inspect.cleandoc(text)):
        lines = part.splitlines()
        if all(line.startswith("    ") for line in lines):
            out.append(f"<pre><code>{_escape(textwrap.dedent(part))}</code></pre>")
            continue
        items = re.split(r"^\s*[*-] ", part, flags=re.MULTILINE)
        out += [f"<p>{_inline(items[0])}</p>"] if items[0].strip() else []
        if len(items) > 1:
            points = "".join(f"<li>{_inline(item)}</li>" for item in items[1:])
            out.append(f"<ul>{points}</ul>")
    return "\n".join(out)


def _inline(text: str) -> str:
    words = _escape(" ".join(text.split()))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", words)


def _head(study: Study) -> str:
    claim = inspect.cleandoc(study.claim).removeprefix(study.title)
    runs = sum(len(block["runs"]) for block in study.blocks)
    rules = {figures.defence(block["rule"], block["mixing"]) for block in study.blocks}
    attacks = {block["attack"] for block in study.blocks} - {"none"}
    seconds = sum(block.get("seconds", 0) for block in study.blocks)
    facts = [
        _count(runs, "run"),
        _count(len(rules), "rule"),
        _count(len(attacks), "attack"),
        f"{seconds:.1f} seconds of compiling and training{_in_hours(seconds)}",
    ]
    parts = [f"<header><h1>{_escape(study.title)}</h1>", prose(claim) if claim.strip() else ""]
    if study.command not in claim:
        parts.append(f"<pre><code>{_escape(study.command)}</code></pre>")
    parts.append(f'<p class="soft">{" · ".join(facts)}</p>')
    if study.failures:
        failed = _count(len(study.failures), "block")
        parts.append(f'<p class="notice">{failed} could not be run: see Failures.</p>')
    return "\n".join(part for part in [*parts, "</header>"] if part)


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _in_hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return ""
    return f" ({minutes} min)" if minutes < 120 else f" ({minutes // 60} h {minutes % 60} min)"


# --- numbers --------------------------------------------------------------------------------------


def _percent(value: Any, digits: int = 1) -> str:
    return "-" if pd.isna(value) else f"{100 * value:.{digits}f}"


def _accuracy(study: Study) -> str:
    if not len(study.results):
        return "<p>No run is finished.</p>"
    several = study.results["seeds"].max() > 1
    spread = "mean ± standard deviation over the seeds, and below them the least and the most"
    parts = [f"<p>In per cent{f': {spread}' if several else ''}.</p>"]
    if study.results["diverged"].any():
        parts.append(
            '<p><span class="bad">not finite</span>: the model holds NaN or infinity from that '
            "step on, by the first evaluation that saw it.</p>"
        )
    groups = []
    for setting, part in figures.split(study.results):
        some = sorted(s for s in part["s"].unique() if s > 0) or [0]
        tables = "\n".join(f"<h3>s = {s} liars</h3>\n{_wide(part, s)}" for s in some)
        groups.append((figures.say(setting), tables))
    parts.append(_groups(groups))
    parts.append(_details("All numbers", _long(study.results)))
    classes = _per_class(study)
    if classes:
        parts.append(_details("Accuracy on each class", classes))
    return "\n".join(parts)


def _defence(line: Any) -> str:
    return figures.defence(line["rule"], line.get("mixing", "none"))


def _wide(part: pd.DataFrame, s: int) -> str:
    chosen = part[(part["s"] == s) | (part["attack"] == "none")].to_dict("records")
    cells = {(_defence(line), line["attack"]): _cell(line) for line in chosen}
    rules = dict.fromkeys(rule for rule, _ in cells)
    attacks = sorted(dict.fromkeys(a for _, a in cells), key=lambda attack: attack != "none")
    lines = ([_name(rule), *(cells.get((rule, a), "") for a in attacks)] for rule in rules)
    return _table(["rule", *attacks], lines, "wide")


def _cell(line: Any) -> str:
    text = _percent(line["mean"])
    if line["seeds"] > 1:
        text += f" ± {_percent(line['std'])}"
        text += f"<small>{_percent(line['min'])} to {_percent(line['max'])}</small>"
    if line["diverged"]:
        of = f", {line['diverged']} of {line['seeds']}" if line["seeds"] > 1 else ""
        text += f'<small class="bad">not finite at {line["diverged_at"]}{of}</small>'
    return text


def _long(results: pd.DataFrame) -> str:
    names = figures.settings(results)
    head = ["rule", "attack", "s", *names, "mean", "std", "min", "max", "95 % interval"]
    lines = []
    for line in results.to_dict("records"):
        interval = "-"
        if not pd.isna(line["low"]):
            interval = f"{_percent(line['low'], 2)} to {_percent(line['high'], 2)}"
        numbers = [_percent(line[name], 2) for name in ("mean", "std", "min", "max")]
        where = [line["attack"], line["s"], *(line[name] for name in names)]
        lost = str(line["diverged"])
        if line["diverged"]:
            lost += f" at {line['diverged_at']}"
        cells = [*map(_escape, where), *numbers, interval, str(line["seeds"]), lost]
        lines.append([_escape(_defence(line)), *cells])
    note = "<p>In per cent; the interval is that of the mean over the seeds, by Student's t.</p>"
    return note + _table([*head, "seeds", "not finite"], lines, "long")


def _per_class(study: Study) -> str:
    names = figures.settings(study.results)
    found: dict[tuple, list] = collections.defaultdict(list)
    for block in study.blocks:
        for run in block["runs"]:
            if run.get("per_class"):
                where = [block["attack"], run["s"], *(block.get(name) for name in names)]
                key = (figures.defence(block["rule"], block["mixing"]), *where)
                found[key].append(np.asarray(run["per_class"], float))
    if not found:
        return ""
    most = max(len(values) for runs in found.values() for values in runs)
    lines = []
    for key, runs in found.items():
        means = np.full(most, np.nan)
        stacked = np.stack(runs)
        known = ~np.isnan(stacked)
        total = np.where(known, stacked, 0).sum(axis=0)
        means[: stacked.shape[1]] = np.where(
            known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan
        )
        lines.append([*map(_escape, key), *(_percent(value, 0) for value in means)])
    note = "<p>Of the final models, in per cent, mean over the seeds.</p>"
    return note + _table(["rule", "attack", "s", *names, *range(most)], lines, "long")


# --- figures --------------------------------------------------------------------------------------


def _figures(pictures: Sequence[Picture]) -> str:
    groups: dict[str, list[str]] = {}
    for i, picture in enumerate(pictures):
        groups.setdefault(figures.say(picture.setting), []).append(
            f'<figure id="{_escape(picture.name)}"><div class="scroll">{_image(picture, i)}</div>'
            f"<figcaption>{_escape(picture.caption)}</figcaption></figure>"
        )
    return _groups([(title, "\n".join(group)) for title, group in groups.items()])


def _image(picture: Picture, place: int) -> str:
    """The figure inside of the page, as vectors or as pixels, whichever is shorter."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ', picture.svg)
    # On a narrow screen a wide figure scrolls rather than becoming illegible.
    width = float(box[1]) if box else 600.0
    size = f'style="min-width: {min(0.9 * width, 950):.0f}px; max-width: {1.33 * width:.0f}px"'
    pixels = base64.b64encode(picture.png).decode()
    if len(pixels) < len(picture.svg):
        alt = _escape(picture.caption)
        return f'<img alt="{alt}" {size} src="data:image/png;base64,{pixels}">'
    start = picture.svg.index("<svg")
    vectors = re.sub(r"<metadata>.*?</metadata>", "", picture.svg[start:], flags=re.DOTALL)
    # Identifiers are unique within a figure, and have to be within the page.
    vectors = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{place}-", vectors)
    # Matplotlib's one rule of style is for the whole document.
    vectors = vectors.replace('<style type="text/css">*{', f"<style>#f{place}-figure_1 *{{")
    return re.sub(
        r"^<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>",
        rf'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        rf'role="img" aria-label="{_escape(picture.name)}" \1 {size}>',
        vectors,
        count=1,
    )


# --- where it comes from --------------------------------------------------------------------------


def _failures(study: Study) -> str:
    if not study.failures:
        return ""
    every = [*study.blocks, *study.failures]
    names = [
        name
        for name in configs.IDENTITY
        if len({repr(configs.setting(b, name)) for b in every}) > 1
    ]
    lines = []
    for failure in study.failures:
        rule = figures.defence(failure.get("rule", ""), failure.get("mixing", "none"))
        where = [failure.get("attack", ""), *(failure.get(name, "") for name in names)]
        runs = len(failure.get("members", ()))
        error = _escape(failure.get("error", ""))
        lines.append([_escape(rule), *map(_escape, where), str(runs), error])
    return _table(["rule", "attack", *names, "runs", "error"], lines, "words")


def _made(study: Study) -> str:
    parts = [_environment(study.blocks)] if study.blocks else []
    if study.grids:
        title = "The grid" if len(study.grids) == 1 else f"The {len(study.grids)} grids"
        parts.append(_details(title, _grids(study.grids)))
    return "\n".join(parts)


def _grids(grids: Sequence[Config]) -> str:
    every = [dataclasses.asdict(grid) for grid in grids]
    names = [name for name in every[0] if name not in _WHERE]
    same = [name for name in names if all(grid[name] == every[0][name] for grid in every)]
    lines = [[_escape(name), _say(every[0][name])] for name in same]
    out = _table(["setting", "value"], lines, "words")
    other = [name for name in names if name not in same]
    if other:
        lines = [
            [str(i + 1), *(_say(grid[name]) for name in other)] for i, grid in enumerate(every)
        ]
        out += "\n<p>What differs:</p>\n" + _table(["grid", *other], lines, "words")
    return out


def _say(value: Any) -> str:
    return _escape(", ".join(map(str, value)) if isinstance(value, tuple | list) else value)


def _environment(blocks: Sequence[dict[str, Any]]) -> str:
    """Versions, device, date and commit, and whether all blocks have the same."""
    found: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for block in blocks:
        for name, value in block.get("environment", {}).items():
            found[name][str(value)] += 1
        data = block.get("data")
        if data:
            found["data"][f"{block['dataset']} {data}" if "dataset" in block else data] += 1
    lines, differ = [], []
    for name, values in found.items():
        if name == "date":
            first, last = min(values), max(values)
            text = first if first == last else f"{first} to {last}"
        elif len(values) == 1:
            text = next(iter(values))
        else:
            text = ", ".join(
                f"{value or 'unknown'} ({_count(n, 'block')})" for value, n in values.items()
            )
            differ += [name] if name != "data" else []
        lines.append([_escape(name), _escape(text)])
    if not lines:
        return ""
    if differ:
        names = _escape(", ".join(differ))
        note = f'<p class="notice">The blocks were not all made alike: {names} differ.</p>'
    else:
        note = "<p>All blocks were made with the same versions, on the same kind of device.</p>"
    return note + "\n" + _table(["what", "which"], lines, "words")
