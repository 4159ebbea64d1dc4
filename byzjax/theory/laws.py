"""Two laws behind Gaussian updates: sums of squares with non-zero means, and extreme values."""

import math
from typing import NamedTuple

from byzjax._checks import static_int

EULER = 0.5772156649015329  # Euler's constant, the mean of the standard Gumbel law


class Gumbel(NamedTuple):
    r"""A Gumbel law, $P(X \le x) = \exp(-e^{-(x - a) / b})$; the result of `largest_of`.

    Attributes:
      location: a.
      scale: b.
      mean: $a + \gamma b$, with Euler's constant.
      variance: $\pi^2 b^2 / 6$.
    """

    location: float
    scale: float
    mean: float
    variance: float


def squared_distance_probability(square: float, *, d: int, shift: float = 0.0) -> float:
    r"""The probability that a Gaussian row lies within a squared distance of a point.

    $$ P(\|x - c\|^2 \le t \sigma^2) = P(\chi'^2_d(\lambda) \le t)
       = \sum_{k \ge 0} e^{-\lambda / 2} \frac{(\lambda / 2)^k}{k!} \,
         P\bigl(\tfrac d2 + k, \tfrac t2\bigr), \qquad \lambda = \|c - g\|^2 / \sigma^2 $$

    for x of mean g and variance sigma^2 in each of d coordinates: the law of a sum of squares whose
    means are not zero, the noncentral chi square. P is the regularised lower incomplete gamma
    function. For the squared radius t of a rule such as `byzjax.aksel`, it is the probability that
    an honest row is accepted, if the centre c does not depend on that row.

    Requirement: d >= 1. Cost: O(sqrt(d + lambda + t)) terms, in Python floats; relative to 1, the
    error is about 1e-9 for d = 1e6.

    Args:
      square: t, a squared distance in units of the variance of a coordinate.
      d: number of coordinates, a Python int.
      shift: lambda, the squared distance of the point to the mean, in the same unit.

    Returns:
      The probability.

    Raises:
      ValueError: d < 1, or the shift is negative.
      TypeError: d is not a Python int.

    Example:
      >>> round(squared_distance_probability(2.0, d=2), 6)  # 1 - exp(-1)
      0.632121
      >>> squared_distance_probability(2.0, d=2, shift=1.0) < 0.5
      True

    Reference: Patnaik, The Non-Central chi^2- and F-Distributions and their Applications,
    Biometrika 36, 1949.
    """
    d = static_int("d", d, at_least=1)
    if not shift >= 0:
        raise ValueError(f"shift is a squared distance, at least 0; got {shift}.")
    if math.isnan(square):
        return math.nan
    if square <= 0:
        return 0.0
    if math.isinf(square):
        return 1.0
    rate, x = shift / 2, square / 2
    # Poisson probabilities beyond twelve standard deviations are below 1e-30.
    reach = 12 * math.sqrt(rate) + 40
    low, high = max(0, math.floor(rate - reach)), math.ceil(rate + reach) if rate else 0
    below, terms = _lower_gamma(d / 2 + high, x), []
    for k in range(high, low - 1, -1):
        terms.append(_poisson(k, rate) * below)
        below = min(1.0, below + _poisson(d / 2 + k - 1, x))  # P(a - 1, x) from P(a, x)
    return min(1.0, math.fsum(terms))


def acceptance_probability(
    square: float, *, n: int, f: int, d: int, selected: int, shift: float = 0.0
) -> float:
    r"""The probability that f equal rows at a squared distance of a centre are all selected.

    $$ P\bigl(B \le c - f\bigr), \qquad B \sim \mathrm{Binomial}(n - f, p), \quad
       p = P(\chi'^2_d(\lambda) \le t) $$

    The c rows nearest to a centre are selected, as by `byzjax.aksel`, and the f attackers send the
    same row at squared distance t: they are all selected if at most c - f honest rows are nearer,
    which are independent and Gaussian. As d grows, it becomes a step at t = d + lambda, whose width
    is of order sqrt(d).

    The centre must not depend on the rows. A median does: give the mean of an honest row's squared
    distance to it, minus d, as `shift`, and the probability is right to about 0.03 (n = 25, f = 5,
    d = 100: 7.9, attackers above the median in every coordinate).

    Requirement: n >= 2f + 1 and f <= c <= n.
    Cost: that of `squared_distance_probability`, and O(n).

    Args:
      square: t, the squared distance of the attackers' row, in units of the variance of a
        coordinate.
      n: number of workers, a Python int.
      f: number of attackers, a Python int.
      d: number of coordinates, a Python int.
      selected: c, how many rows are selected, a Python int: n - f, or ceil(n / 2).
      shift: lambda, the squared distance of the centre to the mean, in the same unit.

    Returns:
      The probability; 1 minus it is that of at least one attacker being left out.

    Raises:
      ValueError: n < 2f + 1, `selected` is not in f .. n, d < 1, or the shift is negative.
      TypeError: one of the numbers is not a Python int.

    Example:
      >>> [round(acceptance_probability(t, n=25, f=5, d=100, selected=13), 2)
      ...  for t in (80.0, 95.0, 110.0)]
      [1.0, 0.67, 0.0]
    """
    n, f = static_int("n", n, at_least=1), static_int("f", f)
    if n < 2 * f + 1:
        raise ValueError(f"acceptance_probability needs n >= 2f + 1; got n={n}, f={f}.")
    selected = static_int("selected", selected)
    if not f <= selected <= n:
        raise ValueError(f"selected must be in f .. n; got selected={selected}, n={n}, f={f}.")
    p, m = squared_distance_probability(square, d=d, shift=shift), n - f
    if math.isnan(p):
        return p
    most = min(m, selected - f)
    return min(1.0, math.fsum(math.comb(m, k) * p**k * (1 - p) ** (m - k) for k in range(most + 1)))


