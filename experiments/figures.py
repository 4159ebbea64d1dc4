"""What the curves of a study look like: one function for each kind of figure."""

import contextlib
import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments import diagnostics, specs
from experiments.config import Config

# Columns of curves and tables that are there in every study; all others are settings that vary.
CURVE = ("rule", "mixing", "attack", "s", "seed", "step", "accuracy", "loss", "finite")
TABLE = ("mean", "std", "min", "max", "seeds", "diverged", "low", "high", "diverged_at")
COLUMNS = frozenset((*CURVE, *diagnostics.NAMES, *TABLE))

_WIDTH = 15.0  # inches that a figure takes at most, if its panels allow it
_PALETTE = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 4, 9, 3, 7, 8, 5, 6)]
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
_MARKERS = "osD^vP*X"
_EMPTY = "0.85"  # grey of a cell that no run belongs to


class Drawing(NamedTuple):
    """A figure, and the sentence below it.

    Attributes:
      setting: the part of the study that it is of, `{"f": 12}`; empty where nothing varies.
    """

    figure: Figure
    caption: str
    setting: dict[str, Any]


class _Look(NamedTuple):
    """How a line looks wherever its defence, or its attack, is drawn."""

    color: Any
    linestyle: Any
    marker: str


class _Scene(NamedTuple):
    """One setting of a study.

    Attributes:
      title: model, data, n, f and the setting.
      data: its curves, with a column `defence`.
      last: the last evaluation of each run.
      defences: their names, in order, with their looks.
      attacks: those that were tried, likewise; without `none`.
    """

    title: str
    setting: dict[str, Any]
    data: pd.DataFrame
    last: pd.DataFrame
    defences: dict[str, _Look]
    attacks: dict[str, _Look]
    n: int
    f: int


def defence(rule: str, mixing: str) -> str:
    """A rule and what stands in front of it, as one name."""
    return rule if mixing == "none" else f"{mixing} + {rule}"


def settings(data: pd.DataFrame) -> list[str]:
    """The columns of curves or of a table that say which grid a line is of."""
    return [name for name in data.columns if name not in COLUMNS]


