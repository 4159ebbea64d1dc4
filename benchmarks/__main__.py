"""All benchmarks of rules and of training: `python -m benchmarks`.

`--quick` prints ratios in less than two minutes; `--write docs` writes docs/benchmarks.md, its
tables as CSV, and its plots. Peers need `pip install -e ".[benchmarks]"`; use an idle machine.
Other benchmarks run by `python -m benchmarks.NAME`: published (shapes of published benchmarks),
attacks, protocols, kardam, spread, agreement, accelerator (everything on one GPU or TPU).
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from benchmarks import every_rule, many, rules, timing, training
from benchmarks.pages import environment, markdown, write_csv
from byzjax._program import Parser
from experiments.data import datasets

Rows = list[dict[str, Any]]
Tables = dict[str, Rows]

# The tables of the page, in order, with their headings.
SECTIONS = {
    "claims": "Goals and measurements",
    "training": "Training: steps per second, compared with ByzFL's own loop",
    "training-cells": "Training: three cells of a study, compared with ByzFL's own runner",
    "latency": "Latency of the compared rules, float32",
    "peers": "PyTorch and reference operations",
    "many": "More than 128 workers, float32",
    "every_rule": "Latency of every rule, float32",
    "compile_65": "Compile time of every rule for a model of 65 leaves (ResNet-20)",
    "growth": "Scaling of Aksel's time",
}


WHY = """\
* Goals in seconds and in multiples of `w @ G` depend on the machine: another EPYC, on 2026-11-25,
  took 2.0 ms for `w @ G`, 7.7 for Aksel (3.9 times), 2.8 for the median (1.4 times), and 1.5 s for
  the slowest compilation of one leaf.
* Krum and PyTorch's Gram form: products take most of the time. Ours are of rows less a centre, and
  are checked for cancellation; PyTorch's form does neither. Larger batches of blocks, loops over
  halves, accumulators of lanes and the upper triangle alone were slower:
  [numerics.md](numerics.md).
* The order statistics of 129 to 512 workers: two passes at once over halves of the columns, blocks
  of columns in the cache, and more rows a kernel were slower ([numerics.md](numerics.md)).
* The geometric median of more than 128 workers: PyTorch's expression ends when its steps are short,
  ours with a Newton step that carries the derivative.
* The nearest values of 97 to 128 workers take two sorting networks and a pass over the values: a
  single network that keeps all rows in order is no longer vectorised. From 129 workers on they are
  counted, which is faster.
* Training: [throughput.md](throughput.md) says what each way brought."""


def quick(rounds: int) -> Tables:
    """Ratios at n = 25, d = 1e6."""
    lines, seconds = rules.latency(25, 10**6, rounds)
    every = every_rule.latency(((25, 10**6),), rounds)
    return {
        "claims": rules.ratios(seconds) + rules.krum_of(25, rounds),
        "every_rule": [{"rule": r["rule"], "times w @ G": r["times w @ G"]} for r in every],
        "latency": [{"rule": r["rule"], "times copy": r["times copy"]} for r in lines],
    }


def whole(rounds: int, largest: int, train: bool) -> Iterator[tuple[str, Rows]]:
    """All tables, one by one."""
    dataset = datasets.load("mnist") if train else None  # fails early if it is missing
    lines, seconds = rules.latency(25, 10**6, rounds)
    for n in (11, 64):
        lines += rules.latency(n, 10**6, rounds)[0]
    yield "latency", lines
    peers = {name: s for name, s in seconds.items() if name.startswith(("torch", "copy", "w @"))}
    yield "peers", [{"n": 25, "d": 10**6, "what": k, "ms": 1e3 * s} for k, s in peers.items()]
    claims = rules.ratios(seconds)
    for n in (25, 64):
        claims += rules.krum_of(n, rounds)
    table, more = many.measure(min(rounds, 5))
    claims += more
    yield "many", table
    growth, more = rules.growth(rounds, min(largest, 10**7))
    claims += more
    yield "growth", growth
    compiled, more = rules.compile_times(range(5, 65))
    claims += more
    yield "compile", compiled
    yield "claims", claims
    yield "compile_65", every_rule.compile_times()
    shapes = every_rule.that_fit(every_rule.SHAPES, largest)
    yield "every_rule", every_rule.latency(shapes, min(rounds, 5))
    yield "followed", every_rule.followed(largest, min(rounds, 5))
    if dataset is not None:
        yield from training.measure(dataset, list(training.NETWORKS)).items()


def write(folder: pathlib.Path, tables: Tables) -> None:
    """The page and the plots."""
    page = [
        "# Benchmarks",
        f"Made by `python -m benchmarks --write {folder}` on {environment()}.",
        "Times are medians over rounds in which every call has a turn; a turn is one warm-up call "
        "and as many calls as take 20 ms together. `w @ G` reads the input once; `copy` reads and "
        "writes it. PyTorch runs eagerly, with the fastest of its expressions and memory layouts. "
        "How training is compared: [throughput.md](throughput.md). The numbers as CSV: "
        "[benchmarks/](benchmarks/).",
    ]
    for name, heading in SECTIONS.items():
        if name == "latency":
            page += ["## Missed goals", WHY]
        if name in tables:
            page += [f"## {heading}", markdown(tables[name])]
    for name, figure in every_rule.plots(tables["followed"]).items():
        figure.savefig(folder / "benchmarks" / f"{name}.png", dpi=130)
        page.append(f"![{name.replace('_', ' ')}](benchmarks/{name}.png)")
    (folder / "benchmarks.md").write_text("\n\n".join(page) + "\n")


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ratios at n = 25, d = 1e6 only")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default 9)")
    parser.add_argument("--largest", type=int, default=10**8, help="largest d (default 1e8)")
    parser.add_argument("--no-training", action="store_true", help="skip what needs MNIST")
    parser.add_argument("--write", type=pathlib.Path, help="folder for benchmarks.md and CSV files")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--write makes the whole page; omit --quick.")
    timing.with_huge_pages("benchmarks")
    print(environment())
    if options.quick:
        measured = quick(min(options.rounds, 5)).items()
    else:
        measured = whole(options.rounds, options.largest, not options.no_training)
    tables: Tables = {}
    for name, rows in measured:
        tables[name] = rows
        print(f"\n{name}\n{markdown(rows)}", flush=True)
        if options.write:  # immediately, so that nothing is lost if a later one fails
            write_csv(options.write / "benchmarks", {name: rows})
    if options.write:
        write(options.write, tables)
        if "training" in tables:
            training.write(options.write, {k: tables[k] for k in ("training", "training-cells")})


if __name__ == "__main__":
    main()
