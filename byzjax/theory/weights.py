"""Constants of rules with weights, by the share of the weight that is Byzantine."""

import inspect
import math
from typing import Any

from byzjax import rules
from byzjax.facts import FACTS
from byzjax.theory.constants import HELD, proved

_COPIES = 2**80
KINDS = ("kappa", "lambda", "epsilon")


def proved_by_weight(
    kind: str, rule: str, n: int, f: int, /, *, tags: tuple[str, ...] = HELD, **options: Any
) -> float | None:
    r"""The best constant that holds for a rule with any weights.

    $$ \|F - \bar x\|^2 \le \kappa V, \qquad \bar x = \frac{\sum_S w_i x_i}{\sum_S w_i}, \qquad
       V = \frac{\sum_S w_i \|x_i - \bar x\|^2}{\sum_S w_i} $$

    for any rows S that hold at least 1 - f/n of the weight, whatever the others are. Lambda and
    epsilon are defined likewise.

    With weights a rule is that of a multiset of N rows, of which F = f N / n may be Byzantine, and
    of every multiple of it: the constant is the limit of those at (c n, c f) as c grows. For
    `aksel` with mode "mid" and odd n, which counts the share k = ceil(n/2)/n of the weight, it is
    $(1 + (1 - \varphi) \sqrt{2 / k})^2 / (1 - 2 \varphi)$ for the share $\varphi = f/n$.

    Args:
      kind: `"kappa"`, `"lambda"` or `"epsilon"`.
      rule: the rule's name.
      n: number of workers.
      f: number of faults.
      tags: which tags count; by default those that tests enforce.
      **options: hyperparameters that differ from the rule's defaults.

    Returns:
      The constant; None if there is none, or if the rule takes no weights.

    Raises:
      ValueError: there is no such kind or rule, or n or f is out of range.
      TypeError: the rule has no such hyperparameter, or n or f is not a Python int.

    Example:
      >>> proved_by_weight("kappa", "trimmed_mean", 10, 2), proved("kappa", "trimmed_mean", 10, 2)
      (0.3333333333333333, 0.3333333333333333)
      >>> round(proved_by_weight("kappa", "median", 10, 2), 6), proved("kappa", "median", 10, 2)
      (1.666667, 1.0)

    Reference: derived, docs/weights.md.
    """
    if kind not in KINDS:
        raise ValueError(f"by weight there are {', '.join(KINDS)}; got {kind!r}.")
    of_rows = proved(kind, rule, n, f, tags=tags, **options)
    if of_rows is None or not FACTS[rule].weights:
        return None
    if rule == "aksel" and n % 2 and _mode(options) == "mid":
        if kind == "epsilon":
            return None
        phi, kept = f / n, (n + 1) // 2 / n
        kappa = (1 + (1 - phi) * math.sqrt(2 / kept)) ** 2 / (1 - 2 * phi)
        return kappa if kind == "kappa" else math.sqrt(kappa / 2)
    return proved(kind, rule, _COPIES * n, _COPIES * f, tags=tags, **options)


def _mode(options: dict[str, Any]) -> str:
    return options.get("mode", inspect.signature(rules.aksel).parameters["mode"].default)
