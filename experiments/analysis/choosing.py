"""The table of docs/choosing.md: measurements of each rule, one file per column.

    python -m experiments.analysis.choosing docs

Rewrites the text between the markers; a test checks that it agrees with the files.
"""

import pathlib

import pandas as pd

from experiments.text.arguments import rewrite

Folder = pathlib.Path
RULES = (
    *("mean", "median", "trimmed_mean", "mean_around_median", "phocas", "geometric_median"),
    *("krum", "multi_krum", "bulyan", "aksel"),
    *("minimum_diameter", "covariance_filter", "huber", "comparative_elimination", "sign_guard"),
)


def table(docs: Folder) -> str:
    """Measurements of each rule, in the order of `RULES`.

    Args:
      docs: the folder `docs`.

    Returns:
      The table as Markdown; `-` for no measurement.
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
    """Lowest final accuracy over the attacks, s = f, in per cent."""
    results = pd.read_csv(docs / "studies" / "aksel-cpu" / "table.csv")
    return _least(results[(results["f"] == f) & (results["s"] == f)])


def _worst_of_attacks(docs: Folder) -> dict[str, str]:
    """Lowest final accuracy over the attacks of the study `attacks`, n = 25, s = f = 11."""
    results = pd.read_csv(docs / "studies" / "attacks-cpu" / "table.csv")
    return _least(results[results["s"] == 11])


def _of_unlike_data(docs: Folder, mixing: str) -> dict[str, str]:
    """Lowest final accuracy on the most heterogeneous data, f = 6 of 25, after a mixing."""
    results = pd.read_csv(docs / "studies" / "heterogeneity-cpu" / "table.csv")
    results = results[(results["f"] == 6) & (results["s"] == 6)]
    results = results[results["partition"] == "dirichlet(0.1)"]
    return _least(results[results["mixing"] == mixing])


def _least(results: pd.DataFrame) -> dict[str, str]:
    return {str(rule): f"{100 * part['mean'].min():.1f}" for rule, part in results.groupby("rule")}


def _white_box(docs: Folder, at: str) -> dict[str, str]:
    """Damage in errors of the honest mean, MNIST gradients, n = 25, f at or half the limit."""
    damage = pd.read_csv(docs / "worst-case" / "damage.csv")
    damage = damage[(damage["data"] == "mnist") & (damage["n"] == 25) & (damage["d"] == 10_000)]
    damage = damage[(damage["at"] == at) & (damage["attack"] == "gradient_attack")]
    return {
        str(line.rule): "unbounded"
        if line.damage == float("inf")
        else f"{line.damage:.1f} (f = {line.f})"
        for line in damage.itertuples()
    }


def _milliseconds(docs: Folder) -> dict[str, str]:
    """The time of a call with n = 25, d = 1e6."""
    times = pd.read_csv(docs / "benchmarks" / "every_rule.csv")
    times = times[(times["n"] == 25) & (times["d"] == 1_000_000)]
    return {str(rule): f"{ms:.1f}" for rule, ms in zip(times["rule"], times["ms"])}


def written(page: str, docs: Folder) -> str:
    """The page with its table regenerated from the files."""
    before, _, rest = page.partition("<!-- measured -->")
    _, _, after = rest.partition("<!-- end of measured -->")
    return f"{before}<!-- measured -->\n\n{table(docs)}\n\n<!-- end of measured -->{after}"


if __name__ == "__main__":
    rewrite("choosing.md", written, __doc__)
