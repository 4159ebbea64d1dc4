"""Panels, lines and legends: the elements of the figures of a study."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

WIDTH = 10.5  # target width in inches, which still reads well on a page
# Each colour, and the one that replaces it on a dark page. The first ones are told apart by readers
# who confuse red and green; markers and dashes differ as well.
COLORS = {
    "#0173b2": "#4aa5e6",
    "#de8f05": "#f0a832",
    "#029e73": "#25bd92",
    "#cc78bc": "#dd95cf",
    "#56b4e9": "#a5dcff",
    "#d55e00": "#fa7f3c",
    "#8f8500": "#cfc43a",
    "#7b4fc4": "#ae90ee",
    "#8a5a2b": "#c99a6b",
    "#c2185b": "#f4679d",
    "#00707c": "#2fb6c4",
    "#5b8c1a": "#93c94c",
    "#23408f": "#7f9bf0",
    "#7f1d1d": "#e08a8a",
    "#ad1fad": "#e06fe0",
    "#6b7280": "#a3abb8",
    "#5b2333": "#c98a9d",
    "#0b4f4a": "#6fc0b8",
}
_PALETTE = tuple(COLORS)
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
_MARKERS = "osD^vP*X"
# The end of the captions of lines.
LINES = (
    "Lines are means over the seeds, bands range from the lowest to the highest seed; markers only "
    "tell the lines apart."
)
_MARKS = 9  # about so many markers on a panel's lines together, more if there are more lines


class Look(NamedTuple):
    """The look of a defence's line, the same in all figures."""

    color: Any
    linestyle: Any
    marker: str


