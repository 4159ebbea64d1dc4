"""The labels that workers hold: counts, a table and a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.data import language
from experiments.data.datasets import Dataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_MAX_LINES = 30  # workers in a printed table


def label_histogram(
    labels: np.ndarray, parts: Sequence[np.ndarray], num_classes: int
) -> np.ndarray:
    """Counts the labels of each worker's samples.

    Args:
      labels: `int[N]`, or `int[N, T]` for text, each in 0 .. `num_classes` - 1.
      parts: a partition, the indices of each of n workers.
      num_classes: C.

    Returns:
      `int[n, C]`.

    Raises:
      ValueError: a label is not below `num_classes`.
    """
    labels = np.asarray(labels)
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels must lie in 0 .. {num_classes - 1}; got {labels.min()} .. {labels.max()}."
        )
    counts = [np.bincount(labels[part].reshape(-1), minlength=num_classes) for part in parts]
    return np.array(counts, int).reshape(len(parts), num_classes)


def describe(dataset: Dataset, parts: Sequence[np.ndarray]) -> str:
    """Returns a text table of the training labels that each worker holds, and their sums.

    Of a text, it is a table of the characters that each worker holds, and how they begin. Shows the
    first 30 workers, and the number of further ones.
    """
    if dataset.vocabulary:
        return _describe_text(dataset, parts)
    histogram = label_histogram(dataset.train_y, parts, dataset.num_classes)
    header = ["worker", *map(str, range(dataset.num_classes)), "total"]
    named = [(str(worker), counts) for worker, counts in enumerate(histogram[:_MAX_LINES])]
    named.append(("all", histogram.sum(axis=0)))
    rows = [header, *([name, *map(str, counts), str(counts.sum())] for name, counts in named)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths)) for row in rows]
    if len(parts) > _MAX_LINES:
        lines.insert(-1, f"... and {len(parts) - _MAX_LINES} more workers, which are not shown")
    shape = " x ".join(map(str, dataset.train_x.shape[1:]))
    samples = f"{len(dataset.train_y)} + {len(dataset.test_y)} samples of shape {shape}"
    return "\n".join([f"{dataset.name}: {samples}, {dataset.num_classes} classes", *lines])


def _describe_text(dataset: Dataset, parts: Sequence[np.ndarray]) -> str:
    length = dataset.shape[0]
    lines = ["worker  characters  first ones"]
    for worker, part in enumerate(parts[:_MAX_LINES]):
        first = language.decode(dataset.train_x[part[0]], dataset.vocabulary)
        lines.append(f"{worker:6}  {len(part) * length:10}  {' '.join(first.split())}")
    if len(parts) > _MAX_LINES:
        lines.append(f"... and {len(parts) - _MAX_LINES} more workers, which are not shown")
    lines.append(f"   all  {sum(map(len, parts)) * length:10}")
    train, test = dataset.sizes
    samples = f"{train} + {test} windows of {length} characters"
    return "\n".join(
        [f"{dataset.name}: {samples}, {dataset.num_classes} of them different", *lines]
    )


def histogram_figure(histogram: np.ndarray, title: str) -> "Figure":
    """Draws a histogram of labels `[n, C]` as a heatmap, workers from left to right."""
    from matplotlib.figure import Figure  # imported here: it takes a second
    from matplotlib.ticker import MaxNLocator

    n, classes = histogram.shape
    size = (2.5 + min(12.0, max(3.0, 0.4 * n)), 1.5 + min(12.0, max(1.0, 0.32 * classes)))
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(histogram.T, aspect="auto", origin="lower", cmap="Blues", vmin=0)
    figure.colorbar(image, ax=ax, label="training samples")
    if n <= _MAX_LINES and classes <= 10:
        middle = histogram.max() / 2
        for (worker, label), count in np.ndenumerate(histogram):
            color = "white" if count > middle else "black"
            text = str(count) if count else ""
            ax.text(worker, label, text, ha="center", va="center", fontsize=7, color=color)
    ax.set(title=title, xlabel="worker", ylabel="label")
    for axis, count in ((ax.xaxis, n), (ax.yaxis, classes)):
        axis.set_major_locator(MaxNLocator(min(count, 20), integer=True))
    return figure
