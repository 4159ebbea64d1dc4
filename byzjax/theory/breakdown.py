"""Breakdown points: the number of attackers that can move a rule arbitrarily far."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._checks import static_int
from byzjax._compiled import compiled
from byzjax._numerics.float64 import float64

FAR = 1e9  # size of malicious rows, in deviations of an honest coordinate
# Damage above which a rule counts as broken. No proved constant comes near it for fewer than 10^4
# workers, and rules that follow the malicious rows are at FAR / n.
UNBOUNDED = 1e4


class Breakdown(NamedTuple):
    """The result of `breakdown_search`.

    Attributes:
      liars: the smallest number of attackers that moves the aggregate arbitrarily far or makes it
        non-finite; None if none does.
      damage: `[n]`, for s = 0 to n - 1 attackers the largest distance of the aggregate to the
        honest mean, in root mean squared distances of the honest rows to it; inf if it is not
        finite.
    """

    liars: int | None
    damage: Any


def breakdown_search(
    rule: Callable, *, n: int, d: int = 10, restarts: int = 64, key: jax.Array | None = None
) -> Breakdown:
    r"""The smallest number of attackers for which a search moves the aggregate arbitrarily far.

    $$ \min \Bigl\{ s : \sup_{b_1, \dots, b_s} \|F(x_1, \dots, x_{n-s}, b_1, \dots, b_s) - \mu\|
       = \infty \Bigr\} $$

    for Gaussian honest rows. Malicious rows are 10^9 deviations away: all at one point, at two
    opposite points, each in its own direction, in two orthogonal groups, at lengths of all orders,
    or non-finite. Finite ones are also tried with one attacker that cancels the sum of the others.
    In float64.

    Args:
      rule: `rule(updates) -> update`; its declared f stays fixed.
      n: number of workers, a Python int.
      d: number of coordinates, a Python int, at least 2.
      restarts: number of random draws of each kind of attack, a Python int.
      key: PRNG key; `jax.random.key(0)` by default.

    Returns:
      A `Breakdown`. A search may miss an attack: the true number is at most the one found. Cost:
      for each s below n, one call of the rule for each of `restarts` draws of each kind.

    Raises:
      TypeError: one of the numbers is not a Python int.

    Example:
      >>> import byzjax
      >>> breakdown_search(byzjax.median, n=7, restarts=4).liars
      4

    Reference: ours; the finite-sample breakdown point is that of Donoho and Huber, The Notion of
    Breakdown Point, 1983.
    """
    n, d = static_int("n", n, at_least=2), static_int("d", d, at_least=2)
    restarts = static_int("restarts", restarts, at_least=1)
    with float64():
        keys = jax.random.split(jax.random.key(0) if key is None else key, restarts)
        damage = [float(_worst(rule, n, d, jnp.asarray(s), keys)) for s in range(n)]
    broken = [s for s, value in enumerate(damage) if value > UNBOUNDED]
    return Breakdown(broken[0] if broken else None, damage)


@compiled
def _worst(rule: Callable, n: int, d: int, s: jax.Array, keys: jax.Array) -> jax.Array:
    return jnp.max(lax.map(lambda k: _damage(rule, n, d, s, k), keys))


def _damage(rule: Callable, n: int, d: int, s: jax.Array, key: jax.Array) -> jax.Array:
    """The damage of the worst kind of attack in one draw; the last s rows are Byzantine."""
    honest_key, lies_key = jax.random.split(key)
    x = jax.random.normal(honest_key, (n, d))
    byzantine = jnp.arange(n) >= n - s
    honest = ~byzantine[:, None]
    mean = jnp.sum(jnp.where(honest, x, 0), axis=0) / (n - s)
    spread = jnp.sqrt(jnp.sum(jnp.where(honest, (x - mean) ** 2, 0)) / (n - s))
    spread = jnp.where(s < n - 1, spread, jnp.sqrt(float(d)))  # one honest row has none

    def of(lies: jax.Array) -> jax.Array:
        out = rule(jnp.where(honest, x, lies))
        away = jnp.sqrt(jnp.sum((out - mean) ** 2)) / spread
        return jnp.where(jnp.isfinite(away), away, jnp.inf)

    return jnp.max(lax.map(of, _lies(lies_key, n, d, byzantine)))


def _lies(key: jax.Array, n: int, d: int, byzantine: jax.Array) -> jax.Array:
    """`[kinds, n, d]`; the rows of honest workers are ignored."""
    one, two, each, length, sign, near = jax.random.split(key, 6)
    unit = _unit(jax.random.normal(one, (1, d)))
    across = jax.random.normal(two, (1, d))
    across = _unit(across - jnp.sum(across * unit) * unit)
    each = _unit(jax.random.normal(each, (n, d)))
    lengths = FAR ** jax.random.uniform(length, (n, 1))
    signs = jnp.where(jax.random.bernoulli(sign, 0.5, (n, 1)), 1.0, -1.0)
    even = jnp.arange(n)[:, None] % 2 == 0
    noise = jax.random.normal(near, (n, d))
    shape = (n, d)
    kinds = [
        jnp.broadcast_to(FAR * unit, shape),
        FAR * unit + noise,
        FAR * signs * unit,
        FAR * each,
        FAR * jnp.where(even, unit, across),
        lengths * unit,
        lengths * each,
        lengths * signs * unit + noise,
        jnp.full(shape, jnp.inf),
        jnp.full(shape, jnp.nan),
    ]
    rows = jnp.stack(kinds)
    # The first attacker alone cancels the sum of the others.
    first = (jnp.cumsum(byzantine) == 1) & byzantine
    others = jnp.sum(jnp.where((byzantine & ~first)[:, None], rows[:8], 0), axis=1, keepdims=True)
    return jnp.concatenate([rows, jnp.where(first[:, None], -others, rows[:8])])


def _unit(rows: jax.Array) -> jax.Array:
    return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