def look(place: int, kind: int = 0, kinds: int = 1) -> Look:
    """The look of a rule: its colour, and dashes once the colours are used up.

    Args:
      place: index of the rule.
      kind: index of the mixing, shown by dashes: one rule has one colour.
      kinds: number of mixings.
    """
    dashes = kind + kinds * (place // len(_PALETTE))
    return Look(
        _PALETTE[place % len(_PALETTE)],
        _DASHES[dashes % len(_DASHES)],
        _MARKERS[(place + kind) % len(_MARKERS)],
    )


def grid(panels: Sequence[Any], columns: int, size: tuple[float, float], **labels: str):
    """A figure with one set of axes per panel; None leaves a gap at the end of a row.

    Args:
      panels: the panels, row by row.
      columns: number of panels per row.
      size: width and height of a panel in inches.
      **labels: `xlabel` below the lowest panel of each column and `ylabel` left of each row.

    Returns:
      The figure and the axes, one per panel that is not None.
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


def along(axes: Sequence[Any], found: dict[Any, pd.DataFrame], low: float, high: float) -> None:
    """Sets the limits of all panels before drawing: steps on x, `low` to `high` on y.

    Otherwise each line recomputes them in all panels: a third of the time of a large figure.
    """
    steps = pd.concat(found.values()).index
    margin = 0.04 * max(1, np.ptp(steps))
    axes[0].set(xlim=(steps.min() - margin, steps.max() + margin), ylim=(low, high))


def columns_for(count: int, width: float, beside: float = 0.0) -> int:
    """The number of panels per row: as many as fit, in rows of equal length."""
    lines = -(-count // max(1, int((WIDTH - beside) / width)))
    return -(-count // lines)


def fitted(count: int) -> tuple[int, float]:
    """The number of columns for `count` panels of curves, and the width of each in inches."""
    columns = columns_for(count, 2.6)
    return columns, min(3.6, WIDTH / columns)


def padded(lines: Sequence[Sequence[Any]], columns: int) -> list[Any]:
    """Each line split into rows of `columns` panels, the last one padded with None."""
    out = []
    for line in lines:
        out += [*line, *[None] * (-len(line) % columns)]
    return out


def wrap(text: str, width: int) -> str:
    """Wraps a long name with hyperparameters before `(` or after `_`, `,` or a space."""
    lines = [""]
    for piece in re.split(r"(?<=[_, ])|(?=[(])", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def name(ax: Any, name: str, width: float, more: str = "") -> None:
    """Sets the title of a panel of this width, in one line if it fits."""
    most = int(11.5 * width)
    whole = f"{name}, {more}" if more else name
    if len(whole) > most:
        whole = "\n".join([wrap(name, most), *([more] if more else [])])
    ax.set_title(whole, fontsize=10)


def head(figure: Figure, text: str) -> None:
    """Sets the title of a figure."""
    width = max(20, int(9.5 * figure.get_figwidth()))
    figure.suptitle("\n".join(textwrap.wrap(text, width)), fontsize=13).set_gid("title")


def below(figure: Figure, handles: Sequence[Any], **kwargs: Any) -> None:
    """Adds a legend below all panels, in as many columns as fit; the figure grows downwards."""
    widest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, int(figure.get_figwidth() / (0.085 * widest + 0.75)))
    columns = -(-len(handles) // -(-len(handles) // columns))
    lines = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.4 + 0.24 * lines)
    figure.legend(handles=handles, loc="outside lower center", ncol=columns, fontsize=10, **kwargs)


def handle(name: str, look: Look) -> Line2D:
    """The legend entry of a name."""
    style = {"color": look.color, "linestyle": look.linestyle, "marker": look.marker}
    return Line2D([], [], markersize=6, label=name, **style)


def seed_range(data: pd.DataFrame, column: str, along: str, keys: list[str]) -> dict[Any, Any]:
    """Mean, minimum and maximum over the seeds along steps or s, per combination of keys."""
    known = data[np.isfinite(data[column].to_numpy(float))]
    ranges = known.groupby([*keys, along], sort=False)[column].agg(["mean", "min", "max"])
    groups = ranges.reset_index().groupby(keys, sort=False)
    return {key: part.set_index(along).sort_index() for key, part in groups}


def lines(
    ax: Any, found: dict[str, pd.DataFrame], looks: dict[str, Look], scale: float = 1.0
) -> None:
    """Draws the lines of a panel; each has the markers' places of its name in all panels."""
    for place, (name, look) in enumerate(looks.items()):
        if name in found:
            line(ax, found[name], look, scale, (place, len(looks)))


def line(
    ax: Any, found: pd.DataFrame, look: Look, scale: float = 1.0, turn: tuple[int, int] = (0, 1)
) -> None:
    """Draws a mean with a band from the lowest to the highest seed.

    Args:
      ax: the panel; its scales are those of the figure.
      found: mean, minimum and maximum by step.
      look: colour, dashes and marker.
      scale: factor of the values.
      turn: index of the line and number of lines: each has its markers at places of its own, so
        that lines that coincide show the markers of all.
    """
    steps = found.index.to_numpy(float)
    mean = scale * found["mean"].to_numpy()
    style = {"color": look.color, "linewidth": 1.5}
    ax.plot(steps, mean, linestyle=look.linestyle, **style)
    low, high = scale * found["min"].to_numpy(), scale * found["max"].to_numpy()
    ax.fill_between(steps, low, high, color=look.color, alpha=0.15, linewidth=0)
    place, lines = turn
    count = lines * max(1, round(_MARKS / lines))
    shares = (np.arange(place, count, lines) + 0.5) / count
    at = steps.min() + shares * np.ptp(steps)
    if ax.get_xscale() == "log":
        at = steps.min() * (steps.max() / steps.min()) ** shares
    if ax.get_yscale() == "log":
        marks = np.exp(np.interp(at, steps, np.log(np.maximum(mean, 1e-300))))
    else:
        marks = np.interp(at, steps, mean)
    ax.plot(at, marks, linestyle="none", marker=look.marker, markersize=6, color=look.color)


def coinciding(
    found: dict[str, pd.DataFrame], height: float, log: bool = False
) -> list[tuple[str, ...]]:
    """Groups of lines of one panel that a reader cannot tell apart.

    Args:
      found: mean by step of each line.
      height: of the axis, in the units of the values, or in factors of e if it is logarithmic.
      log: the axis is logarithmic.
    """
    groups: list[list[str]] = []
    for name, part in found.items():
        for group in groups:
            other = found[group[0]]
            if not part.index.equals(other.index):
                continue
            pair = [one["mean"].to_numpy(float) for one in (part, other)]
            curve, same = [np.log(np.maximum(one, 1e-300)) for one in pair] if log else pair
            if np.abs(curve - same).max() <= 0.01 * height:
                group.append(name)
                break
        else:
            groups.append([name])
    return [tuple(group) for group in groups if len(group) > 1]


def note(groups: Iterable[tuple[str, tuple[str, ...]]], most: int = 4) -> str:
    """The sentence of a caption on lines that coincide; empty without any.

    Args:
      groups: panels, each with names whose lines coincide there.
      most: maximum number of groups in the sentence.
    """
    where: dict[tuple[str, ...], list[str]] = {}
    for panel, names in groups:
        where.setdefault(names, []).append(panel)
    if not where:
        return ""
    by_count = sorted(where.items(), key=lambda item: -len(item[1]))
    parts = []
    for names, panels in by_count[:most]:
        places = ", ".join(panels) if len(panels) <= 3 else f"{len(panels)} panels"
        parts.append(f"{joined(names)} ({places})")
    more = len(by_count) - most
    rest = f"; and {more} more {'groups' if more > 1 else 'group'}" if more > 0 else ""
    return f" Lines that coincide within 1 % of the axis: {'; '.join(parts)}{rest}."


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
