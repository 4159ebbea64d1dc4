"""Errors of a rule on random updates, by Monte Carlo, with 95 % confidence intervals."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._checks import static_int
from byzjax._compiled import compiled
from byzjax._numerics.float64 import float64
from byzjax.influence import influence
from byzjax.theory.distributions import gaussian


class Estimate(NamedTuple):
    """A mean with its 95 % confidence interval, by Student's t.

    Attributes:
      value: the mean.
      low: lower end of the interval.
      high: upper end.
    """

    value: float
    low: float
    high: float


class AngularError(NamedTuple):
    r"""The result of `angular_error`.

    Attributes:
      error: $E \|F - g\| / (\sqrt d \sigma)$.
      bias: $\|E F - g\| / (\sqrt d \sigma)$, the eta of $\sin\alpha$.
    """

    error: Estimate
    bias: float


def angular_error(
    rule: Callable,
    *,
    n: int,
    d: int,
    s: int = 0,
    attack: Callable | None = None,
    distribution: Callable = gaussian,
    mean: float = 0.0,
    trials: int = 100,
    key: jax.Array | None = None,
) -> AngularError:
    r"""The distance of an aggregate to the true gradient, in units of $\sqrt d \sigma$.

    $$ \frac{E \|F - g\|}{\sqrt d \sigma}, \qquad F = F(x_1, \dots, x_{n-s}, b_1, \dots, b_s) $$

    with independent honest updates of mean g and variance sigma^2 in each coordinate. In these
    units the sine of alpha is the error's bias times $\sqrt d \sigma / \|g\|$. The last s rows are
    Byzantine, so that ties go to honest workers. Trials run one after another.

    Args:
      rule: the server's aggregation, `rule(updates) -> update`.
      n: number of workers, a Python int.
      d: number of coordinates, a Python int.
      s: number of attackers, a Python int.
      attack: `attack(updates, byzantine) -> updates`; required if s > 0.
      distribution: `(key, shape) -> values` of mean 0 and variance 1, see `gaussian`.
      mean: every coordinate of g, in units of sigma; matters for rules that do not shift.
      trials: number of draws, a Python int, at least 2.
      key: PRNG key; `jax.random.key(0)` by default.

    Returns:
      An `AngularError`. The squared bias is estimated without bias; if that is negative, the bias
      is 0. Both are NaN if an aggregate is not finite. Cost: `trials` calls of the rule.

    Raises:
      ValueError: not 0 <= s < n, s > 0 without an attack or vice versa, or there are fewer than 2
        trials.
      TypeError: one of the numbers is not a Python int.

    Example:
      >>> import byzjax
      >>> result = angular_error(byzjax.mean, n=25, d=1000, trials=20)
      >>> abs(result.error.value - 0.2) < 0.01  # 1 / sqrt(n)
      True

    Reference: Blanchard, El-Mhamdi, Guerraoui and Stainer, NeurIPS 2017 (arXiv:1703.02757), whose
    eta this is; the abstract of the AKSEL paper refers to the expected error.
    """
    errors, _, total = _trials(
        rule, n, d, s, attack, distribution, mean, static_int("trials", trials, at_least=2), key
    )
    error = estimate(jnp.sqrt(errors / d))
    # sum_{t != u} <F_t - g, F_u - g> / (T (T - 1)), an unbiased estimate of the squared bias.
    square = (jnp.sum(total**2) - jnp.sum(errors)) / (trials * (trials - 1))
    bias = float(square) / d
    return AngularError(error, math.sqrt(bias) if bias > 0 else 0.0 * bias)


def efficiency(
    rule: Callable,
    *,
    n: int,
    d: int,
    distribution: Callable = gaussian,
    mean: float = 0.0,
    trials: int = 100,
    key: jax.Array | None = None,
) -> Estimate:
    r"""The squared error of a rule without attackers, relative to that of the mean.

    $$ \frac{E \|F - g\|^2}{E \|\bar x - g\|^2} $$

    Args:
      rule: `rule(updates) -> update`.
      n: number of workers, a Python int.
      d: number of coordinates, a Python int.
      distribution: `(key, shape) -> values` of mean 0 and variance 1, see `gaussian`.
      mean: every coordinate of g, in units of sigma; matters for rules that do not shift.
      trials: number of draws, a Python int, at least 2.
      key: PRNG key; `jax.random.key(0)` by default.

    Returns:
      The ratio of both means over the same draws, 1 for the mean itself; the interval is by the
      delta method. Cost: `trials` calls of the rule.

    Raises:
      ValueError: there are fewer than 2 trials.
      TypeError: one of the numbers is not a Python int.

    Example:
      >>> import byzjax
      >>> ratio = efficiency(byzjax.median, n=25, d=100)
      >>> 1.45 < ratio.low < ratio.value < ratio.high < 1.65  # 1.544; pi/2 for many workers
      True
    """
    trials = static_int("trials", trials, at_least=2)
    errors, of_mean, _ = _trials(rule, n, d, 0, None, distribution, mean, trials, key)
    ratio, unit = jnp.mean(errors) / jnp.mean(of_mean), jnp.mean(of_mean)
    around = estimate((errors - ratio * of_mean) / unit)
    return Estimate(float(ratio), float(ratio) + around.low, float(ratio) + around.high)


def selection_probability(
    rule: Callable,
    *,
    n: int,
    d: int,
    s: int,
    attack: Callable,
    distribution: Callable = gaussian,
    mean: float = 0.0,
    trials: int = 100,
    key: jax.Array | None = None,
) -> tuple[Estimate, Estimate]:
    r"""The probabilities that an attacker, and an honest worker, influence the aggregate.

    $$ P(\text{influence}_i \ne 0) $$

    Args:
      rule: `rule(updates) -> update`, differentiable.
      n: number of workers, a Python int.
      d: number of coordinates, a Python int.
      s: number of attackers, a Python int; the last s rows.
      attack: `attack(updates, byzantine) -> updates`.
      distribution: `(key, shape) -> values` of mean 0 and variance 1, see `gaussian`.
      mean: every coordinate of g, in units of sigma.
      trials: number of draws, a Python int, at least 2.
      key: PRNG key; `jax.random.key(0)` by default.

    Returns:
      The probability for attackers, and for honest workers, by `byzjax.influence`. A non-finite
      influence counts as nonzero. Cost: `trials` calls of the rule and of its derivative.

    Raises:
      ValueError: s is not between 1 and n - 1, or there are fewer than 2 trials.
      TypeError: one of the numbers is not a Python int.

    Example:
      >>> import byzjax, functools
      >>> from byzjax import attacks
      >>> krum = functools.partial(byzjax.krum, f=2)
      >>> liars, honest = selection_probability(
      ...     krum, n=7, d=20, s=2, attack=attacks.non_finite, trials=20)
      >>> liars.value, round(honest.value, 6)
      (0.0, 0.2)
    """
    trials = static_int("trials", trials, at_least=2)
    n, d = static_int("n", n, at_least=1), static_int("d", d, at_least=1)
    if not 1 <= static_int("s", s) < n:
        raise ValueError(f"selection_probability needs 1 <= s < n; got s={s}, n={n}.")
    keys = jax.random.split(jax.random.key(0) if key is None else key, trials)
    liars, honest = _chosen(rule, n, d, s, attack, distribution, mean, keys)
    return estimate(liars), estimate(honest)


@compiled
def _chosen(
    rule: Callable,
    n: int,
    d: int,
    s: int,
    attack: Callable,
    distribution: Callable,
    mean: float,
    keys: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Fractions of attackers and of honest workers with influence, each `[trials]`."""
    byzantine = jnp.arange(n) >= n - s

    def one(k: jax.Array) -> tuple[jax.Array, jax.Array]:
        sent = attack(mean + distribution(k, (n, d)), byzantine)
        chosen = ~(jnp.abs(influence(rule, sent, direction=rule(sent))) <= 1e-6)
        return jnp.sum(chosen & byzantine) / s, jnp.sum(chosen & ~byzantine) / (n - s)

    return lax.map(one, keys)


