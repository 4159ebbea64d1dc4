"""Rules and mixings at shapes of published benchmarks: `python -m benchmarks.published`.

Each is compared with the same rule of the package `byzfl`, with NumPy and with PyTorch, and with
the fastest of several plain PyTorch expressions. `--write docs` writes the page. Takes some
minutes; use an idle machine.
"""

import functools
import importlib
import importlib.util
import itertools
import math
import pathlib
import sys
import time
import types
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import byzjax
from benchmarks import timing
from benchmarks.pages import environment, markdown, write_csv
from benchmarks.peers import squares_by_gram
from benchmarks.rules import gaussian
from byzjax._program import Parser
from byzjax.facts import FACTS

# Without it the report has no peers.
torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

SLOW = 1.0  # seconds; slower calls run once


class Line(NamedTuple):
    """One row of the table.

    Attributes:
      name: the rule, as named in the table.
      n: number of workers.
      d: number of coordinates.
      rule: our rule, of stacked updates.
      goal: required speed-up over the fastest peer.
      byzfl: creates the same rule from `byzfl`'s aggregators.
      torch: expressions in plain PyTorch, of the matrix `[n, d]`.
      note: a remark.
    """

    name: str
    n: int
    d: int
    rule: Callable
    goal: float
    byzfl: Callable | None = None
    torch: Mapping[str, Callable] = MappingProxyType({})
    note: str = ""


# --- plain PyTorch -------------------------------------------------------------------------------


def squares_by_cdist(t: Any) -> Any:
    return torch.cdist(t, t).square()


def both(of_squares: Callable) -> dict[str, Callable]:
    """A rule of squared distances, with both ways to compute them."""
    return {
        "Gram": lambda t: of_squares(t, squares_by_gram(t)),
        "cdist": lambda t: of_squares(t, squares_by_cdist(t)),
    }


def multi_krum(f: int) -> Callable:
    def rule(t: Any, squares: Any) -> Any:
        n = len(t)
        scores = squares.topk(n - f, largest=False).values.sum(1)
        return t[scores.topk(n - f, largest=False).indices].mean(0)

    return rule


def nearest_weights(f: int) -> Callable:
    def weights(t: Any, squares: Any) -> Any:
        n = len(t)
        nearest = squares.topk(n - f, largest=False).indices
        return torch.zeros(n, n).scatter_(1, nearest, 1 / (n - f))

    return weights


def neighbors(f: int) -> dict[str, Callable]:
    weights = nearest_weights(f)

    def by_matrix(t: Any, squares: Any) -> Any:
        return weights(t, squares) @ t

    def by_rows(t: Any, squares: Any) -> Any:
        nearest = squares.topk(len(t) - f, largest=False).indices
        return torch.stack([t[rows].mean(0) for rows in nearest])

    return both(by_matrix) | {"Gram, row by row": lambda t: by_rows(t, squares_by_gram(t))}


def trimmed_mean(f: int) -> dict[str, Callable]:
    def by_columns(t: Any) -> Any:
        return t.T.contiguous().sort(1).values[:, f : len(t) - f].mean(1)

    return {
        "sort": lambda t: t.sort(0).values[f : len(t) - f].mean(0),
        "topk": lambda t: (
            t.topk(len(t) - f, 0).values.topk(len(t) - 2 * f, 0, False).values.mean(0)
        ),
        "transposed sort": by_columns,
    }


def around_median(f: int) -> dict[str, Callable]:
    def by_topk(t: Any) -> Any:
        away = (t - t.median(0).values).abs()
        return t.gather(0, away.topk(len(t) - f, 0, largest=False).indices).mean(0)

    def by_columns(t: Any) -> Any:
        columns = t.T.contiguous()
        away = (columns - columns.median(1, keepdim=True).values).abs()
        return columns.gather(1, away.topk(len(t) - f, 1, largest=False).indices).mean(1)

    return {"topk": by_topk, "transposed topk": by_columns}


