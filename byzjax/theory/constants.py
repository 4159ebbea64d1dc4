"""Proved constants of each rule, lower bounds for every rule, and relations of constants."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from byzjax import rules
from byzjax._checks import static_int
from byzjax._mistakes import listed, nearest
from byzjax.theory import table
from byzjax.theory._inputs import honest_needed
from byzjax.theory.table import Constant

KINDS = {
    "kappa": "‖F - x̄‖² <= κ V for any n - f rows of mean x̄ and variance V, whatever the others are",
    "lambda": "‖F - x̄‖ <= λ D for any n - f rows of mean x̄ and diameter D, whatever the others are",
    "epsilon": "‖F - x̄‖² <= ε V for all n rows, of mean x̄ and variance V: no attackers",
    "eta": "‖E F - g‖ <= η √v for n - f independent rows of mean g and total variance v",
    "threshold": "the largest √v / ‖g‖ for which the rule's authors assume resilience",
}
TABLES = {
    "kappa": table.KAPPA,
    "lambda": table.LAMBDA,
    "epsilon": table.EPSILON,
    "eta": table.ETA,
    "threshold": table.THRESHOLD,
}
HELD = ("derived", "read")  # tags that tests enforce
SAME = {"multi_krum": "krum"}  # rules that differ from another one in their defaults alone


def constants(
    kind: str, rule: str, n: int, f: int, /, *, tags: tuple[str, ...] = HELD, **options: Any
) -> tuple[Constant, ...]:
    """The constants of one kind that hold for this form of a rule.

    Args:
      kind: a key of `KINDS`.
      rule: the rule's name.
      n: number of workers.
      f: number of faults.
      tags: which tags count; by default those that tests enforce.
      **options: hyperparameters that differ from the rule's defaults.

    Returns:
      Those of this form whose requirement (n, f) meets, in the order of the table.

    Raises:
      ValueError: there is no such kind or rule, or n or f is out of range.
      TypeError: the rule has no such hyperparameter, or n or f is not a Python int.

    Example:
      >>> [constant.text for constant in constants("kappa", "trimmed_mean", 11, 3)]
      ['f/(n-2f)', '6f/(n-2f) (1 + f/(n-2f))']
      >>> constants("kappa", "krum", 11, 3, neighbors="n-f-1", squared=False)
      ()
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    if rule not in rules.__all__:
        meant = nearest(rule, rules.__all__)
        hint = f"did you mean {meant!r}?" if meant else f"known: {listed(rules.__all__)}."
        raise ValueError(f"there is no rule {rule!r}; {hint}")
    parameters = inspect.signature(getattr(rules, rule)).parameters
    if unknown := sorted(set(options) - set(parameters)):
        known = ", ".join(parameters)
        raise TypeError(f"{rule} has no parameter {', '.join(unknown)}; it takes {known}.")
    n, f = static_int("n", n, at_least=1), static_int("f", f)
    form = {name: p.default for name, p in parameters.items()} | options
    return tuple(
        c
        for c in TABLES[kind]
        if c.rule == SAME.get(rule, rule)
        and c.tag in tags
        and all(form[name] == value for name, value in c.options.items())
        and n >= c.needs[0] * f + c.needs[1]
    )


def proved(
    kind: str, rule: str, n: int, f: int, /, *, tags: tuple[str, ...] = HELD, **options: Any
) -> float | None:
    """The best constant of one kind that holds for this form of a rule.

    Args:
      kind: a key of `KINDS`.
      rule: the rule's name.
      n: number of workers.
      f: number of faults.
      tags: which tags count; by default those that tests enforce.
      **options: hyperparameters that differ from the rule's defaults.

    Returns:
      The smallest, or the largest threshold; None if there is none. For `"lambda"`, also what
      follows from kappa by `lambda_of_kappa`.

    Raises:
      ValueError: there is no such kind or rule, or n or f is out of range.
      TypeError: the rule has no such hyperparameter, or n or f is not a Python int.

    Example:
      >>> proved("kappa", "median", 7, 3), proved("kappa", "median", 7, 3, tags=("read",))
      (3.0, 64.0)
      >>> proved("kappa", "comparative_elimination", 7, 3) is None
      True
    """
    values = [c.value(n, f) for c in constants(kind, rule, n, f, tags=tags, **options)]
    if (
        kind == "lambda"
        and (kappa := proved("kappa", rule, n, f, tags=tags, **options)) is not None
    ):
        values.append(lambda_of_kappa(kappa, n, f))
    best = max if kind == "threshold" else min
    return best(values) if values else None


