"""Rules on an accelerator: XLA, the kernels of `byzjax._numerics.pallas`, and PyTorch.

`python -m benchmarks.pallas` times median and Aksel at n in {8, 25, 64} and d = 1e8, or the largest
half, quarter, ... of it that fits, and reports the share of the measured copy bandwidth: the median
should read the input once and write one row, Aksel read it twice and write two. Then it trains 64
runs of the MLP at once, and one (needs MNIST; `--no-training`). Without an accelerator it times
XLA's form on the CPU at d = 1e6, and says so; the goals do not apply to a CPU, where a copy also
waits for fresh memory, so that a share may exceed 1. `--write docs` writes accelerator.md and its
CSV.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import byzjax
from benchmarks import peers, timing, training
from benchmarks.pages import environment, markdown, write_csv
from byzjax._numerics import pallas
from byzjax._program import Parser
from byzjax.rules import _select
from experiments.data import datasets

WORKERS = (8, 25, 64)
PASSES = {"median": 1, "aksel": 2}  # passes of each rule over the input; it writes as many rows
GOALS = {"median": 0.8, "aksel": 0.7}
COPIES = 3  # of the input that must fit in memory: itself, its copy, and PyTorch's


def aksel(x: jax.Array, *, interpret: str | None = None) -> jax.Array:
    """`byzjax.aksel` of `x: [n, c]`, with the kernel computing median and distances."""
    _, squares = pallas.median_and_squares(x, interpret=interpret)
    distances = jnp.where(jnp.isnan(squares), jnp.inf, squares)
    return _select.mean_of_lowest(x, distances, (x.shape[0] + 1) // 2)


KERNELS: dict[str, Callable] = {"median": pallas.median, "aksel": aksel}


def in_xla(n: int) -> dict[str, Callable]:
    """The public rules."""
    return {"median": byzjax.median, "aksel": lambda x: byzjax.aksel(x, f=(n - 1) // 2)}


def in_pytorch(x: jax.Array) -> dict[str, Callable[[], Any]]:
    """The same rules, eager, on the same memory; empty if PyTorch is missing or cannot see it."""
    torch = peers.torch
    if torch is None:
        return {}
    if jax.default_backend() not in ("cpu", *["gpu"] * torch.cuda.is_available()):
        return {}
    t = torch.from_dlpack(x)

    def nearest() -> Any:
        center = torch.median(t, 0).values
        # Row by row: a matrix of differences would take as much memory as the input.
        distances = torch.stack([(row - center).square_().sum() for row in t])
        chosen = torch.topk(distances, (len(t) + 1) // 2, largest=False).indices.tolist()
        total = t[chosen[0]].clone()
        for i in chosen[1:]:
            total += t[i]
        return total / len(chosen)

    calls = {"median": lambda: torch.median(t, 0).values, "aksel": nearest}
    return {name: peers.waiting(call) for name, call in calls.items()}


def share(name: str, n: int, seconds: float, copy: float) -> float:
    """Share of the copy bandwidth: a copy moves 2 n d numbers, a rule passes * (n + 1) d."""
    return PASSES[name] * (n + 1) / seconds / (2 * n / copy)


def largest(n: int, wanted: int) -> int:
    """The largest of `wanted`, its half, its quarter, ... of which COPIES fit on the device."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    while limit is not None and COPIES * 4 * n * wanted > limit:
        wanted //= 2
    return wanted


def latency(n: int, d: int, rounds: int, kernels: bool) -> list[dict[str, Any]]:
    """A row for each rule and form; kernels and goals only on an accelerator."""
    x = jax.random.normal(jax.random.key(0), (n, d))
    forms = {"XLA": in_xla(n)} | ({"Pallas": KERNELS} if kernels else {})
    compiled = {
        (name, form): timing.compile_call(rules[name], x)
        for name in GOALS
        for form, rules in forms.items()
    }
    calls = {f"{name} {form}": c.call for (name, form), c in compiled.items()}
    calls["copy"] = timing.compile_call(jnp.negative, x).call  # an identity would be optimised away
    seconds = timing.take_turns(calls, rounds)

    def line(name: str, form: str, taken: float, compile_seconds: float | None) -> dict[str, Any]:
        reached = share(name, n, taken, seconds["copy"])
        return {
            "n": n,
            "d": d,
            "rule": name,
            "form": form,
            "ms": 1e3 * taken,
            "share of the copy bandwidth": reached,
            "goal": f">= {GOALS[name]}" if kernels else None,
            "reached": ("yes" if reached >= GOALS[name] else "no") if kernels else None,
            "compile s": compile_seconds,
        }

    rows = [
        line(name, form, seconds[f"{name} {form}"], c.compile_seconds)
        for (name, form), c in compiled.items()
    ]
    # PyTorch comes last, so that running out of memory does not lose the other rows.
    for name, call in in_pytorch(x).items():
        try:
            taken = timing.take_turns({name: call}, rounds)[name]
        except peers.torch.OutOfMemoryError:
            print(f"PyTorch's {name} at n = {n}, d = {d} runs out of memory.")
        else:
            rows.append(line(name, "PyTorch", taken, None))
    return rows


def grid(dataset: datasets.Dataset) -> list[dict[str, Any]]:
    """Steps per second of one run, and of 64 at once."""
    steps = {runs: training.our_steps(training.one("mlp", runs), dataset) for runs in (1, 64)}
    return [
        {"runs at once": runs, "steps/s of all": rate, "over one": rate / steps[1]}
        for runs, rate in steps.items()
    ]


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default 9)")
    parser.add_argument("--d", type=int, help="coordinates (default 1e8; 1e6 on a CPU)")
    parser.add_argument("--no-training", action="store_true", help="skip what needs MNIST")
    parser.add_argument("--write", type=pathlib.Path, help="folder for accelerator.md and its CSV")
    options = parser.parse_args()
    timing.with_huge_pages("benchmarks.pallas")
    accelerated = jax.default_backend() != "cpu"
    about = f"Measured on {environment()}."
    if not accelerated:
        about = f"No accelerator here: XLA's form on the CPU only. {about}"
    print(about, flush=True)
    tables: dict[str, list[dict[str, Any]]] = {"accelerator": []}
    for n in WORKERS:
        d = largest(n, options.d or (10**8 if accelerated else 10**6))
        tables["accelerator"] += latency(n, d, options.rounds, kernels=accelerated)
    print(markdown(tables["accelerator"]), flush=True)
    if accelerated and not options.no_training:
        tables["accelerator-grid"] = grid(datasets.load("mnist"))
        print(markdown(tables["accelerator-grid"]))
    if options.write:
        write_csv(options.write / "benchmarks", tables)
        made = f"Made by `python -m benchmarks.pallas --write {options.write}`. {about}"
        page = ["# On an accelerator", made, *map(markdown, tables.values())]
        (options.write / "accelerator.md").write_text("\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
