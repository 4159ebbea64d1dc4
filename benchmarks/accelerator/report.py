"""What a run has measured so far, as a page and as CSV files."""

import pathlib
from typing import Any

from benchmarks.accelerator.budget import Part, Record, missing, short
from benchmarks.pages import markdown, write_csv

# The tables of the page, in order: heading, and what the columns mean.
TABLES = {
    "copy": (
        "Copies",
        "A negation of a vector, which reads and writes it: the bandwidth that the shares refer to "
        "is that of a copy of the same shape, timed in turns with the rule.",
    ),
    "kernels": (
        "Pallas kernels beside XLA",
        "The kernels of `benchmarks/accelerator/kernels.py` beside the library's rules. A median "
        "and a trimmed mean should read the input once and write one row, Aksel read it twice and "
        "write two; the share is that of the bandwidth of a copy. The difference is the largest "
        "one between the two results.",
    ),
    "smoke": (
        "The contract on the device",
        "The smoke tier of the tests of rules, attacks, mixings, memory and order statistics, with "
        "the device as JAX's default.",
    ),
    "smoke_failures": ("Tests that fail on the device", ""),
    "training": (
        "Training",
        "Ten honest workers and one Byzantine, batch 25, a trimmed mean under little_is_enough, "
        "images of the size of MNIST (random, since speed does not depend on them). Runs at once "
        "are one vmapped program.",
    ),
    "direct": (
        "Direct calls",
        "A direct call beside `jax.jit` of the same, n = 25: [direct.md](direct.md) has the goals.",
    ),
    "rules": (
        "All rules",
        "The share is that of one read of the input and one written row in the time of the rule, "
        "at the bandwidth of a copy; rules that need more passes cannot reach 1. `PyTorch` is the "
        "fastest of plain expressions on the same device (its median of an even number is the lower"
        " of the two middle values). Programs are compiled several at once.",
    ),
}

ON_A_CPU = """\
**No accelerator has been measured.** These are numbers of a CPU at small sizes, which show only \
that the command works. The goals of an accelerator do not apply to a CPU, where a copy also waits \
for fresh memory, so that a share may exceed 1. On a machine with a GPU or a TPU the same command \
replaces this page, in less than 8 minutes on one card."""

NOT_BEGUN, NOT_ENDED, DONE = "not begun", "begun, not ended", "done"


class Report:
    """Collects records.

    Attributes:
      about: `environment`, `platform` of the first part; empty if it failed.
      tables: rows, by the name of the table.
      absent: what was not measured: part, what, why.
      parts: a row for each part: seconds that it had and took, and its outcome.
    """

    def __init__(self, parts: dict[str, Part]):
        self._parts, self._with_rows = parts, set()
        self.about: dict[str, Any] = {}
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.absent: list[dict[str, Any]] = []
        self.parts: dict[str, dict[str, Any]] = {
            name: {"part": name, "s": None, "of": None, "outcome": NOT_BEGUN} for name in parts
        }

    def take(self, part: str, record: Record) -> None:
        """Adds one record of a part."""
        if "about" in record:
            self.about = record["about"]
        elif "table" in record:
            self._with_rows.add(part)
            self.tables.setdefault(record["table"], []).append(record["row"])
        else:
            what, why = short(record["missing"]), short(record["why"])
            self.absent.append({"part": part, "what": what, "why": why})

    def begins(self, part: str, allotted: float) -> None:
        """Notes that a part runs; it stays so if the run ends early."""
        self.parts[part] |= {"of": allotted, "outcome": NOT_ENDED}

    def ended(self, part: str, seconds: float, allotted: float, outcome: str = DONE) -> None:
        """Notes how a part went; unless it is done, what it left out is said."""
        self.parts[part] |= {"s": seconds, "of": allotted, "outcome": short(outcome)}
        if outcome != DONE:
            self.take(part, missing(self._rest(part), outcome))

    def _rest(self, part: str) -> str:
        what = self._parts[part].what
        return f"the rest of: {what}" if part in self._with_rows else what

    def not_measured(self) -> list[dict[str, Any]]:
        """The rows of that section; first of all everything, if there was no accelerator."""
        rows = []
        if self.about.get("platform") == "cpu":
            rows = [
                {"part": name, "what": f"on an accelerator: {part.what}", "why": "none was there"}
                for name, part in self._parts.items()
            ]
        rows += self.absent
        for name, part in self.parts.items():
            if part["outcome"] in (NOT_BEGUN, NOT_ENDED):
                rows.append({"part": name, "what": self._rest(name), "why": part["outcome"]})
        return rows

    def page(self, command: str) -> str:
        """The whole page."""
        device = self.about.get("environment", "a device that did not answer")
        made = f"Made by `{command}` on {device}."
        page = ["# On an accelerator", made]
        if self.about.get("platform") == "cpu":
            page.append(ON_A_CPU)
        absent = self.not_measured()
        page += ["## What was not measured", markdown(absent) if absent else "All was measured."]
        for name, (heading, text) in TABLES.items():
            if name in self.tables:
                page += [f"## {heading}", *([text] if text else []), markdown(self.tables[name])]
        seconds = sum(part["s"] or 0 for part in self.parts.values())
        page += ["## The parts of the run", f"{seconds:.0f} s in all; what each took, and had:"]
        page += [markdown(list(self.parts.values()))]
        page += ["The numbers as CSV: `accelerator_*.csv` in [benchmarks/](benchmarks/)."]
        return "\n\n".join(page) + "\n"

    def write(self, folder: pathlib.Path, command: str) -> None:
        """The page, and a CSV file for each table; files of tables that are not there go."""
        device = self.about.get("environment")
        parts = [row | {"measured on": device} for row in self.parts.values()]
        tables = {name: self.tables.get(name, []) for name in TABLES}
        tables |= {"parts": parts, "not_measured": self.not_measured()}
        write_csv(folder / "benchmarks", {f"accelerator_{k}": rows for k, rows in tables.items()})
        for name, rows in tables.items():
            if not rows:
                (folder / "benchmarks" / f"accelerator_{name}.csv").unlink(missing_ok=True)
        (folder / "accelerator.md").write_text(self.page(command))
