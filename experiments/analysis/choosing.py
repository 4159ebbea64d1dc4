"""The table of docs/choosing.md: what each rule has been measured to do, one file a column.

    python -m experiments.analysis.choosing docs

What stands between the marks is written anew; a test holds that it is what the files say.
"""

import pathlib
import sys

import pandas as pd

Folder = pathlib.Path
RULES = (
    *("mean", "median", "trimmed_mean", "mean_around_median", "phocas", "geometric_median"),
    *("krum", "multi_krum", "bulyan", "aksel"),
    *("minimum_diameter", "covariance_filter", "huber", "comparative_elimination", "sign_guard"),
)


def table(docs: Folder) -> str:
    """Rules against what was measured, in the order of `RULES`.

    Args:
      docs: the folder `docs`.

    Returns:
      The table as Markdown; `-` where nothing was measured.
    """
    columns = {
        **{f"f = {f}": _worst_of_aksel(docs, f) for f in (12, 24)},
        "22 attacks": _worst_of_attacks(docs),
        **{title: _of_unlike_data(docs, mixing) for title, mixing in MIXINGS.items()},
        **{f"white box, {at}": _white_box(docs, at) for at in ("half", "limit")},
        "ms": _milliseconds(docs),
    }
    lines = [[f"`{rule}`", *(of.get(rule, "-") for of in columns.values())] for rule in RULES]
    return pd.DataFrame(lines, columns=["rule", *columns]).to_markdown(
        index=False, disable_numparse=True
    )


MIXINGS = {"unlike": "none", "+ NNM": "nearest_neighbors", "+ buckets": "bucketing(s=2)"}


def _worst_of_aksel(docs: Folder, f: int) -> dict[str, str]:
    """Least final accuracy over the attacks, s = f liars, in per cent."""
    found = pd.read_csv(docs / "studies" / "aksel-cpu" / "table.csv")
    return _least(found[(found["f"] == f) & (found["s"] == f)])


def _worst_of_attacks(docs: Folder) -> dict[str, str]:
    """The same over all attacks that are shipped, n = 25, s = f = 11."""
    found = pd.read_csv(docs / "studies" / "attacks-cpu" / "table.csv")
    return _least(found[found["s"] == 11])


def _of_unlike_data(docs: Folder, mixing: str) -> dict[str, str]:
    """The same of the least alike data, f = 6 of 25, behind a mixing."""
    found = pd.read_csv(docs / "studies" / "heterogeneity-cpu" / "table.csv")
    found = found[(found["f"] == 6) & (found["s"] == 6) & (found["partition"] == "dirichlet(0.1)")]
    return _least(found[found["mixing"] == mixing])


def _least(found: pd.DataFrame) -> dict[str, str]:
    return {str(rule): f"{100 * part['mean'].min():.1f}" for rule, part in found.groupby("rule")}


def _white_box(docs: Folder, at: str) -> dict[str, str]:
    """Damage in errors of the honest mean, gradients of MNIST, n = 25, f at or half the limit."""
    found = pd.read_csv(docs / "worst-case" / "damage.csv")
    found = found[(found["data"] == "mnist") & (found["n"] == 25) & (found["d"] == 10_000)]
    found = found[(found["at"] == at) & (found["attack"] == "gradient_attack")]
    return {
        str(line.rule): "unbounded"
        if line.damage == float("inf")
        else f"{line.damage:.1f} (f = {line.f})"
        for line in found.itertuples()
    }


def _milliseconds(docs: Folder) -> dict[str, str]:
    """A call on n = 25, d = 1e6."""
    found = pd.read_csv(docs / "benchmarks" / "every_rule.csv")
    found = found[(found["n"] == 25) & (found["d"] == 1_000_000)]
    return {str(rule): f"{ms:.1f}" for rule, ms in zip(found["rule"], found["ms"])}


def written(page: str, docs: Folder) -> str:
    """The page with its table as the files say."""
    before, _, rest = page.partition("<!-- measured -->")
    _, _, after = rest.partition("<!-- end of measured -->")
    return f"{before}<!-- measured -->\n\n{table(docs)}\n\n<!-- end of measured -->{after}"


if __name__ == "__main__":
    here = Folder(sys.argv[1])
    (here / "choosing.md").write_text(written((here / "choosing.md").read_text(), here))
