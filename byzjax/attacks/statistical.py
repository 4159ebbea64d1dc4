"""Attacks built from the mean and the standard deviation of the honest updates.

Each takes `byzantine: bool[n]`, which may be traced, and returns the honest rows bitwise unchanged.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from byzjax import stacked
from byzjax._checks import one_of, static_int
from byzjax._compiled import compiled
from byzjax._numerics.arrays import wide
from byzjax.attacks import _rows
from byzjax.stacked import PyTree


@compiled
def sign_flip(updates: PyTree, byzantine: jax.Array, *, of: str = "own") -> PyTree:
    r"""Every attacker sends its negated update, $b_i = -x_i$, or the negated mean, $b = -\mu$.

    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      of: the `"own"` update, or the `"mean"` of the honest updates, as in some libraries; 0 if
        there are none.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or `of` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0], [3.0], [7.0]])
      >>> byzantine = jnp.array([False, False, True])
      >>> attacks.sign_flip(updates, byzantine)[2]
      Array([-7.], dtype=float32)
      >>> attacks.sign_flip(updates, byzantine, of="mean")[2]
      Array([-2.], dtype=float32)

    Reference: in common use; the "bit-flip" of Karimireddy, He and Jaggi, Learning from History for
    Byzantine Robust Optimization, ICML 2021 (arXiv:2012.10333). ByzFL negates the mean.
    """
    return reversed_gradient(updates, byzantine, kappa=1.0, of=of)


@compiled
def reversed_gradient(
    updates: PyTree, byzantine: jax.Array, *, kappa: float = 100.0, of: str = "own"
) -> PyTree:
    r"""Every attacker sends $b_i = -\kappa x_i$, or all send $b = -\kappa \mu$.

    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      kappa: strength; may be traced.
      of: the `"own"` update, or the `"mean"` of the honest updates; 0 if there are none.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or `of` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> attacks.reversed_gradient(jnp.array([[1.0], [2.0]]), jnp.array([False, True]), kappa=10.0)
      Array([[  1.],
             [-20.]], dtype=float32)

    Reference: Chen, Wang, Charles and Papailiopoulos, DRACO, ICML 2018 (arXiv:1803.09877), with
    kappa = 100; with the mean, the omniscient adversary of Blanchard et al., NeurIPS 2017
    (arXiv:1703.02757), section 6.
    """
    byzantine = _rows.mask(updates, byzantine)
    one_of("of", of, ("own", "mean"))
    rows = updates if of == "own" else _rows.honest_mean(updates, byzantine)
    return _rows.replace(updates, byzantine, _rows.scale(-kappa, rows))


@compiled
def omniscient(updates: PyTree, byzantine: jax.Array, *, factor: float = 1e10) -> PyTree:
    r"""All attackers send $b = -c \sum_{i \in H} x_i$, the honest sum negated and scaled by c.

    Without honest workers, the sum is 0. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      factor: c; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0], [3.0], [7.0]])
      >>> attacks.omniscient(updates, jnp.array([False, False, True]), factor=2.0)[2]
      Array([-8.], dtype=float32)

    Reference: Xie, Koyejo and Gupta, Generalized Byzantine-tolerant SGD, 2018 (arXiv:1802.10116);
    1e10 is the value in the public code; the paper has 1e20.
    """
    byzantine = _rows.mask(updates, byzantine)
    total = _rows.honest_sum(updates, byzantine)
    return _rows.replace(updates, byzantine, _rows.scale(-factor, total))


@compiled
def inner_product_manipulation(
    updates: PyTree, byzantine: jax.Array, *, epsilon: float = 0.1
) -> PyTree:
    r"""All attackers send $b = -\epsilon \mu$, with the mean $\mu$ of the honest updates.

    A small epsilon evades distances and medians; epsilon > (n - s) / s reverses the plain mean
    under s attackers. Without honest workers, b = 0. Also known as "fall of empires".
    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      epsilon: strength; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0], [3.0], [7.0]])
      >>> attacks.inner_product_manipulation(
      ...     updates, jnp.array([False, False, True]), epsilon=0.5)
      Array([[ 1.],
             [ 3.],
             [-1.]], dtype=float32)

    Reference: Xie, Koyejo and Gupta, Fall of Empires: Breaking Byzantine-tolerant SGD by Inner
    Product Manipulation, UAI 2019 (arXiv:1903.03936).
    """
    return reversed_gradient(updates, byzantine, kappa=epsilon, of="mean")


@compiled
def little_is_enough_z(n: int, f: int | jax.Array) -> jax.Array:
    r"""The strength z of `little_is_enough` for n workers of which f are Byzantine.

    $$ s = \lfloor n/2 + 1 \rfloor - f, \qquad
       z = \Phi^{-1}\!\left(\frac{n - f - s}{n - f}\right) $$

    Args:
      n: number of workers.
      f: number of attackers in the formula; may be traced.

    Returns:
      A float32 scalar; 0 where no such z exists, for f > n / 2.

    Example:
      >>> round(float(little_is_enough_z(25, 11)), 3)
      1.068

    Reference: Baruch, Baruch and Goldberg, NeurIPS 2019 (arXiv:1902.06156), section 3.1, in the
    form of its public implementations; the text of the first arXiv version divides by n.
    """
    supporters = n // 2 + 1 - f
    honest = jnp.asarray(n - f, jnp.float32)
    z = ndtri(jnp.asarray(n - f - supporters, jnp.float32) / jnp.maximum(honest, 1))
    return jnp.where(jnp.isfinite(z), z, 0)


def _f_or_z(name: str) -> Callable:
    def check(*, f: Any = None, z: Any = None, **_: Any) -> None:
        if f is not None and z is not None:
            raise ValueError(f"{name} takes f or z, not both; got f={f}, z={z}.")

    return check


@compiled(check=_f_or_z("little_is_enough"))
def little_is_enough(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    f: int | None = None,
    z: float | jax.Array | None = None,
    direction: str = "minus",
    ddof: int = 1,
    knowledge: str = "honest",
) -> PyTree:
    r"""All attackers send $b = \mu - z\sigma$ (or $\mu + z\sigma$), just inside the honest spread.

    $\mu$ and $\sigma$ are the mean and the standard deviation per coordinate of the honest updates,
    or of the attackers' own honest updates; without any, b = 0. Known as ALIE.
    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      f: the declared number of faults, from which z follows by `little_is_enough_z`; None uses
        the number of attackers.
      z: strength, given instead of f; may be traced.
      direction: `"minus"` as in the paper's own code, or `"plus"` as in several libraries.
      ddof: 1 for the sample standard deviation, 0 for the population's.
      knowledge: whose updates the attackers know: the `"honest"` workers', as in libraries, or
        their own (`"liars"`), as in the paper, whose code has z = 1.5 and ddof = 0.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, f is not below n, both f and z are given, or the
        direction or the knowledge is unknown.
      TypeError: f is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0], [2.0], [3.0], [9.0]])
      >>> byzantine = jnp.array([False, False, False, True])
      >>> attacks.little_is_enough(updates, byzantine, z=1.5)[3]
      Array([0.5], dtype=float32)

    Reference: Baruch, Baruch and Goldberg, A Little Is Enough: Circumventing Defenses For
    Distributed Learning, NeurIPS 2019 (arXiv:1902.06156).
    """
    byzantine = _rows.mask(updates, byzantine)
    one_of("direction", direction, ("minus", "plus"))
    one_of("knowledge", knowledge, ("honest", "liars"))
    z = _strength("little_is_enough", stacked.num_workers(updates), byzantine, f, z)
    sign = -1 if direction == "minus" else 1
    unknown = byzantine if knowledge == "honest" else ~byzantine
    mean = _rows.honest_mean(updates, unknown)
    std = _rows.honest_std(updates, unknown, mean, ddof)
    return _rows.replace(updates, byzantine, _rows.plus(mean, sign * z, std))


@compiled(check=_f_or_z("relocated"))
def relocated(
    updates: PyTree,
    byzantine: jax.Array,
    momentum: PyTree,
    *,
    reference: float,
    base: float,
    theta: float = 90.0,
    f: int | None = None,
    z: float | jax.Array | None = None,
) -> PyTree:
    r"""All attackers send a point near the server's momentum, displaced across it (ROP).

    $$ b = \pi m + (1 - \pi) \mu + z u, \qquad
       u = \|\sigma\| (\cos\theta \, \hat r + \sin\theta \, \hat p) $$

    with $\hat r$ the unit vector of the reference $r = \lambda m + (1 - \lambda) \mu$ and $\hat p$
    that of $1 - \langle 1, \hat r \rangle \hat r$ for the all-ones vector 1, the momentum m, and
    the honest updates' mean and standard deviation. The plane and the scale of u are our
    interpretation: the public code does not document them. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      momentum: m, the server's momentum, one update; every leaf has shape `[...]`.
      reference: lambda, the share of the momentum in r; may be traced.
      base: pi, the share of the momentum in the displaced point; may be traced.
      theta: angle to the reference, in degrees; may be traced.
      f: the declared number of faults, from which z follows by `little_is_enough_z`; None uses
        the number of attackers.
      z: strength, given instead of f; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, f is not below n, or both f and z are given.
      TypeError: f is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
      >>> attacks.relocated(updates, jnp.array([False, False, True]), jnp.array([4.0, 0.0]),
      ...     reference=1.0, base=0.5, z=2.0)[2].round(4)
      Array([3.    , 2.8284], dtype=float32)

    Reference: Ozfatura, Ozfatura, Kupcu and Gunduz, Byzantines can also Learn from History: Fall of
    Centered Clipping in Federated Learning, IEEE TIFS 2023 (arXiv:2208.09894).
    """
    byzantine = _rows.mask(updates, byzantine)
    z = _strength("relocated", stacked.num_workers(updates), byzantine, f, z)
    mean = _rows.honest_mean(updates, byzantine)
    spread = _rows.norm(_rows.honest_std(updates, byzantine, mean, ddof=1))
    m = jax.tree.map(lambda leaf, mu: jnp.asarray(leaf).astype(mu.dtype)[None], momentum, mean)

    def between(share: Any) -> PyTree:
        return _rows.plus(_rows.scale(share, m), 1 - share, mean)

    r = _rows.unit(between(reference))
    ones = jax.tree.map(jnp.ones_like, r)
    along = stacked.inner_products(ones, _rows.only(r))[0]
    p = _rows.unit(_rows.plus(ones, -along, r))
    angle = jnp.deg2rad(theta)
    u = _rows.plus(_rows.scale(jnp.cos(angle), r), jnp.sin(angle), p)
    return _rows.replace(updates, byzantine, _rows.plus(between(base), z * spread, u))


def _strength(
    name: str, n: int, byzantine: jax.Array, f: int | None, z: float | jax.Array | None
) -> float | jax.Array:
    """The given z, or z from f, or z from the number of attackers."""
    if f is not None and static_int("f", f) >= n:
        raise ValueError(f"{name} needs f < n; got n={n}, f={f}.")
    if z is not None:
        return z
    return little_is_enough_z(n, jnp.sum(byzantine, dtype=jnp.int32) if f is None else f)


@compiled
def byz_mean(
    updates: PyTree, byzantine: jax.Array, *, attack: Callable = little_is_enough
) -> PyTree:
    r"""Some attackers send another attack's rows, the others what makes it the mean of all rows.

    Of s attackers the first ⌊s/2⌋, A, send the rows $a_i$ of the other attack, and the rest, B,

    $$ b = \frac{1}{|B|} \Bigl( n g - \sum_{i \in A} a_i - \sum_{i \in H} x_i \Bigr), $$

    so the mean of all n rows is g, the mean of the malicious rows of that attack, which are equal
    for most. Cost: that of the attack and O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      attack: `attack(updates, byzantine) -> stacked updates`; bind hyperparameters with
        `functools.partial`.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import functools, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates, byzantine = jnp.array([[1.0], [3.0], [0.0], [0.0]]), jnp.arange(4) > 1
      >>> attacks.byz_mean(updates, byzantine, attack=functools.partial(attacks.constant, value=-1))
      Array([[ 1.],
             [ 3.],
             [-1.],
             [-7.]], dtype=float32)

    Reference: Xu, Huang, Song and Lan, SignGuard: Byzantine-robust Federated Learning through
    Collaborative Malicious Gradient Filtering, ICDCS 2022 (arXiv:2109.05872), with
    `little_is_enough`.
    """
    byzantine = _rows.mask(updates, byzantine)
    count = jnp.sum(byzantine, dtype=jnp.int32)
    place = jnp.cumsum(byzantine, dtype=jnp.int32) - 1
    first = byzantine & (place < count // 2)
    lies = jax.tree.map(wide, attack(updates, byzantine))
    sent, target = _rows.replace(updates, first, lies), stacked.mean_selected(lies, byzantine)
    known = _rows.honest_sum(sent, byzantine & ~first)
    n, rest = len(byzantine), jnp.maximum(count - count // 2, 1)

    def last(goal: jax.Array, others: jax.Array) -> jax.Array:
        return (n * goal[None] - others) / rest.astype(goal.dtype)

    return _rows.replace(sent, byzantine & ~first, jax.tree.map(last, target, known))
