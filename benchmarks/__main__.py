"""All benchmarks of rules and of training: `python -m benchmarks`.

`--quick` prints ratios in less than two minutes; `--write docs` makes docs/benchmarks.md with its
tables as CSV and its plots. For peers, `pip install -e ".[benchmarks]"`; on a quiet machine. Beside
these, `python -m benchmarks.NAME` has published (the shapes on which others publish), attacks,
protocols, kardam, spread, agreement.
"""

import argparse
import pathlib
from collections.abc import Iterator
from typing import Any

from benchmarks import every_rule, rules, timing, training
from benchmarks.pages import environment, markdown, write_csv
from experiments.data import datasets

Rows = list[dict[str, Any]]
Tables = dict[str, Rows]

# The tables of the page, in order, and what stands above each.
SECTIONS = {
    "claims": "Goals, and what was measured",
    "training": "Training: steps a second, beside ByzFL's own loop",
    "training-cells": "Training: three cells of a study, beside ByzFL's own runner",
    "latency": "Latency of the rules that are compared, float32",
    "peers": "Their peers",
    "every_rule": "Latency of every rule, float32",
    "compile_65": "Compiling every rule for a model of 65 leaves (ResNet-20)",
    "growth": "How Aksel's time grows",
}


WHY = """\
* Krum beside PyTorch's Gram form: the products take most of its time, and XLA's of a wide matrix
  with itself, ours being block by block and about a centre, take as long as PyTorch's whole form,
  which cancels where rows are near to each other.
* The nearest values of 97 to 128 workers take two sorting networks and a pass over the values: one
  network that holds all rows in order is not vectorised any more.
* Order statistics of more than 128 workers: no sorting network compiles in time, and what is done
  instead looks at every value 32 times, in halves, on one core. More rows in a kernel, more columns
  in a block, several loops side by side and counting in two kernels a pass were no faster."""


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
    """Everything, table by table."""
    dataset = datasets.load("mnist") if train else None  # if it is missing, that is said at once
    lines, seconds = rules.latency(25, 10**6, rounds)
    for n in (11, 64):
        lines += rules.latency(n, 10**6, rounds)[0]
    yield "latency", lines
    peers = {name: s for name, s in seconds.items() if name.startswith(("torch", "copy", "w @"))}
    yield "peers", [{"n": 25, "d": 10**6, "what": k, "ms": 1e3 * s} for k, s in peers.items()]
    claims = rules.ratios(seconds)
    for n in (25, 64):
        claims += rules.krum_of(n, rounds)
    claims += rules.many_workers(rounds)
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
        "Times are medians over rounds in which every call has a turn; a turn is one call that "
        "does not count and as many as take 20 ms together. `w @ G` reads the input once; `copy` "
        "reads and writes it. PyTorch runs eagerly, and of its expressions and memory layouts the "
        "fastest takes part. How training is compared: [training.md](training.md). The numbers as "
        "CSV: [benchmarks/](benchmarks/).",
    ]
    for name, heading in SECTIONS.items():
        if name == "latency":
            page += ["## Where a goal is missed, and why", WHY]
        if name in tables:
            page += [f"## {heading}", markdown(tables[name])]
    for name, figure in every_rule.plots(tables["followed"]).items():
        figure.savefig(folder / "benchmarks" / f"{name}.png", dpi=130)
        page.append(f"![{name.replace('_', ' ')}](benchmarks/{name}.png)")
    (folder / "benchmarks.md").write_text("\n\n".join(page) + "\n")


def main() -> None:
    """Measures, prints, and writes if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="ratios at n = 25, d = 1e6 only")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default 9)")
    parser.add_argument("--largest", type=int, default=10**8, help="largest d (default 1e8)")
    parser.add_argument("--no-training", action="store_true", help="leave out what needs MNIST")
    parser.add_argument("--write", type=pathlib.Path, help="folder for benchmarks.md and CSV files")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--write makes the whole page; leave out --quick.")
    timing.with_huge_pages("benchmarks")
    print(environment())
    if options.quick:
        found = quick(min(options.rounds, 5)).items()
    else:
        found = whole(options.rounds, options.largest, not options.no_training)
    tables: Tables = {}
    for name, rows in found:
        tables[name] = rows
        print(f"\n{name}\n{markdown(rows)}", flush=True)
        if options.write:  # at once, so that nothing is lost if a later one fails
            write_csv(options.write / "benchmarks", {name: rows})
    if options.write:
        write(options.write, tables)
        if "training" in tables:
            training.write(options.write, {k: tables[k] for k in ("training", "training-cells")})


if __name__ == "__main__":
    main()
