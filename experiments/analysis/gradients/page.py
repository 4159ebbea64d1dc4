"""The tables of docs/gradients.md, generated from the files in docs/gradients.

python -m experiments.analysis.gradients.page docs
"""

import pathlib
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.analysis import findings
from experiments.analysis.gradients.measure import HALF, NONE
from experiments.analysis.gradients.plots import WORST
from experiments.analysis.theory import growth
from experiments.text.arguments import rewrite

Folder = pathlib.Path
_AT = ("data", "model", "step", "batch")


def _read(folder: Folder, part: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{part}.csv", keep_default_na=False)


def _cell(line: pd.Series, name: str, digits: int = 2) -> str:
    low, high = line[f"{name} low"], line[f"{name} high"]
    return f"{line[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def statistics(folder: Folder) -> str:
    """How Gaussian the coordinates are, and how far the covariance is from the identity."""
    lines = []
    for _, line in _read(folder, "statistics").iterrows():
        lines.append(
            {
                "data, model": f"{line['data']}, {line['model']}",
                "d": f"{line['d']:,}",
                "step": str(line["step"]),
                "batch": str(line["batch"]),
                "accepted as normal": _cell(line, "normal"),
                "kurtosis": _cell(line, "kurtosis"),
                "skewness": _cell(line, "skewness"),
                "zeros": f"{line['zeros']:.2f}",
                "same for all": f"{line['constant']:.2f}",
                "rank": f"{line['rank']:.3g} [{line['rank low']:.3g}, {line['rank high']:.3g}]",
                "ten directions": f"{line['leading']:.2f}",
                "‖g‖ / √(tr Σ)": f"{line['signal']:.3f}",
            }
        )
    return _markdown(lines)


def summary(folder: Folder) -> str:
    """What the tables say, in words."""
    table = _read(folder, "statistics")
    table = table[table["data"] != "gaussian"]
    last, small, large = table["step"].max(), table["batch"].min(), table["batch"].max()
    normal = {
        name: part["normal"].max()
        for name, part in (
            ("small", table[table["batch"] == small]),
            ("large", table[table["batch"] == large]),
            ("last", table[(table["batch"] == large) & (table["step"] == last)]),
        )
    }
    rank = table["rank"] / table["d"]
    errors = _read(folder, "workers")
    errors = errors[(errors["data"] != "gaussian") & (errors["liars"] == HALF)]
    errors = errors[(errors["rule"] == "aksel") & (errors["attack"] == WORST["aksel"])]
    errors = errors[errors["step"] == last]
    exponents, ends = {}, {}
    for kind, part in errors.groupby("updates"):
        fits = [fit(line)[1].exponent for _, line in part.groupby(["data", "model", "batch"])]
        exponents[kind] = f"{min(fits):.2f} to {max(fits):.2f}"
        far = part[part["n"] == part["n"].max()]["error"]
        ends[kind] = f"{far.min():.2f} to {far.max():.2f}"
    sizes = sorted(map(int, errors["n"].unique()))
    n, by_n = sizes[-1], [growth.of_pushed(n) for n in sizes]
    computed = fit(pd.DataFrame({"n": sizes, "error": by_n}))[1]
    return (
        f"* **The coordinates are not Gaussian.** With batches of {small} a share of at most "
        f"{normal['small']:.2f} of them is accepted as normal, with {large} of at most "
        f"{normal['large']:.2f}, and of {normal['last']:.2f} after {last} steps. Of normal values "
        f"0.95 are.\n"
        f"* **The covariance is far from the identity.** Its rank is {100 * rank.min():.2f} % to "
        f"{100 * rank.max():.2f} % of d.\n"
        f"* **Aksel's error grows faster with n on the gradients of trained models** than on "
        f"Gaussian rows of the same covariance, which grows as computed for independent "
        f"coordinates. After {last} steps, under the attack `pushed`, the exponents of ln m are "
        f"{exponents['drawn']} and {exponents['gaussian']}, computed {computed.exponent:.2f}; the "
        f"errors at n = {n} are {ends['drawn']} and {ends['gaussian']}, computed "
        f"{growth.of_pushed(n):.2f}. So the laws of single coordinates matter here, and not the "
        f"rank."
    )


def fit(line: pd.DataFrame) -> tuple[growth.Fit, growth.Fit]:
    """The exponents of n and of ln m of the error, for n = 2f + 1 and m = n - f."""
    m = (line["n"] + 1) / 2
    return growth.exponent(line["n"], line["error"]), growth.exponent(np.log(m), line["error"])


def in_n(folder: Folder) -> str:
    """Errors at n = 2f + 1 under the worst attack on each rule, and exponents."""
    table = _read(folder, "workers")
    table = table[table["liars"] == HALF]
    lines = []
    for rule, attack in WORST.items():
        part = table[(table["rule"] == rule) & (table["attack"] == attack)]
        computed = {"aksel": growth.of_pushed, "median": growth.of_median}[rule]
        sizes = sorted(part["n"].unique())
        for (*at, kind), line in part.groupby([*_AT, "updates"], sort=False):
            of_n, of_logarithm = fit(line)
            lines.append(
                {
                    "rule": rule,
                    "data, model": f"{at[0]}, {at[1]}",
                    "step": str(at[2]),
                    "batch": str(at[3]),
                    "updates": "Gaussian" if kind == "gaussian" else "of the model",
                    **{f"n = {n}": f"{e:.2f}" for n, e in zip(line["n"], line["error"])},
                    "exponent of n": _interval(of_n),
                    "exponent of ln m": _interval(of_logarithm),
                }
            )
        lines.append(
            {"rule": rule, "data, model": "computed", "step": "", "batch": "", "updates": ""}
            | {f"n = {n}": f"{computed(n):.2f}" for n in sizes}
            | {"exponent of n": "", "exponent of ln m": ""}
        )
    return _markdown(lines)


def angles(folder: Folder) -> str:
    """Angles between the aggregate and the true gradient, in degrees."""
    table = _read(folder, "workers")
    table = table[(table["updates"] == "drawn") & (table["step"] == table["step"].max())]
    lines = []
    for (*at, liars, attack, rule), line in table.groupby(
        [*_AT, "liars", "attack", "rule"], sort=False
    ):
        lines.append(
            {
                "data, model": f"{at[0]}, {at[1]}",
                "batch": str(at[3]),
                "liars": liars,
                "attack": attack,
                "rule": rule,
                **{f"n = {n}": f"{a:.0f}" for n, a in zip(line["n"], line["angle"])},
            }
        )
    return _markdown(lines)


def in_d(folder: Folder) -> str:
    """The exponent of d of the error in random coordinates, and the angle at the ends."""
    table = _read(folder, "coordinates")
    lines = []
    for (*at, liars, rule), line in table.groupby([*_AT, "liars", "rule"], sort=False):
        if at[0] == "gaussian" or rule == "mean" or len(line) < 3:
            continue
        away = growth.exponent(line["d"], line["error"] * line["scale"])
        first, *_, last = line.to_dict("records")
        lines.append(
            {
                "data, model": f"{at[0]}, {at[1]}",
                "step": str(at[2]),
                "liars": "none" if liars == NONE else f"{liars}, pushed",
                "rule": rule,
                "exponent of d": _interval(away),
                **{f"angle at d = {end['d']:,}": f"{end['angle']:.0f}" for end in (first, last)},
            }
        )
    return _markdown(lines)


def _interval(fitted: growth.Fit) -> str:
    return f"{fitted.exponent:.2f} [{fitted.low:.2f}, {fitted.high:.2f}]"


def _markdown(lines: list[dict[str, str]]) -> str:
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


PARTS: dict[str, tuple[str, Callable[[Folder], str]]] = {
    "summary": ("gradients", summary),
    "statistics": ("gradients", statistics),
    "in n": ("gradients", in_n),
    "angles": ("gradients", angles),
    "in d": ("gradients", in_d),
}


if __name__ == "__main__":
    rewrite("gradients.md", lambda page, docs: findings.written(page, docs, PARTS), __doc__)