def clipping_about_zero(radius: float, iterations: int) -> dict[str, Callable]:
    def by_rows(t: Any) -> Any:
        v = torch.zeros(t.shape[1])
        for _ in range(iterations):
            away = t - v
            v = v + (away * (radius / away.norm(dim=1)).clamp(max=1)[:, None]).mean(0)
        return v

    def by_weights(t: Any) -> Any:
        v = torch.zeros(t.shape[1])
        for _ in range(iterations):
            weights = (radius / (t - v).norm(dim=1)).clamp(max=1) / len(t)
            v = (1 - weights.sum()) * v + weights @ t
        return v

    return {"rows": by_rows, "weights": by_weights}


def to_pivot(f: int) -> dict[str, Callable]:
    def rule(t: Any) -> Any:
        nearest = (t - t[0]).norm(dim=1).topk(len(t) - f, largest=False).indices
        return t[nearest].mean(0)

    return {"rows": rule}


def filtered(f: int) -> dict[str, Callable]:
    def rule(t: Any) -> Any:
        gram = t @ t.T
        weights, best, least = torch.ones(len(t)), None, math.inf
        while weights.sum() > len(t) - 2 * f:
            share = weights / weights.sum()
            cross = gram @ share
            centered = gram - cross[:, None] - cross[None] + share @ cross
            roots = share.sqrt()
            values, vectors = torch.linalg.eigh(roots[:, None] * centered * roots)
            if values[-1] < least:
                best, least = share, values[-1]
            along = (centered @ (roots * vectors[:, -1])).square() * (weights > 0)
            weights = weights * (1 - along / along.max())
        return best @ t

    return {"Gram": rule}


def weiszfeld(iterations: int, smoothing: float, from_zero: bool) -> dict[str, Callable]:
    def rule(t: Any) -> Any:
        z = torch.zeros(t.shape[1]) if from_zero else t.mean(0)
        for _ in range(iterations):
            weights = 1 / (t - z).norm(dim=1).clamp(min=smoothing)
            z = weights @ t / weights.sum()
        return z

    def by_gram(t: Any) -> Any:
        gram = t @ t.T
        own, n = gram.diagonal(), len(t)
        a = torch.zeros(n) if from_zero else torch.full((n,), 1 / n)
        for _ in range(iterations):
            cross = gram @ a
            squares = own - 2 * cross + a @ cross
            weights = 1 / squares.clamp(min=smoothing**2).sqrt()
            a = weights / weights.sum()
        return a @ t

    return {"rows": rule, "Gram": by_gram}


def clipped(limit: Callable) -> dict[str, Callable]:
    def rule(t: Any) -> Any:
        norms = t.norm(dim=1)
        return t * (limit(norms) / norms).clamp(max=1)[:, None]

    def by_square(t: Any) -> Any:
        norms = torch.linalg.vecdot(t, t).sqrt()
        return t * (limit(norms) / norms).clamp(max=1)[:, None]

    return {"norm": rule, "vecdot": by_square}


def least_eigenvalue(f: int) -> dict[str, Callable]:
    def rule(t: Any) -> Any:
        n = len(t)
        subsets = torch.tensor(list(itertools.combinations(range(n), n - f)))
        gram = t @ t.T
        part = gram[subsets[:, :, None], subsets[:, None, :]]
        part = part - part.mean(1, keepdim=True)
        part = part - part.mean(2, keepdim=True)
        best = torch.linalg.eigvalsh(part)[:, -1].argmin()
        return t[subsets[best]].mean(0)

    return {"all subsets at once": rule}


# --- the table -----------------------------------------------------------------------------------


