"""How much each worker contributes to the aggregate."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._checks import static_hyperparameters
from byzjax._compiled import check_hyperparameters, compiled, static_of, taught
from byzjax._signature import must_be_function
from byzjax.stacked import PyTree


@taught
def influence(
    rule: Callable,
    updates: PyTree,
    *data: Any,
    direction: PyTree | None = None,
    **hyperparameters: Any,
) -> jax.Array:
    r"""Each worker's share in a rule's output, from one backward pass.

    $$ \mathrm{influence}_i = \frac{\langle J_i^\top v, v \rangle}{\langle v, v \rangle}, \qquad
       J_i = \frac{\partial F}{\partial x_i} $$

    For rules that select rows, and for coordinate-wise rules, with v = (1, ..., 1), it is the mean
    over the coordinates of the worker's weight. For other rules it is a sensitivity: the effect of
    a small change of row i along v on the result along v; it may be negative or above 1. It sums to
    1 for translation-equivariant rules. A row that is not finite has exactly 0, unless it makes the
    result NaN, as any such row does to the mean.

    Args:
      rule: a rule, `rule(updates, *data, **hyperparameters) -> update`.
      updates: stacked updates; every leaf has shape `[n, ...]`.
      *data: further positional arguments of the rule, such as a centre.
      direction: v, one update; ones by default. The aggregate itself shows which workers formed it.
      **hyperparameters: the rule's own, such as `f`.

    Returns:
      `[n]`, at least float32. Cost: that of the rule and its gradient.

    Raises:
      ValueError: the leaves disagree on n, or `direction` does not have the shape of one update.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0, 0.0], [1.0, 4.0], [2.0, 1.0]])
      >>> byzjax.influence(byzjax.median, updates)
      Array([0. , 0.5, 0.5], dtype=float32)
      >>> byzjax.influence(byzjax.krum, jnp.array([[0.0], [1.0], [1.6], [2.5], [90.0]]), f=1, m=2)
      Array([0. , 0.5, 0.5, 0. , 0. ], dtype=float32)
    """
    must_be_function("influence", rule)
    static_hyperparameters(rule, hyperparameters)
    stacked.num_workers(updates)
    check_hyperparameters(rule, hyperparameters)
    fixed = {name: hyperparameters.pop(name) for name in static_of(rule, hyperparameters)}
    rule = functools.partial(rule, **fixed) if fixed else rule
    return _influence(rule, updates, *data, direction=direction, **hyperparameters)


@compiled
def _influence(
    rule: Callable,
    updates: PyTree,
    *data: Any,
    direction: PyTree | None,
    **hyperparameters: Any,
) -> jax.Array:
    out, backward = jax.vjp(lambda rows: rule(rows, *data, **hyperparameters), updates)
    if direction is None:
        direction = jax.tree.map(jnp.ones_like, out)
    else:
        direction = jax.tree.map(lambda v, leaf: jnp.asarray(v).astype(leaf.dtype), direction, out)
    (tangents,) = backward(direction)
    rows = jax.tree.map(lambda leaf: leaf[None], direction)
    return stacked.inner_products(tangents, direction) / stacked.inner_products(rows, direction)[0]
