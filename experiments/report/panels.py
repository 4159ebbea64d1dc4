"""Panels, lines, legends and coloured tables: the elements of the figures of a study."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_WIDTH = 10.5  # target width in inches, which still reads well on a page
_PALETTE = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 4, 9, 3, 7, 8, 5, 6)]
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
_MARKERS = "osD^vP*X"
_EMPTY = "0.85"  # grey of a cell without runs


class Look(NamedTuple):
    """The look of a defence's or an attack's line, the same in all figures."""

    color: Any
    linestyle: Any
    marker: str


def look(place: int, kind: int = 0, kinds: int = 1) -> Look:
    """The look of a rule or an attack: its colour, and dashes once the colours are used up.

    Args:
      place: index of the rule or the attack.
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
    lines = -(-count // max(1, int((_WIDTH - beside) / width)))
    return -(-count // lines)


def fitted(count: int) -> tuple[int, float]:
    """The number of columns for `count` panels of curves, and the width of each in inches."""
    columns = columns_for(count, 2.6)
    return columns, min(3.6, _WIDTH / columns)


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
    figure.suptitle("\n".join(textwrap.wrap(text, width)), fontsize=13)


def below(figure: Figure, handles: Sequence[Any], **kwargs: Any) -> None:
    """Adds a legend below all panels, in as many columns as fit; the figure grows downwards."""
    widest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, int(figure.get_figwidth() / (0.085 * widest + 0.75)))
    columns = -(-len(handles) // -(-len(handles) // columns))
    lines = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.4 + 0.24 * lines)
    figure.legend(handles=handles, loc="outside lower center", ncol=columns, fontsize=10, **kwargs)


def handle(name: str, look: Look, markers: bool = False) -> Line2D:
    """The legend entry of a name."""
    marker = look.marker if markers else "none"
    return Line2D(
        [], [], color=look.color, linestyle=look.linestyle, marker=marker, markersize=5, label=name
    )


def seed_range(data: pd.DataFrame, column: str, along: str, keys: list[str]) -> dict[Any, Any]:
    """Mean, minimum and maximum over the seeds along steps or s, per combination of keys."""
    known = data[np.isfinite(data[column].to_numpy(float))]
    ranges = known.groupby([*keys, along], sort=False)[column].agg(["mean", "min", "max"])
    groups = ranges.reset_index().groupby(keys, sort=False)
    return {key: part.set_index(along).sort_index() for key, part in groups}


def line(ax: Any, found: pd.DataFrame, look: Look, scale: float = 1.0) -> None:
    """Draws a mean with a band from the lowest to the highest seed."""
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


def tables(
    tables: dict[str, pd.DataFrame], fmt: str, most: int | None = None, **labels: str
) -> Figure:
    """Accuracies as coloured tables, one panel each, all with the same rows and columns.

    Args:
      tables: the tables by title; those that are too wide for a page are transposed.
      fmt: format of a number.
      most: maximum number of panels per row; None for as many as fit.
      **labels: `xlabel` and `ylabel`.

    Returns:
      The figure.
    """
    if 0.62 * next(iter(tables.values())).shape[1] > 0.7 * _WIDTH:
        tables = {title: table.T for title, table in tables.items()}
        labels = {"xlabel": labels.get("ylabel", ""), "ylabel": labels.get("xlabel", "")}
    first = next(iter(tables.values()))
    lines, names = first.shape
    width, height = max(1.4, 0.62 * names) + 0.2, max(0.8, 0.36 * lines) + 0.55
    left = 0.075 * max(len(str(name)) for name in first.index) + 0.3
    columns = columns_for(len(tables), width, left + 1.2)
    columns = columns if most is None else min(columns, most)
    rows = -(-len(tables) // columns)
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
        ax.set_title(wrap(title, max(16, int(10 * width))), fontsize=11)
        lowest = i + columns >= len(tables)
        ax.set(xlabel=labels.get("xlabel", "") if lowest else "")
        ax.set(ylabel=labels.get("ylabel", "") if i % columns == 0 else "")
        ax.tick_params(left=False, bottom=False, labelbottom=lowest, labelleft=i % columns == 0)
        ax.set_xticks(np.arange(len(table.columns)) + 0.5)
        ax.set_xticklabels([wrap(str(name), 30) for name in table.columns])
        for text in ax.get_xticklabels():
            text.set(rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
        for text in ax.get_yticklabels():
            text.set(rotation=0, fontsize=10)
    bar = figure.colorbar(used[0].collections[0], ax=used, fraction=0.05, pad=0.01, aspect=25)
    bar.set_label("accuracy (%)", fontsize=10)
    bar.outline.set_visible(False)
    return figure