# --- lower bounds for every rule, and relations of constants --------------------------------------


def lower_bound(kind: str, n: int, f: int) -> float:
    """A lower bound for every rule, for `"kappa"`, `"lambda"` and `"epsilon"`.

    Args:
      kind: the kind of constant.
      n: number of workers.
      f: number of faults, below n / 2: no rule withstands more.

    Returns:
      f / (n - 2f) for kappa, f / (n - f) for lambda, and f / (n - f) for the epsilon of every rule
      that is (f, kappa)-robust for some kappa.

    Raises:
      ValueError: there is no such bound, or n < 2f + 1.

    Example:
      >>> lower_bound("kappa", 11, 5), lower_bound("epsilon", 15, 5)
      (5.0, 0.5)

    Reference: kappa, Allouah et al., AISTATS 2023 (arXiv:2302.01772); lambda, Farhadkhani et al.,
    ICML 2022 (arXiv:2205.12173); epsilon, On the Tension between Byzantine Robustness and No-Attack
    Accuracy, ICML 2025, Theorem 3.1.
    """
    if kind not in table.LOWER_BOUNDS:
        known = ", ".join(table.LOWER_BOUNDS)
        raise ValueError(f"there are lower bounds for {known}; got {kind!r}.")
    if n < 2 * f + 1:
        raise ValueError(f"a rule that withstands f needs n >= 2f + 1; got n={n}, f={f}.")
    return table.LOWER_BOUNDS[kind](n, f)


def eta_of_kappa(kappa: float, n: int, f: int) -> float:
    r"""The angular error that (f, kappa)-robustness guarantees, $\sqrt\kappa + 1 / \sqrt{n - f}$.

    For independent honest rows of mean g and variance sigma^2 per coordinate, the honest mean lies
    within $\sqrt{d / (n-f)} \sigma$ of g on average and the aggregate within
    $\sqrt{\kappa d} \sigma$ of that: $E \|F - g\| \le \eta \sqrt d \sigma$.

    Args:
      kappa: that of the rule, at (n, f).
      n: number of workers.
      f: number of faults.

    Returns:
      eta.

    Example:
      >>> eta_of_kappa(4.0, 5, 1)
      2.5

    Reference: derived, docs/bounds.md.
    """
    return math.sqrt(kappa) + 1 / math.sqrt(n - f)


def lambda_of_kappa(kappa: float, n: int, f: int) -> float:
    r"""The (f, lambda)-resilience that (f, kappa)-robustness guarantees.

    $$ \lambda = \sqrt{\kappa \, \frac{n - f - 1}{2 (n - f)}}, \quad \text{since} \quad
       V = \frac{1}{2 m^2} \sum_{i, j} \|x_i - x_j\|^2 \le \frac{m - 1}{2 m} D^2, \quad m = n - f $$

    Args:
      kappa: that of the rule, at (n, f).
      n: number of workers.
      f: number of faults.

    Returns:
      lambda.

    Example:
      >>> lambda_of_kappa(4.0, 3, 1)
      1.0

    Reference: derived, docs/bounds.md.
    """
    m = n - f
    return math.sqrt(kappa * (m - 1) / (2 * m))


def sine_of_alpha(eta: float, *, d: int, sigma: float, norm: float) -> float:
    r"""The sine of the alpha for which a rule is (alpha, f)-Byzantine resilient.

    $$ \sin \alpha = \frac{\eta \sqrt d \sigma}{\|g\|}: \quad
       \langle E F, g \rangle \ge (1 - \sin\alpha) \|g\|^2 > 0 $$

    Args:
      eta: with $\|E F - g\| \le \eta \sqrt d \sigma$.
      d: number of coordinates.
      sigma: standard deviation of an honest update, in each coordinate.
      norm: of the true gradient g.

    Returns:
      The sine; 1 or more means no guarantee: the updates vary too much.

    Example:
      >>> sine_of_alpha(2.0, d=100, sigma=0.1, norm=4.0)
      0.5

    Reference: Blanchard, El-Mhamdi, Guerraoui and Stainer, NeurIPS 2017 (arXiv:1703.02757),
    Definition 1 and Proposition 1. Moments of order 2 to 4 also have to be bounded.
    """
    return eta * math.sqrt(d) * sigma / norm


