"""Growth of Aksel's error: predictions for Gaussian updates, and exponents with intervals."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Fit(NamedTuple):
    """The exponent of a power law fitted to y, with its 95 % confidence interval."""

    exponent: float
    low: float
    high: float


def exponent(x: ArrayLike, y: ArrayLike) -> Fit:
    """The p of y = c x^p, by least squares on logarithms; the interval is from the residuals."""
    x, y = np.log(x), np.log(y)
    fit = stats.linregress(x, y)
    half = stats.t.ppf(0.975, len(x) - 2) * fit.stderr
    return Fit(fit.slope, fit.slope - half, fit.slope + half)


def square_of_maximum(m: float) -> float:
    """E max(Z_1, ..., Z_m)^2 for independent standard normal Z."""
    return _moment_of_maximum(m, 2)


def mean_of_maximum(m: float) -> float:
    """E max(Z_1, ..., Z_m) for independent standard normal Z."""
    return _moment_of_maximum(m, 1)


def _moment_of_maximum(m: float, power: int) -> float:
    # The density of the maximum is m phi(x) Phi(x)^(m-1).
    x = np.linspace(-12, math.sqrt(2 * math.log(max(m, 2))) + 8, 400_001)
    density = np.exp(math.log(m) + stats.norm.logpdf(x) + (m - 1) * stats.norm.logcdf(x))
    return float(np.trapezoid(x**power * density, x))


def of_median(n: int) -> float:
    """The median's error at n = 2f + 1 if f attackers send the largest honest values.

    The median then equals these values.
    """
    return math.sqrt(square_of_maximum((n + 1) / 2))


def of_aksel(n: float) -> float:
    r"""Aksel's error at n = 2f + 1 if f attackers send the largest honest values, as d grows.

    The median M is that largest value, all attackers send it, and one honest row x is also
    selected: with m = f + 1 honest rows and E M_j x_j = E M_j sum_i x_ij / m = 1 / m,

    $$ \frac{E \|F\|^2}{d} \to \frac{f^2 \, E \max(Z_1, \dots, Z_m)^2 + 2 f / m + 1}{(f + 1)^2} $$
    """
    f, m = (n - 1) / 2, (n + 1) / 2
    return math.sqrt((f**2 * square_of_maximum(m) + 2 * f / m + 1) / (f + 1) ** 2)


def of_pushed(n: float) -> float:
    r"""Aksel's error at n = 2f + 1 if f attackers send M + rho (1, ..., 1) / sqrt(d), as d grows.

    The radius of selection is rho^2 / d -> h^2 = E M_j^2 + 1 - 2 / m, see docs/bounds.md:

    $$ \frac{E \|F\|^2}{d} \to \frac{f^2 \, (E M_j^2 + 2 h E M_j + h^2) + 2 f / m + 1}{(f + 1)^2} $$
    """
    f, m = (n - 1) / 2, (n + 1) / 2
    square, mean = square_of_maximum(m), mean_of_maximum(m)
    h = math.sqrt(square + 1 - 2 / m)
    total = f**2 * (square + 2 * h * mean + h**2) + 2 * f / m + 1
    return math.sqrt(total / (f + 1) ** 2)


def of_any_attack(n: float) -> float:
    """What no attack on Aksel exceeds, for Gaussian updates, n = 2f + 1 and any d.

    The median is within R of g, R^2 = sum_j max_i x_ij^2, and the aggregate within the root of the
    mean squared distance of honest rows to the median: docs/bounds.md.
    """
    m = (n + 1) / 2
    # E max(Z_1^2, ..., Z_m^2) = integral of 1 - P(|Z| <= sqrt(y))^m.
    y = np.linspace(0, 2 * math.log(m) + 60, 400_001)
    within = (2 * stats.norm.cdf(np.sqrt(y)) - 1) ** m
    away = math.sqrt(np.trapezoid(1 - within, y))
    return away + math.sqrt(1 + (away + 1 / math.sqrt(m)) ** 2)


def local_exponent(n: float) -> float:
    """The local exponent of the predicted error as a power of ln m, at n; 1/2 in the limit."""
    below, above = n / 1.1, n * 1.1

    def logarithm(n: float) -> float:
        return math.log(math.log((n + 1) / 2))

    rise = math.log(of_aksel(above) / of_aksel(below))
    return rise / (logarithm(above) - logarithm(below))
