"""Helpers of rules that select whole rows."""

import jax
import jax.numpy as jnp

from byzjax import scores, stacked
from byzjax.stacked import PyTree


def mean_of_lowest(updates: PyTree, values: jax.Array, k: int) -> PyTree:
    """Mean of the k rows with the lowest values, ties to the lower index; NaN if one is +inf."""
    return mean_of_selected(updates, scores.ranks(values) < k, values)


def mean_of_selected(updates: PyTree, selected: jax.Array, values: jax.Array) -> PyTree:
    """Mean of the selected rows; NaN if one of them has the value +inf.

    In that case more rows are bad than the rule tolerates, and the failure must be visible.
    """
    too_many_bad = jnp.any(selected & jnp.isinf(values))
    return stacked.mean_selected(updates, selected & ~too_many_bad)
