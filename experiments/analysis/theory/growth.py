"""How Aksel's error grows: what Gaussian updates predict, and exponents with their intervals."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Fit(NamedTuple):
    """A power of x that fits y, with the 95 % confidence interval of its exponent."""

    exponent: float
    low: float
    high: float


def exponent(x: ArrayLike, y: ArrayLike) -> Fit:
    """The p of y = c x^p by least squares on logarithms; its interval from the residuals."""
    x, y = np.log(x), np.log(y)
    found = stats.linregress(x, y)
    half = stats.t.ppf(0.975, len(x) - 2) * found.stderr
    return Fit(found.slope, found.slope - half, found.slope + half)


def square_of_maximum(m: float) -> float:
    """E max(Z_1, ..., Z_m)^2 for independent standard normal Z."""
    # The density of the maximum is m phi(x) Phi(x)^(m-1).
    x = np.linspace(-12, math.sqrt(2 * math.log(max(m, 2))) + 8, 400_001)
    density = np.exp(math.log(m) + stats.norm.logpdf(x) + (m - 1) * stats.norm.logcdf(x))
    return float(np.trapezoid(x**2 * density, x))


def of_median(n: int) -> float:
    """The median's error at n = 2f + 1 if f liars send the largest honest values: that value."""
    return math.sqrt(square_of_maximum((n + 1) / 2))


def of_aksel(n: float) -> float:
    r"""Aksel's error at n = 2f + 1 if f liars send the largest honest values, for many coordinates.

    The median M is that largest value, all liars lie on it, and one honest row x is selected
    besides: with m = f + 1 honest rows and E M_j x_j = E M_j sum_i x_ij / m = 1 / m,

    $$ \frac{E \|F\|^2}{d} \to \frac{f^2 \, E \max(Z_1, \dots, Z_m)^2 + 2 f / m + 1}{(f + 1)^2} $$
    """
    f, m = (n - 1) / 2, (n + 1) / 2
    return math.sqrt((f**2 * square_of_maximum(m) + 2 * f / m + 1) / (f + 1) ** 2)


def local_exponent(n: float) -> float:
    """The p of the predicted error as a power of ln m, about this n; 1/2 in the limit."""
    below, above = n / 1.1, n * 1.1

    def logarithm(n: float) -> float:
        return math.log(math.log((n + 1) / 2))

    rise = math.log(of_aksel(above) / of_aksel(below))
    return rise / (logarithm(above) - logarithm(below))
