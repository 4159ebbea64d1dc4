"""What the rules cost in PyTorch's stock operations, eager, in both memory layouts.

A peer is the fastest of its expressions: each is tried once, and the winner takes part.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import torch
except ImportError:  # the peers are optional; the report says that they are missing
    torch = None


def peers(x: np.ndarray, f_values: tuple[int, ...], threads: int = 2) -> dict[str, Callable]:
    """Name -> call, for `x: [n, d]`; empty without PyTorch."""
    if torch is None:
        return {}
    torch.set_num_threads(threads)
    n = x.shape[0]
    rows = torch.from_numpy(x)
    if torch.cuda.is_available():
        rows = rows.cuda()
    columns = rows.T.contiguous()
    layouts = {"[n, d]": (rows, 0), "[d, n]": (columns, 1)}

    def average(values: Any, dim: int, start: int, stop: int) -> Any:
        return values.narrow(dim, start, stop - start).mean(dim)

    medians = {}
    for label, (t, dim) in layouts.items():
        medians |= {
            f"median {label}": lambda t=t, dim=dim: torch.median(t, dim).values,
            f"kthvalue {label}": lambda t=t, dim=dim: torch.kthvalue(t, (n + 1) // 2, dim).values,
            f"sort {label}": lambda t=t, dim=dim: torch.sort(t, dim).values.select(dim, n // 2),
        }
    median_name = _fastest(medians)
    out = {f"torch median ({median_name})": medians[median_name]}

    for f in f_values:
        trimmed = {}
        for label, (t, dim) in layouts.items():
            trimmed |= {
                f"sort {label}": lambda t=t, dim=dim, f=f: average(
                    torch.sort(t, dim).values, dim, f, n - f
                ),
                f"topk {label}": lambda t=t, dim=dim, f=f: average(
                    torch.topk(t, n - f, dim).values, dim, f, n - f
                ),
            }
        name = _fastest(trimmed)
        out[f"torch trimmed_mean f={f} ({name})"] = trimmed[name]

    def aksel(label: str) -> Any:
        t, dim = layouts[label]
        center = medians[median_name]()
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
    return {name: _waiting(call) for name, call in out.items()}


def _waiting(call: Callable) -> Callable:
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
        run = _waiting(call)
        run()
        begin = time.perf_counter()
        run()
        seconds[name] = time.perf_counter() - begin
    return min(seconds, key=lambda name: seconds[name])
