"""The rules in PyTorch's stock operations, eager, in both memory layouts.

A peer is the fastest of its expressions, chosen by one timed call of each.
"""

import importlib
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# The peers are optional.
torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
if torch is not None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as many as XLA has


def median(x: np.ndarray) -> dict[str, Callable]:
    """The fastest median of `x: [n, d]`, by its name."""
    if torch is None:
        return {}
    of_median = medians(_layouts(x))
    name = _fastest(of_median)
    return {f"torch median ({name})": waiting(of_median[name])}


def squares_by_gram(t: Any) -> Any:
    """Squared distances of all rows, from inner products."""
    gram = t @ t.T
    own = gram.diagonal()
    return (own[:, None] + own[None] - 2 * gram).clamp_(min=0)


def krum(x: np.ndarray, f: int) -> dict[str, Callable]:
    """Krum by its Gram matrix, without protection against cancellation."""
    if torch is None:
        return {}
    t, _ = _layouts(x)["[n, d]"]
    n = len(t)

    def call() -> Any:
        squares = squares_by_gram(t).fill_diagonal_(0)
        scores = torch.topk(squares, n - f - 1, largest=False).values.sum(1)
        return t[scores.argmin()]

    return {"torch krum (Gram)": waiting(call)}


def _layouts(x: np.ndarray) -> dict[str, tuple[Any, int]]:
    """The matrix and its transpose, and the worker axis of each."""
    rows = torch.from_numpy(x)
    if torch.cuda.is_available():
        rows = rows.cuda()
    return {"[n, d]": (rows, 0), "[d, n]": (rows.T.contiguous(), 1)}


def medians(layouts: dict[str, tuple[Any, int]]) -> dict[str, Callable]:
    """Expressions of the median."""
    out = {}
    for label, (t, dim) in layouts.items():
        n = t.shape[dim]
        out |= {
            f"median {label}": lambda t=t, dim=dim: torch.median(t, dim).values,
            f"kthvalue {label}": lambda t=t, dim=dim, n=n: (
                torch.kthvalue(t, (n + 1) // 2, dim).values
            ),
            f"sort {label}": lambda t=t, dim=dim, n=n: torch.sort(t, dim).values.select(
                dim, n // 2
            ),
        }
    return out


def trimmed_means(layouts: dict[str, tuple[Any, int]], f: int) -> dict[str, Callable]:
    """Expressions of the trimmed mean."""

    out = {}
    for label, (t, dim) in layouts.items():
        n = t.shape[dim]
        out |= {
            f"sort {label}": lambda t=t, dim=dim, n=n: (
                torch.sort(t, dim).values.narrow(dim, f, n - 2 * f).mean(dim)
            ),
            f"topk {label}": lambda t=t, dim=dim, n=n: (
                torch.topk(t, n - f, dim).values.narrow(dim, f, n - 2 * f).mean(dim)
            ),
        }
    return out


def peers(x: np.ndarray, f_values: tuple[int, ...]) -> dict[str, Callable]:
    """Name -> call, for `x: [n, d]`; empty without PyTorch."""
    if torch is None:
        return {}
    n = x.shape[0]
    layouts = _layouts(x)
    rows = layouts["[n, d]"][0]

    of_median = medians(layouts)
    median_name = _fastest(of_median)
    out = {f"torch median ({median_name})": of_median[median_name]}

    for f in f_values:
        trimmed = trimmed_means(layouts, f)
        name = _fastest(trimmed)
        out[f"torch trimmed_mean f={f} ({name})"] = trimmed[name]

    def aksel(label: str) -> Any:
        t, dim = layouts[label]
        center = of_median[median_name]()
        distances = (t - center.unsqueeze(dim)).square().sum(1 - dim)
        nearest = torch.topk(distances, (n + 1) // 2, largest=False).indices
        return t.index_select(dim, nearest).mean(dim)

    aksels = {label: (lambda label=label: aksel(label)) for label in layouts}
    name = _fastest(aksels)
    out[f"torch aksel ({name})"] = aksels[name]
    out["torch Gram (T @ T.T)"] = lambda: rows @ rows.T
    out["torch cdist"] = lambda: torch.cdist(rows, rows)
    target = torch.empty_like(rows)
    out["copy"] = lambda: target.copy_(rows)
    return {name: waiting(call) for name, call in out.items()}


def waiting(call: Callable) -> Callable:
    """The call; on a GPU, including synchronisation."""
    if torch is None or not torch.cuda.is_available():
        return call

    def run() -> Any:
        result = call()
        torch.cuda.synchronize()
        return result

    return run


def _fastest(calls: dict[str, Callable]) -> str:
    seconds = {}
    for name, call in calls.items():
        run = waiting(call)
        run()
        begin = time.perf_counter()
        run()
        seconds[name] = time.perf_counter() - begin
    return min(seconds, key=lambda name: seconds[name])
