"""Accuracies and attack success rates as coloured tables."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from experiments.report import panels

_CELL = (0.62, 0.36)  # inches
_SCALE = "cividis"
_EMPTY = "0.85"  # grey of a cell without runs
# Of the numbers: not quite those of texts and backgrounds, which a dark page exchanges.
_ON_BRIGHT, _ON_DARK = "#111111", "#fafafa"


def tables(
    tables: dict[str, pd.DataFrame],
    fmt: str,
    most: int | None = None,
    measured: str = "accuracy",
    **labels: str,
) -> Figure:
    """Accuracies, or other shares, as coloured tables, one panel each.

    Lines without any value are left out of a panel. A panel has the names of its rows unless they
    are those of its neighbour on the left, and of its columns unless they are those of the one
    below.

    Args:
      tables: the tables by title; if they are too wide for a page, they are transposed.
      fmt: format of a number.
      most: maximum number of panels per row; None for as many as fit.
      measured: what the shares are, for the colour bar.
      **labels: `xlabel` and `ylabel`.

    Returns:
      The figure.
    """
    if _CELL[0] * max(table.shape[1] for table in tables.values()) > 0.7 * panels.WIDTH:
        tables = {title: table.T for title, table in tables.items()}
        labels = {"xlabel": labels.get("ylabel", ""), "ylabel": labels.get("xlabel", "")}
    shown = {
        title: table.dropna(how="all").dropna(axis=1, how="all") for title, table in tables.items()
    }
    shown = {title: table for title, table in shown.items() if table.size}
    figure, used, columns = _panels(list(shown.values()), most)
    parts = list(shown.items())
    for i, (ax, (title, table)) in enumerate(zip(used, parts)):
        _cells(ax, table, fmt)
        width = max(1.4, _CELL[0] * table.shape[1])
        ax.set_title(panels.wrap(title, max(16, int(10 * width))), fontsize=11)
        left = parts[i - 1][1] if i % columns else None
        under = parts[i + columns][1] if i + columns < len(parts) else None
        named = left is None or list(left.index) != list(table.index)
        lowest = under is None or list(under.columns) != list(table.columns)
        _names(ax, table, named, lowest)
        ax.set(xlabel=labels.get("xlabel", "") if lowest else "")
        ax.set(ylabel=labels.get("ylabel", "") if named else "")
    bar = figure.colorbar(used[0].collections[0], ax=used, fraction=0.05, pad=0.01, aspect=25)
    bar.set_label(f"{measured} (%)", fontsize=10)
    bar.outline.set_visible(False)
    return figure


def _panels(shown: Sequence[pd.DataFrame], most: int | None) -> tuple[Figure, list[Any], int]:
    """A figure whose panels have cells of one size; the panels, and how many are in a row."""
    widest = max(table.shape[1] for table in shown)
    width = max(1.4, _CELL[0] * widest) + 0.2
    left = 0.075 * max(len(str(name)) for table in shown for name in table.index) + 0.3
    fit = panels.columns_for(len(shown), width, left + 1.2)
    fit = fit if most is None else min(fit, most)
    # Full rows, unless they would be a tower.
    columns = max(c for c in range(1, fit + 1) if len(shown) % c == 0)
    columns = fit if columns == 1 and len(shown) > 4 else columns
    rows = [shown[i : i + columns] for i in range(0, len(shown), columns)]
    heights = [max(0.8, _CELL[1] * max(len(table) for table in row)) for row in rows]
    under = 0.5 + 0.06 * min(30, max(len(str(name)) for table in shown for name in table.columns))
    size = (
        max(6.5, width * columns + left + 1.2),
        sum(heights) + 0.55 * len(rows) + under + 0.6,
    )
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for ax in list(grid.flat)[len(shown) :]:
        ax.remove()
    return figure, list(grid.flat)[: len(shown)], columns


def _cells(ax: Any, table: pd.DataFrame, fmt: str) -> None:
    sns.heatmap(
        100 * table.astype(float),
        ax=ax,
        vmin=0,
        vmax=100,
        cmap=_SCALE,
        annot=True,
        fmt=fmt,
        annot_kws={"fontsize": 9},
        cbar=False,
        linewidths=0.5,
    )
    for text in ax.texts:
        text.set_color(_on(float(text.get_text()) / 100))
    ax.grid(False)
    ax.set_facecolor(_EMPTY)


def _on(value: float) -> str:
    """The colour of a number on its cell: the one with more contrast."""
    color = np.asarray(mpl.colormaps[_SCALE](value)[:3])
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return _ON_BRIGHT if linear @ (0.2126, 0.7152, 0.0722) > 0.18 else _ON_DARK


def _names(ax: Any, table: pd.DataFrame, rows: bool, columns: bool) -> None:
    ax.tick_params(left=False, bottom=False)
    ax.set_xticks(np.arange(len(table.columns)) + 0.5)
    ax.set_yticks(np.arange(len(table)) + 0.5)
    ax.set_xticklabels([panels.wrap(str(name), 30) for name in table.columns] if columns else [])
    ax.set_yticklabels([str(name) for name in table.index] if rows else [])
    for text in ax.get_xticklabels():
        text.set(rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
    for text in ax.get_yticklabels():
        text.set(rotation=0, fontsize=10)
