"""Attacks that move few coordinates far, where the model is most sensitive, and the others little.

The coordinates are those that pruning would keep, or those where the honest mean is largest.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from byzjax import stacked
from byzjax._checks import one_of, static_int
from byzjax._compiled import compiled, taught
from byzjax._numerics.arrays import wide
from byzjax._numerics.largest import largest
from byzjax.attacks import _rows
from byzjax.attacks.statistical import _f_or_z, _strength
from byzjax.stacked import PyTree


@compiled(static=("share",), check=_f_or_z("hybrid_sparse"))
def hybrid_sparse(
    updates: PyTree,
    byzantine: jax.Array,
    mask: PyTree | None = None,
    *,
    share: float = 0.005,
    sparse_z: float | jax.Array = 1.5,
    f: int | None = None,
    z: float | jax.Array | None = None,
    direction: str = "minus",
) -> PyTree:
    r"""All attackers deviate far in a few sensitive coordinates, and little in the others (HSA).

    $$ b_j = \begin{cases} \mu_j - z_s \sigma_j & \text{if } j \in M \\
       \mu_j - z \sigma_j & \text{else} \end{cases} $$

    with the mean $\mu$ and the sample standard deviation $\sigma$ per coordinate of the honest
    updates. Outside of the mask M it is `little_is_enough`, which evades rules that compare
    coordinates; M is too small to change distances much. In the paper M is what pruning keeps of
    the network before training, as `pruning_mask` returns it. Without a mask, M has the ⌈share d⌉
    coordinates of largest $|\mu_j|$ in each round, which is ours, for attackers who see updates
    alone. Without honest workers, b = 0. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      mask: M, a tree like one update, every leaf `bool[...]`; or None.
      share: part of all coordinates that M has without a mask, in (0, 1], a Python number; 0.005
        is the part that the paper's code keeps.
      sparse_z: $z_s$, strength in M; may be traced.
      f: the declared number of faults, from which z follows by `little_is_enough_z`; None uses
        the number of attackers.
      z: strength outside of M, given instead of f; may be traced.
      direction: `"minus"`, or `"against"` the sign of the honest mean in each coordinate, of which
        the paper's code has both.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, the mask is not like one update, the share is not in
        (0, 1], f is not below n, both f and z are given, or the direction is unknown.
      TypeError: f is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [9.0, 9.0]])
      >>> byzantine = jnp.array([False, False, False, True])
      >>> attacks.hybrid_sparse(updates, byzantine, share=0.5, sparse_z=4.0, z=0.5)[3]
      Array([1.5, 2. ], dtype=float32)
      >>> mask = jnp.array([True, False])
      >>> attacks.hybrid_sparse(updates, byzantine, mask, sparse_z=4.0, z=0.5)[3]
      Array([-2. ,  5.5], dtype=float32)

    Reference: Ozfatura, Ozfatura, Kupcu and Gunduz, Aggressive or Imperceptible, or Both: Network
    Pruning Assisted Hybrid Byzantines in Federated Learning, 2024 (arXiv:2404.06230), in the form
    of its public code.
    """
    byzantine = _rows.mask(updates, byzantine)
    one_of("direction", direction, ("minus", "against"))
    _check_share("hybrid_sparse", share)
    z = _strength("hybrid_sparse", stacked.num_workers(updates), byzantine, f, z)
    mean = _rows.honest_mean(updates, byzantine)
    std = _rows.honest_std(updates, byzantine, mean, ddof=1)
    chosen = _largest_of(mean, share) if mask is None else _one_row(updates, mask)

    def lie(mu: jax.Array, sigma: jax.Array, inside: jax.Array) -> jax.Array:
        strength = jnp.where(inside, jnp.asarray(sparse_z, mu.dtype), jnp.asarray(z, mu.dtype))
        sign = jnp.sign(mu) if direction == "against" else jnp.ones_like(mu)
        return mu - strength * sign * sigma

    return _rows.replace(updates, byzantine, jax.tree.map(lie, mean, std, chosen))


@taught
def pruning_mask(params: PyTree, gradient: Callable, *, share: float, steps: int = 1) -> PyTree:
    r"""The coordinates that pruning keeps, where the loss is most sensitive: SNIP, or FORCE.

    $$ M_t = \text{the } \lceil p^{t/T} d \rceil \text{ coordinates of largest }
       |\theta_j g_j(\theta \odot M_{t-1})|, \qquad M_0 = \{1, \dots, d\} $$

    for parameters $\theta$, the gradient g of their loss and a share p; the result is $M_T$. One
    step is SNIP; more are FORCE, in which pruned coordinates may return. All leaves are pruned
    together. Cost: T gradients.

    Args:
      params: the parameters, before training as a rule.
      gradient: `gradient(params) -> update`, of the attackers' own data or of all workers' data.
      share: p, part of the coordinates that are kept, in (0, 1], a Python number.
      steps: T, a Python int.

    Returns:
      A tree like the parameters, every leaf `bool[...]`: the mask of `hybrid_sparse`.

    Raises:
      ValueError: the share is not in (0, 1], or steps < 1.
      TypeError: steps is not a Python int.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> params = {"w": jnp.array([1.0, 0.1, -2.0]), "b": jnp.array(0.0)}
      >>> gradient = jax.grad(lambda p: p["w"] @ jnp.array([3.0, 9.0, 1.0]) + p["b"])
      >>> attacks.pruning_mask(params, gradient, share=0.25)
      {'b': Array(False, dtype=bool), 'w': Array([ True, False, False], dtype=bool)}

    Reference: Lee, Ajanthan and Torr, SNIP: Single-shot Network Pruning based on Connection
    Sensitivity, ICLR 2019 (arXiv:1810.02340); de Jorge, Sanyal, Behl, Torr, Rogez and Dokania,
    Progressive Skeletonization: Trimming more fat from a network at initialization, ICLR 2021
    (arXiv:2006.09081), with the exponential schedule.
    """
    _check_share("pruning_mask", share)
    steps = static_int("steps", steps, at_least=1)
    params = jax.tree.map(jnp.asarray, params)
    kept = jax.tree.map(lambda p: jnp.ones(p.shape, bool), params)
    for step in range(1, steps + 1):
        pruned = jax.tree.map(lambda p, keep: jnp.where(keep, p, 0), params, kept)
        sensitivity = jax.tree.map(lambda p, g: wide(p) * wide(g), params, gradient(pruned))
        kept = _largest_of(sensitivity, share ** (step / steps))
    return kept


def _largest_of(tree: PyTree, share: float) -> PyTree:
    """The places of the ⌈share d⌉ largest magnitudes in all leaves together."""
    magnitudes = jax.tree.map(lambda leaf: jnp.abs(leaf).astype(jnp.float32), tree)
    flat, unravel = ravel_pytree(lax.stop_gradient(magnitudes))
    chosen = largest(flat, math.ceil(share * flat.size))
    return jax.tree.map(lambda leaf: leaf > 0, unravel(chosen.astype(flat.dtype)))


def _one_row(updates: PyTree, mask: PyTree) -> PyTree:
    """A mask of one update as a row, `bool[1, ...]` in every leaf."""
    expected, given = jax.tree.structure(updates), jax.tree.structure(mask)
    if expected != given:
        raise ValueError(f"hybrid_sparse needs a mask of tree {expected}; got {given}.")

    def row(x: jax.Array, inside: jax.Array) -> jax.Array:
        if jnp.shape(inside) != jnp.shape(x)[1:]:
            raise ValueError(
                f"hybrid_sparse needs a mask of one update, a leaf of shape {jnp.shape(x)[1:]}; "
                f"got {jnp.shape(inside)}."
            )
        return jnp.asarray(inside).astype(bool)[None]

    return jax.tree.map(row, updates, mask)


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"{name} needs a share in (0, 1]; got share={share}.")
