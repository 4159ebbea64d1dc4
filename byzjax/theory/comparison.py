"""The page docs/comparison.md: rules side by side, and all constants."""

from byzjax.facts import FACTS, Facts, inequality
from byzjax.theory.constants import (
    HELD,
    KINDS,
    TABLES,
    constants,
    eta_of_kappa,
    lower_bound,
    proved,
)
from byzjax.theory.table import TAGS, Constant

AT = ((25, 5), (25, 11))  # (n, f) at which formulas are evaluated
SHOWN = ("derived", "read", "known")  # constants known only from memory are not quoted


def eta(rule: str, n: int, f: int) -> float | None:
    r"""The best proved angular error of a rule in its default form.

    $$ \eta = \min\bigl(\eta_{\text{proved}}, \sqrt{\kappa} + 1 / \sqrt{n - f}\bigr) $$

    Args:
      rule: its name.
      n: number of workers.
      f: number of faults.

    Returns:
      eta; None if nothing is proved.

    Raises:
      ValueError: there is no such rule.

    Example:
      >>> round(eta("trimmed_mean", 25, 5), 3), eta("sign_guard", 25, 5)
      (0.801, None)
    """
    values = [proved("eta", rule, n, f)]
    kappa = proved("kappa", rule, n, f)
    values.append(None if kappa is None else eta_of_kappa(kappa, n, f))
    return min((value for value in values if value is not None), default=None)


def page() -> str:
    """All rules and constants as a Markdown page, `docs/comparison.md`.

    Returns:
      The page.

    Example:
      >>> page().splitlines()[0]
      '# Rules side by side'
    """
    names = [name for name, facts in FACTS.items() if facts.kind == "rule"]
    sections = "\n".join(_section(kind) for kind in KINDS)
    tags = "; ".join(f"*{tag}*: {TAGS[tag]}" for tag in SHOWN)
    hidden = sum(c.tag not in SHOWN for kind in TABLES for c in TABLES[kind])
    return f"""# Rules side by side

Generated from `byzjax.facts` and `byzjax.theory`, which tests also use: `python -m byzjax.theory`.

n workers, f faults to tolerate, d coordinates. *Whole updates*: the result is a combination of
whole updates, not one coordinate at a time. κ: ‖F - x̄‖² <= κ V for any n - f rows of mean x̄ and
variance V, whatever the others are. λ: ‖F - x̄‖ <= λ D for their diameter D; it follows from κ as
√(κ (n-f-1)/(2(n-f))) where no better one is known. η, the angular error: E ‖F - g‖ <= η √v for
independent honest rows of mean g and total variance v, so that the sine of alpha is η √v / ‖g‖; it
follows from κ as √κ + 1/√(n-f). Numbers are the best values proved or read for a rule with its
default options; an empty cell means that there is none. Which κ are exact: [kappa.md](kappa.md).
Measurements and results of searches are in [theory.md](theory.md), speed in
[benchmarks.md](benchmarks.md) and [published.md](published.md).

{_table([_any_rule(), *(_cells(name, FACTS[name]) for name in names)])}

## Constants

{tags}. Tests enforce constants that are {" or ".join(HELD)}. {hidden} more are only from memory;
they are in `byzjax.theory.table` and are not quoted here. T1 to T14 are proved in
[bounds.md](bounds.md); [kappa.md](kappa.md) says which κ are exact.

{sections}
### After a mixing

* `nearest_neighbors`: (4f/(n-f)) (κ + 1) with κ of the rule after it, half of what is
  published; T9.
* `bucketing`, trimmed mean or median after it: T14, exact; [kappa.md](kappa.md).
* `adaptive_clipping`: κ + 2f/(n-2f); read in a text that cites Allouah, Guerraoui, Gupta,
  Jellouli, Rizk, Stephan 2025.
"""


def _any_rule() -> dict[str, str]:
    cells = {"": "any rule", "time": "at least nd", "for": "n >= 2f + 1", "withstands": "n > 2f"}
    cells |= {"whole updates": "", "κ": "at least f/(n-2f)"}
    cells |= {f"κ {at}": f">= {lower_bound('kappa', *at):.3g}" for at in AT}
    cells |= {f"λ {at}": f">= {lower_bound('lambda', *at):.3g}" for at in AT}
    return cells | {f"η {at}": "" for at in AT}


def _cells(name: str, facts: Facts) -> dict[str, str]:
    best = constants("kappa", name, 10**6, 1)
    cells = {
        "": f"`{name}`",
        "time": facts.cost,
        "for": inequality(facts.needs),
        "withstands": facts.breakdown,
        "whole updates": "yes" if facts.full else "no",
        "κ": best[0].text if best else "",
    }
    for n, f in AT:
        cells[f"κ ({n}, {f})"] = _number(proved("kappa", name, n, f))
    for n, f in AT:
        cells[f"λ ({n}, {f})"] = _number(proved("lambda", name, n, f))
    for n, f in AT:
        cells[f"η ({n}, {f})"] = _number(eta(name, n, f))
    return cells


def _section(kind: str) -> str:
    rows = [
        {
            "rule": f"`{c.rule}`",
            "form": ", ".join(f"{k}={v!r}" for k, v in c.options.items()),
            "constant": c.text,
            "for": inequality(c.needs),
            "at (25, 5)": _number(c.value(25, 5)),
            "tag": c.tag,
            "source": c.source,
            "note": _note(c),
        }
        for c in TABLES[kind]
        if c.tag in SHOWN
    ]
    return f"### {kind}\n\n{KINDS[kind]}.\n\n{_table(rows)}\n"


def _note(c: Constant) -> str:
    if c.attained is None:
        return c.note
    even = c.attained(24, 5)
    return "; ".join(filter(None, [c.note, "attained" + ("" if even else " for odd n")]))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _table(rows: list[dict[str, str]]) -> str:
    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row.values())} |" for row in rows)])
