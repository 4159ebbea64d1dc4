"""A study as one self-contained page: its content, which the template page.html arranges."""

import collections
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd

from experiments.grid import config as configs
from experiments.grid.config import Config
from experiments.report import backdoors, markup, panels, private, scenes, summary
from experiments.text.names import counted
from experiments.training import texts

_WHERE = ("study", "results", "data_dir", "download")  # locations, which are not shown
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("experiments.report", "."),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)
_TEMPLATES.filters |= {
    "breakable": markup.breakable,
    "counted": counted,
    "in_hours": markup.in_hours,
    "percent": markup.percent,
    "prose": markup.prose,
}


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


class Table(NamedTuple):
    """A table of the page.

    Attributes:
      kind: its class in page.css: `"wide"`, `"long"` or `"words"`.
      head: the names of the columns.
      lines: the cells; the first of each line is its header.
    """

    kind: str
    head: Sequence[Any]
    lines: Sequence[Sequence[Any]]


def html(study: Study) -> str:
    """The page of a study."""
    content = _head(study) | _in_short(study) | _numbers(study) | _origin(study)
    return rendered(
        "page.html",
        study=study,
        figures=_figures(study.pictures),
        failures=_failures(study),
        colors=panels.COLORS,
        **content,
    )


def rendered(template: str, **content: Any) -> str:
    """A template of this folder with its content."""
    return _TEMPLATES.get_template(template).render(**content)


def _head(study: Study) -> dict[str, Any]:
    return {
        "claim": inspect.cleandoc(study.claim).removeprefix(study.title),
        "words": summary.WORDS,
        "runs": sum(len(block["runs"]) for block in study.blocks),
        "rules": len({_defence(block) for block in study.blocks}),
        "attacks": len({block["attack"] for block in study.blocks} - {"none"}),
        "seconds": sum(block.get("seconds", 0) for block in study.blocks),
    }


def _in_short(study: Study) -> dict[str, Any]:
    if not len(study.results):
        return {"in_short": [], "worst": None}
    head, lines = summary.table(study.results)
    return {
        "in_short": [
            *summary.sentences(study.results, study.grids),
            *private.sentences(study.blocks),
        ],
        "worst": Table("words", head, lines) if lines else None,
    }


def _defence(line: Any) -> str:
    return scenes.defence(line.get("rule", ""), line.get("mixing", "none"))


# --- numbers --------------------------------------------------------------------------------------


def _numbers(study: Study) -> dict[str, Any]:
    if not len(study.results):
        return {}
    accuracies = []
    for setting, part in scenes.split(study.results):
        shown = []
        for s in sorted(s for s in part["s"].unique() if s > 0) or [0]:
            title = f"s = {counted(int(s), 'liar')}"
            shown.append((title, _wide(part, s)))
            rates = backdoors.instead(part[part["s"] == s])
            if len(rates):
                shown.append((f"{title}: attack success rate", _wide(rates, s)))
        accuracies.append((scenes.say(setting), shown))
    return {
        "several": study.results["seeds"].max() > 1,
        "diverged": study.results["diverged"].any(),
        "accuracies": accuracies,
        "success": backdoors.WORDS if len(backdoors.instead(study.results)) else "",
        "all_numbers": _long(study.results),
        "samples": _samples(study),
        "per_class": _per_class(study),
    }


def _wide(part: pd.DataFrame, s: int) -> Table:
    chosen = part[(part["s"] == s) | (part["attack"] == "none")].to_dict("records")
    cells = {(_defence(line), line["attack"]): line for line in chosen}
    # A rule that is not run with this s has no line.
    tried = {_defence(line) for line in chosen if line["s"] == s}
    rules = [rule for rule in dict.fromkeys(rule for rule, _ in cells) if rule in tried]
    attacks = sorted(dict.fromkeys(a for _, a in cells), key=lambda attack: attack != "none")
    lines = [[rule, *(cells.get((rule, a), "") for a in attacks)] for rule in rules]
    return Table("wide", ["rule", *attacks], lines)


def _long(results: pd.DataFrame) -> Table:
    names = scenes.settings(results)
    head = ["rule", "attack", "s", *names, "mean", "std", "min", "max", "95 % interval"]
    lines = []
    for line in results.to_dict("records"):
        interval = "-"
        if not pd.isna(line["low"]):
            interval = f"{markup.percent(line['low'], 2)} to {markup.percent(line['high'], 2)}"
        numbers = [markup.percent(line[name], 2) for name in ("mean", "std", "min", "max")]
        where = [line["attack"], line["s"], *(line[name] for name in names)]
        step = f" at {line['diverged_at']}" if line["diverged"] else ""
        not_finite = f"{line['diverged']}{step}"
        lines.append([_defence(line), *where, *numbers, interval, line["seeds"], not_finite])
        if "excess_rounds" in results:
            lines[-1].append(_excess(line))
        if backdoors.SUCCESS in results:
            lines[-1].append(markup.percent(line[backdoors.SUCCESS], 2))
        if texts.BITS in results:
            lines[-1] += [_decimals(line[name]) for name in ("loss", texts.BITS)]
    more = ["rounds with more than f"] if "excess_rounds" in results else []
    more += ["attack success"] if backdoors.SUCCESS in results else []
    more += ["loss", "bits per character"] if texts.BITS in results else []
    return Table("long", [*head, "seeds", "not finite", *more], lines)


