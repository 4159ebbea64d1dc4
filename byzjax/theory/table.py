"""The constants of all rules: kappa, lambda, epsilon, eta, thresholds."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Constant(NamedTuple):
    """One constant of one form of a rule.

    Attributes:
      rule: the rule's name.
      text: the formula.
      value: the formula as a function of (n, f).
      tag: a key of `TAGS`.
      source: where it is proved or printed; T1 to T13 are those of docs/bounds.md.
      options: hyperparameters of the form it is proved for; others are arbitrary.
      needs: (a, b) of the requirement n >= a f + b.
      attained: whether some known input attains it at (n, f); None for nowhere.
      note: further conditions of the proof.
    """

    rule: str
    text: str
    value: Callable[[int, int], float]
    tag: str
    source: str
    options: Mapping[str, Any] = {}
    needs: tuple[int, int] = (2, 1)
    attained: Callable[[int, int], bool] | None = None
    note: str = ""


# --- formulas ------------------------------------------------------------------------------------


def _kappa_median(n: int, f: int) -> float:
    return (n - 1) / (n + 1 - 2 * f) if n % 2 else (n - 2) / (n + 2 - 2 * f)


def _kappa_n_minus_f(n: int, f: int) -> float:
    return 8 * f / (n + 1 - 2 * f) if n % 2 else 8 * f / (n + 2 - 2 * f)


def _kappa_mid(n: int, f: int) -> float:
    one = _kappa_median(n, f)
    return (math.sqrt(one) + math.sqrt(1 + one)) ** 2


def _kappa_radius(n: int, f: int) -> float:
    one = _kappa_median(n, f)
    return (math.sqrt(one) + 1 + one) ** 2


def _least(n: int, f: int) -> float:
    return f / (n - 2 * f)


def _share(n: int, f: int) -> float:
    """(n - f) / (n - 2f) = 1 + f / (n - 2f)."""
    return (n - f) / (n - 2 * f)


def _kappa_krum(neighbors: int) -> Callable[[int, int], float]:
    """With n - f - `neighbors` neighbours."""

    def value(n: int, f: int) -> float:
        m, k = n - f, n - f - neighbors
        if m == 1:
            return 0.0  # one row, which is the aggregate
        honest = k - f + 1
        return (math.sqrt(2 * m * k / (m - 1)) + math.sqrt(m - honest)) ** 2 / honest

    return value


def _lambda_krum(neighbors: int, power: int) -> Callable[[int, int], float]:
    """With n - f - `neighbors` neighbours and sums of distances to this power."""

    def value(n: int, f: int) -> float:
        k = n - f - neighbors
        return 1 + (k / (k - f + 1)) ** (1 / power)

    return value


def _delta(n: int, f: int) -> float:
    return 2 * math.sqrt(n - f)


def _kappa_medoid(n: int, f: int) -> float:
    return (((1 + math.sqrt(2)) * (n - f) + f) / (n - 2 * f)) ** 2


def _kappa_of_ranges(n: int, f: int) -> float:
    return 8.0 * (n - f)


def _epsilon_median(n: int, f: int) -> float:
    del f
    below = (n - 1) // 2
    return below / (n - below)


def _epsilon_mid(n: int, f: int) -> float:
    del f
    return (n - 1) / (n + 1) if n % 2 else 1.0


def _epsilon_n_minus_f(n: int, f: int) -> float:
    return f / (n - f)


def _eta_krum(n: int, f: int) -> float:
    free = n - 2 * f - 2
    return math.sqrt(2 * (n - f + (f * (n - f - 2) + f * f * (n - f - 1)) / free))


# --- sources and forms ---------------------------------------------------------------------------

TAGS = {
    "derived": "proved in docs/bounds.md",
    "read": "read in the cited source",
    "known": "common knowledge in the field, not checked again",
    "unchecked": "from memory; needs a second source",
}

BLANCHARD = "Blanchard, El-Mhamdi, Guerraoui, Stainer 2017"
MIXING = "Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan 2023, as quoted by others"
RESAM = "Farhadkhani, Guerraoui, Gupta, Pinot, Stephan 2022"
TENSION = "On the Tension between Byzantine Robustness and No-Attack Accuracy, 2025"
CODE = "code of El-Mhamdi, Guerraoui, Rouault 2021 (Distributed Momentum)"

_OF_PAPER = {"neighbors": "n-f-2", "squared": True}
_STAR = {"neighbors": "n-f-1", "squared": True}
_PLAIN = {"neighbors": "n-f-1", "squared": False}
_MINIMIZER = {"iterations": None}
_SMOOTHING = "up to the smoothing"
_DELTA = "Δ = min(2√(n-f), √d), here 2√(n-f)"
_EIGENVALUE = "for the largest eigenvalue of the covariance in place of V"


def _with_liars(n: int, f: int) -> bool:
    del n
    return f > 0


def _few_to_spare(n: int, f: int) -> bool:
    return f > 0 and n <= 2 * f + 2


# --- tables --------------------------------------------------------------------------------------

KAPPA = (
    Constant(
        "median",
        "(n-1)/(n+1-2f) for odd n, (n-2)/(n+2-2f) for even n",
        _kappa_median,
        "derived",
        "T1",
        attained=_with_liars,
    ),
    Constant(
        "median",
        "4 (1 + f/(n-2f))²",
        lambda n, f: 4 * _share(n, f) ** 2,
        "read",
        MIXING,
    ),
    Constant(
        "trimmed_mean",
        "f/(n-2f)",
        _least,
        "derived",
        "T5",
        attained=_with_liars,
    ),
    Constant(
        "trimmed_mean",
        "6f/(n-2f) (1 + f/(n-2f))",
        lambda n, f: 6 * _least(n, f) * _share(n, f),
        "read",
        MIXING,
    ),
    Constant(
        "aksel",
        "(√κ₁ + √(1+κ₁))², κ₁ the median's",
        _kappa_mid,
        "derived",
        "T3",
        options={"mode": "mid"},
    ),
    Constant(
        "aksel",
        "8f/(n+1-2f) for odd n, 8f/(n+2-2f) for even n",
        _kappa_n_minus_f,
        "derived",
        "T2",
        options={"mode": "n-f"},
        attained=_few_to_spare,
    ),
    Constant(
        "aksel",
        "(√κ₁ + 1 + κ₁)², κ₁ the median's",
        _kappa_radius,
        "derived",
        "T3r",
        options={"mode": "radius"},
    ),
    Constant(
        "krum",
        "(√(2(n-f)(n-f-2)/(n-f-1)) + √(f+1))² / (n-2f-1)",
        _kappa_krum(2),
        "derived",
        "T7",
        options=_OF_PAPER,
        needs=(2, 3),
    ),
    Constant(
        "krum",
        "(√(2(n-f)) + √f)² / (n-2f)",
        _kappa_krum(1),
        "derived",
        "T7",
        options=_STAR,
    ),
    Constant(
        "krum",
        "6 (1 + f/(n-2f))",
        lambda n, f: 6 * _share(n, f),
        "read",
        MIXING,
        options={**_STAR, "m": 1},
    ),
    Constant(
        "geometric_median",
        "4 (1 + f/(n-2f))²",
        lambda n, f: 4 * _share(n, f) ** 2,
        "derived",
        f"T8; {MIXING}",
        options=_MINIMIZER,
        note=_SMOOTHING,
    ),
    Constant(
        "minimum_eigenvalue",
        "4f/(n-2f)",
        lambda n, f: 4 * _least(n, f),
        "derived",
        "T6",
        attained=_with_liars,
        note=f"also {_EIGENVALUE}",
    ),
    Constant(
        "minimum_eigenvalue",
        "4f/(n-f) (1 + f/(n-2f))²",
        lambda n, f: 4 * f / (n - f) * _share(n, f) ** 2,
        "unchecked",
        "Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan 2023",
        note=_EIGENVALUE,
    ),
    Constant(
        "covariance_filter",
        "6f/(n-f) (1 + f/(n-2f))²",
        lambda n, f: 6 * f / (n - f) * _share(n, f) ** 2,
        "unchecked",
        "Allouah, Guerraoui, Stephan 2025",
        note=_EIGENVALUE,
    ),
    Constant(
        "minimum_diameter",
        "8f²/(n-f)",
        lambda n, f: 8 * f * f / (n - f),
        "derived",
        "T11",
    ),
    Constant(
        "medoid",
        "(((1+√2)(n-f) + f) / (n-2f))²",
        _kappa_medoid,
        "derived",
        "T12",
    ),
    Constant("mean_around_median", "8 (n-f)", _kappa_of_ranges, "derived", "T10"),
    Constant("phocas", "8 (n-f)", _kappa_of_ranges, "derived", "T10"),
    Constant("bulyan", "8 (n-f)", _kappa_of_ranges, "derived", "T10", needs=(4, 3)),
)

LAMBDA = (
    Constant("mean_around_median", "2√(n-f)", _delta, "derived", "T10"),
    Constant("phocas", "2√(n-f)", _delta, "derived", "T10"),
    Constant("bulyan", "2√(n-f)", _delta, "derived", "T10", needs=(4, 3)),
    Constant(
        "krum",
        "1 + √((n-f-2)/(n-2f-1))",
        _lambda_krum(2, 2),
        "derived",
        "T7",
        options=_OF_PAPER,
        needs=(2, 3),
    ),
    Constant(
        "krum",
        "1 + √((n-f-1)/(n-2f))",
        _lambda_krum(1, 2),
        "derived",
        "T7",
        options=_STAR,
    ),
    Constant(
        "krum",
        "1 + (n-f-1)/(n-2f)",
        _lambda_krum(1, 1),
        "derived",
        "T7",
        options=_PLAIN,
    ),
    Constant(
        "krum",
        "1 + √((n-f)/(n-2f))",
        lambda n, f: 1 + math.sqrt(_share(n, f)),
        "unchecked",
        RESAM,
        options={**_STAR, "m": 1},
    ),
    Constant(
        "geometric_median",
        "2 (n-f)/(n-2f)",
        lambda n, f: 2 * _share(n, f),
        "derived",
        "T8",
        options=_MINIMIZER,
        note=_SMOOTHING,
    ),
    Constant(
        "geometric_median",
        "1 + (n-f)/√(n(n-2f))",
        lambda n, f: 1 + (n - f) / math.sqrt(n * (n - 2 * f)),
        "unchecked",
        RESAM,
        options=_MINIMIZER,
    ),
    Constant(
        "minimum_diameter",
        "2f/(n-f)",
        lambda n, f: 2 * f / (n - f),
        "derived",
        "T11",
    ),
    Constant("medoid", "1 + (n-f)/(n-2f)", lambda n, f: 1 + _share(n, f), "derived", "T12"),
    Constant(
        "nearest_to_pivot", "2", lambda n, f: 2.0, "derived", "T13", note="if the pivot is honest"
    ),
    Constant(
        "trimmed_mean",
        "f/(n-f) Δ",
        lambda n, f: f / (n - f) * _delta(n, f),
        "unchecked",
        RESAM,
        note=_DELTA,
    ),
    Constant(
        "mean_around_median",
        "2f/(n-f) Δ",
        lambda n, f: 2 * f / (n - f) * _delta(n, f),
        "unchecked",
        RESAM,
        note=_DELTA,
    ),
    Constant(
        "median",
        "n/(2(n-f)) Δ",
        lambda n, f: n / (2 * (n - f)) * _delta(n, f),
        "unchecked",
        RESAM,
        note=_DELTA,
    ),
)

EPSILON = (
    Constant(
        "trimmed_mean",
        "f/(n-f)",
        _epsilon_n_minus_f,
        "derived",
        f"T4; {TENSION}",
        attained=_with_liars,
    ),
    Constant(
        "median",
        "k/(n-k), k = ⌊(n-1)/2⌋",
        _epsilon_median,
        "derived",
        f"T4; {TENSION}",
        attained=_with_liars,
    ),
    Constant(
        "aksel",
        "(n-1)/(n+1) for odd n, 1 for even n",
        _epsilon_mid,
        "derived",
        "T4",
        options={"mode": "mid"},
    ),
    Constant(
        "aksel",
        "(n-1)/(n+1) for odd n, 1 for even n",
        _epsilon_mid,
        "derived",
        "T4",
        options={"mode": "radius"},
    ),
    Constant(
        "aksel",
        "f/(n-f)",
        _epsilon_n_minus_f,
        "derived",
        "T4",
        options={"mode": "n-f"},
    ),
    Constant(
        "geometric_median",
        "1",
        lambda n, f: 1.0,
        "derived",
        f"T8; {TENSION}",
        options=_MINIMIZER,
        note=_SMOOTHING,
    ),
)

ETA = (
    Constant(
        "krum",
        "√(2(n-f + (f(n-f-2) + f²(n-f-1))/(n-2f-2)))",
        _eta_krum,
        "known",
        BLANCHARD,
        options={**_OF_PAPER, "m": 1},
        needs=(2, 3),
    ),
)

THRESHOLD = (
    Constant(
        "krum",
        "1/η",
        lambda n, f: 1 / _eta_krum(n, f),
        "read",
        CODE,
        options={**_OF_PAPER, "m": 1},
        needs=(2, 3),
        note="the eta is of this form; the code checks it for its own form",
    ),
    Constant(
        "bulyan",
        "krum's 1/η",
        lambda n, f: 1 / _eta_krum(n, f),
        "read",
        CODE,
        options={"rule": None},
        needs=(4, 3),
    ),
    Constant(
        "median",
        "1/√(n-f)",
        lambda n, f: 1 / math.sqrt(n - f),
        "read",
        CODE,
    ),
    Constant(
        "minimum_diameter",
        "(n-f)/(√8 f)",
        lambda n, f: (n - f) / (math.sqrt(8) * f) if f else math.inf,
        "read",
        CODE,
        note="the authors' check, not a bound for every distribution of finite variance",
    ),
)

# Bounds on every rule; for epsilon, on every rule that is robust for some kappa.
LOWER_BOUNDS = {"kappa": _least, "lambda": _epsilon_n_minus_f, "epsilon": _epsilon_n_minus_f}
