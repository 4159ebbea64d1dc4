"""Locks: two processes on one folder do not compute the same block."""

import contextlib
import fcntl
import pathlib
import sys
from collections.abc import Iterator

from tqdm import tqdm

from experiments.execution import hosts

_said: set[pathlib.Path] = set()  # folders of which the user knows


@contextlib.contextmanager
def alone(path: pathlib.Path, what: str) -> Iterator[None]:
    """Keeps other processes on the same folder waiting; processes that train together take no lock.

    Args:
      path: the lock of a block, `<folder>/locks/<name>`.
      what: the block in words, for the message to a user who waits.
    """
    if hosts.several():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.parent
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"{what} is being computed by another process; waiting."
            _say(folder, f"{folder}: {text} Its blocks are taken over, none is computed twice.")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            text = f"warning: {folder} has no locks ({error.strerror})"
            _say(folder, f"{text}: two runs at once would compute every block twice.")
        yield


def _say(folder: pathlib.Path, text: str) -> None:
    """One line per folder, above the progress bar."""
    if folder not in _said:
        _said.add(folder)
        tqdm.write(text, file=sys.stderr)


def in_use(folder: pathlib.Path) -> bool:
    """Whether another process is training a block of this folder."""
    for path in (folder / "locks").glob("*"):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                return False
    return False
