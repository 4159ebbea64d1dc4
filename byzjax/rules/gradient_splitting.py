"""GAS: workers are judged by their distances to a robust aggregate of each group of coordinates."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import enough_workers, static_int
from byzjax._compiled import compiled
from byzjax._numerics.arrays import root, wide
from byzjax.rules._select import mean_of_lowest
from byzjax.rules.krum import multi_krum
from byzjax.stacked import PyTree


@compiled
def gradient_splitting(
    updates: PyTree,
    *,
    f: int,
    key: jax.Array,
    groups: int = 1000,
    rule: Callable | None = None,
    axis_name: str | None = None,
) -> PyTree:
    r"""Mean of the n - f updates that are nearest to the aggregates of groups of coordinates (GAS).

    $$ F = \frac{1}{n - f} \sum_{i \in A} x_i, \qquad
       s_i = \sum_{q=1}^{p} \| x_i^{(q)} - R(x_1^{(q)}, \dots, x_n^{(q)}) \| $$

    where the coordinates are divided at random into p groups of ceil(d / p), the last one may be
    smaller, $x_i^{(q)}$ holds those of group q, R is the inner rule, and A the n - f rows with the
    lowest s_i, ties to the lower index. The norms are not squared, so that no single group decides.

    The paper takes Multi-Krum, Bulyan, the median and others as R. If more than f rows are not
    finite, the result is NaN.

    Requirement: n >= 2f + 1, and that of the inner rule. Breakdown: that of the inner rule.
    Promise: finite; with an inner rule that is bounded by lambda diameters, the distance to the
    honest mean is at most about $2 \lambda \sqrt p$ of them.
    Cost: O(nd) and the inner rule on p groups: O(n^2 d) with the default.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      key: PRNG key that divides the coordinates.
      groups: p, a Python int; with p >= d each coordinate is a group. Public code has 1,000 for
        a ResNet-18.
      rule: R, `rule(updates, f=f) -> update`; by default Multi-Krum as that code has it,
        `multi_krum` with `neighbors="n-f-1"`.
      axis_name: mesh axis over which the coordinates are sliced, if they are; passed on to `rule`.
        Each device then divides its own coordinates, and a group has some of every device.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 2f + 1, or groups < 1.
      TypeError: f or groups is not a Python int.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0], [9.0, -90.0]])
      >>> byzjax.gradient_splitting(updates, f=1, key=jax.random.key(0), groups=2)
      Array([1.5, 1. ], dtype=float32)

    Reference: Liu, Chen, Lyu, Wu, Wu and Chen, Byzantine-Robust Learning on Heterogeneous Data via
    Gradient Splitting, ICML 2023 (arXiv:2302.06079).
    """
    n, f = enough_workers("gradient_splitting", updates, f)
    groups = static_int("groups", groups, at_least=1)
    inner = functools.partial(multi_krum, neighbors="n-f-1") if rule is None else rule
    options = {} if axis_name is None else {"axis_name": axis_name}

    def squares(part: jax.Array) -> jax.Array:
        aggregate = inner(part, f=f, **options)
        return stacked.squared_distances(part, aggregate, **options)

    parts = _divided(lax.stop_gradient(updates), groups, key, axis_name)
    distances = root(jax.vmap(squares)(parts))
    return mean_of_lowest(updates, jnp.sum(distances, axis=0), n - f)


def _divided(updates: PyTree, groups: int, key: jax.Array, axis_name: str | None) -> jax.Array:
    """`[groups, n, c]`: the coordinates in random order, and zeros behind the last one."""
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
    matrices = [wide(x) for x in stacked.columns(updates)]
    with jax.numpy_dtype_promotion("standard"):
        whole = jnp.concatenate(matrices, axis=1)
    n, d = whole.shape
    width = -(-d // min(groups, max(d, 1)))
    count = -(-d // max(width, 1))
    # `jax.random.permutation` sorts more than once: 4.7 s instead of 1.8 for a million coordinates
    # on a busy CPU. Two of them draw the same bits with probability 2^-32.
    order = jnp.argsort(jax.random.bits(key, (d,)))
    shuffled = jnp.take(whole, order, axis=1)
    padded = jnp.pad(shuffled, ((0, 0), (0, count * width - d)))
    return padded.reshape(n, count, width).transpose(1, 0, 2)
