"""Selects settings by the worst case on held-out samples, never on the test set."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from experiments.grid import config as configs

# Settings that a selection is made for, separately for each combination.
_GIVEN = ("rule", "mixing", "f", "n", "dataset", "model", "partition")
# Settings that may be selected: all others that determine a run.
SETTINGS = tuple(name for name in configs.IDENTITY if name not in _GIVEN)


def best_settings(blocks: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """For each rule, the setting with the best worst validation accuracy over attacks and s.

    The accuracy of a cell (attack, s) is the mean over the seeds at the end; a diverged run counts
    with the accuracy of its model. Ties go to the setting that comes first.

    Args:
      blocks: finished blocks of one or more grids.

    Returns:
      One line per (rule, mixing, f, and other settings that differ): the selected setting, its
      worst validation accuracy, the cell where it occurs, and the test accuracy there.

    Raises:
      ValueError: the blocks have no validation samples.
    """
    if not blocks or any(not block["validation"] for block in blocks):
        raise ValueError("no validation samples: run the study with --validation, such as 5000.")
    lines = []
    for block in blocks:
        for run in block["runs"]:
            lines.append(
                {name: configs.setting(block, name) for name in (*_GIVEN, *SETTINGS, "attack")}
                | {
                    "s": run["s"],
                    "held out": run["validation"][-1] or 0.0,
                    "test": run["accuracy"][-1],
                }
            )
    data = pd.DataFrame(lines)
    # All settings are assumed to have the same cells; those that do not differ get no column.
    varying = [name for name in SETTINGS if data[name].nunique() > 1]
    given = [name for name in _GIVEN if name == "rule" or data[name].nunique() > 1]
    cells = data.groupby([*given, *varying, "attack", "s"], sort=False)[["held out", "test"]]
    means = cells.mean().reset_index()
    worst = means.loc[means.groupby([*given, *varying], sort=False)["held out"].idxmin()]
    best = worst.loc[worst.groupby(given, sort=False)["held out"].idxmax()]
    names = {"attack": "worst attack", "held out": "worst held out", "test": "test there"}
    return best.rename(columns=names).reset_index(drop=True)
