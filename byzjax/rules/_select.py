"""What rules that select whole rows share."""

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.stacked import PyTree


def mean_of_selected(updates: PyTree, selected: jax.Array, scores: jax.Array) -> PyTree:
    """Mean of the selected rows; NaN if one of them has the score +inf.

    Then more rows are bad than the rule tolerates, and the result must not look healthy.
    """
    hopeless = jnp.any(selected & jnp.isinf(scores))
    return stacked.mean_of(updates, selected & ~hopeless)
