"""The contract's smoke tier on the device: pytest in a process of its own.

JAX is not imported here: the tests need the device.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.accelerator.budget import Clock, Record, missing, row
from benchmarks.accelerator.parts import Sizes

FAILURES = 40  # named on the page, at most


def environment(platform: str) -> dict[str, str]:
    """The device is JAX's default; the CPU is there for tests of several devices."""
    if platform == "cpu":
        return {"JAX_PLATFORMS": "cpu"}
    # The tests' own flags are for compiling on the CPU. Processes share the device's memory.
    names = {"gpu": "cuda,cpu"}
    return {
        "JAX_PLATFORMS": names.get(platform, f"{platform},cpu"),
        "XLA_FLAGS": "",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def command(tests: Sequence[str], platform: str) -> list[str]:
    """Pytest; only one process can use a TPU."""
    count = "0" if platform == "tpu" else str(min(8, os.cpu_count() or 1))
    words = ["-m", "smoke", "-q", "-n", count, "--tb", "line", "-rfE"]
    return [sys.executable, "-m", "pytest", *words, "-p", "no:cacheprovider", *tests]


def records(clock: Clock, sizes: Sizes, platform: str) -> Iterator[Record]:
    """The closing line of pytest, and a row for each failure."""
    # Three seconds to read the outcome.
    seconds = max(0.0, clock.left() - 3)
    yield from outcome(command(sizes.tests, platform), environment(platform), seconds)


def outcome(
    words: Sequence[str], environment: Mapping[str, str], seconds: float
) -> Iterator[Record]:
    """The records of a run of pytest within these seconds."""
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, env=os.environ | environment
        )
        try:
            process.wait(seconds)
            late = False
        except subprocess.TimeoutExpired:
            late = True
            process.kill()  # its workers end with this process
            process.wait()
        output.seek(0)
        text = output.read()
    lines = [line for line in text.splitlines() if line.strip()]
    result = lines[-1].strip("= ") if lines else "no output"
    if late:
        passed = _progress(text).count(".")
        why = f"stopped after {seconds:.0f} s, when {passed} tests had passed"
        yield missing("the rest of the smoke tier", why)
        result = f"stopped; {passed} passed"
    yield row(
        "smoke",
        result=result,
        s=time.monotonic() - begin,
        **{"exit status": process.returncode},
        platforms=environment["JAX_PLATFORMS"],
    )
    failures = re.findall(r"^(?:FAILED|ERROR) (\S+)(?: - (.*))?$", text, re.MULTILINE)
    for test, why in failures[:FAILURES]:
        yield row("smoke_failures", test=test.replace("|", "/"), why=why[:100].replace("|", "/"))
    if len(failures) > FAILURES:
        yield missing("the names of further failures", f"there are {len(failures)} in all")


def _progress(text: str) -> str:
    """The letters of the tests that ended, one for each."""
    return "".join(re.findall(r"^([.FEsx]+) *(?:\[ *\d+%\])?$", text, re.MULTILINE))