def split(data: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Curves or a table in parts, one for each setting, which comes first."""
    names = settings(data)
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
    r"""The largest ratio of deviation to norm for which a rule's resilience is proved.

    The ratio is $\sqrt{E \|G - g\|^2} / \|g\|$ of an honest gradient G with mean g. Known for
    * krum and bulyan: $1 / \sqrt{2 (n - f + f (n + f (n - f - 2) - 2) / (n - 2f - 2))}$,
    * median: $1 / \sqrt{n - f}$,
    * minimum_diameter: $(n - f) / (\sqrt 8 f)$.

    Args:
      rule: as it is written in a study; its own f goes before that of the grid.
      n: number of workers.
      f: faults that the grid's rules are declared to tolerate.

    Returns:
      The threshold; None where none is known.

    Reference:
      El-Mhamdi, Guerraoui, Rouault, Distributed Momentum for Byzantine-resilient SGD, 2021.
    """
    name, given = specs.parse_call(rule)
    f = given.get("f", f)
    free = n - 2 * f - 2
    if name in ("krum", "bulyan") and given.get("m", 1) == 1 and free > 0:
        return 1 / math.sqrt(2 * (n - f + f * (n + f * (n - f - 2) - 2) / free))
    if name == "median":
        return 1 / math.sqrt(n - f)
    if name == "minimum_diameter" and f > 0:
        return (n - f) / (math.sqrt(8) * f)
    return None


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of all figures, to be made and rendered inside of it."""
    look = {**sns.plotting_context("notebook"), **sns.axes_style("whitegrid")}
    # The same figure has the same bytes: identifiers are hashed with this, not with a random salt.
    with mpl.rc_context({**look, "svg.hashsalt": "byzjax", "svg.fonttype": "path"}):
        yield


def render(figure: Figure) -> tuple[str, bytes]:
    """A figure as SVG and as PNG; the same one has the same bytes each time."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # as it lies now: once is enough for both
    vector, raster = io.StringIO(), io.BytesIO()
    figure.savefig(vector, format="svg", metadata={"Date": None})
    figure.savefig(raster, format="png", dpi=130)
    lines = (line.rstrip() for line in vector.getvalue().splitlines())
    return "\n".join(lines) + "\n", raster.getvalue()


def make(data: pd.DataFrame, grids: Sequence[Config]) -> dict[str, Drawing]:
    """All figures of a study by name; one that has nothing to show is not there.

    Args:
      data: the curves.
      grids: the grids that they are of; they say what does not vary.
    """
    out: dict[str, Drawing] = {}
    if data.empty:
        return out
    kinds = {
        "accuracy_against_s": _against_s,
        "accuracy_against_step": _against_step,
        "accuracy_heatmap": _heatmap,
        "influence": _influence,
        "variance_to_norm": _variance_to_norm,
    }
    out |= _setting_heatmaps(data, grids)
    for scene in _scenes(data, grids):
        for name, draw in kinds.items():
            drawing = draw(scene)
            if drawing is not None:
                out[_file_name(name, scene.setting)] = drawing
    return out


def _file_name(kind: str, setting: dict[str, Any]) -> str:
    parts = [kind, *(f"{name}_{value}" for name, value in setting.items())]
    return re.sub(r"[^A-Za-z0-9.\-]+", "_", "_".join(parts)).strip("_")


def _scenes(data: pd.DataFrame, grids: Sequence[Config]) -> Iterator[_Scene]:
    names = [defence(rule, mixing) for rule, mixing in zip(data["rule"], data["mixing"])]
    data = data.assign(defence=names)
    rules, mixings = list(dict.fromkeys(data["rule"])), list(dict.fromkeys(data["mixing"]))
    defences = {
        defence(rule, mixing): _look(rules.index(rule), mixings.index(mixing), len(mixings))
        for rule, mixing in dict.fromkeys(zip(data["rule"], data["mixing"]))
    }
    tried = [attack for attack in dict.fromkeys(data["attack"]) if attack != "none"]
    attacks = {attack: _look(i) for i, attack in enumerate(tried)}
    for setting, part in split(data.drop(columns="defence")):
        part = part.assign(defence=data.loc[part.index, "defence"])
        known = {name: setting.get(name, getattr(grids[0], name)) for name in ("n", "f")}
        yield _Scene(
            title=_title(setting, grids),
            setting=setting,
            data=part,
            last=part.loc[final(part.drop(columns="defence")).index],
            defences={name: defences[name] for name in dict.fromkeys(part["defence"])},
            attacks={name: look for name, look in attacks.items() if name in set(part["attack"])},
            **known,
        )


def _look(place: int, kind: int = 0, kinds: int = 1) -> _Look:
    """The look of the name at a place: its colour, and dashes once the colours are used up.

    Args:
      place: of a rule, or of an attack.
      kind: of a mixing: what differs in nothing else has one colour and other dashes.
      kinds: how many of them there are.
    """
    dashes = kind + kinds * (place // len(_PALETTE))
    return _Look(
        _PALETTE[place % len(_PALETTE)],
        _DASHES[dashes % len(_DASHES)],
        _MARKERS[(place + kind) % len(_MARKERS)],
    )


def _title(setting: dict[str, Any], grids: Sequence[Config], without: Sequence[str] = ()) -> str:
    """`mnist, mlp, n = 25, f = 11, partition = iid`: what is the same, and the setting."""
    parts = []
    for name in ("dataset", "model", "n", "f"):
        if name not in without:
            value = setting.get(name, getattr(grids[0], name))
            parts.append(f"{name} = {value}" if name in ("n", "f") else str(value))
    rest = {name: v for name, v in setting.items() if name not in ("dataset", "model", "n", "f")}
    return ", ".join([*parts, say(rest)] if rest else parts)


# --- panels ---------------------------------------------------------------------------------------


def _panels(panels: Sequence[Any], columns: int, size: tuple[float, float], **labels: str):
    """A figure with one set of axes for each panel; None leaves a hole at the end of a line.

    Args:
      panels: line by line.
      columns: panels in a line.
      size: of a panel, width and height in inches.
      **labels: `xlabel` below the lowest panel of each column and `ylabel` left of each line.

    Returns:
      The figure and the axes, one for each panel that is not None.
    """
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(size[0] * columns + 0.6, size[1] * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    axes = []
    for i, ax in enumerate(grid.flat):
        if i >= len(panels) or panels[i] is None:
            ax.remove()
            continue
        axes.append(ax)
        if i % columns == 0:
            ax.set_ylabel(labels["ylabel"])
        below = range(i + columns, len(panels), columns)
        if all(panels[j] is None for j in below):
            ax.set_xlabel(labels["xlabel"])
            ax.xaxis.set_tick_params(labelbottom=True)
    return figure, axes


def _along(axes: Sequence[Any], found: dict[Any, pd.DataFrame], low: float, high: float) -> None:
    """Sets the limits of all panels, steps across and `low` to `high` upwards, before any line.

    Each line would look for them anew, in all panels: a third of the time of a large figure.
    """
    steps = pd.concat(found.values()).index
    margin = 0.04 * max(1, np.ptp(steps))
    axes[0].set(xlim=(steps.min() - margin, steps.max() + margin), ylim=(low, high))


def _columns(count: int, width: float) -> int:
    """How many panels stand side by side: as many as fit, in lines of equal length."""
    lines = -(-count // max(1, int(_WIDTH / width)))
    return -(-count // lines)


def _fitted(count: int) -> tuple[int, float]:
    """Columns for so many panels of curves, and the width of each in inches."""
    columns = _columns(count, 2.8)
    return columns, min(3.6, _WIDTH / columns)


def _padded(lines: Sequence[Sequence[Any]], columns: int) -> list[Any]:
    """Each line broken into lines of `columns` panels, the last of them filled up with None."""
    out = []
    for line in lines:
        out += [*line, *[None] * (-len(line) % columns)]
    return out


def _wrap(text: str, width: int) -> str:
    """Breaks a long name, with hyperparameters, before `(` or behind `_`, `,` or a space."""
    lines = [""]
    for piece in re.split(r"(?<=[_, ])|(?=[(])", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _name(ax: Any, name: str, width: float, more: str = "") -> None:
    """The title of a panel so wide: in one line where it fits."""
    most = int(11.5 * width)
    whole = f"{name}, {more}" if more else name
    if len(whole) > most:
        whole = "\n".join([_wrap(name, most), *([more] if more else [])])
    ax.set_title(whole, fontsize=10)


def _head(figure: Figure, text: str) -> None:
    width = max(20, int(8.5 * figure.get_figwidth()))
    figure.suptitle("\n".join(textwrap.wrap(text, width)), fontsize=13)


def _below(figure: Figure, handles: Sequence[Any], **kwargs: Any) -> None:
    """A legend below all panels, in as many columns as its names leave room for; grows down."""
    widest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, int(figure.get_figwidth() / (0.085 * widest + 0.75)))
    columns = -(-len(handles) // -(-len(handles) // columns))
    lines = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.4 + 0.24 * lines)
    figure.legend(handles=handles, loc="outside lower center", ncol=columns, fontsize=10, **kwargs)


def _handle(name: str, look: _Look, markers: bool = False) -> Line2D:
    marker = look.marker if markers else "none"
    return Line2D(
        [], [], color=look.color, linestyle=look.linestyle, marker=marker, markersize=5, label=name
    )


def _spread(data: pd.DataFrame, column: str, along: str, keys: list[str]) -> dict[Any, Any]:
    """Mean, least and most over the seeds along steps or s, for each combination of keys."""
    known = data[np.isfinite(data[column].to_numpy(float))]
    found = known.groupby([*keys, along], sort=False)[column].agg(["mean", "min", "max"])
    groups = found.reset_index().groupby(keys, sort=False)
    return {key: part.set_index(along).sort_index() for key, part in groups}


def _line(ax: Any, found: pd.DataFrame, look: _Look, scale: float = 1.0) -> None:
    """A mean with a band from the lowest to the highest seed."""
    steps = found.index.to_numpy()
    ax.plot(
        steps,
        scale * found["mean"].to_numpy(),
        color=look.color,
        linestyle=look.linestyle,
        linewidth=1.5,
    )
    low, high = scale * found["min"].to_numpy(), scale * found["max"].to_numpy()
    ax.fill_between(steps, low, high, color=look.color, alpha=0.15, linewidth=0)


def _spans(scene: _Scene, what: str) -> str:
    """`bars span 3 seeds`."""
    count = scene.data["seed"].nunique()
    return f"{what} {count} seeds" if count > 1 else "1 seed"


# --- kinds of figures ----------------------------------------------------------------------------


def _against_s(scene: _Scene) -> Drawing | None:
    found = _spread(scene.last, "accuracy", "s", ["defence", "attack"])
    every = np.unique(scene.last["s"])
    names = [attack for attack in scene.attacks if any(attack == key[1] for key in found)]
    if not names or len(every) < 2:
        return None
    columns, width = _fitted(len(names))
    figure, axes = _panels(
        names, columns, (width, 3.2), xlabel="liars s", ylabel="final test accuracy (%)"
    )
    # Bars of equal rules stand beside each other and stay visible.
    room = min(0.03 * np.ptp(every), 0.5 * np.diff(every).min())
    shifts = room * np.linspace(-0.5, 0.5, len(scene.defences))
    shown = {}
    for ax, attack in zip(axes, names):
        for (name, look), shift in zip(scene.defences.items(), shifts):
            parts = [found[key] for key in ((name, "none"), (name, attack)) if key in found]
            if not parts:
                continue
            line = 100 * pd.concat(parts)
            middle = line["mean"]
            ax.errorbar(
                line.index + (shift if len(scene.defences) > 1 else 0),
                middle,
                yerr=[(middle - line["min"]).clip(0), (line["max"] - middle).clip(0)],
                color=look.color,
                linestyle=look.linestyle,
                marker=look.marker,
                markersize=5,
                capsize=2,
                linewidth=1.5,
            )
            shown[name] = _handle(name, look, markers=True)
        _name(ax, attack, width)
        ax.set_ylim(0, 102)
        ax.set_xticks(every)
    _head(figure, f"{scene.title}: {_spans(scene, 'bars span')}")
    _below(figure, [shown[name] for name in scene.defences if name in shown])
    caption = (
        "Final test accuracy against the number of liars s. Points are means over the seeds, "
        "bars go from the lowest to the highest seed."
    )
    return Drawing(figure, caption, scene.setting)


def _against_step(scene: _Scene) -> Drawing | None:
    found = _spread(scene.data, "accuracy", "step", ["attack", "s", "defence"])
    if not found or scene.data["step"].nunique() < 2:
        return None
    some = sorted({key[1] for key in found if key[1] > 0})
    lines = [
        [(a, s) for a in scene.attacks if any(key[:2] == (a, s) for key in found)] for s in some
    ]
    lines = lines or [[("none", 0)]]
    columns, width = _fitted(max(map(len, lines)))
    panels = _padded(lines, columns)
    figure, axes = _panels(panels, columns, (width, 2.7), xlabel="step", ylabel="test accuracy (%)")
    _along(axes, found, 0, 102)
    for ax, (attack, s) in zip(axes, (panel for panel in panels if panel)):
        for name, look in scene.defences.items():
            if (attack, s, name) in found:
                _line(ax, found[attack, s, name], look, scale=100)
        _name(ax, attack, width, f"s = {s}")
    _head(figure, f"{scene.title}: {_spans(scene, 'lines are means, bands span')}")
    _below(figure, [_handle(name, look) for name, look in scene.defences.items()])
    caption = (
        "Test accuracy against the step, for each attack and number of liars s. Lines are means "
        "over the seeds, bands go from the lowest to the highest seed."
    )
    return Drawing(figure, caption, scene.setting)


def _heatmap(scene: _Scene) -> Drawing | None:
    means = scene.last.groupby(["defence", "attack", "s"])["accuracy"].mean()
    some = sorted(s for s in scene.last["s"].unique() if s > 0)
    if not some or means.isna().all():
        return None
    by_s = {s: means[means.index.isin([0, s], level="s")].droplevel("s").unstack() for s in some}
    attacks = [a for a in ("none", *scene.attacks) if any(a in by_s[s].columns for s in some)]
    tables = {
        f"s = {s} liars": by_s[s].reindex(index=list(scene.defences), columns=attacks) for s in some
    }
    figure = _tables(tables, fmt=".1f")
    _head(figure, f"{scene.title}: final test accuracy (%), {_spans(scene, 'mean of')}")
    caption = "Final test accuracy in per cent, mean over the seeds, for each number of liars s."
    return Drawing(figure, caption, scene.setting)


def _tables(tables: dict[str, pd.DataFrame], fmt: str, **labels: str) -> Figure:
    """Accuracies as coloured tables, one panel each, all with the same lines and columns."""
    lines, names = next(iter(tables.values())).shape
    width, height = max(1.4, 0.62 * names) + 0.2, max(0.8, 0.36 * lines) + 0.55
    first = next(iter(tables.values()))
    columns = _columns(len(tables), width)
    rows = -(-len(tables) // columns)
    left = 0.075 * max(len(str(name)) for name in first.index) + 0.3
    under = 0.5 + 0.06 * min(30, max(len(str(name)) for name in first.columns))
    size = (max(6.5, width * columns + left + 1.2), height * rows + under + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    used = list(grid.flat)[: len(tables)]
    for ax in list(grid.flat)[len(tables) :]:
        ax.remove()
    for i, (ax, (title, table)) in enumerate(zip(used, tables.items())):
        sns.heatmap(
            100 * table.astype(float),
            ax=ax,
            vmin=0,
            vmax=100,
            cmap="cividis",
            annot=True,
            fmt=fmt,
            annot_kws={"fontsize": 9},
            cbar=False,
            linewidths=0.5,
        )
        ax.grid(False)
        ax.set_facecolor(_EMPTY)
        ax.set_title(_wrap(title, max(16, int(10 * width))), fontsize=11)
        lowest = i + columns >= len(tables)
        ax.set(xlabel=labels.get("xlabel", "") if lowest else "")
        ax.set(ylabel=labels.get("ylabel", "") if i % columns == 0 else "")
        ax.tick_params(left=False, bottom=False, labelbottom=lowest, labelleft=i % columns == 0)
        ax.set_xticks(np.arange(len(table.columns)) + 0.5)
        ax.set_xticklabels([_wrap(str(name), 30) for name in table.columns])
        for text in ax.get_xticklabels():
            text.set(rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
        for text in ax.get_yticklabels():
            text.set(rotation=0, fontsize=10)
    bar = figure.colorbar(used[0].collections[0], ax=used, fraction=0.05, pad=0.01, aspect=25)
    bar.set_label("accuracy (%)", fontsize=10)
    bar.outline.set_visible(False)
    return figure


def _setting_heatmaps(data: pd.DataFrame, grids: Sequence[Config]) -> dict[str, Drawing]:
    """Tables of f against partition, where both vary; one figure for each other setting."""
    if not {"f", "partition"} <= set(settings(data)):
        return {}
    others = [name for name in settings(data) if name not in ("f", "partition")]
    last = final(data)
    keys = [*others, "f", "partition", "rule", "mixing", "attack", "s"]
    means = last.groupby(keys, sort=False, dropna=False)["accuracy"].mean()
    # What is left under the attack and the number of liars that hurt most.
    least = means.groupby(level=keys[:-2], sort=False, dropna=False).min().reset_index()
    groups = least.groupby(others, sort=False, dropna=False) if others else [((), least)]
    out = {}
    for values, part in groups:
        setting = dict(zip(others, values))
        if part["f"].nunique() < 2 or part["partition"].nunique() < 2:
            continue
        if part["accuracy"].isna().all():
            continue
        partitions, faults = list(dict.fromkeys(part["partition"])), sorted(part["f"].unique())
        tables = {
            defence(rule, mixing): chosen.pivot(
                index="f", columns="partition", values="accuracy"
            ).reindex(index=faults, columns=partitions)
            for (rule, mixing), chosen in part.groupby(["rule", "mixing"], sort=False)
        }
        figure = _tables(tables, fmt=".1f", ylabel="f", xlabel="partition")
        title = _title(setting, grids, without=("f",))
        _head(figure, f"{title}: final test accuracy (%) under the worst attack and s")
        caption = (
            "Final test accuracy in per cent, mean over the seeds, under the attack and the number "
            "of liars that leave least of it: declared faults f against how samples are dealt out."
        )
        out[_file_name("worst_accuracy_f_partition", setting)] = Drawing(figure, caption, setting)
    return out


def _influence(scene: _Scene) -> Drawing | None:
    attacked = scene.data[scene.data["s"] > 0]
    if attacked.empty or scene.data["step"].nunique() < 2:
        return None
    s = int(attacked["s"].max())
    found = _spread(attacked[attacked["s"] == s], "liars_influence", "step", ["attack", "defence"])
    names = [attack for attack in scene.attacks if any(key[0] == attack for key in found)]
    if not names:
        return None
    columns, width = _fitted(len(names))
    figure, axes = _panels(
        names, columns, (width, 2.7), xlabel="step", ylabel="influence of the liars"
    )
    # Shares may be any number where they cancel; the axis keeps to what can be read.
    means = pd.concat(found.values())["mean"]
    low, high = min(0.0, means.min()), max(1.0, means.max())
    _along(axes, found, max(low, -1) - 0.05, min(high, 2) + 0.05)
    for ax, attack in zip(axes, names):
        ax.axhline(s / scene.n, color="0.35", linewidth=1.2, linestyle=(0, (2, 2)))
        for name, look in scene.defences.items():
            if (attack, name) in found:
                _line(ax, found[attack, name], look)
        _name(ax, attack, width)
    _head(figure, f"{scene.title}, s = {s} liars: {_spans(scene, 'lines are means, bands span')}")
    shown = [name for name in scene.defences if any(key[1] == name for key in found)]
    even = Line2D([], [], color="0.35", linewidth=1.2, linestyle=(0, (2, 2)), label="s / n")
    _below(figure, [*(_handle(name, scene.defences[name]) for name in shown), even])
    caption = (
        f"The share of the aggregate that comes from the s = {s} liars, against the step, for each "
        "attack; dotted is s / n, what they have in a mean. Lines are means over the seeds, bands "
        "go from the lowest to the highest seed."
    )
    return Drawing(figure, caption, scene.setting)


def _variance_to_norm(scene: _Scene) -> Drawing | None:
    s = int(scene.data["s"].max())
    chosen = scene.data[scene.data["s"].isin([0, s]) & (scene.data["variance_to_norm"] > 0)]
    found = _spread(chosen, "variance_to_norm", "step", ["defence", "attack"])
    names = [name for name in scene.defences if any(key[0] == name for key in found)]
    if not names or scene.data["step"].nunique() < 2:
        return None
    columns, width = _fitted(len(names))
    figure, axes = _panels(names, columns, (width, 2.7), xlabel="step", ylabel="deviation / norm")
    looks = {"none": _Look("0.25", "-", "o"), **scene.attacks}
    bounds = {
        defence(rule, mixing): threshold(rule, scene.n, scene.f) if mixing == "none" else None
        for rule, mixing in set(zip(scene.data["rule"], scene.data["mixing"]))
    }
    every = pd.concat(found.values())
    proved = [bound for name in names if (bound := bounds[name]) is not None]
    axes[0].set_yscale("log")
    low = min([every["min"].min(), *proved])
    high = max([every["max"].max(), *proved])
    _along(axes, found, low / 1.4, high * 1.4)
    for ax, name in zip(axes, names):
        for attack, look in looks.items():
            if (name, attack) in found:
                _line(ax, found[name, attack], look)
        bound = bounds[name]
        if bound is not None:
            ax.axhline(bound, color="black", linewidth=1.4, linestyle=(0, (2, 2)))
        _name(ax, name, width)
    _head(figure, f"{scene.title}, s = {s} liars: {_spans(scene, 'lines are means, bands span')}")
    shown = [attack for attack in looks if any(key[1] == attack for key in found)]
    handles = [_handle(attack, looks[attack]) for attack in shown]
    caption = (
        "Standard deviation of the honest updates over the norm of their mean, against the step, "
        "for each rule. "
    )
    if proved:
        label = "proved up to here"
        handles.append(
            Line2D([], [], color="black", linewidth=1.4, linestyle=(0, (2, 2)), label=label)
        )
        caption += (
            "Dotted is the largest ratio up to which the rule's resilience is proved, where one is "
            "published: above it there is no promise. "
        )
    _below(figure, handles)
    caption += "Lines are means over the seeds, bands go from the lowest to the highest seed."
    return Drawing(figure, caption, scene.setting)
