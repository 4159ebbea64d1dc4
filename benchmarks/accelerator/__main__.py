"""All that is measured on an accelerator: `python -m benchmarks.accelerator`, and `--write docs`.

In less than 8 minutes on one GPU or TPU: the rules as a share of the measured bandwidth of a copy
and beside PyTorch, direct calls, training loops, the Pallas kernels beside XLA, and the contract's
smoke tier. Each part runs in a process of its own and has a share of the time; what does not fit is
left out, and the page says so. `--write` writes accelerator.md and its CSV files after each number,
so that nothing is lost if the run ends early.

On a CPU, or with `--small`, the sizes are small: that shows that the command works.
"""

import argparse
import os
import pathlib
import sys
import time
import traceback

from benchmarks.accelerator import parts, running
from benchmarks.accelerator.budget import Clock, reason
from benchmarks.accelerator.report import Report
from byzjax._program import Parser

SECONDS = 450.0
STARTED = time.monotonic()


def child(options: argparse.Namespace) -> None:
    """Runs one part in this process and prints its records."""
    clock = Clock(options.seconds - (time.monotonic() - STARTED) - 2)
    platform = options.platform
    if platform is None:
        import jax

        platform = jax.default_backend()
    sizes = parts.SMALL if options.small or platform == "cpu" else parts.WHOLE
    status = 0
    try:
        for record in parts.records(options.part, clock, sizes, platform):
            running.put(record)
    except Exception as error:
        traceback.print_exc()
        print(reason(error), file=sys.stderr, flush=True)  # the last line goes to the page
        status = 1
    os._exit(status)  # a program that is being compiled would keep the process


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all (default 450)")
    parser.add_argument("--small", action="store_true", help="small sizes, as on a CPU")
    parser.add_argument("--write", type=pathlib.Path, help="folder for accelerator.md and its CSV")
    parser.add_argument("--part", choices=list(parts.PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--platform", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        child(options)
        return
    command = "python -m benchmarks.accelerator"
    command += f" --write {options.write}" if options.write else ""
    report = Report(parts.PARTS)

    def launch(part: str, seconds: float, report: Report):
        print(f"{part}: {seconds:.0f} s", flush=True)
        words = running.command_of(part, seconds, report, options.small)
        return running.records_of(words, seconds)

    def save() -> None:
        if options.write:
            report.write(options.write, command)

    running.run(parts.PARTS, options.seconds, launch, report, save)
    print(report.page(command))


if __name__ == "__main__":
    main()
