"""More than 128 workers: `python -m benchmarks.many`, and part of `python -m benchmarks`.

`--write docs` writes many.csv and the table of docs/speed.md.

Each rule is compared with the fastest of several PyTorch expressions of the same rule. Those of
coordinate-wise rules may have the workers along the contiguous axis, whose transposition is not
counted. Those of rules on rows are as exact as ours where "as exact" says so: differences of rows,
or Weiszfeld steps until they are short; the others, from inner products, lose digits.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import byzjax
from benchmarks import peers, published, timing
from benchmarks.pages import environment, markdown, write_csv, written
from benchmarks.rules import claim, gaussian
from byzjax._program import Parser

SHAPES = ((129, 65_536), (200, 65_536), (512, 32_768), (1000, 16_384))
OF_ROWS = ("aksel", "krum", "nearest_neighbors", "geometric_median")  # n = 200 and 1,000 alone
GOALS = {
    "median": 5,
    "trimmed_mean": 8,
    "mean_around_median": 5,
    "phocas": 5,
    "aksel": 1,
    "krum": 1,
    "nearest_neighbors": 1,
    "geometric_median": 1,
}
SECONDS_TO_COMPILE = 3  # at most, at n = 1,000
torch = peers.torch


def phocas(f: int) -> dict[str, Callable]:
    """The mean of the n - f values nearest to the trimmed mean."""

    def rule(t: Any, dim: int) -> Any:
        n = t.shape[dim]
        center = t.sort(dim).values.narrow(dim, f, n - 2 * f).mean(dim, keepdim=True)
        chosen = (t - center).abs().topk(n - f, dim, largest=False).indices
        return t.gather(dim, chosen).mean(dim)

    return {"[n, d]": lambda t: rule(t, 0), "[d, n]": lambda t: rule(t.T, 1)}


def converged(t: Any) -> Any:
    """The geometric median: Weiszfeld steps until one is shorter than 1e-5 of the radius."""
    z = t.mean(0)
    while True:
        distances = (t - z).norm(dim=1).clamp(min=1e-6)
        weights = 1 / distances
        following = weights @ t / weights.sum()
        short = (following - z).norm() <= 1e-5 * distances.median()
        z = following
        if short:
            return z


def exact_squares(t: Any) -> Any:
    """Squared distances of all rows, from differences."""
    return torch.cdist(t, t, compute_mode="donot_use_mm_for_euclid_dist").square()


def in_pytorch(x: np.ndarray, f: int) -> dict[str, dict[str, Any]]:
    """Expressions of each rule, by its name, bound to x."""
    rows = torch.from_numpy(x)
    columns = rows.T.contiguous()  # [d, n]
    layouts = {"[n, d]": (rows, 0), "[d, n]": (columns, 1)}
    medians = peers.medians(layouts)
    trimmed = peers.trimmed_means(layouts, f)
    n = len(x)

    def aksel(t: Any) -> Any:
        distances = (t - t.median(0).values).square().sum(1)
        return t[distances.topk((n + 1) // 2, largest=False).indices].mean(0)

    def krum(squares: Any) -> Any:
        scores = squares.topk(n - f - 1, largest=False).values.sum(1)
        return rows[scores.argmin()]

    neighbors = published.neighbors(f)
    exact_weights = published.nearest_weights(f)
    of_columns = {
        "mean_around_median": published.around_median(f),
        "phocas": phocas(f),
    }
    return {
        "median": medians,
        "trimmed_mean": trimmed,
        **{
            rule: {name: functools.partial(call, rows) for name, call in forms.items()}
            for rule, forms in of_columns.items()
        },
        "aksel": {"as exact": lambda: aksel(rows)},
        "krum": {
            "differences, as exact": lambda: krum(exact_squares(rows)),
            "Gram": lambda: krum(peers.squares_by_gram(rows)),
        },
        "nearest_neighbors": {
            "differences, as exact": lambda: exact_weights(rows, exact_squares(rows)) @ rows,
            "Gram": functools.partial(neighbors["Gram"], rows),
        },
        "geometric_median": {
            "until steps are short, as exact": lambda: converged(rows),
            "Gram, 10 steps": functools.partial(published.weiszfeld(10, 1e-6, False)["Gram"], rows),
        },
    }


def ours(f: int) -> dict[str, Callable]:
    """The rules, by their names."""

    def bound(name: str) -> Callable:
        rule = getattr(byzjax, name)
        plain = name in ("median", "geometric_median")
        return rule if plain else functools.partial(rule, f=f)

    return {name: bound(name) for name in GOALS}


def beside(seconds: dict[str, float], own: float, exact: bool) -> dict[str, Any]:
    """The fastest of these expressions, and how many times it takes as long as ours."""
    kind = "PyTorch" if exact else "PyTorch, fewer digits"
    if not seconds:
        return {kind: None, f"{kind}, ms": None, f"times {kind}": None}
    best = min(seconds, key=lambda name: seconds[name])
    return {kind: best, f"{kind}, ms": 1e3 * seconds[best], f"times {kind}": seconds[best] / own}


def line_of(
    rule: str, function: Callable, x: jax.Array, forms: dict[str, Callable], rounds: int
) -> dict[str, Any]:
    """One line of the table."""
    compiled = timing.compile_call(function, x)
    seconds = timing.take_turns({"ours": compiled.call} | forms, rounds)
    own = seconds.pop("ours")
    exact = {k: s for k, s in seconds.items() if rule not in OF_ROWS or "as exact" in k}
    return {
        "n": x.shape[0],
        "d": x.shape[1],
        "rule": rule,
        "ms": 1e3 * own,
        "compile s": compiled.compile_seconds,
        "temporaries / input": compiled.temporary_bytes / x.nbytes,
        **beside(exact, own, exact=True),
        **beside({k: s for k, s in seconds.items() if k not in exact}, own, exact=False),
    }


def measure(rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The table and the claims."""
    table, claims = [], []
    for n, d in SHAPES:
        x, f = gaussian(n, d), n // 5
        expressions = in_pytorch(np.array(x), f) if torch is not None else {}
        for rule, function in ours(f).items():
            if rule in OF_ROWS and n not in (200, 1000):
                continue
            line = line_of(rule, function, x, expressions.get(rule, {}), rounds)
            table.append(line)
            ratio, goal = line["times PyTorch"], GOALS[rule]
            if ratio is not None:
                what = f"{rule}, n = {n}: faster than PyTorch ({line['PyTorch']})"
                claims.append(claim(what, ratio, f">= {goal}", ratio >= goal))
    last = [line for line in table if line["n"] == SHAPES[-1][0]]
    slowest = max(last, key=lambda line: line["compile s"])
    what = f"compile, n = {slowest['n']}, slowest: {slowest['rule']} (s)"
    quick = slowest["compile s"] <= SECONDS_TO_COMPILE
    claims.append(claim(what, slowest["compile s"], f"<= {SECONDS_TO_COMPILE}", quick))
    return table, claims


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--write", type=pathlib.Path, help="folder of speed.md")
    options = parser.parse_args()
    timing.with_huge_pages("benchmarks.many")
    print(environment())
    table, claims = measure(options.rounds)
    print(f"{markdown(table)}\n\n{markdown(claims)}")
    if options.write:
        write_csv(options.write / "benchmarks", {"many": table})
        page = options.write / "speed.md"
        text = f"On {environment()}:\n\n{markdown(claims)}"
        page.write_text(written(page.read_text(), "many", text))


if __name__ == "__main__":
    main()
