"""The parts of a study that its figures show: one per setting."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

import byzjax
from experiments.grid import calls
from experiments.grid.config import Config
from experiments.report import backdoors, panels
from experiments.training import diagnostics, texts

# Columns of curves and tables in every study; all others are settings that vary.
CURVE = ("rule", "mixing", "attack", "s", "seed", "step", "accuracy", "loss", "finite")


TABLE = ("mean", "std", "min", "max", "seeds", "diverged", "low", "high", "diverged_at")


# Measured if a grid requests it, if there are several honest models, if workers are drawn, on text,
# or under a backdoor.
EXCESS = ("excess_rounds", "excess_share")
ASKED = (
    *("validation", "to_optimum", "worst_accuracy", "spread", *EXCESS),
    *(texts.BITS, backdoors.SUCCESS),
)


# Sent by all workers up to an evaluation; in studies with a compressor.
SENT = "bits"


COLUMNS = frozenset((*CURVE, *diagnostics.NAMES, *ASKED, SENT, *TABLE, *backdoors.COLUMNS))


class Drawing(NamedTuple):
    """A figure and its caption.

    Attributes:
      setting: the setting of the study that it shows, `{"f": 12}`; empty if nothing varies.
    """

    figure: Figure
    caption: str
    setting: dict[str, Any]


class Scene(NamedTuple):
    """One setting of a study.

    Attributes:
      title: model, data, n, f and the setting.
      data: its curves, with a column `defence`.
      last: the last evaluation of each run.
      defences: the defences in order, with their looks.
      attacks: the attacks in order, without `none`.
    """

    title: str
    setting: dict[str, Any]
    data: pd.DataFrame
    last: pd.DataFrame
    defences: dict[str, panels.Look]
    attacks: list[str]
    n: int
    f: int

    def seeds(self, what: str) -> str:
        """`bars span 3 seeds`."""
        count = self.data["seed"].nunique()
        return f"{what} {count} seeds" if count > 1 else "1 seed"


def defence(rule: str, mixing: str) -> str:
    """A rule and the mixing before it, as one name."""
    return rule if mixing == "none" else f"{mixing} + {rule}"


def settings(data: pd.DataFrame) -> list[str]:
    """The columns of curves or of a table that identify the grid of a line."""
    return [name for name in data.columns if name not in COLUMNS]


def split(
    data: pd.DataFrame, together: Sequence[str] = ()
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Splits curves or a table by setting into pairs (setting, part), but not by `together`."""
    names = [name for name in settings(data) if name not in together]
    if not names:
        yield {}, data
        return
    for values, part in data.groupby(names, sort=False, dropna=False):
        yield dict(zip(names, values)), part


def say(setting: dict[str, Any]) -> str:
    """`{"f": 12, "dataset": "mnist"}` as `f = 12, dataset = mnist`."""
    return ", ".join(f"{name} = {value}" for name, value in setting.items())


def final(data: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of each run."""
    run = ["rule", "mixing", "attack", "s", "seed", *settings(data)]
    return data.sort_values("step", kind="stable").drop_duplicates(run, keep="last").sort_index()


def threshold(rule: str, n: int, f: int) -> float | None:
    r"""The largest ratio of deviation to norm for which a rule's resilience is published.

    The ratio is $\sqrt{E \|G - g\|^2} / \|g\|$ of an honest gradient G with mean g.

    Args:
      rule: specification of the rule; its own f takes precedence over that of the grid.
      n: number of workers.
      f: declared faults of the grid.

    Returns:
      The threshold of `byzjax.theory`; None if none is known.
    """
    name, given = calls.parse_call(rule)
    f = given.pop("f", f)
    known = name in byzjax.rules.__all__ and f > 0
    return byzjax.theory.proved("threshold", name, n, f, **given) if known else None


def scenes(data: pd.DataFrame, grids: Sequence[Config]) -> Iterator[Scene]:
    """One scene per setting of a study."""
    names = [defence(rule, mixing) for rule, mixing in zip(data["rule"], data["mixing"])]
    data = data.assign(defence=names)
    rules, mixings = list(dict.fromkeys(data["rule"])), list(dict.fromkeys(data["mixing"]))
    defences = {
        defence(rule, mixing): panels.look(rules.index(rule), mixings.index(mixing), len(mixings))
        for rule, mixing in dict.fromkeys(zip(data["rule"], data["mixing"]))
    }
    tried = [attack for attack in dict.fromkeys(data["attack"]) if attack != "none"]
    for setting, part in split(data.drop(columns="defence")):
        part = part.assign(defence=data.loc[part.index, "defence"])
        known = {name: setting.get(name, getattr(grids[0], name)) for name in ("n", "f")}
        yield Scene(
            title=title(setting, grids),
            setting=setting,
            data=part,
            last=part.loc[final(part.drop(columns="defence")).index],
            defences={name: defences[name] for name in dict.fromkeys(part["defence"])},
            attacks=[attack for attack in tried if attack in set(part["attack"])],
            **known,
        )


def title(setting: dict[str, Any], grids: Sequence[Config], without: Sequence[str] = ()) -> str:
    """`mnist, mlp, n = 25, f = 11, partition = iid`: the common settings, then this one."""
    parts = []
    for name in ("dataset", "model", "n", "f"):
        if name not in without:
            value = setting.get(name, getattr(grids[0], name))
            parts.append(f"{name} = {value}" if name in ("n", "f") else str(value))
    rest = {name: v for name, v in setting.items() if name not in ("dataset", "model", "n", "f")}
    return ", ".join([*parts, say(rest)] if rest else parts)
