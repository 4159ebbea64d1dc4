"""The constant of the biweight mean, proved in docs/references.md."""

import math

from byzjax.theory.table import Constant, _kappa_median


def _kappa(n: int, f: int) -> float:
    r"""$(\sqrt{\kappa_1} + 6 \sqrt{m (1 + \kappa_1) / (\lceil n/2 \rceil - f)})^2$, m = n - f."""
    one = _kappa_median(n, f)
    deviation = math.sqrt((n - f) * (1 + one) / (math.ceil(n / 2) - f))
    return (math.sqrt(one) + 6 * deviation) ** 2


KAPPA = (
    Constant(
        "biweight_mean",
        "(√κ₁ + 6√((n-f)(1 + κ₁)/(⌈n/2⌉-f)))²",
        _kappa,
        "derived",
        "references.md",
        options={"c": 6.0},
        note="κ₁ of the median; per coordinate",
    ),
)
