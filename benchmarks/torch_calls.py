"""Calls of `byzjax.torch.Aggregator`: `python -m benchmarks.torch_calls`.

`--write docs` writes torch.csv and the table of docs/pytorch.md.

Whole calls, with the conversions, of a tensor, a list of vectors and a list of state dicts are
compared with the compiled rule in JAX, whose input is an array already, with ByzFL and with the
fastest of several PyTorch expressions.
"""

import functools
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import byzjax
from benchmarks import many, peers, published, timing
from benchmarks.pages import environment, markdown, write_csv, written
from benchmarks.rules import claim, gaussian
from byzjax._program import Parser

SHAPES = ((25, 100_000), (25, 1_000_000))
GOAL = 0.9  # of the speed of the call in JAX, for d >= 100,000
SLOW = 1.0  # seconds from which a call is timed once
LEAVES = 20  # of a state dict
torch = peers.torch


class Line(NamedTuple):
    """One rule at one shape."""

    name: str
    n: int
    d: int
    rule: Callable
    byzfl: Callable | None
    expressions: Callable  # of the matrix, in NumPy and in PyTorch: calls by their names


def lines() -> list[Line]:
    """Rules of many workers at large shapes, then the published shapes."""
    out = []
    for n, d in SHAPES:
        f = n // 5
        for name, rule, other in (
            ("median", byzjax.median, lambda b: b.Median()),
            (f"trimmed_mean f={f}", of(byzjax.trimmed_mean, f=f), lambda b, f=f: b.TrMean(f=f)),
            ("aksel", of(byzjax.aksel, f=f), None),
            (f"krum f={f}", of(byzjax.krum, f=f), lambda b, f=f: b.Krum(f=f)),
            (
                "geometric_median",
                byzjax.geometric_median,
                lambda b: b.GeometricMedian(nu=1e-6, T=10),
            ),
        ):

            def expressions(x: np.ndarray, t: Any, f: int = f, name: str = name) -> dict:
                del t
                return many.in_pytorch(x, f)[name.partition(" ")[0]]

            out.append(Line(name, n, d, rule, other, expressions))
    for line in published.lines():
        whole = getattr(line.rule, "func", line.rule)
        if whole in (byzjax.nearest_neighbors, byzjax.adaptive_clipping, byzjax.clip_norms):
            continue  # mixings

        def bound(x: np.ndarray, t: Any, given: Any = line.torch) -> dict[str, Callable]:
            del x
            return {name: functools.partial(call, t) for name, call in given.items()}

        out.append(Line(line.name, line.n, line.d, line.rule, line.byzfl, bound))
    return out


def of(rule: Callable, **hyperparameters: Any) -> Callable:
    return functools.partial(rule, **hyperparameters)


def state_dicts(t: Any) -> list[dict[str, Any]]:
    """The rows as dicts of tensors, of which each has its own memory."""
    return [{str(k): part.clone() for k, part in enumerate(row.tensor_split(LEAVES))} for row in t]


def calls_of(line: Line, package: Any) -> dict[str, Callable]:
    """The calls by the columns of the table."""
    import byzjax.torch

    array = gaussian(line.n, line.d)
    x = np.array(array)
    t = torch.from_numpy(x).clone()  # NumPy does not align its memory
    vectors, dicts = [row.clone() for row in t], state_dicts(t)
    aggregator = byzjax.torch.Aggregator(line.rule)
    direct = jax.jit(line.rule)
    calls: dict[str, Callable] = {
        "JAX": lambda: jax.block_until_ready(direct(array)),
        "tensor": lambda: aggregator(t),
        "list": lambda: aggregator(vectors),
        "state dicts": lambda: aggregator(dicts),
    }
    if package is not None and line.byzfl is not None:
        first, second = line.byzfl(package), line.byzfl(package)
        calls |= {"byzfl": lambda: first(t), "byzfl, list": lambda: second(vectors)}
    for name, call in line.expressions(x, t).items():
        calls[f"PyTorch, {name}"] = call
    return calls


def measure(line: Line, package: Any, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    calls, once = calls_of(line, package), {}
    for name, call in calls.items():
        call()
        begin = time.perf_counter()
        call()
        once[name] = time.perf_counter() - begin
    quick = {name: call for name, call in calls.items() if once[name] < SLOW}
    seconds = once | timing.take_turns(quick, rounds)
    plain = {name: s for name, s in seconds.items() if name.startswith("PyTorch")}
    ms = {
        f"{name}, ms": 1e3 * seconds[name] if name in seconds else None
        for name in ("JAX", "tensor", "list", "state dicts", "byzfl", "byzfl, list")
    }
    return {
        "rule": line.name,
        "n": line.n,
        "d": line.d,
        **ms,
        "PyTorch, ms": 1e3 * min(plain.values()) if plain else None,
        "speed of JAX": seconds["JAX"] / seconds["tensor"],
        "times byzfl": seconds["byzfl"] / seconds["tensor"] if "byzfl" in seconds else None,
        "times PyTorch": min(plain.values()) / seconds["tensor"] if plain else None,
    }


def goals(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether the goal is reached, for each line of the table with d >= 100,000."""
    out = []
    for row in table:
        if row["d"] >= 100_000:
            what = f"{row['rule']}, n = {row['n']}, d = {row['d']:,}: speed of the call in JAX"
            ratio = row["speed of JAX"]
            out.append(claim(what, ratio, f">= {GOAL}", ratio >= GOAL))
    return out


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default 9)")
    parser.add_argument("--only", default="", help="lines whose name contains this")
    parser.add_argument("--write", type=pathlib.Path, help="folder of pytorch.md")
    options = parser.parse_args()
    if torch is None:
        parser.error("PyTorch is not installed: pip install 'byzjax[benchmarks]'.")
    if options.only and options.write:
        parser.error("--write makes the whole table; omit --only.")
    timing.with_huge_pages("benchmarks.torch_calls")
    package, table = published.byzfl(), []
    before = os.getloadavg()[0]
    for line in lines():
        if options.only not in line.name:
            continue
        row = measure(line, package, options.rounds)
        table.append(row)
        print(markdown([row]).splitlines()[-1], flush=True)
    load = f"{environment()}; load before {before:.1f}"
    tables = f"{markdown(table)}\n\n{markdown(goals(table))}"
    print(f"\n{load}\n\n{tables}")
    if options.write:
        write_csv(options.write / "benchmarks", {"torch": table})
        page = options.write / "pytorch.md"
        link = "The numbers as CSV: [benchmarks/torch.csv](benchmarks/torch.csv)."
        page.write_text(written(page.read_text(), "torch", f"On {load}. {link}\n\n{tables}"))


if __name__ == "__main__":
    main()
