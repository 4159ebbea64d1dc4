"""What a study is about and what came of it: title, introduction and summary."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from experiments.grid.config import DEFAULT_PROTOCOL, Config
from experiments.report import markup, panels, scenes
from experiments.text.names import counted
from experiments.training import texts

HELD = 0.05  # a rule that loses at most so much accuracy to an attack holds under it
BROKEN = 0.5  # a rule that keeps less than this share of its accuracy breaks
_MOST = 6  # cases in a sentence
# What all pages say about their words.
WORDS = (
    "n is the number of workers, s the number of Byzantine ones (liars) in a run, and f the number "
    "that a rule is told to tolerate."
)


class Case(NamedTuple):
    """A rule under an attack, at the largest s that was tried.

    Attributes:
      setting: of the study, as text; empty if nothing varies.
      defence: the rule, with its mixing.
      clean: its accuracy without attackers; NaN if that was not run.
      mean: its accuracy under the attack.
      finite: no seed ended with a model that is not finite.
    """

    setting: str
    defence: str
    attack: str
    s: int
    clean: float
    mean: float
    finite: bool

    @property
    def broke(self) -> bool:
        """Not finite, or less than half of the accuracy without attackers."""
        return not self.finite or self.mean < BROKEN * self.clean

    @property
    def held(self) -> bool:
        """Within five points of the accuracy without attackers."""
        return self.finite and self.mean >= self.clean - HELD

    def __str__(self) -> str:
        where = f", {self.setting}" if self.setting else ""
        end = "" if self.finite else ", not finite"
        return f"{self.defence} under {self.attack}{where} ({_percent(self.mean)}{end})"


def title(grids: Sequence[Config]) -> str:
    """The title of a study without one of its own: `6 rules under 4 attacks: mlp on digits`."""
    rules = dict.fromkeys(rule for grid in grids for rule in grid.rule)
    attacks = dict.fromkeys(a for grid in grids for a in grid.attack if a != "none")
    under = f" under {counted(len(attacks), 'attack')}" if attacks else ""
    return f"{counted(len(rules), 'rule')}{under}: {_each(grids, 'model')} on " + _each(
        grids, "dataset"
    )


def introduction(grids: Sequence[Config]) -> str:
    """What is trained and measured, for a reader who has not seen the program."""
    most = max(max(grid.s) for grid in grids)
    protocols = dict.fromkeys(grid.protocol for grid in grids)
    communication = (
        "and sends them to a server, which combines the n updates with one rule"
        if list(protocols) == [DEFAULT_PROTOCOL]
        else f"and sends them by the protocol {_each(grids, 'protocol')}, whose nodes combine what "
        "they receive with one rule"
    )
    liars = (
        f"Up to s = {most} of the workers are Byzantine: they know what all others send, and send "
        "what an attack makes of it. Nobody else knows who they are; "
        if most
        else "All of them are honest; "
    )
    mixings = dict.fromkeys(m for grid in grids for m in grid.mixing if m != "none")
    mixed = f" after a mixing ({', '.join(mixings)})" if mixings else ""
    seeds = counted(max(grid.seeds for grid in grids), "seed")
    return (
        f"Each of n = {_each(grids, 'n')} workers computes gradients of a model "
        f"({_each(grids, 'model')}) on its own samples of {_each(grids, 'dataset')} (partition "
        f"{_each(grids, 'partition')}) {communication}{mixed}. {liars}the rules are told to "
        f"tolerate f = {_each(grids, 'f')} of them.\n\n"
        f"Each rule is trained under each attack and with each s for {_each(grids, 'steps')} "
        f"steps, from {seeds}; the accuracy is that on the test samples, which no worker holds."
    )


def _each(grids: Sequence[Config], name: str) -> str:
    return panels.joined([str(value) for value in dict.fromkeys(getattr(g, name) for g in grids)])


def cases(results: pd.DataFrame) -> list[Case]:
    """Every rule under every attack, at its largest s.

    Args:
      results: the table of a study.
    """
    out = []
    for setting, part in scenes.split(results):
        lines = part.to_dict("records")
        clean = {_defence(line): line["mean"] for line in lines if line["attack"] == "none"}
        most: dict[tuple[str, str], dict] = {}
        for line in lines:
            key = (_defence(line), line["attack"])
            if line["s"] > 0 and line["s"] >= most.get(key, line)["s"]:
                most[key] = line
        for (defence, attack), line in most.items():
            known = clean.get(defence, math.nan)
            where = (scenes.say(setting), defence, attack, int(line["s"]), known)
            out.append(Case(*where, line["mean"], not line["diverged"]))
    return out


def _percent(value: float, digits: int = 1) -> str:
    return f"{markup.percent(value, digits)}\N{NO-BREAK SPACE}%"


def _place(line: Mapping[Any, Any], results: pd.DataFrame) -> str:
    """The rule and the setting of a line of the table."""
    setting = scenes.say({name: line[name] for name in scenes.settings(results)})
    return f"{_defence(line)}, {setting}" if setting else _defence(line)


def _defence(line: Mapping[Any, Any]) -> str:
    return scenes.defence(line["rule"], line.get("mixing", "none"))


def sentences(results: pd.DataFrame, grids: Sequence[Config]) -> list[str]:
    """What was trained, what broke and what held, with numbers in per cent.

    Args:
      results: the table of a study.
      grids: its grids.
    """
    tried = cases(results)
    out = [_trained(results, grids), *filter(None, [excess(results), bits(results)])]
    clean = results[results["attack"] == "none"].dropna(subset=["mean"]).to_dict("records")
    if clean:
        low, high = (pick(clean, key=lambda line: line["mean"]) for pick in (min, max))
        ends = [f"{_percent(x['mean'])} ({_place(x, results)})" for x in (low, high)]
        reach = ends[0] if len(clean) == 1 else f"between {ends[0]} and {ends[1]}"
        out.append(f"Without attackers: the final test accuracy is {reach}.")
    if not tried:
        return out
    judged = [case for case in tried if not math.isnan(case.clean) or not case.finite]
    of = f"of {len(judged)} combinations of rule and attack, at the largest s"
    broke = sorted((case for case in judged if case.broke), key=lambda case: case.mean)
    listed = f": {_list(broke)}" if broke else ""
    out.append(
        f"Broke, that is, kept less than half of its accuracy without attackers or became not "
        f"finite: {len(broke)} {of}{listed}."
    )
    held = [case for case in judged if case.held]
    out.append(
        f"Held, that is, lost at most {100 * HELD:.0f} points: {len(held)} {of}. {_always(judged)}"
    )
    return out


def excess(results: pd.DataFrame) -> str:
    """In how many rounds more Byzantine workers were drawn than the rule was told to tolerate.

    Args:
      results: the table of a study; the sentence is empty if no workers were drawn.
    """
    if "excess_rounds" not in results:
        return ""
    known = results[results["s"] > 0].dropna(subset=["excess_rounds"])
    if not len(known):
        return ""
    rounds = int(known["excess_rounds"].sum())
    share = float((known["excess_share"] * known["seeds"]).sum() / known["seeds"].sum())
    worst = max(known.to_dict("records"), key=lambda line: line["excess_share"])
    most = (
        f"; most with s = {worst['s']} ({_place(worst, results)}): "
        f"{_percent(worst['excess_share'], 2)}"
    )
    return (
        "More Byzantine workers drawn than the rule was told to tolerate: in "
        f"{counted(rounds, 'round')}, {_percent(share, 2)} of those with attackers"
        f"{most if rounds else ''}."
    )


def bits(results: pd.DataFrame) -> str:
    """The least and the largest loss on text, in nats and in bits per character.

    Args:
      results: the table of a study; the sentence is empty without text.
    """
    if texts.BITS not in results:
        return ""
    lines = results.dropna(subset=[texts.BITS]).to_dict("records")
    if not lines:
        return ""

    def said(line: Mapping[Any, Any]) -> str:
        where = f"{_place(line, results)} under {line['attack']}, s = {line['s']}"
        return f"{line['loss']:.3f} nats or {line[texts.BITS]:.3f} bits per character ({where})"

    ends = [said(pick(lines, key=lambda line: line["loss"])) for pick in (min, max)]
    reach = ends[0] if len(lines) == 1 else f"between {ends[0]} and {ends[1]}"
    return f"Validation loss, on text that no worker holds: {reach}."


def _trained(results: pd.DataFrame, grids: Sequence[Config]) -> str:
    rules = {_defence(line) for line in results.to_dict("records")}
    attacks = set(results["attack"]) - {"none"}
    under = f" under {counted(len(attacks), 'attack')}" if attacks else ""
    runs = counted(int(results["seeds"].sum()), "run")
    model = "a model" if not grids else f"{_each(grids, 'model')} on {_each(grids, 'dataset')}"
    workers = f", n = {_each(grids, 'n')} workers" if grids else ""
    liars = ", ".join(str(s) for s in sorted(results["s"].unique()))
    return (
        f"Trained: {model}{workers}, of which s in {{{liars}}} are Byzantine; "
        f"{counted(len(rules), 'rule')}{under}, {runs} in all."
    )


def _list(some: Sequence[Case]) -> str:
    more = f"; and {len(some) - _MOST} more" if len(some) > _MOST else ""
    return "; ".join(map(str, some[:_MOST])) + more


def _always(judged: Sequence[Case]) -> str:
    """Which rules held under every attack, and which of the others never broke."""
    every = dict.fromkeys((case.setting, case.defence) for case in judged)
    of = {key: [c for c in judged if (c.setting, c.defence) == key] for key in every}

    def named(keys: Sequence[tuple[str, str]]) -> str:
        if len(keys) > _MOST or any(where for where, _ in keys):
            return f"{len(keys)} of {len(every)} rules and settings"
        return panels.joined([defence for _, defence in keys])

    held = [key for key, some in of.items() if all(case.held for case in some)]
    whole = [k for k, some in of.items() if k not in held and not any(c.broke for c in some)]
    first = f"Under every attack: {named(held)}." if held else "No rule held under every attack."
    return f"{first} Never broke: {named(whole)}." if whole else first


def _of(number: int, whole: int) -> str:
    return f"{number} of {whole}".replace(" ", "\N{NO-BREAK SPACE}")


def table(results: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """Head and lines of the summary's table: each rule's worst attack, and how often it held.

    Args:
      results: the table of a study.
    """
    tried = cases(results)
    several = any(case.setting for case in tried)
    head = ["rule", *(["setting"] if several else []), "without attackers", "worst attack", "s"]
    lines = []
    for setting, defence in dict.fromkeys((case.setting, case.defence) for case in tried):
        some = [c for c in tried if (c.setting, c.defence) == (setting, defence)]
        worst = min(some, key=lambda c: (c.finite, c.mean if c.mean == c.mean else -1))
        where = [defence, *([setting] if several else [])]
        known = not math.isnan(worst.clean)
        counts = [_of(sum(getattr(c, n) for c in some), len(some)) for n in ("held", "broke")]
        left = markup.percent(worst.mean) + ("" if worst.finite else " (not finite)")
        what = [markup.percent(worst.clean), worst.attack, worst.s, left]
        lines.append([*where, *what, *(counts if known else ["-", "-"])])
    return [*head, "accuracy left", "held", "broke"], lines
