"""Differences of runs with the same seed: the same data, batches, initial model and liars.

What rules share, the seed, cancels in the difference, so that its interval is narrower than the
intervals of the two means suggest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from experiments.report import scenes


class Interval(NamedTuple):
    """A mean and its confidence interval.

    Attributes:
      mean: of the differences.
      low: lower end; NaN for fewer than two seeds.
      high: upper end.
      seeds: number of differences.
    """

    mean: float
    low: float
    high: float
    seeds: int


def interval(differences: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    r"""The mean of paired differences with its interval by Student's t.

    $$ \bar d \pm t_{k - 1, (1 + level) / 2} \, \hat\sigma / \sqrt k $$

    for k seeds, with the sample standard deviation of the k differences.

    Raises:
      ValueError: there is no difference, or the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; got {level}.")
    values = np.asarray(differences, float)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"expected one difference per seed; got shape {values.shape}.")
    mean, count = float(values.mean()), len(values)
    if count == 1:
        return Interval(mean, np.nan, np.nan, 1)
    half = stats.t.ppf((1 + level) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count)
    return Interval(mean, mean - float(half), mean + float(half), count)


def final(data: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of each run, with a column `defence`: the rule and its mixing."""
    last = scenes.final(data)
    pairs = zip(last["rule"], last["mixing"])
    return last.assign(defence=[scenes.defence(*pair) for pair in pairs])


def against(
    runs: pd.DataFrame,
    column: str,
    reference: str,
    cells: Sequence[str],
    metric: str = "accuracy",
    level: float = 0.95,
) -> pd.DataFrame:
    """Differences to a reference within each cell, paired by seed.

    Args:
      runs: one line per run, with a column `seed`.
      column: the column whose values are compared, such as `defence`.
      reference: the value that is subtracted.
      cells: the columns that the two runs of a pair agree in, besides the seed.
      metric: what is compared.
      level: of the intervals.

    Returns:
      One line per cell and other value, in order of appearance: mean, low and high, the number of
      seeds that both have, and `better`, the number of seeds with a positive difference.

    Raises:
      ValueError: there are no runs of the reference, or two runs of one cell, value and seed.
    """
    keys = [*cells, "seed"]
    if runs.duplicated([*keys, column]).any():
        raise ValueError(f"two runs have the same {', '.join([*keys, column])}.")
    base = runs.loc[runs[column] == reference, [*keys, metric]]
    if base.empty:
        raise ValueError(f"no run has {column} = {reference!r}; expected it for the differences.")
    others = runs.loc[runs[column] != reference, [*keys, column, metric]]
    both = others.merge(base, on=keys, suffixes=("", " of the reference"))
    both["difference"] = both[metric] - both[f"{metric} of the reference"]
    lines = []
    for key, part in both.groupby([*cells, column], sort=False, dropna=False):
        values = part["difference"].to_numpy()
        line = dict(zip([*cells, column], key)) | interval(values, level)._asdict()
        lines.append(line | {"better": int((values > 0).sum())})
    return pd.DataFrame(lines, columns=[*cells, column, *Interval._fields, "better"])


def worst(runs: pd.DataFrame, over: str, cells: Sequence[str], metric: str) -> pd.DataFrame:
    """The smallest value of a metric over the values of a column, of each seed of each cell."""
    keys = [*cells, "seed"]
    rows = runs.groupby(keys, sort=False, dropna=False)[metric].idxmin()
    return runs.loc[rows].drop(columns=[over])


def counts(lines: pd.DataFrame, margin: float = 0.0) -> tuple[int, int, int]:
    """How many intervals lie wholly above `margin`, wholly below it, and neither."""
    above, below = (lines["low"] > margin).sum(), (lines["high"] < margin).sum()
    return int(above), int(below), int(len(lines) - above - below)


def shown(line: pd.Series, scale: float = 100, digits: int = 1) -> str:
    """A difference in points with its interval, `+1.2 [+0.3, +2.1]`."""
    mean, low, high = (scale * line[name] for name in ("mean", "low", "high"))
    if np.isnan(low):
        return f"{mean:+.{digits}f}"
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
