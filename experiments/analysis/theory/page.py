"""The tables of docs/theory.md, generated from the files in docs/theory.

python -m experiments.analysis.theory.page docs
"""

import math
import pathlib
from collections.abc import Callable

import pandas as pd

from byzjax import theory
from byzjax.theory.comparison import eta
from experiments.analysis import findings
from experiments.analysis.theory import growth
from experiments.analysis.theory.rules import FORMS, SEARCHED, constants_of, proved_kappa
from experiments.text.arguments import rewrite

Folder = pathlib.Path


def acceptance(folder: Folder) -> str:
    """Measured and computed errors under attacks of increasing strength."""
    errors = pd.read_csv(folder / "acceptance.csv")
    sizes = sorted(errors["n"].unique())
    groups = [
        (str(at), str(rule), str(attack), part)
        for at, of_setting in errors.groupby("setting", sort=False)
        for rule, of_rule in of_setting.groupby("rule", sort=False)
        for attack, part in of_rule.groupby("attack", sort=False)
    ]
    lines = [
        _line(at, rule, attack, pd.Series(part["error"].to_numpy(), part["n"]).reindex(sizes))
        for at, rule, attack, part in groups
    ]
    computed = {
        ("aksel", "order_statistic, computed for d → ∞"): growth.of_aksel,
        ("aksel", "pushed along (1, ..., 1), computed"): growth.of_pushed,
        ("aksel", "any, proved at most"): growth.of_any_attack,
        ("median", "order_statistic, computed"): growth.of_median,
        ("", "√(2 ln m), m = (n+1)/2"): lambda n: math.sqrt(2 * math.log((n + 1) / 2)),
    }
    first = errors["setting"].iloc[0]
    place = sum(line["liars"] == first for line in lines)
    lines[place:place] = [
        _line(first, *name, pd.Series({n: value(n) for n in sizes}))
        for name, value in computed.items()
    ]
    return _markdown(pd.DataFrame(lines))


def _line(setting: str, rule: str, attack: str, values: pd.Series) -> dict[str, str]:
    cells = {f"n = {n}": "" if pd.isna(v) else f"{v:.3f}" for n, v in values.items()}
    return {"liars": setting, "rule": rule, "attack": attack, **cells}


