"""Contraction of rounds of agreement: `python -m benchmarks.agreement --write docs`.

Each round is measured on 1,000 random inputs and after 100 gradient ascents (tests/contraction.py),
in float64. The command fails if a factor exceeds the proved one.
"""

import pathlib
import re
from typing import Any

from benchmarks.pages import environment, write_csv
from byzjax._program import Parser
from tests import contraction

INPUTS, ASCENTS, STEPS = 1000, 100, 400
ROUNDING = 1e-12


def measure() -> list[dict[str, Any]]:
    """One row for each round."""
    rows = []
    for round_ in contraction.ROUNDS:
        at_random, after_ascent = contraction.measure(round_, INPUTS, ASCENTS, STEPS)
        rows.append(
            {
                "round": round_.name,
                "n": round_.n,
                "d": round_.d,
                "f": round_.f,
                "proved": round_.proved,
                "random inputs": len(at_random),
                "largest of random": float(at_random.max()),
                "ascents": len(after_ascent),
                "largest after ascent": float(after_ascent.max()),
            }
        )
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a table."""
    heads = [head for head in rows[0] if head not in ("random inputs", "ascents")]

    def show(value: Any) -> str:
        return f"{value:.4f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(show(row[head]) for head in heads) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--write", type=pathlib.Path, help="folder of agreement.md and the CSV")
    options = parser.parse_args()
    rows = measure()
    for row in rows:
        worst = max(row["largest of random"], row["largest after ascent"])
        if not worst <= row["proved"] * (1 + ROUNDING):
            raise SystemExit(f"{row['round']}: {worst} is above the proved {row['proved']}.")
    if options.write:
        write_csv(options.write / "benchmarks", {"agreement": rows})
        page = options.write / "agreement.md"
        page.write_text(with_table(page.read_text(), rows))


def with_table(text: str, rows: list[dict[str, Any]]) -> str:
    """The page with the measurements between its marks."""
    about = (
        f"Made by `python -m benchmarks.agreement --write docs` on {environment()}. In float64; "
        f"{INPUTS:,} random inputs and {ASCENTS} ascents of {STEPS} steps for each row."
    )
    between = f"<!-- measured -->\n{about}\n\n{table(rows)}\n<!-- end of measured -->"
    return re.sub(
        r"<!-- measured -->.*<!-- end of measured -->", lambda _: between, text, flags=re.DOTALL
    )


if __name__ == "__main__":
    main()
