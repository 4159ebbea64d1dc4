"""RLR: the step of a coordinate is reversed unless enough workers agree on its sign."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import static_int
from byzjax._compiled import compiled
from byzjax._numerics.signs import votes
from byzjax.rules.coordinatewise import mean
from byzjax.stacked import PyTree


@compiled
def robust_learning_rate(
    updates: PyTree,
    *,
    threshold: int,
    rule: Callable | None = None,
    axis_name: str | None = None,
) -> PyTree:
    r"""The mean, negated in the coordinates on whose sign too few workers agree (RLR).

    $$ F_j = \begin{cases}
       A_j & \text{if } \bigl| \sum_i \operatorname{sign} x_{ij} \bigr| \ge \theta \\
       -A_j & \text{otherwise}
       \end{cases} $$

    where A is the mean or the result of another rule. The paper states it as a learning rate of
    the server, eta or -eta by coordinate, which multiplies any aggregate. NaN does not vote.

    Where honest votes cancel, f attackers alone win by at most f: with theta > f their direction
    is reversed. With theta = 1 only ties are.

    Requirement: 1 <= theta <= n, and that of the rule. Breakdown: none proved; it targets
    backdoors. Promise: none; with a rule, its size is that of the rule's result.
    Cost: O(nd) and that of the rule.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      threshold: theta, a Python int.
      rule: `rule(updates) -> update`; the mean by default.
      axis_name: mesh axis over which the coordinates are sliced, if they are; passed on to `rule`.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or threshold is not in 1 .. n.
      TypeError: threshold is not a Python int.

    Example:
      >>> import byzjax, functools, jax.numpy as jnp
      >>> updates = jnp.array([[1.0, -1.0], [2.0, 1.0], [3.0, 9.0]])
      >>> byzjax.robust_learning_rate(updates, threshold=2)  # votes 3 and 1
      Array([ 2., -3.], dtype=float32)
      >>> median = functools.partial(byzjax.trimmed_mean, f=1)
      >>> byzjax.robust_learning_rate(updates, threshold=2, rule=median)
      Array([ 2., -1.], dtype=float32)

    Reference: Ozdayi, Kantarcioglu and Gel, Defending against Backdoors in Federated Learning with
    Robust Learning Rate, AAAI 2021 (arXiv:2007.03767), equation 2.
    """
    n, threshold = stacked.num_workers(updates), static_int("threshold", threshold, at_least=1)
    if threshold > n:
        raise ValueError(
            f"robust_learning_rate needs threshold <= n; got threshold={threshold}, n={n}."
        )
    options = {} if axis_name is None else {"axis_name": axis_name}
    update = (mean if rule is None else rule)(updates, **options)

    def sign(x: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(votes(x)) >= threshold, 1, -1).astype(x.dtype)

    signs = stacked.coordinatewise(sign, lax.stop_gradient(updates))
    return jax.tree.map(lambda leaf, sign: sign * leaf, update, signs)
