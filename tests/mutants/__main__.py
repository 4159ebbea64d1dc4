"""Measures the strength of the tests: each mutant is applied to a copy, and its tests are run.

    python -m tests.mutants                       # the default tier, all mutants
    python -m tests.mutants --tier all --shard 1/4
    python -m tests.mutants --only krum --jobs 1

A mutant is caught if one of its tests fails, survives if they pass, and is not tried if the tier
has none of them. The exit status is 1 if one survives or is not tried. `--unchanged` runs
the same tests on the unchanged code, where all must pass: otherwise "caught" means nothing.
"""

import argparse
import collections
import concurrent.futures
import csv
import os
import pathlib
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

from byzjax._program import Parser
from tests.mutants import MUTANTS
from tests.mutants.mutant import Mutant

ROOT = pathlib.Path(__file__).parents[2]
TIERS = {"smoke": "smoke", "default": "not slow", "all": "slow or not slow"}
OUTCOMES = {0: "survives", 1: "caught", 2: "caught", 5: "not tried"}  # by pytest's exit status
SECONDS = 600  # after which a mutant counts as caught: it runs for ever


def copied(folder: pathlib.Path) -> pathlib.Path:
    """The files that git knows of, as they are in the working tree."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def tried(tests: str, tier: str, tree: pathlib.Path) -> tuple[str, float, str]:
    """What came of these tests in that tree: the outcome, seconds, the end of pytest's output."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    command += ["-m", TIERS[tier], *shlex.split(tests)]
    # Bytecode is told apart by size and second: a mutant may have both of its predecessor.
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    if tier == "all":
        environment["XLA_FLAGS"] = ""  # CI compiles as users do, too
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, timeout=SECONDS, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        return "caught", time.monotonic() - start, f"ended after {SECONDS} s"
    outcome = OUTCOMES.get(done.returncode, f"pytest ends with {done.returncode}")
    tail = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return outcome, time.monotonic() - start, "\n".join(tail[-12:])


def tried_with(mutant: Mutant, tier: str, tree: pathlib.Path) -> tuple[str, float, str]:
    """The same with the mutant applied, and taken back afterwards."""
    path = tree / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return "not applied", 0.0, f"{mutant.old!r} occurs {text.count(mutant.old)} times."
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        return tried(mutant.tests, tier, tree)
    finally:
        path.write_text(text)


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--tier", choices=TIERS, default="default", help="which tests may run")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="part I of N")
    parser.add_argument("--only", default="", metavar="TEXT", help="what its name or file holds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--unchanged", action="store_true", help="on the unchanged code instead")
    parser.add_argument("--table", metavar="FILE", help="a CSV file for the outcomes")
    given = parser.parse_args(arguments)
    part, _, parts = given.shard.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        parser.error(f"a shard reads as I/N with 1 <= I <= N; got {given.shard!r}.")
    given.part, given.parts = int(part), int(parts)
    given.chosen = [m for m in MUTANTS if given.only in m.what or given.only in m.file]
    if not given.chosen:
        parser.error(f"no mutant's name or file holds {given.only!r}; one does hold 'krum'.")
    return given


def main(arguments: list[str] | None = None) -> int:
    given = options(arguments)
    chosen = given.chosen[given.part - 1 :: given.parts]
    if given.unchanged:
        first = {mutant.tests: mutant for mutant in reversed(chosen)}
        chosen = [mutant for mutant in chosen if first[mutant.tests] is mutant]
    rows, trees = [], queue.SimpleQueue()

    def one(mutant: Mutant) -> tuple[Mutant, tuple[str, float, str]]:
        tree = trees.get()
        try:
            if given.unchanged:
                return mutant, tried(mutant.tests, given.tier, tree)
            return mutant, tried_with(mutant, given.tier, tree)
        finally:
            trees.put(tree)

    with tempfile.TemporaryDirectory(prefix="byzjax-mutants-") as folder:
        for job in range(given.jobs):
            trees.put(copied(pathlib.Path(folder, str(job))))
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(folder, "xla")))
        with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
            for future in concurrent.futures.as_completed([pool.submit(one, m) for m in chosen]):
                mutant, (outcome, seconds, tail) = future.result()
                rows.append((mutant.what, mutant.file, given.tier, outcome, f"{seconds:.1f}"))
                print(f"{outcome:>9} {seconds:6.1f} s  {mutant.file}: {mutant.what}", flush=True)
                if outcome != ("survives" if given.unchanged else "caught"):
                    print(f"          {mutant.tests}\n{tail}\n", flush=True)
    if given.table:
        with open(given.table, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["mutant", "file", "tier", "outcome", "seconds"])
            writer.writerows(sorted(rows))
    counts = collections.Counter(row[3] for row in rows)
    print(f"{len(rows)} tried: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return int(set(counts) != {"survives" if given.unchanged else "caught"})


if __name__ == "__main__":
    sys.exit(main())
