"""A study as one self-contained page: no other files, scripts or URLs."""

import collections
import dataclasses
import inspect
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.grid import config as configs
from experiments.grid.config import Config
from experiments.report import markup, scenes

_WHERE = ("study", "results", "data_dir", "download")  # locations, which are not shown
_STYLE = "\n" + pathlib.Path(__file__).with_name("page.css").read_text()


class Study(NamedTuple):
    """The content of a page.

    Attributes:
      title: one line.
      claim: what the study tests, as plain text.
      command: the command that runs it.
      grids: the planned grids.
      blocks: the finished blocks.
      results: the table.
      pictures: the figures.
      failures: the failed blocks, with their errors.
    """

    title: str
    claim: str
    command: str
    grids: Sequence[Config]
    blocks: Sequence[dict[str, Any]]
    results: pd.DataFrame
    pictures: Sequence[markup.Picture]
    failures: Sequence[dict[str, Any]]


def html(study: Study) -> str:
    """The page of a study."""
    sections = [
        _head(study),
        *markup.section("Final test accuracy", _accuracy(study)),
        *markup.section("Figures", _figures(study.pictures)),
        *markup.section("Failures", _failures(study)),
        *markup.section("How it was made", _made(study)),
    ]
    body = "\n".join(sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{markup.escape(study.title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _head(study: Study) -> str:
    claim = inspect.cleandoc(study.claim).removeprefix(study.title)
    runs = sum(len(block["runs"]) for block in study.blocks)
    rules = {scenes.defence(block["rule"], block["mixing"]) for block in study.blocks}
    attacks = {block["attack"] for block in study.blocks} - {"none"}
    seconds = sum(block.get("seconds", 0) for block in study.blocks)
    facts = [
        markup.count(runs, "run"),
        markup.count(len(rules), "rule"),
        markup.count(len(attacks), "attack"),
        f"{seconds:.1f} seconds of compiling and training{markup.in_hours(seconds)}",
    ]
    parts = [
        f"<header><h1>{markup.escape(study.title)}</h1>",
        markup.prose(claim) if claim.strip() else "",
    ]
    if study.command not in claim:
        parts.append(f"<pre><code>{markup.escape(study.command)}</code></pre>")
    parts.append(f'<p class="soft">{" · ".join(facts)}</p>')
    if study.failures:
        failed = markup.count(len(study.failures), "block")
        parts.append(f'<p class="notice">{failed} failed: see Failures.</p>')
    return "\n".join(part for part in [*parts, "</header>"] if part)


# --- numbers --------------------------------------------------------------------------------------


def _accuracy(study: Study) -> str:
    if not len(study.results):
        return "<p>No run is finished.</p>"
    several = study.results["seeds"].max() > 1
    spread = "mean ± standard deviation over the seeds, and below them the minimum and maximum"
    parts = [f"<p>In per cent{f': {spread}' if several else ''}.</p>"]
    if study.results["diverged"].any():
        parts.append(
            '<p><span class="bad">not finite</span>: the model contains NaN or infinity; the step '
            "is that of the first evaluation that detects it.</p>"
        )
    groups = []
    for setting, part in scenes.split(study.results):
        some = sorted(s for s in part["s"].unique() if s > 0) or [0]
        tables = "\n".join(f"<h3>s = {s} liars</h3>\n{_wide(part, s)}" for s in some)
        groups.append((scenes.say(setting), tables))
    parts.append(markup.groups(groups))
    parts.append(markup.details("All numbers", _long(study.results)))
    classes = _per_class(study)
    if classes:
        parts.append(markup.details("Accuracy on each class", classes))
    return "\n".join(parts)


def _defence(line: Any) -> str:
    return scenes.defence(line["rule"], line.get("mixing", "none"))


def _wide(part: pd.DataFrame, s: int) -> str:
    chosen = part[(part["s"] == s) | (part["attack"] == "none")].to_dict("records")
    cells = {(_defence(line), line["attack"]): _cell(line) for line in chosen}
    rules = dict.fromkeys(rule for rule, _ in cells)
    attacks = sorted(dict.fromkeys(a for _, a in cells), key=lambda attack: attack != "none")
    lines = ([markup.name(rule), *(cells.get((rule, a), "") for a in attacks)] for rule in rules)
    return markup.table(["rule", *attacks], lines, "wide")


def _cell(line: Any) -> str:
    text = markup.percent(line["mean"])
    if line["seeds"] > 1:
        text += f" ± {markup.percent(line['std'])}"
        text += f"<small>{markup.percent(line['min'])} to {markup.percent(line['max'])}</small>"
    if line["diverged"]:
        of = f", {line['diverged']} of {line['seeds']}" if line["seeds"] > 1 else ""
        text += f'<small class="bad">not finite at {line["diverged_at"]}{of}</small>'
    return text


def _long(results: pd.DataFrame) -> str:
    names = scenes.settings(results)
    head = ["rule", "attack", "s", *names, "mean", "std", "min", "max", "95 % interval"]
    lines = []
    for line in results.to_dict("records"):
        interval = "-"
        if not pd.isna(line["low"]):
            interval = f"{markup.percent(line['low'], 2)} to {markup.percent(line['high'], 2)}"
        numbers = [markup.percent(line[name], 2) for name in ("mean", "std", "min", "max")]
        where = [line["attack"], line["s"], *(line[name] for name in names)]
        not_finite = str(line["diverged"])
        if line["diverged"]:
            not_finite += f" at {line['diverged_at']}"
        cells = [*map(markup.escape, where), *numbers, interval, str(line["seeds"]), not_finite]
        lines.append([markup.escape(_defence(line)), *cells])
    note = "<p>In per cent; the interval is for the mean over the seeds, by Student's t.</p>"
    return note + markup.table([*head, "seeds", "not finite"], lines, "long")


def _per_class(study: Study) -> str:
    names = scenes.settings(study.results)
    accuracies: dict[tuple, list] = collections.defaultdict(list)
    for block in study.blocks:
        for run in block["runs"]:
            if run.get("per_class"):
                where = [block["attack"], run["s"], *(block.get(name) for name in names)]
                key = (scenes.defence(block["rule"], block["mixing"]), *where)
                accuracies[key].append(np.asarray(run["per_class"], float))
    if not accuracies:
        return ""
    most = max(len(values) for runs in accuracies.values() for values in runs)
    lines = []
    for key, runs in accuracies.items():
        means = np.full(most, np.nan)
        stacked = np.stack(runs)
        known = ~np.isnan(stacked)
        total = np.where(known, stacked, 0).sum(axis=0)
        means[: stacked.shape[1]] = np.where(
            known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan
        )
        lines.append([*map(markup.escape, key), *(markup.percent(value, 0) for value in means)])
    note = "<p>Of the final models, in per cent, mean over the seeds.</p>"
    return note + markup.table(["rule", "attack", "s", *names, *range(most)], lines, "long")


# --- figures --------------------------------------------------------------------------------------


def _figures(pictures: Sequence[markup.Picture]) -> str:
    groups: dict[str, list[str]] = {}
    for i, picture in enumerate(pictures):
        name, caption = markup.escape(picture.name), markup.escape(picture.caption)
        groups.setdefault(scenes.say(picture.setting), []).append(
            f'<figure id="{name}"><div class="scroll">{markup.image(picture, i)}</div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return markup.groups([(title, "\n".join(group)) for title, group in groups.items()])


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
        rule = scenes.defence(failure.get("rule", ""), failure.get("mixing", "none"))
        where = [failure.get("attack", ""), *(failure.get(name, "") for name in names)]
        runs = len(failure.get("members", ()))
        error = markup.escape(failure.get("error", ""))
        lines.append([markup.escape(rule), *map(markup.escape, where), str(runs), error])
    return markup.table(["rule", "attack", *names, "runs", "error"], lines, "words")


def _made(study: Study) -> str:
    parts = [_environment(study.blocks)] if study.blocks else []
    if study.grids:
        title = "The grid" if len(study.grids) == 1 else f"The {len(study.grids)} grids"
        parts.append(markup.details(title, _grids(study.grids)))
    return "\n".join(parts)


def _grids(grids: Sequence[Config]) -> str:
    every = [dataclasses.asdict(grid) for grid in grids]
    names = [name for name in every[0] if name not in _WHERE]
    same = [name for name in names if all(grid[name] == every[0][name] for grid in every)]
    lines = [[markup.escape(name), _say(every[0][name])] for name in same]
    out = markup.table(["setting", "value"], lines, "words")
    other = [name for name in names if name not in same]
    if other:
        lines = [
            [str(i + 1), *(_say(grid[name]) for name in other)] for i, grid in enumerate(every)
        ]
        out += "\n<p>What differs:</p>\n" + markup.table(["grid", *other], lines, "words")
    return out


def _say(value: Any) -> str:
    return markup.escape(", ".join(map(str, value)) if isinstance(value, tuple | list) else value)


def _environment(blocks: Sequence[dict[str, Any]]) -> str:
    """Versions, device, date and commit, and whether they are the same for all blocks."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for block in blocks:
        for name, value in block.get("environment", {}).items():
            counts[name][str(value)] += 1
        data = block.get("data")
        if data:
            counts["data"][f"{block['dataset']} {data}" if "dataset" in block else data] += 1
    lines, differ = [], []
    for name, values in counts.items():
        if name == "date":
            first, last = min(values), max(values)
            text = first if first == last else f"{first} to {last}"
        elif len(values) == 1:
            text = next(iter(values))
        else:
            text = ", ".join(
                f"{value or 'unknown'} ({markup.count(n, 'block')})" for value, n in values.items()
            )
            differ += [name] if name != "data" else []
        lines.append([markup.escape(name), markup.escape(text)])
    if not lines:
        return ""
    if differ:
        names = markup.escape(", ".join(differ))
        note = f'<p class="notice">The blocks come from different environments: {names} differ.</p>'
    else:
        note = "<p>All blocks come from the same versions and the same kind of device.</p>"
    return note + "\n" + markup.table(["what", "which"], lines, "words")
