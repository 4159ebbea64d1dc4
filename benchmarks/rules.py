"""Latency of the rules: `python -m benchmarks.rules`, and `--write docs` for the page.

Needs `pip install -e ".[benchmarks]"` for the comparison with PyTorch, on a quiet machine.
"""

import argparse
import csv
import datetime
import functools
import os
import pathlib
import platform
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import byzjax
from benchmarks import peers, timing

# The shapes of a ResNet-20 for CIFAR-10, padded with small leaves to 65.
RESNET = [(3, 3, 3, 16), (16,), (16,)]
for _width, _before in ((16, 16), (32, 16), (64, 32)):
    for _block in range(3):
        _cin = _before if _block == 0 else _width
        RESNET += [(3, 3, _cin, _width), (_width,), (_width,)]
        RESNET += [(3, 3, _width, _width), (_width,), (_width,)]
        RESNET += [(1, 1, _cin, _width)] if _cin != _width else []
RESNET += [(64, 10), (10,)]
RESNET += [(10,)] * (65 - len(RESNET))


def rules_for(n: int) -> dict[str, Callable]:
    """The rules at the largest f that all of them allow, the trimmed mean also at a smaller one."""
    most, few = (n - 3) // 2, n // 5
    rules = {
        "mean": byzjax.mean,
        "median": byzjax.median,
        "aksel": functools.partial(byzjax.aksel, f=most),
        "krum": functools.partial(byzjax.krum, f=most),
    }
    trimmed = {f"trimmed_mean f={f}": _trimmed_mean(f) for f in sorted({few, most})}
    return rules | trimmed


def _trimmed_mean(f: int) -> Callable:
    return functools.partial(byzjax.trimmed_mean, f=f)


def gaussian(n: int, d: int) -> jax.Array:
    """Updates without ties."""
    return jnp.asarray(np.random.default_rng(0).standard_normal((n, d), dtype=np.float32))


