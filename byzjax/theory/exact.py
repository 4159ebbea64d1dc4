"""The page docs/kappa.md: which kappas are exact, which only proved, and by which inputs."""

import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

from byzjax.facts import FACTS, inequality
from byzjax.theory import _inputs as inputs
from byzjax.theory import table
from byzjax.theory.constants import (
    SAME,
    after_nearest_neighbors,
    behind_bucketing,
    lower_bound,
    proved,
)
from byzjax.theory.table import Constant

AT = ((12, 2), (24, 5), (25, 5), (25, 11))  # (n, f) at which formulas are evaluated


class _Behind(NamedTuple):
    """A mixing and a rule after it, with the kappa of both together."""

    form: str
    text: str
    source: str
    value: Callable[[int, int], float]
    needs: tuple[int, int]
    exact: str
    input: Callable


def _together(rule: str) -> Callable[[int, int], float]:
    def value(n: int, f: int) -> float:
        kappa = proved("kappa", rule, n, f)
        return after_nearest_neighbors(kappa if kappa is not None else math.nan, n, f)

    return value


BEHIND = (
    _Behind(
        "`nearest_neighbors` + `trimmed_mean`",
        "4f/(n-2f)",
        "T9",
        _together("trimmed_mean"),
        (2, 1),
        "exact",
        inputs.nearest_to_trimmed_mean,
    ),
    _Behind(
        "`nearest_neighbors` + `median`",
        "4f/q, q = ⌊n/2⌋ + 1 - f",
        "T9",
        _together("median"),
        (2, 1),
        "exact for n <= 2f + 2",
        inputs.nearest_to_median,
    ),
    _Behind(
        "`bucketing`, s = 2, + `trimmed_mean`",
        "3f/(n-4f), n even; T14, n odd",
        "T14",
        lambda n, f: behind_bucketing("trimmed_mean", n, f, s=2),
        (4, 1),
        "exact",
        inputs.trimmed_mean_in_buckets,
    ),
    _Behind(
        "`bucketing`, s = 2, + `median`",
        "(n-f)/(2q') - 1, q' = ⌊n/4⌋ + 1 - f, n even",
        "T14",
        lambda n, f: math.nan if n % 2 else behind_bucketing("median", n, f, s=2),
        (4, 1),
        "exact",
        inputs.median_in_buckets,
    ),
)


def page() -> str:
    """What is proved and attained of every kappa as a Markdown page, `docs/kappa.md`.

    Returns:
      The page.

    Example:
      >>> page().splitlines()[0]
      '# κ of every rule: proved, attained, lower bound'
    """
    best = [c for c in table.KAPPA if c.tag == "derived"]
    with_one = {c.rule for c in best}
    without = [
        f"`{name}`"
        for name, facts in FACTS.items()
        if facts.kind == "rule" and SAME.get(name, name) not in with_one and facts.promise != "none"
    ]
    exact = sum(status(c) == "exact" for c in best)
    columns = " | ".join(f"{at}" for at in AT)
    head = f"| rule | form | κ at most | proof | | κ at least | {columns} |"
    lines = [head, "|" + " --- |" * (6 + len(AT))]
    lowest = " | ".join(f">= {lower_bound('kappa', *at):.3g}" for at in AT)
    lines += [f"| any rule | | | | | f/(n-2f) | {lowest} |"]
    lines += ["| " + " | ".join(_row(c)) + " |" for c in best]
    lines += ["| " + " | ".join(_behind(b)) + " |" for b in BEHIND]
    shown = "\n".join(f"* {who}: {said}" for said, who in _inputs(best).items())
    return f"""# κ of every rule: proved, attained, lower bound

Generated from `byzjax.theory`: `python -m byzjax.theory kappa`. A rule F is (f, κ)-robust if
‖F - x̄‖² <= κ V for all inputs and any n - f of the n rows, of mean x̄ and variance
V = (1/(n-f)) Σ ‖x_i - x̄‖², whatever the other f rows are. No rule has a κ below f/(n-2f).

*Exact*: the κ is proved, and an input attains it, so no smaller one holds ({exact} forms of rules
for any n, one more for odd n, and those behind a mixing). Else the true value lies between the
two columns. The last columns have the exact value, or *at least to at most*, at (n, f);
q = ⌊n/2⌋ + 1 - f. Proofs are in [bounds.md](bounds.md), what searches find of the open values in
[theory.md](theory.md). κ is the supremum over any number of coordinates.

{chr(10).join(lines)}

No κ is proved here for {", ".join(without)}.

![κ against f/n](theory/kappa_of_f.png)

## Inputs that attain them

`byzjax.theory.worst_input(rule, n, f)` returns the rows, in float64. S is all rows but those of
attackers, which are nearer by a rounding error where they are at the distance of others.

{shown}

Tests hold every κ from both sides on at least 30 pairs (n, f), even and odd: no search finds more,
in NumPy or through JAX, and these inputs attain it to 10⁻⁶.

## Citing this table

```bibtex
@misc{{byzjax_kappa,
  author       = {{{{The byzjax contributors}}}},
  title        = {{Exact robustness coefficients of {{B}}yzantine-robust aggregation rules}},
  howpublished = {{\\url{{https://byzjax.github.io/byzjax/kappa.html}}}},
  note         = {{Proofs: \\url{{https://byzjax.github.io/byzjax/bounds.html}}}},
}}
```

Please name the version of byzjax as well; the constants that others proved are in
[comparison.md](comparison.md), with their sources.
"""


