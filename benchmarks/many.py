"""More than 128 workers: `python -m benchmarks.many`, and part of `python -m benchmarks`.

Each rule is compared with the fastest of several PyTorch expressions of the same rule. Those of
coordinate-wise rules may have the workers along the contiguous axis, whose transposition is not
counted. Those of rules on rows are as exact as ours where "as exact" says so: differences of rows,
or Weiszfeld steps until they are short; the others, from inner products, lose digits.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import byzjax
from benchmarks import peers, published, timing
from benchmarks.pages import environment, markdown
from benchmarks.rules import claim, gaussian

SHAPES = ((129, 65_536), (200, 65_536), (512, 32_768), (1000, 16_384))
OF_ROWS = (200, 1000)  # the n at which rules on rows are measured
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


def in_pytorch(x: np.ndarray, f: int) -> dict[str, dict[str, Callable[[], Any]]]:
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
            "Gram": lambda: krum(published.squares_by_gram(rows)),
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
    plain = {"median": byzjax.median, "geometric_median": byzjax.geometric_median}
    names = [name for name in GOALS if name not in plain]
    return plain | {name: functools.partial(getattr(byzjax, name), f=f) for name in names}


def measure(rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The table and the claims."""
    table, claims = [], []
    for n, d in SHAPES:
        x, f = gaussian(n, d), n // 5
        expressions = in_pytorch(np.array(x), f) if torch is not None else {}
        for rule, function in ours(f).items():
            of_rows = rule in ("aksel", "krum", "nearest_neighbors", "geometric_median")
            if of_rows and n not in OF_ROWS:
                continue
            compiled = timing.compile_call(function, x)
            calls = {"ours": compiled.call} | expressions.get(rule, {})
            seconds = timing.take_turns(calls, rounds)
            line = {"n": n, "d": d, "rule": rule, "ms": 1e3 * seconds.pop("ours")}
            line |= {"compile s": compiled.compile_seconds}
            line |= {"temporaries / input": compiled.temporary_bytes / x.nbytes}
            exact = {k: s for k, s in seconds.items() if "as exact" in k or not of_rows}
            for kind, times in (("PyTorch", exact), ("PyTorch, fewer digits", seconds)):
                best = min(times, key=lambda name: times[name], default=None)
                known = best is not None and (kind == "PyTorch" or best not in exact)
                line[kind] = best if known else None
                line[f"{kind}, ms"] = 1e3 * times[best] if known else None
                line[f"times {kind}"] = 1e3 * times[best] / line["ms"] if known else None
            table.append(line)
            ratio, goal = line["times PyTorch"], GOALS[rule]
            if ratio is not None:
                what = f"{rule}, n = {n}: faster than PyTorch ({line['PyTorch']})"
                claims.append(claim(what, ratio, f">= {goal}", ratio >= goal))
    last = [line for line in table if line["n"] == SHAPES[-1][0]]
    slowest = max(last, key=lambda line: line["compile s"])
    what = f"compile, n = {slowest['n']}, slowest: {slowest['rule']} (s)"
    least = slowest["compile s"] <= SECONDS_TO_COMPILE
    claims.append(claim(what, slowest["compile s"], f"<= {SECONDS_TO_COMPILE}", least))
    return table, claims


if __name__ == "__main__":
    timing.with_huge_pages("benchmarks.many")
    print(environment())
    for rows_of_table in measure(5):
        print(markdown(rows_of_table) + "\n")
    jax.clear_caches()
