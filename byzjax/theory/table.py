"""The constants of all rules: kappa, lambda, epsilon, eta, thresholds."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from byzjax.theory import _inputs as inputs
from byzjax.theory._inputs import Rows, honest_needed


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
      input: the rows that attain it where `attained` says so, the first f of them Byzantine.
      least: what every constant of this form is at least, by that input, if it is not attained.
      least_text: its formula.
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
    input: Callable[[int, int], Rows] | None = None
    least: Callable[[int, int], float] | None = None
    least_text: str = ""


# --- formulas ------------------------------------------------------------------------------------


def _kappa_median(n: int, f: int) -> float:
    return (n - 1) / (n + 1 - 2 * f) if n % 2 else (n - 2) / (n + 2 - 2 * f)


def _kappa_around_median(n: int, f: int) -> float:
    return 4 * f / (n - f) * (1 + f / honest_needed(n, f))


def _kappa_mid(n: int, f: int) -> float:
    m, q = n - f, honest_needed(n, f)
    if n % 2:
        g, c = (n - 1) // 2, (n + 1) // 2
        return (g * c + f * m) ** 2 / (c * c * g * q)
    c = n // 2
    of_honest = m * (c * (c + 1) - f) / (q * c * c) - 1
    return (math.sqrt(of_honest) + f * m / (c * math.sqrt(c * q))) ** 2


def _kappa_geometric_median(n: int, f: int) -> float:
    return (n // 2) / (n - f - n // 2)


def _kappa_diameter(n: int, f: int) -> float:
    others = n - 2 * f - 1
    if not others:
        return f * (5 * f + 3) / (f + 1)
    return f * (2 * f + 3 + f / others) / (n - f)


def _kappa_bulyan(n: int, f: int) -> float:
    one = _kappa_median(n - 2 * f, f)
    a = (math.sqrt(one) + math.sqrt(1 + one)) ** 2
    return (a * (n - f) + 2 * f) / (n - 3 * f)


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


def _kappa_krum_alone(neighbors: int) -> Callable[[int, int], float]:
    """Of one selected row, with n - f - `neighbors` neighbours."""

    def value(n: int, f: int) -> float:
        m, honest = n - f, n - 2 * f + 1 - neighbors
        largest = m if neighbors == 1 else math.sqrt(m * (m - 1))
        return (largest / honest + math.sqrt((m - honest) / honest)) ** 2

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
    return 2 * (n - f) * (n - f - 1) / (n - 2 * f) ** 2


def _least_medoid(n: int, f: int) -> float:
    """By a simplex, which needs n - f coordinates."""
    return _kappa_medoid(n, f) - 1


def _epsilon_median(n: int, f: int) -> float:
    del f
    below = (n - 1) // 2
    return below / (n - below)


def _epsilon_mid(n: int, f: int) -> float:
    del f
    return (n - 1) / (n + 1) if n % 2 else 1.0


def _epsilon_geometric_median(n: int, f: int) -> float:
    del f
    return (n - 1) / (n + 1) if n % 2 else 1.0


def _epsilon_medoid(n: int, f: int) -> float:
    del f
    return 2 * (n - 1) / n


def _epsilon_bulyan(n: int, f: int) -> float:
    return 4 * f / (n - 4 * f)


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
_LEAST_KRUM = "2mk/((m-1)(k-f+1)) - 1, m = n-f, k neighbours"
_SMOOTHING = "up to the smoothing"
_PIVOT = "if the pivot is honest"
_DELTA = "Δ = min(2√(n-f), √d), here 2√(n-f)"
_EIGENVALUE = "for the largest eigenvalue of the covariance in place of V"


def _with_attackers(n: int, f: int) -> bool:
    del n
    return f > 0


def _with_attackers_among_odd(n: int, f: int) -> bool:
    return f > 0 and n % 2 == 1


def _kappa_biweight(n: int, f: int) -> float:
    r"""$(\sqrt{\kappa_1} + 6 \sqrt{m (1 + \kappa_1) / (\lceil n/2 \rceil - f)})^2$, m = n - f."""
    one = _kappa_median(n, f)
    deviation = math.sqrt((n - f) * (1 + one) / (math.ceil(n / 2) - f))
    return (math.sqrt(one) + 6 * deviation) ** 2


# --- tables --------------------------------------------------------------------------------------


KAPPA = (
    Constant(
        "median",
        "(n-1)/(n+1-2f) for odd n, (n-2)/(n+2-2f) for even n",
        _kappa_median,
        "derived",
        "T1",
        attained=_with_attackers,
        input=inputs.median,
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
        attained=_with_attackers,
        input=inputs.trimmed_mean,
    ),
    Constant(
        "trimmed_mean",
        "6f/(n-2f) (1 + f/(n-2f))",
        lambda n, f: 6 * _least(n, f) * _share(n, f),
        "read",
        MIXING,
    ),
    Constant(
        "mean_around_median",
        "(4f/(n-f)) (1 + f/q), q = ⌊n/2⌋ + 1 - f",
        _kappa_around_median,
        "derived",
        "T10",
        attained=_with_attackers,
        input=inputs.mean_around_median,
    ),
    Constant(
        "phocas",
        "4f/(n-2f)",
        lambda n, f: 4 * _least(n, f),
        "derived",
        "T10",
        attained=_with_attackers,
        input=inputs.nearest_to_trimmed_mean,
    ),
    Constant(
        "aksel",
        "(n²-1+4f(n-f))² / ((n+1)²(n-1)(n+1-2f)) for odd n; T3e for even n",
        _kappa_mid,
        "derived",
        "T3, T3e",
        options={"mode": "mid"},
        attained=_with_attackers_among_odd,
        input=inputs.half_nearest_to_median,
        least=inputs.least_of_half,
        least_text="the same for odd n, by its input for even n",
    ),
    Constant(
        "aksel",
        "(4f/(n-f)) (1 + f/q), q = ⌊n/2⌋ + 1 - f",
        _kappa_around_median,
        "derived",
        "T2",
        options={"mode": "n-f"},
        attained=_with_attackers,
        input=inputs.nearest_to_median,
    ),
    Constant(
        "aksel",
        "(√κ₁ + 1 + κ₁)², κ₁ the median's",
        _kappa_radius,
        "derived",
        "T3r",
        options={"mode": "radius"},
        input=inputs.within_radius,
        least=inputs.least_within_radius,
        least_text="that of mode='mid' for odd n, by its input for even n",
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
        "(√((n-f)(n-f-1))/t + √((f+1)/t))², t = n-2f-1",
        _kappa_krum_alone(2),
        "derived",
        "T7a",
        options={**_OF_PAPER, "m": 1},
        needs=(2, 3),
        input=inputs.simplex_beside_krum,
        least=inputs.least_of_krum(2),
        least_text=_LEAST_KRUM,
    ),
    Constant(
        "krum",
        "((n-f)/(n-2f) + √(f/(n-2f)))²",
        _kappa_krum_alone(1),
        "derived",
        "T7a",
        options={**_STAR, "m": 1},
        input=inputs.simplex_beside_krum_star,
        least=inputs.least_of_krum(1),
        least_text=_LEAST_KRUM,
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
        "⌊n/2⌋/(n-f-⌊n/2⌋)",
        _kappa_geometric_median,
        "derived",
        "T8",
        options=_MINIMIZER,
        attained=_with_attackers,
        note=_SMOOTHING,
        input=inputs.geometric_median,
    ),
    Constant(
        "geometric_median",
        "4 (1 + f/(n-2f))²",
        lambda n, f: 4 * _share(n, f) ** 2,
        "read",
        MIXING,
        options=_MINIMIZER,
    ),
    Constant(
        "minimum_eigenvalue",
        "4f/(n-2f)",
        lambda n, f: 4 * _least(n, f),
        "derived",
        "T6",
        attained=_with_attackers,
        note=f"also {_EIGENVALUE}",
        input=inputs.nearest_to_trimmed_mean,
    ),
    Constant(
        "minimum_eigenvalue",
        "4f/(n-f) (1 + f/(n-2f))²",
        lambda n, f: 4 * f / (n - f) * _share(n, f) ** 2,
        "unchecked",
        "Allouah, Guerraoui, Gupta, Pinot, Stephan 2023",
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
        "f (2f+3 + f/(n-2f-1)) / (n-f); f (5f+3)/(f+1) for n = 2f+1",
        _kappa_diameter,
        "derived",
        "T11",
        attained=_with_attackers,
        input=inputs.minimum_diameter,
    ),
    Constant(
        "nearest_to_pivot",
        "4f (f+1)/(n-f)",
        lambda n, f: 4 * f * (f + 1) / (n - f),
        "derived",
        "T13",
        attained=_with_attackers,
        note=_PIVOT,
        input=inputs.nearest_to_pivot,
    ),
    Constant(
        "medoid",
        "2 (n-f)(n-f-1)/(n-2f)²",
        _kappa_medoid,
        "derived",
        "T12",
        input=inputs.simplex_beside,
        least=_least_medoid,
        least_text="the same less 1",
    ),
    Constant(
        "bulyan",
        "(a (n-f) + 2f)/(n-3f), a = (√κ₁ + √(1+κ₁))², κ₁ the median's at (n-2f, f)",
        _kappa_bulyan,
        "derived",
        "T10b",
        options={"rule": None},
        needs=(4, 3),
    ),
    Constant(
        "biweight_mean",
        "(√κ₁ + 6√((n-f)(1 + κ₁)/(⌈n/2⌉-f)))²",
        _kappa_biweight,
        "derived",
        "references.md",
        options={"c": 6.0},
        note="κ₁ of the median; per coordinate",
    ),
)

LAMBDA = (
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
        attained=_with_attackers,
    ),
    Constant(
        "nearest_to_pivot",
        "2f/(n-f)",
        lambda n, f: 2 * f / (n - f),
        "derived",
        "T13",
        attained=_with_attackers,
        note=_PIVOT,
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
        attained=_with_attackers,
    ),
    Constant(
        "median",
        "k/(n-k), k = ⌊(n-1)/2⌋",
        _epsilon_median,
        "derived",
        f"T4; {TENSION}",
        attained=_with_attackers,
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
        "(n-1)/(n+1) for odd n, 1 for even n",
        _epsilon_geometric_median,
        "derived",
        f"T8; 1 in {TENSION}",
        options=_MINIMIZER,
        note=_SMOOTHING,
    ),
    Constant("medoid", "2 (n-1)/n", _epsilon_medoid, "derived", "T12"),
    *(
        Constant(name, "f/(n-f)", _epsilon_n_minus_f, "derived", "T4")
        for name in (
            *("mean_around_median", "phocas", "minimum_diameter", "minimum_eigenvalue"),
            *("comparative_elimination", "nearest_to_pivot"),
        )
    ),
    Constant(
        "bulyan",
        "4f/(n-4f)",
        _epsilon_bulyan,
        "derived",
        "T4",
        needs=(4, 3),
    ),
)

ETA = (
    Constant(
        "krum",
        "√(2(n-f + (f(n-f-2) + f²(n-f-1))/(n-2f-2)))",
        _eta_krum,
        "read",
        f"{BLANCHARD}; the same in {CODE}",
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
