"""LASA: sparse updates, of which each layer is averaged over typical norms and shares of signs."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import positive
from byzjax._compiled import compiled
from byzjax._numerics.arrays import root, wide
from byzjax.rules._clip import clipped_to_median
from byzjax.stacked import PyTree

_NEARER = 1e-5  # a deviation that is this close to the limit, relative to it, is at the limit


@compiled(static=("sparsity",), norm_radius=positive, sign_radius=positive)
def lasa(
    updates: PyTree,
    *,
    sparsity: float = 0.3,
    norm_radius: float = 1.0,
    sign_radius: float = 1.0,
    axis_name: str | None = None,
) -> PyTree:
    r"""Mean of each layer over the rows whose norm and signs there are typical (LASA).

    $$ F_l = \frac{1}{|A_l \cap B_l|} \sum_{i \in A_l \cap B_l} y_{il}, \qquad
       A_l = \{i : |\nu_{il} - \operatorname{med}_j \nu_{jl}| < \lambda_n
       \operatorname{std}_j \nu_{jl}\} $$

    $$ \nu_{il} = \|y_{il}\|, \qquad \rho_{il} = \frac12 \Bigl(1 + \frac{\sum_k
       \operatorname{sign} y_{ilk}}{\sum_k |\operatorname{sign} y_{ilk}|}\Bigr) $$

    where y_i is x_i clipped to the median norm, with its largest magnitudes alone: the share
    `sparsity` of the coordinates is set to 0. B_l is as A_l, with lambda_s and the share rho_il of
    positive signs in place of the norm, 1/2 if all signs are 0. A layer l is a leaf of the tree:
    the weights and the bias of a neural network's layer are two.

    As in the authors' code, all rows are averaged where $A_l \cap B_l$ is empty. Rows that are not
    finite are left out; if all are, the result is 0. Coordinates that are 0 in all rows do not
    count in the share, and of equal magnitudes at its limit all are kept; the code leaves biases
    dense.

    Requirement: n >= 1. Breakdown: none proved. Promise: finite. Cost: O(nd), 31 passes over the
    magnitudes, and O(n log n) for each leaf.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      sparsity: share of the coordinates of each row that are set to 0; a Python number.
      norm_radius: lambda_n, in standard deviations; may be traced. The paper has 1 for CIFAR and 2
        for other data.
      sign_radius: lambda_s, in standard deviations; may be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, sparsity is not in [0, 1), or a radius is not positive.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> w = jnp.array([[3.0, 1.0], [3.0, 2.0], [2.0, 3.0], [-2.0, -3.0], [1.0, 3.0]])
      >>> updates = {"w": w, "b": jnp.array([1.0, 2.0, 1.5, 1.5, 9.0])}
      >>> out = byzjax.lasa(updates, sparsity=0.0, norm_radius=1.9)
      >>> out["w"].round()  # the fourth row has other signs, the last one is short once clipped
      Array([3., 2.], dtype=float32)

    Reference: Xu, Zhang and Hu, Achieving Byzantine-Resilient Federated Learning via Layer-Adaptive
    Sparsified Model Aggregation, WACV 2025 (arXiv:2409.01435), Algorithm 1.
    """
    n = stacked.num_workers(updates)
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1); got sparsity={sparsity}.")
    norms, _, factors = clipped_to_median(updates, axis_name)
    good = jnp.isfinite(norms)
    limits = _limits(lax.stop_gradient(updates), Fraction(repr(sparsity)), axis_name)
    lengths = lax.stop_gradient(factors)

    def of_layer(leaf: jax.Array) -> jax.Array:
        rows = leaf.reshape(n, -1)
        sparse = jnp.where(_keys(rows) >= limits[:, None], rows, 0)
        detached = lax.stop_gradient(sparse)
        squares = stacked.squared_norms(detached, axis_name=axis_name)
        selected = _typical(root(squares) * lengths, good, norm_radius)
        selected = selected & _typical(_sign_shares(detached, axis_name), good, sign_radius)
        selected = jnp.where(jnp.any(selected), selected, good)
        count = jnp.maximum(jnp.sum(selected, dtype=jnp.int32), 1).astype(factors.dtype)
        weights = jnp.where(selected, factors, 0) / count
        return stacked.weighted_sum(sparse, weights).reshape(leaf.shape[1:])

    return jax.tree.map(of_layer, updates)


def _keys(x: jax.Array) -> jax.Array:
    """Magnitudes in float32 as integers of the same order."""
    return lax.bitcast_convert_type(jnp.abs(x).astype(jnp.float32), jnp.int32)


def _limits(updates: PyTree, sparsity: Fraction, axis_name: str | None) -> jax.Array:
    """`int32[n]`: the key of the least magnitude that each row keeps, found bit by bit."""
    matrices = stacked.columns(updates)

    def added(counts: list[jax.Array]) -> jax.Array:
        total = functools.reduce(jnp.add, counts)
        return total if axis_name is None else lax.psum(total, axis_name)

    def counts(limits: jax.Array) -> jax.Array:
        above = [_keys(x) >= limits[:, None] for x in matrices]
        return added([jnp.sum(each, axis=1, dtype=jnp.int32) for each in above])

    present = [jnp.any(wide(x) != 0, axis=0) for x in matrices]
    d = added([jnp.sum(each, dtype=jnp.int32) for each in present])
    share = 1 - sparsity
    kept = d // share.denominator * share.numerator
    kept += d % share.denominator * share.numerator // share.denominator
    kept = jnp.maximum(kept, 1)

    def next_bit(i: jax.Array, known: jax.Array) -> jax.Array:
        trial = known | (jnp.int32(1 << 30) >> i)
        return jnp.where(counts(trial) >= kept, trial, known)

    none = jnp.zeros(stacked.num_workers(updates), jnp.int32)
    return lax.fori_loop(0, 31, next_bit, 0 * counts(none))


def _sign_shares(rows: jax.Array, axis_name: str | None) -> jax.Array:
    def total(function) -> jax.Array:
        return stacked.rowwise(
            lambda x: jnp.sum(function(wide(x)), axis=1), rows, axis_name=axis_name
        )

    signs, present = total(jnp.sign), total(lambda x: jnp.abs(jnp.sign(x)))
    return 0.5 * (1 + signs / jnp.maximum(present, 1))


def _typical(values: jax.Array, good: jax.Array, radius: jax.Array | float) -> jax.Array:
    """`bool[n]`: the good rows that deviate from their median by less than the radius."""
    count = jnp.sum(good, dtype=jnp.int32)
    ordered = jnp.sort(jnp.where(good, values, jnp.inf))
    middle = (ordered[jnp.maximum(count - 1, 0) // 2] + ordered[count // 2]) / 2
    away = jnp.where(good, values - middle, 0)
    share = 1 / jnp.maximum(count, 1).astype(away.dtype)
    squares = jnp.where(good, (away - share * jnp.sum(away)) ** 2, 0)
    deviation = jnp.sqrt(share * jnp.sum(squares))
    return good & (jnp.abs(away) * (1 + _NEARER) < radius * deviation)
