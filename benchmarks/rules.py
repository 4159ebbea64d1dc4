"""The compared rules: latency compared with PyTorch, its growth, and compile times.

Part of `python -m benchmarks`.
"""

import functools
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
    """The rules at the largest f that all of them allow; the trimmed mean also at a smaller f."""
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
    """Every rule on one leaf, taking turns with the peers, the weighted mean and a copy."""
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
    """The claims: each rule compared with its peer, with the goal."""
    goals = {"median": 40, "trimmed_mean": 40, "aksel": 20, "krum": 1}
    out = []
    for name in seconds:
        peer = re.fullmatch(r"torch (\S+(?: f=\d+)?) \(.*\)", name)
        if peer and peer[1] in seconds:
            goal = goals[peer[1].split()[0]]
            ratio = seconds[name] / seconds[peer[1]]
            out.append(claim(f"{peer[1]}: faster than {name}", ratio, f">= {goal}", ratio >= goal))
    if "torch cdist" in seconds:
        ratio = seconds["torch cdist"] / seconds["krum"]
        out.append(claim("krum: faster than torch cdist", ratio, ">= 5", ratio >= 5))
    for name, limit in (("median", 1.5), ("aksel", 4)):
        ratio = seconds[name] / seconds["w @ G"]
        out.append(claim(f"{name}: time over w @ G", ratio, f"<= {limit:g}", ratio <= limit))
    return out


def claim(what: str, value: float, goal: str, reached: bool) -> dict[str, Any]:
    """A line of the table of goals."""
    return {"what": what, "measured": value, "goal": goal, "reached": "yes" if reached else "no"}


def growth(rounds: int, largest: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Growth of Aksel's time with n and d: the times, and the exponents."""
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
    claims.append(claim("aksel: exponent in n, 8 to 64", exponent, "<= 1.5", exponent <= 1.5))
    sizes = [d for d in (10**4, 10**5, 10**6, 10**7) if d <= largest]
    calls = {str(d): timing.compile_call(aksel[25], gaussian(25, d)).call for d in sizes}
    seconds = timing.take_turns(calls, rounds)
    rows += [{"n": 25, "d": d, "ms": 1e3 * seconds[str(d)]} for d in sizes]
    exponent = timing.slope(sizes, [seconds[str(d)] for d in sizes])
    claims.append(
        claim(
            f"aksel: exponent in d, 1e4 to {largest:.0e}",
            exponent,
            "0.85 to 1.15",
            0.85 <= exponent <= 1.15,
        )
    )
    return rows, claims


def compile_times(numbers: range) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compile times: one leaf for every n, and 65 leaves at n = 25."""
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
        claim(
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
            claims.append(claim(what, c.compile_seconds, "<= 4", c.compile_seconds <= 4))
    return rows, claims


def krum_of(n: int, rounds: int) -> list[dict[str, Any]]:
    """Krum compared with PyTorch's Gram form, and with XLA's product X X^T alone, d = 1e6."""
    x = gaussian(n, 10**6)
    f = (n - 3) // 2
    ours = timing.compile_call(functools.partial(byzjax.krum, f=f), x).call
    gram_forms = peers.krum(np.array(x), f)
    product = timing.compile_call(lambda x: jnp.matmul(x, x.T), x).call
    seconds = timing.take_turns({"krum": ours, "product": product} | gram_forms, rounds)
    rate = seconds["product"] / seconds["krum"]
    out = [claim(f"krum, n = {n}: time of jnp.matmul(X, X.T) over it", rate, ">= 0.8", rate >= 0.8)]
    for peer in gram_forms:
        ratio = seconds[peer] / seconds["krum"]
        out.append(claim(f"krum, n = {n}: faster than {peer}", ratio, ">= 1", ratio >= 1))
    return out