def lines() -> list[Line]:
    """All rows; f is n // 5 unless a publication states one."""
    arc = 256 // 5
    kept = int(2 * (arc / 256) * (256 - arc))

    def of(rule: Callable, **hyperparameters: Any) -> Callable:
        return functools.partial(rule, **hyperparameters)

    def centered(radius: float, iterations: int) -> Callable:
        return lambda x: byzjax.centered_clip(
            x, jnp.zeros(x.shape[1]), radius=radius, iterations=iterations
        )

    return [
        Line(
            "multi-krum f=20 (neighbours and m of byzfl)",
            80,
            65_536,
            of(byzjax.krum, f=20, neighbors="n-f-1", m=60),
            5,
            lambda b: b.MultiKrum(f=20),
            both(multi_krum(20)),
        ),
        Line(
            "trimmed_mean f=8",
            64,
            65_536,
            of(byzjax.trimmed_mean, f=8),
            20,
            lambda b: b.TrMean(f=8),
            trimmed_mean(8),
        ),
        Line(
            "mean_around_median f=8",
            64,
            65_536,
            of(byzjax.mean_around_median, f=8),
            20,
            lambda b: b.Meamed(f=8),
            around_median(8),
        ),
        Line(
            "centered_clip radius=100",
            64,
            65_536,
            centered(100.0, 1),
            5,
            lambda b: b.CenteredClipping(L=1, tau=100.0),
            clipping_about_zero(100.0, 1),
        ),
        Line(
            "centered_clip radius=100, 10 iterations",
            64,
            65_536,
            centered(100.0, 10),
            5,
            lambda b: b.CenteredClipping(L=10, tau=100.0),
            clipping_about_zero(100.0, 10),
        ),
        Line(
            "nearest_to_pivot f=8",
            64,
            65_536,
            of(byzjax.nearest_to_pivot, f=8),
            5,
            lambda b: b.MoNNA(f=8),
            to_pivot(8),
        ),
        Line(
            "covariance_filter f=8",
            64,
            65_536,
            of(byzjax.covariance_filter, f=8),
            5,
            lambda b: b.CAF(f=8),
            filtered(8),
        ),
        Line(
            "geometric_median, 3 iterations from 0, smoothing 0.1",
            64,
            65_536,
            of(byzjax.geometric_median, iterations=3, start="zero", smoothing=0.1),
            5,
            lambda b: b.GeometricMedian(nu=0.1, T=3),
            weiszfeld(3, 0.1, from_zero=True),
        ),
        Line(
            "geometric_median, converged",
            64,
            65_536,
            byzjax.geometric_median,
            5,
            lambda b: b.GeometricMedian(nu=1e-6, T=10),
            weiszfeld(10, 1e-6, from_zero=False),
            "peers: 10 steps, here about 1e-5 from the limit; none checks that it has converged",
        ),
        Line(
            "nearest_neighbors f=39",
            196,
            4_096,
            of(byzjax.nearest_neighbors, f=39),
            5,
            lambda b: b.NNM(f=39),
            neighbors(39),
        ),
        Line(
            f"adaptive_clipping f={arc}",
            256,
            65_536,
            of(byzjax.adaptive_clipping, f=arc),
            5,
            lambda b: b.ARC(f=arc),
            clipped(lambda norms: norms.sort(descending=True).values[kept]),
            "byzfl writes into its input: with a copy",
        ),
        Line(
            "clip_norms max_norm=2",
            256,
            65_536,
            of(byzjax.clip_norms, max_norm=2.0),
            5,
            lambda b: b.Clipping(c=2.0),
            clipped(lambda norms: 2.0),
            "byzfl writes into its input: with a copy",
        ),
        Line(
            "minimum_diameter f=5",
            15,
            2_048,
            of(byzjax.minimum_diameter, f=5),
            5,
            lambda b: b.MDA(f=5),
            note="3,003 subsets, which can be enumerated",
        ),
        Line(
            "minimum_diameter f=10",
            30,
            2_048,
            of(byzjax.minimum_diameter, f=10),
            5,
            None,
            note="byzfl would list 30,045,015 subsets: 10,005 times those of the line above",
        ),
        Line(
            "minimum_eigenvalue f=5",
            16,
            4_096,
            of(byzjax.minimum_eigenvalue, f=5),
            5,
            lambda b: b.SMEA(f=5),
            least_eigenvalue(5),
        ),
    ]


def byzfl() -> Any:
    """The aggregators of the package, or None; its top level imports torchvision as well."""
    spec = importlib.util.find_spec("byzfl")
    if torch is None or spec is None or spec.submodule_search_locations is None:
        return None
    package = types.ModuleType("byzfl")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["byzfl"] = package
    aggregators = types.SimpleNamespace()
    for module in ("byzfl.aggregators.aggregators", "byzfl.aggregators.preaggregators"):
        vars(aggregators).update(vars(importlib.import_module(module)))
    return aggregators