def largest_of(n: int) -> Gumbel:
    r"""The limit law of the largest of n standard normal values.

    $$ a = \sqrt{2 \ln n} - \frac{\ln \ln n + \ln 4 \pi}{2 \sqrt{2 \ln n}}, \qquad
       b = \frac{1}{\sqrt{2 \ln n}}, \qquad P(\max_i z_i \le a + b y) \to e^{-e^{-y}} $$

    The convergence is slow, of order 1 / ln n: the probabilities differ by up to 0.06 at n = 10,
    0.05 at n = 1,000 and 0.03 at n = 1,000,000.

    With n = 2f + 1 and Byzantine workers at the largest honest value in each coordinate, the median
    is the largest of m = n - f values. Its error in units of $\sqrt d \sigma$ is then nearly the
    root of `mean ** 2 + variance` of `largest_of(m)` (3 % above at m = 26, 1.4 % at m = 201).

    Requirement: n >= 2.

    Args:
      n: how many values, a Python int.

    Returns:
      A `Gumbel`.

    Raises:
      ValueError: n < 2.
      TypeError: n is not a Python int.

    Example:
      >>> law = largest_of(1000)
      >>> round(law.location, 3), round(law.mean, 3)  # the exact mean is 3.241
      (3.116, 3.272)

    Reference: Fisher and Tippett, Limiting Forms of the Frequency Distribution of the Largest or
    Smallest Member of a Sample, Proceedings of the Cambridge Philosophical Society 24, 1928;
    Gumbel, Statistics of Extremes, 1958.
    """
    n = static_int("n", n, at_least=2)
    root = math.sqrt(2 * math.log(n))
    location = root - (math.log(math.log(n)) + math.log(4 * math.pi)) / (2 * root)
    scale = 1 / root
    return Gumbel(location, scale, location + EULER * scale, (math.pi * scale) ** 2 / 6)


def largest_probability(value: float, *, n: int, limit: bool = False) -> float:
    r"""The probability that the largest of n standard normal values is at most a value.

    $$ P(\max_i z_i \le x) = \Phi(x)^n \approx \exp\bigl(-e^{-(x - a) / b}\bigr) $$

    Requirement: n >= 2.

    Args:
      value: x.
      n: how many values, a Python int.
      limit: whether to return the Gumbel limit, with the a and b of `largest_of`.

    Returns:
      The probability.

    Raises:
      ValueError: n < 2.
      TypeError: n is not a Python int.

    Example:
      >>> round(largest_probability(3.0, n=100), 3)
      0.874
      >>> round(largest_probability(3.0, n=100, limit=True), 3)
      0.864
    """
    law = largest_of(n)
    if limit:
        away = (value - law.location) / law.scale
        return math.exp(-math.exp(min(-away, 700.0)))
    if value < 0:
        return (math.erfc(-value / math.sqrt(2)) / 2) ** n
    return math.exp(n * math.log1p(-math.erfc(value / math.sqrt(2)) / 2))


def _poisson(k: float, rate: float) -> float:
    r"""$e^{-\mu} \mu^k / \Gamma(k + 1)$, for real k > -1."""
    if rate == 0:
        return float(k == 0)
    return math.exp(k * math.log(rate) - rate - math.lgamma(k + 1))


def _lower_gamma(a: float, x: float) -> float:
    """The regularised lower incomplete gamma function P(a, x), for a > 0 and x > 0."""
    if x < a + 1:  # a series of positive terms
        term = total = 1 / a
        k = 0
        while term > 1e-17 * total:
            k += 1
            term *= x / (a + k)
            total += term
        return min(1.0, total * a * _poisson(a, x))
    # The continued fraction of 1 - P, by Lentz's method.
    b = x + 1 - a
    c, d = math.inf, 1 / b
    fraction, ratio, k = d, 0.0, 0
    while abs(ratio - 1) > 1e-15:
        k += 1
        b += 2
        d = 1 / (b - k * (k - a) * d)
        c = b - k * (k - a) / c
        ratio = c * d
        fraction *= ratio
    return max(0.0, 1 - fraction * a * _poisson(a, x))
