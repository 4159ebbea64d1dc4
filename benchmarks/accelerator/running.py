"""Runs each part in a process of its own, which ends at its time and may crash.

Only that process uses the device, and its memory is free for the next part. It prints records, one
line of JSON each, which are added to the page as they come.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.accelerator.budget import LEAST, NO_TIME, Part, Record, reason, short
from benchmarks.accelerator.report import Report

MARK = "record: "  # before a record; other lines of a part are shown

# The device's memory is also for PyTorch, and for the processes of the tests.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.6"}


class PartError(RuntimeError):
    """A part ended early; the message is the reason."""


def allotted(parts: Mapping[str, Part], name: str, left: float) -> float:
    """The seconds of this part: its share among those that have not run."""
    names = list(parts)
    later = names[names.index(name) :]
    return left * parts[name].share / sum(parts[other].share for other in later)


def run(
    parts: Mapping[str, Part],
    seconds: float,
    launch: Callable[[str, float, Report], Iterator[Record]],
    report: Report,
    save: Callable[[], None],
    now: Callable[[], float] = time.monotonic,
) -> None:
    """All parts, one after another, within these seconds; `save` is called after each record."""
    end = now() + seconds
    for name in parts:
        begin = now()
        given = allotted(parts, name, end - begin)
        if given < LEAST:
            report.ended(name, 0.0, max(0.0, given), NO_TIME)
            save()
            continue
        report.begins(name, given)
        save()
        try:
            for record in launch(name, given, report):
                report.take(name, record)
                save()
        except Exception as error:  # whatever it is, the other parts run
            why = str(error) if isinstance(error, PartError) else reason(error)
            report.ended(name, now() - begin, given, why)
        else:
            report.ended(name, now() - begin, given)
        save()


def records_of(command: Sequence[str], seconds: float) -> Iterator[Record]:
    """The records that a command prints; after these seconds it is killed, and its children too.

    Raises:
      PartError: the time was over, or the command failed.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env=ENVIRONMENT | os.environ,
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            _kill(process)

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(MARK):
                    yield json.loads(line.removeprefix(MARK))
                else:
                    print(line, end="", flush=True)
            process.wait()
        finally:
            timer.cancel()
            _kill(process)
            status = process.wait()
        if status != 0 and late.is_set():
            raise PartError(f"stopped after its {seconds:.0f} s")
        if status != 0:
            errors.seek(0)
            text = errors.read()
            print(text, end="", file=sys.stderr)
            raise PartError(_last_words(text, status))


def _kill(process: subprocess.Popen) -> None:
    """Kills the process and its children, which may outlive it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_words(errors: str, status: int) -> str:
    """The last line of the errors, or the signal that ended the process."""
    lines = [line for line in errors.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if status < 0:
        last = f"{signal.Signals(-status).name}; {last}"
    return short(last or f"exit status {status}")


def put(record: Record) -> None:
    """Prints a record for the process that started this one."""
    print(MARK + json.dumps(record), flush=True)


def command_of(part: str, seconds: float, report: Report, small: bool) -> list[str]:
    """The command that runs one part."""
    command = [sys.executable, "-m", "benchmarks.accelerator", "--part", part]
    command += ["--seconds", f"{seconds:.1f}", *(["--small"] if small else [])]
    platform = report.about.get("platform")
    return command + (["--platform", platform] if platform else [])
