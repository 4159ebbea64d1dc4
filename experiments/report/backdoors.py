"""The attack success rate of backdoors, beside the accuracy."""

import numpy as np
import pandas as pd

SUCCESS = "attack_success"
_STATISTICS = ("mean", "std", "min", "max")
# Columns of a table: the mean has the name of the curve.
COLUMNS = (SUCCESS, *(f"{SUCCESS}_{name}" for name in _STATISTICS[1:]))
WORDS = (
    "Attack success rate: the share of test images with the trigger, without those of the target "
    "class, that are classified as the target; empty if the model is not finite."
)


def summary(groups: pd.api.typing.DataFrameGroupBy) -> dict[str, np.ndarray]:
    """Mean, standard deviation, minimum and maximum over the runs of each group, by column."""
    rates = groups[SUCCESS]
    return {column: rates.agg(name).to_numpy() for column, name in zip(COLUMNS, _STATISTICS)}


def instead(results: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table under backdoors, with the success rate in place of the accuracy."""
    if SUCCESS not in results:
        return results.iloc[:0]
    some = results[results[SUCCESS].notna()]
    rates = {name: some[column] for name, column in zip(_STATISTICS, COLUMNS)}
    return some.assign(**rates, diverged=0)