def peers(line: Line, x: np.ndarray, package: Any) -> dict[str, Callable]:
    """The calls of the peers."""
    if torch is None:
        return {}
    t = torch.from_numpy(x)
    calls = {"reference, T @ T.T": lambda: t @ t.T, "reference, 2 T": lambda: 2 * t}
    if package is not None and line.byzfl is not None:
        by_numpy, by_torch = line.byzfl(package), line.byzfl(package)  # some are stateful
        # A mixing that writes into its input gets a copy: otherwise it would clip only once.
        in_place = isinstance(by_numpy, (package.Clipping, package.ARC))
        calls["byzfl, NumPy"] = lambda: by_numpy(x.copy() if in_place else x)
        calls["byzfl, PyTorch"] = lambda: by_torch(t.clone() if in_place else t)
    for name, expression in line.torch.items():
        calls[f"PyTorch, {name}"] = lambda expression=expression: expression(t)
    return calls


def measure(line: Line, package: Any, rounds: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of the line, and one row for each call of the peers."""
    x = gaussian(line.n, line.d)
    compiled = timing.compile_call(line.rule, x)
    calls = {"byzjax": compiled.call} | peers(line, np.array(x), package)
    once = {}
    for name, call in calls.items():
        begin = time.perf_counter()
        call()
        once[name] = time.perf_counter() - begin
    quick = {name: call for name, call in calls.items() if once[name] < SLOW}
    seconds = once | timing.take_turns(quick, rounds)
    ours = seconds.pop("byzjax")
    theirs = [s for name, s in seconds.items() if name.startswith("byzfl")]
    plain = [s for name, s in seconds.items() if name.startswith("PyTorch")]
    ratio = min(theirs + plain) / ours if theirs + plain else None
    row = {
        "rule": line.name,
        "n": line.n,
        "d": line.d,
        "byzjax ms": 1e3 * ours,
        "byzfl ms": 1e3 * min(theirs) if theirs else None,
        "PyTorch ms": 1e3 * min(plain) if plain else None,
        "times byzfl": min(theirs) / ours if theirs else None,
        "times PyTorch": min(plain) / ours if plain else None,
        "goal": f">= {line.goal:g}",
        "reached": "" if ratio is None else "yes" if ratio >= line.goal else "no",
        "temporaries / input": compiled.temporary_bytes / x.nbytes,
        "compile s": compiled.compile_seconds,
        "note": line.note,
    }
    details = [
        {"rule": line.name, "n": line.n, "d": line.d, "who": name, "ms": 1e3 * s}
        for name, s in seconds.items()
    ]
    return row, details


# --- memory --------------------------------------------------------------------------------------


def memory() -> list[dict[str, Any]]:
    """Temporaries of every compiled rule and mixing, relative to the bytes of its input."""
    n, d, f = 64, 65_536, 8
    key = jax.random.key(0)
    zeros = jnp.zeros(d)
    loss = lambda params: jnp.sum(params**2)  # noqa: E731
    more: dict[str, dict[str, Any]] = {
        "spectral_filter": {"key": key},
        "sign_guard": {"key": key},
        "gradient_splitting": {"key": key},
        "flame": {"key": key},
        "bucketing": {"s": 2, "key": key},
        "geometric_median_of_means": {"k": 17},
        "huber": {"threshold": 1.0},
        "robust_learning_rate": {"threshold": 9},
        "clip_norms": {"max_norm": 2.0},
        "zeno": {"learning_rate": 0.1, "rho": 1e-3},
        "centered_clip": {"radius": 1.0, "iterations": 3},
    }
    data = {"centered_clip": (zeros,), "fl_trust": (zeros,), "zeno": (zeros, loss)}
    rows = []
    for name, facts in FACTS.items():
        if facts.kind == "memory":
            continue
        size = (16, 5) if name == "minimum_eigenvalue" else (n, f)
        hyperparameters = more.get(name, {}) | ({"f": size[1]} if facts.takes_f else {})
        rule, x = getattr(byzjax, name), gaussian(size[0], d)

        def call(x, rule=rule, name=name, hyperparameters=hyperparameters):
            return rule(x, *data.get(name, ()), **hyperparameters)

        temporaries = timing.compile_call(call, x).temporary_bytes / x.nbytes
        rows.append(
            {
                "rule": name,
                "n": size[0],
                "d": d,
                "f": size[1],
                "temporaries / input": temporaries,
                "allowed": facts.workspace,
                "kept": "yes" if temporaries <= facts.workspace else "no",
            }
        )
    return rows


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default 9)")
    parser.add_argument("--only", default="", help="lines whose name contains this")
    parser.add_argument("--write", type=pathlib.Path, help="folder for published.md and CSV files")
    options = parser.parse_args()
    if options.only and options.write:
        parser.error("--write makes the whole page; omit --only.")
    if not any(options.only in line.name for line in lines()):
        parser.error(f"--only: no line's name contains {options.only!r}; one contains 'krum'.")
    timing.with_huge_pages("benchmarks.published")
    package, rows, details = byzfl(), [], []
    for line in lines():
        if options.only in line.name:
            row, more = measure(line, package, options.rounds)
            print(markdown([row]).splitlines()[-1], flush=True)
            rows.append(row)
            details += more
    tables = {"published": rows, "published-peers": details}
    if not options.only:
        tables["memory"] = memory()
    print(f"\n{environment()}")
    for table in tables.values():
        if table:
            print(f"\n{markdown(table)}")
    if options.write:
        write(options.write, tables)


WHY = """\
* Multi-Krum, the covariance filter, the converged geometric median and `nearest_neighbors` need all
  inner products or distances of the rows. The product alone, `T @ T.T` below, takes most of the
  time of the best PyTorch expression, so nothing can be several times faster than that. Ours also
  centres the rows, since products of rows with a common mean cancel, detects non-finite values, and
  recomputes distances where too few digits are left; the expressions do none of this. XLA is given
  many products at once, since it computes one on one core ([numerics.md](numerics.md)): that
  shortens matrices of a million columns, and little here.
* The geometric median is converged (1e-5, against a float64 solution), centred at the
  coordinate-wise median, with a Newton step that carries its derivative. For updates as benign as
  these, a few steps without a convergence check are enough. More than 128 workers take Weiszfeld
  steps on the rows first; fewer do not, since `vmap`, as in the laboratory, would compute both.
* Clipping writes as much as it reads; `2 T` below is the cost of that alone. A loop over groups of
  rows, whose second read comes from the cache, was slower, since XLA writes into the result on one
  core. If the input is no longer needed, `jax.jit(clip, donate_argnums=0)` overwrites it.
* `centered_clip` and `nearest_to_pivot` read the matrix twice, as all implementations do.
* Sorting depends on the machine. On an Intel Xeon, where NumPy sorts with AVX-512, a manual run on
  2026-11-24 gave 8 to 13 times byzfl's speed for the trimmed mean and 16 to 20 times for
  `mean_around_median`; its tables were not kept.

A result of 64 MB is new memory at every call, and mapping it in pages of 4 kB takes longer than
computing it: all calls here ran under `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, which also helps
other CPU jobs (`clip_norms`, run manually: a third of the time)."""


def write(folder: pathlib.Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Writes the page, and every table as CSV."""
    write_csv(folder / "benchmarks", tables)
    page = [
        "# Comparison at published shapes",
        f"Made by `python -m benchmarks.published --write {folder}` on {environment()}.",
        "Gaussian updates, float32, at shapes for which other projects publish times. Times are "
        "medians over rounds in which every call has a turn; calls of more than a second run "
        "once. `byzfl` is the faster of its NumPy and its PyTorch form, PyTorch the fastest of "
        "several plain expressions, all of which are in the second table. The goal refers to the "
        "faster of the two. The numbers as CSV: [benchmarks/](benchmarks/).",
        markdown(tables["published"]),
        "## Missed goals",
        WHY,
        "## Times of the peers",
        markdown(tables["published-peers"]),
        "## Memory",
        "Bytes of the compiled rule's temporaries, without input and result, over those of its "
        "input.",
        markdown(tables["memory"]),
    ]
    (folder / "published.md").write_text("\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