def exponents_in_d(folder: Folder) -> str:
    """Powers of d, for each n."""
    errors = pd.read_csv(folder / "growth.csv")
    lines = []
    errors = errors[errors["distribution"] == "gaussian"]
    for n in map(int, sorted(errors["n"].unique())):
        line = errors[errors["n"] == n].sort_values("d")
        if len(line) < 3:
            continue
        fit = growth.exponent(line["d"], line["d"] ** 0.5 * line["error"])
        bound = theory.proved("kappa", "aksel", n, (n - 1) // 2)
        lines.append(
            {
                "n": str(n),
                "f": str((n - 1) // 2),
                "d": f"{line['d'].min():,} to {line['d'].max():,}",
                "exponent of d": _interval(fit),
                "error at the most coordinates": f"{line['error'].iloc[-1]:.3f}",
                "computed for d → ∞": f"{growth.of_aksel(n):.3f}",
                "proved for any distribution": ""
                if bound is None
                else f"{theory.eta_of_kappa(bound, n, (n - 1) // 2):.3g}",
            }
        )
    return _markdown(pd.DataFrame(lines))


def fits_in_n(folder: Folder) -> dict[tuple[str, str], tuple[growth.Fit, growth.Fit]]:
    """For each kind of updates and range of n: the exponents of n and of ln m, m = n - f."""
    accepted = pd.read_csv(folder / "acceptance.csv")
    accepted = accepted[(accepted["rule"] == "aksel") & (accepted["attack"] != "white box")]
    grown = pd.read_csv(folder / "growth.csv")
    grown = grown[grown["distribution"] != "gaussian"]
    parts: dict[tuple[str, str], pd.DataFrame] = {}
    for (attack, setting), line in accepted.groupby(["attack", "setting"], sort=False):
        pushed = ", pushed" if attack == "pushed" else ""
        parts["gaussian", f"{setting}{pushed}"] = line
    for kind, line in grown.groupby("distribution", sort=False):
        parts[str(kind), "f = (n-1)/2"] = line
    fits = {}
    for (kind, setting), line in parts.items():
        for name, part in (("", line), (", n >= 51", line[line["n"] >= 51])):
            logarithm = (part["n"] - part["f"]).map(math.log)
            fits[kind, setting + name] = (
                growth.exponent(part["n"], part["error"]),
                growth.exponent(logarithm, part["error"]),
            )
    return fits


def exponents_in_n(folder: Folder) -> str:
    """Powers of n and of its logarithm."""
    lines = [
        {
            "updates": kind,
            "liars": liars,
            "exponent of n": _interval(of_n),
            "exponent of ln(n-f)": _interval(of_logarithm),
        }
        for (kind, liars), (of_n, of_logarithm) in fits_in_n(folder).items()
    ]
    return _markdown(pd.DataFrame(lines))


def computed_exponents(folder: Folder) -> str:
    """The computed exponent of the logarithm, far beyond the n that can be measured."""
    del folder
    sizes = (5, 25, 101, 401, 10**4, 10**6, 10**9, 10**12)
    cells = {f"{n:,}": f"{growth.local_exponent(n):.2f}" for n in sizes}
    return _markdown(pd.DataFrame([{"n": "exponent of ln m", **cells}]))


def efficiency(folder: Folder) -> str:
    """Squared errors relative to the mean's."""
    ratios = pd.read_csv(folder / "efficiency.csv")
    ratios["cell"] = [
        f"{r:.2f} ± {(high - low) / 2:.2f}"
        for r, low, high in zip(ratios["ratio"], ratios["low"], ratios["high"])
    ]
    ratios["column"] = [
        f"{kind}, n = {n}, f = {f}" for kind, n, f in zip(*(ratios[k] for k in _OF_COLUMN))
    ]
    wide = ratios.pivot(index="rule", columns="column", values="cell").fillna("")
    wide = wide.reindex(index=ratios["rule"].unique())
    parts = []
    for kind in ratios["distribution"].unique():
        names = [name for name in ratios["column"].unique() if name.startswith(f"{kind},")]
        part = wide[names].rename(columns=lambda name: name.partition(", ")[2])
        parts.append(f"{kind}:\n\n{_markdown(part.reset_index())}")
    return "\n\n".join(parts)


_OF_COLUMN = ("distribution", "n", "f")


def rules(folder: Folder) -> str:
    """Errors of all rules for 25 workers, with the proved bounds."""
    errors = pd.read_csv(folder / "rules.csv")
    errors = errors[(errors["against"] == "n") & (errors["n"] == 25)]
    lines = []
    for name in errors["rule"].unique():
        line: dict[str, str] = {"rule": name}
        for at in errors["at"].unique():
            cells = errors[(errors["rule"] == name) & (errors["at"] == at)]
            said = "at the limit" if at == "limit" else "f = 5"
            error = bound = ""
            if len(cells):
                n, f, value = cells[["n", "f", "error"]].iloc[0]
                error = _carried(value)
                bound = _proved_error(name, int(n), int(f))
                error += f" (f = {int(f)})" if at == "limit" else ""
            line |= {f"error, {said}": error, f"proved, {said}": bound}
        lines.append(line)
    return _markdown(pd.DataFrame(lines))


def proved_error(name: str, n: int, f: int) -> float | None:
    """The proved eta of a form of `FORMS`; with options, from its kappa."""
    form = FORMS[name]
    options = form.options(n, f, 2)
    if not options:
        return eta(form.name, n, f)
    kappa = theory.proved("kappa", form.name, n, f, **options)
    return None if kappa is None else theory.eta_of_kappa(kappa, n, f)


def _proved_error(name: str, n: int, f: int) -> str:
    bound = proved_error(name, n, f)
    return "" if bound is None else f"{bound:.3g}"


def _carried(value: float) -> str:
    return "carried away" if value > 100 else f"{value:.3g}"


def selection(folder: Folder) -> str:
    """The probabilities that a Byzantine and an honest worker are selected."""
    shares = pd.read_csv(folder / "selection.csv")
    shares["cell"] = [f"{a:.2f} / {b:.2f}" for a, b in zip(shares["liars"], shares["honest"])]
    wide = shares.pivot(index="rule", columns="attack", values="cell")
    wide = wide.reindex(index=shares["rule"].unique(), columns=shares["attack"].unique())
    return _markdown(wide.reset_index())


def kappa(folder: Folder) -> str:
    """The kappas that the search finds, relative to the proved ones."""
    searches = pd.read_csv(folder / "kappa.csv")
    lines = []
    for name in SEARCHED:
        part = searches[searches["rule"] == name]
        pairs = list(zip(part["n"], part["f"], part["found"]))
        shares = {(n, f): value / k for n, f, value in pairs if (k := proved_kappa(name, n, f))}
        tight = [
            shares[n, f]
            for n, f, _ in pairs
            if any(c.attained and c.attained(n, f) for c in constants_of(name, n, f))
        ]
        above = [value / theory.lower_bound("kappa", n, f) for n, f, value in pairs]
        published = [
            value / k for n, f, value in pairs if (k := _published(name, n, f)) is not None
        ]
        lines.append(
            {
                "rule": name,
                "pairs": str(len(pairs)),
                "found / proved": _range(shares.values()),
                "where attained": _range(tight, 4),
                "found / published": _range(published),
                "found / (f/(n-2f))": _range(above),
                "restarts within 1 %": f"{100 * part['restarts within 1 %'].median():.0f} %",
            }
        )
    return _markdown(pd.DataFrame(lines))


def _published(name: str, n: int, f: int) -> float | None:
    return None if SEARCHED[name].mixing else proved_kappa(name, n, f, ("read", "unchecked"))


def _range(values, digits: int = 2) -> str:
    values = list(values)
    if not values:
        return ""
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def found_kappa(folder: Folder) -> str:
    """The kappas that the search finds, for rules around the median."""
    searches = pd.read_csv(folder / "kappa.csv")
    names = ["median", "trimmed_mean", "aksel, n-f", "aksel", "aksel, radius"]
    lines = []
    for (n, f), part in searches[searches["rule"].isin(names)].groupby(["n", "f"]):
        values = part.set_index("rule")["found"]
        line = {"(n, f)": f"({n}, {f})", "f/(n-2f)": f"{theory.lower_bound('kappa', n, f):.3f}"}
        for name in names:
            proved = proved_kappa(name, n, f)
            line[name] = f"{values[name]:.3f} of {proved:.3f}" if name in values else ""
        lines.append(line)
    return _markdown(pd.DataFrame(lines))


def breakdown(folder: Folder) -> str:
    """The number of Byzantine workers at which each rule breaks down."""
    searches = pd.read_csv(folder / "breakdown.csv")
    lines = []
    for name in searches["rule"].unique():
        line: dict[str, str] = {"rule": name}
        for at in searches["at"].unique():
            cell = searches[(searches["rule"] == name) & (searches["at"] == at)].iloc[0]
            said = "f at the limit" if at == "limit" else "f = 2"
            liars = "none" if pd.isna(cell["liars"]) else f"{cell['liars']:.0f}"
            line[said] = f"{liars} (f = {cell['f']})" if at == "limit" else liars
        lines.append(line)
    return _markdown(pd.DataFrame(lines))


def seconds(folder: Folder) -> str:
    """The time of each part."""
    lines = []
    for part in PARTS_ON_DISK:
        table = pd.read_csv(folder / f"{part}.csv")
        lines.append(
            {"part": part, "lines": str(len(table)), "seconds": f"{table['seconds'].sum():.0f}"}
        )
    return _markdown(pd.DataFrame(lines))


PARTS_ON_DISK = (
    *("acceptance", "reach", "growth", "efficiency", "rules", "selection", "kappa", "breakdown"),
)


def _interval(fit: growth.Fit) -> str:
    return f"{fit.exponent:.3f} [{fit.low:.3f}, {fit.high:.3f}]"


def _markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, disable_numparse=True)


# Each part of the page, and the folder next to it with its data.
PARTS: dict[str, tuple[str, Callable[[Folder], str]]] = {
    "acceptance": ("theory", acceptance),
    "exponents in d": ("theory", exponents_in_d),
    "exponents in n": ("theory", exponents_in_n),
    "computed exponents": ("theory", computed_exponents),
    "efficiency": ("theory", efficiency),
    "rules": ("theory", rules),
    "selection": ("theory", selection),
    "kappa": ("theory", kappa),
    "found kappa": ("theory", found_kappa),
    "breakdown": ("theory", breakdown),
    "seconds": ("theory", seconds),
}


if __name__ == "__main__":
    rewrite("theory.md", lambda page, docs: findings.written(page, docs, PARTS), __doc__)