def after_nearest_neighbors(kappa: float, n: int, f: int) -> float:
    r"""The kappa of a rule after `nearest_neighbors`, $\frac{4 f}{n - f} (\kappa + 1)$.

    Half of the factor 8 f / (n - f) that is published. With the trimmed mean it is 4 f / (n - 2 f),
    which is attained.

    Args:
      kappa: that of the rule alone, at (n, f).
      n: number of workers.
      f: number of faults.

    Returns:
      The constant of both together.

    Example:
      >>> after_nearest_neighbors(1.0, 9, 1)
      1.0

    Reference: derived, docs/bounds.md, T9; with the factor 8, Allouah et al., AISTATS 2023
    (arXiv:2302.01772).
    """
    return 4 * f / (n - f) * (kappa + 1)


def after_adaptive_clipping(kappa: float, n: int, f: int) -> float:
    r"""The kappa of a rule after `adaptive_clipping`, $\kappa + 2 f / (n - 2 f)$.

    Args:
      kappa: that of the rule alone, at (n, f).
      n: number of workers.
      f: number of faults.

    Returns:
      The constant of both together, at most 3 kappa.

    Example:
      >>> after_adaptive_clipping(1.0, 3, 1)
      3.0

    Reference: Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan, Adaptive Gradient Clipping for
    Robust Federated Learning, ICLR 2025 (arXiv:2405.14432), as quoted elsewhere.
    """
    return kappa + 2 * lower_bound("kappa", n, f)


def behind_bucketing(rule: str, n: int, f: int, /, *, s: int) -> float:
    r"""The kappa of the trimmed mean or the median after `bucketing`, for the worst permutation.

    With $b = \lceil n/s \rceil$ buckets, if s divides n,

    $$ \kappa = \frac{(2 s - 1) f}{n - 2 s f} \text{ (trimmed mean)}, \qquad
       \kappa = \frac{n - f}{s q} - 1, \quad q = \lfloor b/2 \rfloor + 1 - f
       \text{ (median)}. $$

    Both are attained. Else the last bucket is of $l = n - s (b - 1)$ rows, and that of the trimmed
    mean is $(n - f) ((b - 2f - 1)/s + 1/l) / (b - 2f)^2 - 1$.

    Args:
      rule: `"trimmed_mean"` or `"median"`.
      n: number of workers.
      f: number of faults, with at least 2 f + 1 buckets.
      s: size of a bucket.

    Returns:
      The constant of both together; it grows with s.

    Raises:
      ValueError: another rule, too few buckets, or s does not divide n (median).

    Example:
      >>> behind_bucketing("trimmed_mean", 10, 2, s=2), behind_bucketing("median", 12, 2, s=2)
      (3.0, 1.5)

    Reference: derived, docs/bounds.md, T14; bucketing is that of Karimireddy, He and Jaggi, ICLR
    2022 (arXiv:2006.09365).
    """
    if rule not in ("trimmed_mean", "median"):
        raise ValueError(f"rule must be 'trimmed_mean' or 'median'; got {rule!r}.")
    buckets, m = math.ceil(n / s), n - f
    if buckets < 2 * f + 1:
        raise ValueError(f"there must be 2f + 1 buckets; got ceil(n/s) = {buckets}, f={f}.")
    if rule == "trimmed_mean":
        kept, last = buckets - 2 * f, n - s * (buckets - 1)
        return m * ((kept - 1) / s + 1 / last) / kept**2 - 1
    if n % s:
        raise ValueError(f"for the median s must divide n; got n={n}, s={s}.")
    return m / (s * honest_needed(buckets, f)) - 1


AFTER: Mapping[str, Callable[[float, int, int], float]] = {
    "nearest_neighbors": after_nearest_neighbors,
    "adaptive_clipping": after_adaptive_clipping,
}
