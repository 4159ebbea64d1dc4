"""How far apart the models of honest nodes are."""

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._compiled import compiled
from byzjax.stacked import PyTree


@compiled
def diameter(models: PyTree) -> jax.Array:
    r"""The largest distance between two models, $\max_{i, j} \|x_i - x_j\|$.

    Cost: O(k^2 d).

    Args:
      models: stacked models; every leaf has shape `[k, ...]`.

    Returns:
      A scalar, at least float32; 0 for one model, +inf if a distance is not finite.

    Raises:
      ValueError: the leaves disagree on k.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import protocols
      >>> protocols.diameter({"w": jnp.array([[0.0, 0.0], [3.0, 4.0], [3.0, 3.0]])})
      Array(5., dtype=float32)
    """
    return jnp.sqrt(jnp.max(stacked.pairwise_squared_distances(models)))