def latency(n: int, d: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Every rule on one leaf, in turns with the peers, the weighted mean and a copy."""
    x = gaussian(n, d)
    weights = jnp.full((n,), 1 / n)
    compiled = {name: timing.compile_call(rule, x) for name, rule in rules_for(n).items()}
    weighted = timing.compile_call(lambda w, g: w @ g, weights, x)
    calls = {name: c.call for name, c in compiled.items()}
    calls["w @ G"] = weighted.call
    f_values = tuple(int(name.split("=")[1]) for name in compiled if "=" in name)
    calls |= peers.peers(np.array(x), f_values)
    seconds = timing.take_turns(calls, rounds)
    rows = []
    for name, c in compiled.items():
        rows.append(
            {
                "n": n,
                "d": d,
                "rule": name,
                "ms": 1e3 * seconds[name],
                "times w @ G": seconds[name] / seconds["w @ G"],
                "times copy": seconds[name] / seconds["copy"] if "copy" in seconds else None,
                "compile s": c.compile_seconds,
                "temporaries / input": c.temporary_bytes / x.nbytes,
            }
        )
    return rows, seconds


def ratios(seconds: dict[str, float]) -> list[dict[str, Any]]:
    """The claims: each rule beside its peer, with the goal."""
    goals = {"median": 40, "trimmed_mean": 40, "aksel": 20}
    out = []
    for name in seconds:
        peer = re.fullmatch(r"torch (\S+(?: f=\d+)?) \(.*\)", name)
        if peer and peer[1] in seconds:
            goal = goals[peer[1].split()[0]]
            ratio = seconds[name] / seconds[peer[1]]
            out.append(_claim(f"{peer[1]}: faster than {name}", ratio, f">= {goal}", ratio >= goal))
    if "torch cdist" in seconds:
        ratio = seconds["torch cdist"] / seconds["krum"]
        out.append(_claim("krum: faster than torch cdist", ratio, ">= 5", ratio >= 5))
        ratio = seconds["krum"] / seconds["torch Gram (T @ T.T)"]
        out.append(_claim("krum: time over torch T @ T.T", ratio, "<= 2", ratio <= 2))
    ratio = seconds["aksel"] / seconds["w @ G"]
    out.append(_claim("aksel: time over w @ G", ratio, "<= 6", ratio <= 6))
    return out


def _claim(what: str, value: float, goal: str, reached: bool) -> dict[str, Any]:
    return {"what": what, "measured": value, "goal": goal, "reached": "yes" if reached else "no"}


def growth(rounds: int, largest: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """How Aksel's time grows with n and with d: the times, and the exponents."""
    rows, claims = [], []
    aksel = {
        n: functools.partial(byzjax.aksel, f=(n - 1) // 2) for n in (8, 12, 16, 25, 32, 48, 64)
    }
    calls = {
        str(n): timing.compile_call(rule, gaussian(n, 10**6)).call for n, rule in aksel.items()
    }
    seconds = timing.take_turns(calls, rounds)
    rows += [{"n": n, "d": 10**6, "ms": 1e3 * seconds[str(n)]} for n in aksel]
    exponent = timing.slope(list(aksel), [seconds[str(n)] for n in aksel])
    claims.append(_claim("aksel: exponent in n, 8 to 64", exponent, "<= 1.5", exponent <= 1.5))
    sizes = [d for d in (10**4, 10**5, 10**6, 10**7) if d <= largest]
    calls = {str(d): timing.compile_call(aksel[25], gaussian(25, d)).call for d in sizes}
    seconds = timing.take_turns(calls, rounds)
    rows += [{"n": 25, "d": d, "ms": 1e3 * seconds[str(d)]} for d in sizes]
    exponent = timing.slope(sizes, [seconds[str(d)] for d in sizes])
    claims.append(
        _claim(
            f"aksel: exponent in d, 1e4 to {largest:.0e}",
            exponent,
            "0.85 to 1.15",
            0.85 <= exponent <= 1.15,
        )
    )
    return rows, claims


def compile_times(numbers: range) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Seconds to compile: one leaf for every n, and 65 leaves at n = 25."""
    rows: list[dict[str, Any]] = []
    for n in numbers:
        for name, rule in rules_for(n).items():
            seconds = timing.compile_call(rule, jnp.zeros((n, 10**6))).compile_seconds
            rows.append({"leaves": 1, "n": n, "rule": name, "compile s": seconds})
    trees = {
        "65 leaves of ResNet-20": RESNET,
        "65 equal leaves, d = 1e6": [(10**6 // 65,)] * 65,
        "65 large leaves, d = 4.5e6": [(69_000 + 16 * i,) for i in range(65)],
    }
    claims = []
    worst = max(rows, key=lambda row: row["compile s"])
    claims.append(
        _claim(
            f"compile, one leaf, n in {numbers.start} .. {numbers.stop - 1}, slowest: "
            f"{worst['rule']} at n = {worst['n']} (s)",
            worst["compile s"],
            "<= 2",
            worst["compile s"] <= 2,
        )
    )
    for label, shapes in trees.items():
        tree = {f"{i:02d}": jnp.zeros((25, *shape)) for i, shape in enumerate(shapes)}
        for name, rule in rules_for(25).items():
            c = timing.compile_call(rule, tree)
            rows.append({"leaves": label, "n": 25, "rule": name, "compile s": c.compile_seconds})
            what = f"compile, {label}: {name} (s)"
            claims.append(_claim(what, c.compile_seconds, "<= 4", c.compile_seconds <= 4))
    return rows, claims


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a table."""
    heads = list(rows[0])

    def show(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.2f}" if value < 100 else f"{value:.0f}"
        return "" if value is None else str(value)

    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(show(row[h]) for h in heads) + " |" for row in rows]
    return "\n".join(lines)


def environment() -> str:
    """Device, versions and date."""
    versions = [f"Python {platform.python_version()}", f"JAX {jax.__version__}"]
    if peers.torch is not None:
        versions.append(
            f"PyTorch {peers.torch.__version__}, {peers.torch.get_num_threads()} threads"
        )
    device = jax.devices()[0]
    where = f"{os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind
    return f"{_processor() or platform.machine()}, {where}; {', '.join(versions)}; " + str(
        datetime.date.today()
    )


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    except OSError:
        return platform.processor()
    return found[1] if found else platform.processor()


def main() -> None:
    """Measures, prints, and writes if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="ratios at n = 25, d = 1e6 only")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default 9)")
    parser.add_argument("--largest", type=int, default=10**7, help="largest d (default 1e7)")
    parser.add_argument("--write", type=pathlib.Path, help="folder for benchmarks.md and CSV files")
    options = parser.parse_args()
    tables: dict[str, list[dict[str, Any]]] = {}
    tables["latency"], seconds = latency(25, 10**6, options.rounds)
    tables["peers"] = [
        {"n": 25, "d": 10**6, "what": name, "ms": 1e3 * s}
        for name, s in seconds.items()
        if name.startswith(("torch", "copy", "w @"))
    ]
    claims = ratios(seconds)
    if not options.quick:
        for n in (11, 64):
            tables["latency"] += latency(n, 10**6, options.rounds)[0]
        tables["growth"], more = growth(options.rounds, options.largest)
        claims += more
        tables["compile"], more = compile_times(range(5, 65))
        claims += more
    tables["claims"] = claims
    print(environment())
    for name in ("latency", "peers", "growth", "claims"):
        if name in tables:
            print(f"\n{name}\n{markdown(tables[name])}")
    if options.write:
        write(options.write, tables)


def write_csv(folder: pathlib.Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Every table as a file of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def write(folder: pathlib.Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """The page, and beside it every table as CSV."""
    write_csv(folder / "benchmarks", tables)
    page = [
        "# Benchmarks",
        f"Made by `python -m benchmarks.rules --write {folder}` on {environment()}.",
        "Times are medians over rounds in which every call has a turn; a turn is one call that "
        "does not count and as many as take 20 ms together. `w @ G` reads the input once; `copy` "
        "reads and writes it. PyTorch runs eagerly, and of its expressions and memory layouts the "
        "fastest takes part. The numbers as CSV: [benchmarks/](benchmarks/).",
        "## Goals, and what was measured",
        markdown(tables["claims"]),
        "## Latency, float32",
        markdown(tables["latency"]),
        "## Peers",
        markdown(tables["peers"]),
    ]
    if "growth" in tables:
        page += ["## How Aksel's time grows", markdown(tables["growth"])]
    (folder / "benchmarks.md").write_text("\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