def _trials(
    rule: Callable,
    n: int,
    d: int,
    s: int,
    attack: Callable | None,
    distribution: Callable,
    mean: float,
    trials: int,
    key: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Squared errors `[trials]` of the rule and of the honest mean, and the sum of F - g, `[d]`."""
    n, d, s = static_int("n", n, at_least=1), static_int("d", d, at_least=1), static_int("s", s)
    if not 0 <= s < n:
        raise ValueError(f"at least one worker must be honest, 0 <= s < n; got s={s}, n={n}.")
    if (s > 0) != (attack is not None):
        given = "no attack" if attack is None else "an attack"
        raise ValueError(f"s > 0 needs an attack, and an attack s > 0; got s={s} and {given}.")
    keys = jax.random.split(jax.random.key(0) if key is None else key, trials)
    return _run(rule, n, d, s, attack, distribution, mean, keys)


@compiled
def _run(
    rule: Callable,
    n: int,
    d: int,
    s: int,
    attack: Callable | None,
    distribution: Callable,
    mean: float,
    keys: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    byzantine = jnp.arange(n) >= n - s

    def one(total: jax.Array, k: jax.Array):
        updates = mean + distribution(k, (n, d))
        sent = updates if attack is None else attack(updates, byzantine)
        away = rule(sent) - mean
        honest = jnp.ones(n - s) @ updates[: n - s] / (n - s) - mean
        return total + away, (jnp.sum(away**2), jnp.sum(honest**2))

    total, (errors, of_mean) = lax.scan(one, jnp.zeros(d), keys)
    return errors, of_mean, total


def estimate(values: jax.Array) -> Estimate:
    """The mean of independent values, with its 95 % confidence interval.

    Args:
      values: `[count]`, at least 2.

    Returns:
      An `Estimate`.

    Raises:
      ValueError: there are fewer than 2 values.

    Example:
      >>> import jax.numpy as jnp
      >>> low, high = estimate(jnp.array([1.0, 2.0, 3.0]))[1:]
      >>> round(low, 3), round(high, 3)  # 2 -+ 4.303 / sqrt(3)
      (-0.484, 4.484)
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs at least 2 values; got {count}.")
    mean = float(jnp.mean(values))
    half = _quantile(count - 1) * float(jnp.std(values, ddof=1)) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half)


@functools.cache
def _quantile(freedom: int) -> float:
    """The t with P(|T| > t) = 0.05, by bisection on x = v / (v + t^2) for v degrees of freedom."""
    with float64():
        low, high = 0.0, 1.0
        for _ in range(60):
            x = (low + high) / 2
            outside = jax.scipy.special.betainc(freedom / 2, 0.5, x)
            low, high = (low, x) if outside > 0.05 else (x, high)
        return math.sqrt(freedom * (1 - x) / x)
