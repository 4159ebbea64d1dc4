"""The cache of byzjax, `~/.cache/byzjax`, and data that are not on this machine."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from experiments.text.names import LONGEST


class MissingDataError(FileNotFoundError):
    """A data set is not on this machine.

    Args:
      start: where it was looked for, and what to do.
      fetchable: its name if TFDS can download it.
    """

    def __init__(self, start: str, fetchable: str = ""):
        self.start, self.fetchable = start, fetchable
        super().__init__(self.text())

    def text(self, command: str = "") -> str:
        """The message.

        Args:
          command: what was typed; named with `--download` if that is short enough.
        """
        if not self.fetchable:
            return self.start
        general = f"python -m experiments data --dataset {self.fetchable}"
        texts = [f"{self.start}, then {each} --download" for each in (command, general) if each]
        return next((text for text in texts if len(text) <= LONGEST), texts[-1])


def folder() -> Path:
    """`$XDG_CACHE_HOME/byzjax`, by default `~/.cache/byzjax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "byzjax"


class Part(NamedTuple):
    """Files of the cache.

    Attributes:
      what: what they are.
      paths: files and folders.
      bytes: their size.
    """

    what: str
    paths: list[Path]
    bytes: int


def parts() -> list[Part]:
    """What the library writes to the cache; your own files, such as those in `convex`, are not."""
    where = folder()
    return [
        _part("compiled programs", [where / "xla"]),
        _part("data sets as arrays", sorted(where.glob("*.npz"))),
    ]


def _part(what: str, paths: list[Path]) -> Part:
    return Part(what, [path for path in paths if path.exists()], sum(map(_size, paths)))


def _size(path: Path) -> int:
    total, todo = 0, [path]
    while todo:
        here = todo.pop()
        try:
            if here.is_dir() and not here.is_symlink():
                todo += here.iterdir()
            else:
                total += here.lstat().st_size
        except OSError:  # another process has removed it, or it must not be read
            pass
    return total


def clear() -> None:
    """Removes what the library has written, and the empty folder.

    Raises:
      OSError: a file cannot be removed.
    """
    for part in parts():
        for path in part.paths:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if folder().is_dir() and not any(folder().iterdir()):
        folder().rmdir()


def in_words(size: int) -> str:
    """A number of bytes: `12 MB`."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.{0 if size >= 10 * scale else 1}f} {unit}"
    return f"{size} bytes"


def line() -> str:
    """One line: where the cache is, how large, and how to clear it."""
    total = sum(part.bytes for part in parts())
    return f"Cache: {folder()}, {in_words(total)}; python -m experiments cache --clear removes it."
