"""Attacks that carry what the attackers learned, such as a backdoor, through the aggregation.

The attackers' own rows are updates of poisoned data, as those of `byzjax.attacks.data`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from byzjax import stacked
from byzjax._checks import mask_of_workers
from byzjax._compiled import compiled, taught
from byzjax._numerics.arrays import root, wide
from byzjax._numerics.largest import largest
from byzjax.attacks import _rows
from byzjax.stacked import PyTree


@compiled
def model_replacement(
    updates: PyTree, byzantine: jax.Array, *, boost: float | jax.Array | None = None
) -> PyTree:
    r"""Every attacker boosts its own update, $b_i = \gamma x_i$, to outweigh the other workers.

    With s attackers and gamma = n / s, the default, the mean of all rows is that of the attackers'
    own updates plus $\frac1n \sum_{i \in H} x_i$. The honest updates of a model that has nearly
    converged cancel, so the server takes the attackers' step. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`. The attackers' rows are those of
        their poisoned data.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      boost: gamma; may be traced. None for n / s.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[0.5], [-0.5], [1.0]])
      >>> attacks.model_replacement(updates, jnp.array([False, False, True])).mean(axis=0)
      Array([1.], dtype=float32)

    Reference: Bagdasaryan, Veit, Hua, Estrin and Shmatikov, How To Backdoor Federated Learning,
    AISTATS 2020 (arXiv:1807.00459), with one attacker.
    """
    byzantine = _rows.mask(updates, byzantine)
    if boost is None:
        count = jnp.sum(byzantine, dtype=jnp.int32)
        boost = len(byzantine) / jnp.maximum(count, 1).astype(jnp.float32)
    return _rows.replace(updates, byzantine, _rows.scale(boost, jax.tree.map(wide, updates)))


@compiled
def constrain_and_scale(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    alpha: float | jax.Array = 0.5,
    max_norm: float | jax.Array | None = None,
) -> PyTree:
    r"""Every attacker draws its own update to the honest mean, and scales it to a norm bound.

    $$ b_i = \frac{S}{\|u_i\|} u_i, \qquad
       u_i = \arg\min_u \, \alpha \|u - x_i\|^2 + (1 - \alpha) \|u - \mu\|^2
       = \alpha x_i + (1 - \alpha) \mu $$

    with the mean $\mu$ of the honest updates. The second term stands for the anomaly detector that
    the attackers evade; near $x_i$ the first is their loss. With alpha = 1 this is
    "train-and-scale", against detectors that consider norms alone. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`. The attackers' rows are those of
        their poisoned data.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      alpha: weight of the attackers' aim, from 0 to 1; may be traced.
      max_norm: S; may be traced. None for the largest norm of an honest update; without honest
        workers, norms stay as they are.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[0.0, 4.0], [0.0, 2.0], [6.0, 5.0]])
      >>> attacks.constrain_and_scale(updates, jnp.array([False, False, True]), max_norm=10.0)[2]
      Array([6., 8.], dtype=float32)

    Reference: Bagdasaryan, Veit, Hua, Estrin and Shmatikov, How To Backdoor Federated Learning,
    AISTATS 2020 (arXiv:1807.00459); there the anomaly term is part of the local training.
    """
    byzantine = _rows.mask(updates, byzantine)
    rows = jax.tree.map(wide, updates)
    mean = _rows.honest_mean(updates, byzantine)

    def mixed(x: jax.Array, center: jax.Array) -> jax.Array:
        share = jnp.asarray(alpha, x.dtype)
        return share * x + (1 - share) * center

    aims = jax.tree.map(mixed, rows, mean)
    norms = root(stacked.squared_norms(aims))
    if max_norm is None:
        honest = jnp.where(byzantine, 0, root(stacked.squared_norms(rows)))
        bound = jnp.where(jnp.all(byzantine), norms, jnp.max(honest))
    else:
        bound = jnp.asarray(max_norm, norms.dtype)
    factor = _rows.ratio(bound, norms)
    lies = jax.tree.map(lambda x: _rows.column(factor, x).astype(x.dtype) * x, aims)
    return _rows.replace(updates, byzantine, lies)


class NeurotoxinState(NamedTuple):
    """State of `neurotoxin`.

    Attributes:
      step: number of updates so far.
      mean: mean of the honest updates of the last one.
    """

    step: jax.Array
    mean: PyTree


@taught
def neurotoxin(
    byzantine: jax.Array, *, share: float = 0.05
) -> optax.GradientTransformationExtraArgs:
    r"""Attackers send their own updates, but 0 where the honest mean was largest in the last round.

    $$ (b_i)_j = 0 \text{ if } |\mu^{t-1}_j| \text{ is one of the k largest, else } (x_i)_j $$

    with k = ⌈share d⌉ of all d coordinates and the mean $\mu^{t-1}$ of the last round's honest
    updates; in the first round attackers send their own updates. Honest workers hardly change the
    coordinates that are left, so a backdoor there lasts. Boost the result with
    `model_replacement`, as the next stage of the chain. Cost: O(nd), and memory for one update.

    Args:
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      share: part of the coordinates that are left alone, in (0, 1], a Python number.

    Returns:
      A transformation from stacked updates to stacked updates, in place of `byzjax.attack`.

    Raises:
      ValueError: the share is not in (0, 1]; at an update, `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = neurotoxin(jnp.array([False, True]), share=0.5)
      >>> state = tx.init(jnp.zeros(2))
      >>> for step in range(2):
      ...     sent, state = tx.update(jnp.array([[0.0, 3.0], [5.0, 5.0]]), state)
      ...     print(sent[1])
      [5. 5.]
      [5. 0.]

    Reference: Zhang, Panda, Song, Yang, Mahoney, Gonzalez, Ramchandran and Mittal, Neurotoxin:
    Durable Backdoors in Federated Learning, ICML 2022 (arXiv:2206.10341), algorithm 1, which takes
    the last aggregate.
    """
    mask_of_workers(byzantine)
    if not 0 < share <= 1:
        raise ValueError(f"neurotoxin needs a share in (0, 1]; got share={share}.")

    def init(params: PyTree) -> NeurotoxinState:
        zeros = jax.tree.map(lambda p: jnp.zeros_like(wide(jnp.asarray(p))), params)
        return NeurotoxinState(jnp.int32(0), zeros)

    def update(updates, state, params=None, **extra_args):
        del params
        if not jax.tree.leaves(updates):
            return updates, state
        updates = jax.tree.map(jnp.asarray, updates)
        _, mask = _rows.senders(updates, byzantine, extra_args)
        flat, unravel = ravel_pytree(state.mean)
        avoided = largest(flat, math.ceil(share * flat.size)) & (state.step > 0)
        kept = unravel((~avoided).astype(flat.dtype))
        lies = jax.tree.map(lambda x, keep: jnp.where(keep[None] > 0, x, 0), updates, kept)
        mean = jax.tree.map(
            lambda new, before: new[0].astype(before.dtype),
            *(_rows.honest_mean(updates, mask), state.mean),
        )
        return _rows.replace(updates, mask, lies), NeurotoxinState(state.step + 1, mean)

    return optax.GradientTransformationExtraArgs(init, update)
