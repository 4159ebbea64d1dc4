"""The command line of `python -m experiments gradients`."""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.analysis.gradients import blocks, plots
from experiments.analysis.gradients.blocks import FULL, QUICK, Sizes
from experiments.execution import claims
from experiments.text import arguments as command_line
from experiments.text import columns

RESAMPLES = 2000  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Gradients:
    """Measure how Gaussian real gradients are across workers, and the errors of rules on them.

    Models are trained by honest workers on the first 5,000 images of mnist and cifar10. At several
    steps 130 workers send the gradients of batches of their own. Tables: statistics (tests of
    normality, moments, the rank of the covariance), workers (the error of Aksel and of the median
    against n), coordinates and widths (against d). Every training is stored in
    <results>/gradients/blocks, so that running the command again resumes; tables (CSV) and figures
    (PNG) are written next to it.
    """

    quick: bool = False
    """Only softmax regression on digits, into <results>/gradients-quick; takes a minute."""
    results: str = "results"
    """Folder of all studies."""
    out: Annotated[str | None, "PATH"] = None
    """Also copy tables and figures to this folder, such as docs/gradients;
    `python -m experiments.analysis.gradients.page docs` then regenerates the tables of
    docs/gradients.md."""
    data_dir: Annotated[str | None, "PATH"] = None
    """TFDS folder of prepared data sets; default $TFDS_DATA_DIR, then that of TFDS."""


# By part: what a line is about, and what is measured.
KEYS = {
    "statistics": ("data", "model", "d", "step", "batch"),
    "workers": (
        *("data", "model", "step", "batch", "updates", "liars", "attack", "rule", "n", "d"),
    ),
    "coordinates": ("data", "model", "step", "batch", "liars", "attack", "rule", "n", "d"),
    "widths": (
        "data",
        "model",
        "units",
        "of",
        "step",
        "batch",
        "liars",
        "attack",
        "rule",
        "n",
        "d",
    ),
}
VALUES = {
    "statistics": (
        *("loss", "zeros", "constant", "normal", "kurtosis", "skewness"),
        *("rank", "leading", "even", "signal"),
    ),
    "workers": ("error", "angle"),
    "coordinates": ("error", "angle", "scale"),
    "widths": ("error", "angle", "spread", "norm"),
}


def interval(by_seed: np.ndarray) -> tuple[float, float, float]:
    """The mean, and its 95 % interval by a bootstrap in two levels: seeds, then draws of a seed.

    Args:
      by_seed: values `[seeds, draws]`.
    """
    rng, (seeds, draws) = np.random.default_rng(0), by_seed.shape
    chosen = rng.integers(seeds, size=(RESAMPLES, seeds, 1))
    means = by_seed[chosen, rng.integers(draws, size=(RESAMPLES, seeds, draws))].mean(axis=(1, 2))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(by_seed.mean()), float(low), float(high)


def tables(sizes: Sizes, folder: pathlib.Path, data_dir: str | None) -> dict[str, pd.DataFrame]:
    """Measures what is missing, and returns the tables."""
    claims.write_command(folder, "gradients", {"quick": sizes is QUICK})
    lines: dict[str, list[dict[str, Any]]] = {part: [] for part in KEYS}
    width = columns.terminal_width() - 1
    for block in tqdm(blocks.plan(sizes), unit="training", disable=None, ncols=width):
        for line in blocks.measured(block, sizes, folder, data_dir)["lines"]:
            lines[line["part"]].append(block._asdict() | line)
    return {
        part: _summary(part, pd.DataFrame(of_part)) for part, of_part in lines.items() if of_part
    }


def _summary(part: str, lines: pd.DataFrame) -> pd.DataFrame:
    """One line per setting, with the mean of each value and its interval."""
    out = []
    for key, group in lines.groupby(list(KEYS[part]), sort=False):
        line = dict(zip(KEYS[part], key))
        for name in VALUES[part]:
            by_seed = [values.to_numpy(float) for _, values in group.groupby("seed")[name]]
            line[name], line[f"{name} low"], line[f"{name} high"] = interval(np.array(by_seed))
        out.append(line)
    return pd.DataFrame(out)


def main(arguments: Sequence[str]) -> int:
    """Measures, writes and prints; returns the exit status."""
    config = command_line.parse(Gradients, arguments, prog="python -m experiments gradients")
    folder = pathlib.Path(config.results) / ("gradients-quick" if config.quick else "gradients")
    by_part = tables(QUICK if config.quick else FULL, folder, config.data_dir)
    paths = []
    for part, table in by_part.items():
        paths.append(folder / f"{part}.csv")
        table.to_csv(paths[-1], index=False, float_format="%.4g")
    paths += plots.write(folder)
    if config.out is not None:
        target = pathlib.Path(config.out)
        target.mkdir(parents=True, exist_ok=True)
        paths = [pathlib.Path(shutil.copy(path, target)) for path in paths]
    shown = [*KEYS["statistics"], *VALUES["statistics"]]
    print(columns.of_frame(by_part["statistics"][shown], "%.3g"))
    print("\n".join(map(str, paths)))
    print(f"Results: {folder}")
    return 0