def _decimals(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def _samples(study: Study) -> list[tuple[str, str]]:
    """What the models of seed 0 write, each below the rule, the attack, s and the setting."""
    names = scenes.settings(study.results)
    samples = []
    for block in study.blocks:
        setting = {name: configs.setting(block, name) for name in names}
        for run in block["runs"]:
            if texts.SAMPLE in run:
                where = [f"{_defence(block)} under {block['attack']}", f"s = {run['s']}"]
                where += [scenes.say(setting)] if setting else []
                samples.append((", ".join(where), str(run[texts.SAMPLE])))
    return samples


def _excess(line: Mapping[Any, Any]) -> str:
    """The rounds in which more Byzantine workers were drawn than the rule was told to tolerate."""
    if pd.isna(line["excess_rounds"]):
        return "-"
    return f"{line['excess_rounds']:.0f} ({markup.percent(line['excess_share'], 2)} %)"


def _per_class(study: Study) -> Table | None:
    names = scenes.settings(study.results)
    accuracies: dict[tuple, list] = collections.defaultdict(list)
    for block in study.blocks:
        for run in block["runs"]:
            if run.get("per_class"):
                where = [block["attack"], run["s"], *(block.get(name) for name in names)]
                accuracies[(_defence(block), *where)].append(np.asarray(run["per_class"], float))
    if not accuracies or texts.BITS in study.results:  # characters are no classes
        return None
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
        lines.append([*key, *(markup.percent(value, 0) for value in means)])
    return Table("long", ["rule", "attack", "s", *names, *range(most)], lines)


# --- figures and failures -------------------------------------------------------------------------


def _figures(pictures: Sequence[markup.Picture]) -> list[tuple[str, list, bool]]:
    """The pictures and their images by setting, and whether that of the influence is missing."""
    groups: dict[str, list] = {}
    for i, picture in enumerate(pictures):
        group = groups.setdefault(scenes.say(picture.setting), [])
        group.append((picture, markup.image(picture, i)))

    def missing(group: list) -> bool:
        """There are attackers and several evaluations, but no such figure."""
        drawn = [picture.name for picture, _ in group]
        kinds = ("accuracy_heatmap", "accuracy_against_step", "influence")
        heat, steps, influence = (any(n.startswith(kind) for n in drawn) for kind in kinds)
        return heat and steps and not influence

    return [(setting, group, missing(group)) for setting, group in groups.items()]


def _failures(study: Study) -> Table:
    every = [*study.blocks, *study.failures]
    names = [
        name
        for name in configs.IDENTITY
        if len({repr(configs.setting(b, name)) for b in every if "rule" in b}) > 1
    ]
    lines = []
    for failure in study.failures:
        where = [failure.get(name, "") for name in ("attack", *names)]
        runs = len(failure.get("members", ()))
        lines.append([_defence(failure), *where, runs, failure.get("error", "")])
    return Table("words", ["rule", "attack", *names, "runs", "error"], lines)


# --- where it comes from --------------------------------------------------------------------------


def _origin(study: Study) -> dict[str, Any]:
    environment, differ = _environment(study.blocks)
    same, other = _grids(study.grids) if study.grids else (None, None)
    return {"environment": environment, "differ": differ, "same": same, "other": other}


def _grids(grids: Sequence[Config]) -> tuple[Table, Table | None]:
    """The settings that all grids share, and those that differ."""
    every = [dataclasses.asdict(grid) for grid in grids]
    names = [name for name in every[0] if name not in _WHERE]
    same = [name for name in names if all(grid[name] == every[0][name] for grid in every)]
    shared = Table("words", ["setting", "value"], [[name, _say(every[0][name])] for name in same])
    other = [name for name in names if name not in same]
    lines = [[i, *(_say(grid[name]) for name in other)] for i, grid in enumerate(every, 1)]
    return shared, Table("words", ["grid", *other], lines) if other else None


def _say(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _environment(blocks: Sequence[dict[str, Any]]) -> tuple[Table | None, list[str]]:
    """Versions, device, date and commit, and what of it differs between blocks."""
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
                f"{value or 'unknown'} ({counted(n, 'block')})" for value, n in values.items()
            )
            differ += [name] if name != "data" else []
        lines.append([name, text])
    return (Table("words", ["what", "which"], lines) if lines else None), differ