def status(c: Constant) -> str:
    """Whether an input attains a constant.

    Args:
      c: the constant.

    Returns:
      `"exact"`, `"exact for odd n"`, or an empty string.

    Example:
      >>> status(table.KAPPA[0])
      'exact'
    """
    if c.attained is None:
        return ""
    odd, even = c.attained(25, 5), c.attained(24, 5)
    return "exact" if odd and even else "exact for odd n" if odd else ""


def _row(c: Constant) -> list[str]:
    hidden = ("rule", "iterations")
    form = ", ".join(f"{k}={v!r}" for k, v in c.options.items() if k not in hidden)
    form += ", any m" if c.rule == "krum" and "m" not in c.options else ""
    least = c.least_text or ("the same" if status(c) == "exact" else "f/(n-2f)")
    values = [""] * len(AT)
    for i, (n, f) in enumerate(AT):
        if n >= c.needs[0] * f + c.needs[1]:
            exact = c.attained is not None and c.attained(n, f)
            most = c.value(n, f)
            if "m" in c.options:  # T7 holds for it, too
                most = proved("kappa", c.rule, n, f, tags=("derived",), **c.options) or most
            values[i] = _between(c.least(n, f) if c.least else 0, most, n, f, exact)
    return [f"`{c.rule}`", form, c.text, c.source, status(c), least, *values]


def _behind(b: _Behind) -> list[str]:
    values = [""] * len(AT)
    for i, (n, f) in enumerate(AT):
        if n >= b.needs[0] * f + b.needs[1] and not math.isnan(b.value(n, f)):
            exact = b.exact == "exact" or n <= 2 * f + 2
            low = 4 * f / (n - f) * (1 + f / inputs.honest_needed(n, f))
            values[i] = _between(low, b.value(n, f), n, f, exact)
    least = "the same" if b.exact == "exact" else "(4f/(n-f)) (1 + f/q)"
    return [b.form, inequality(b.needs), b.text, b.source, b.exact, least, *values]


def _between(least: float, most: float, n: int, f: int, exact: bool) -> str:
    least = max(least, lower_bound("kappa", n, f))
    return f"{most:.3g}" if exact else f"{least:.3g} to {most:.3g}"


def _inputs(best: list[Constant]) -> dict[str, str]:
    """What an input is, and the rules that it belongs to."""
    shown: dict[str, str] = {}
    pairs = [(f"`{c.rule}`", c.options, c.input) for c in best if c.input]
    pairs += [(b.form, {}, b.input) for b in BEHIND]
    for name, options, function in pairs:
        said = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
        form = options.get("mode") or options.get("neighbors")
        name = f'{name} `"{form}"`' if form else name
        shown[said] = f"{shown[said]}, {name}" if said in shown else name
    return shown
