"""Rules with a plain expression in PyTorch, on the device and the memory that JAX uses."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import jax

from benchmarks import every_rule, peers, published


def absent(platform: str) -> str | None:
    """Why PyTorch is not compared; None if it is."""
    if peers.torch is None:
        return "it is not installed"
    if platform == "cpu" or (platform == "gpu" and peers.torch.cuda.is_available()):
        return None
    return f"it does not see the device ({platform})"


def expressions(name: str, n: int) -> dict[str, Callable]:
    """The expressions of a rule for a matrix `[n, d]`, by a label; empty if it has none."""
    f = every_rule.faults(name, n)

    def krum(t: Any, squares: Any) -> Any:
        scores = squares.topk(n - f - 1, largest=False).values.sum(1)
        return t[scores.argmin()]

    def multi_krum(t: Any, squares: Any) -> Any:
        scores = squares.topk(n - f - 1, largest=False).values.sum(1)
        return t[scores.topk(max(1, n - f - 2), largest=False).indices].mean(0)

    def medoid(t: Any, squares: Any) -> Any:
        return t[squares.sqrt().sum(1).argmin()]

    def middle(t: Any) -> Any:
        ranked = t.sort(0).values
        return (ranked[(n - 1) // 2] + ranked[n // 2]) / 2

    def aksel(t: Any) -> Any:
        center = t.median(0).values
        squares = peers.torch.stack([(row - center).square_().sum() for row in t])
        return t[squares.topk((n + 1) // 2, largest=False).indices].mean(0)

    def smallest(t: Any) -> Any:
        return t[t.norm(dim=1).topk(n - f, largest=False).indices].mean(0)

    table: dict[str, Callable[[], dict[str, Callable]]] = {
        "mean": lambda: {"mean": lambda t: t.mean(0)},
        "median": lambda: {"median": lambda t: t.median(0).values, "sort": middle},
        "trimmed_mean": lambda: published.trimmed_mean(f),
        "mean_around_median": lambda: published.around_median(f),
        "krum": lambda: published.both(krum),
        "multi_krum": lambda: published.both(multi_krum),
        "medoid": lambda: published.both(medoid),
        "aksel": lambda: {"row by row": aksel},
        "comparative_elimination": lambda: {"norm": smallest},
        "covariance_filter": lambda: published.filtered(f),
        "nearest_to_pivot": lambda: published.to_pivot(f),
        "majority_sign": lambda: {"sign": lambda t: t.sign().sum(0).sign()},
    }
    return table[name]() if name in table else {}


def fastest(
    names: Iterable[str], x: jax.Array, platform: str, depth: int
) -> tuple[dict[str, tuple[str, Callable[[], Any]]], dict[str, RuntimeError]]:
    """The label and a call of the fastest expression of each rule; and errors, if none runs."""
    if absent(platform):
        return {}, {}
    t = peers.torch.from_dlpack(x)
    chosen, failed = {}, {}
    for name in names:
        seconds = {}
        calls = {
            label: queued(expression, t, depth)
            for label, expression in expressions(name, len(t)).items()
        }
        for label, call in calls.items():
            try:
                call()
                begin = time.perf_counter()
                call()
                seconds[label] = time.perf_counter() - begin
            except RuntimeError as error:  # such as torch.OutOfMemoryError
                failed[name] = error
        if seconds:
            failed.pop(name, None)
            label = min(seconds, key=lambda label: seconds[label])
            chosen[name] = label, calls[label]
    return chosen, failed


def queued(expression: Callable, t: Any, depth: int) -> Callable[[], Any]:
    """`depth` calls, and one wait for all of them."""

    def run() -> None:
        with peers.torch.device(t.device):
            for _ in range(depth):
                expression(t)

    return peers.waiting(run)
