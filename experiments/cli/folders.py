"""Where results and the cache are: reading a study's folder, and the command `cache`."""

import contextlib
import dataclasses
import io
import os
import pathlib
import sys
from collections.abc import Sequence

from experiments.data import cache, prepared
from experiments.execution import claims, export, store, strict
from experiments.grid.config import Config
from experiments.text import arguments as command_line


def as_seen_from_here(path: pathlib.Path) -> pathlib.Path:
    """The path relative to the working directory if it is inside."""
    here = pathlib.Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def results_line(folder: pathlib.Path) -> str:
    """One line: where the results are."""
    return (
        f"Results: {folder}: index.html, tables as CSV, Markdown and LaTeX, figures as PNG and SVG."
    )


def finished(folder: pathlib.Path) -> tuple[dict, list[Config], list[dict]]:
    """The content of config.json, its grids, and their finished blocks."""
    described = claims.read(folder)
    if described is None:
        raise FileNotFoundError(f"{folder} has no config.json; expected the folder of a study.")
    grids = described.grids
    if not grids:
        raise ValueError(
            f"{folder} is not the folder of a study: its config.json has no grids; expected a "
            "folder that run or study has written, such as results/main."
        )
    blocks = store.finished(grids, folder)
    if not blocks:
        raise FileNotFoundError(f"{folder / 'blocks'} has no finished block of these grids.")
    store.warn_of_other_versions(blocks)
    return described.more, grids, blocks


def print_what_is_missing(folder: pathlib.Path, grids: list[Config], blocks: list[dict]) -> None:
    """Says on stderr which blocks failed, are damaged, absent, or belong to other settings."""
    for failure in store.failures(folder):
        path = folder / "failed" / failure["file"]
        print(store.failure_line(failure, path), file=sys.stderr)
    for failure in store.damaged(folder):
        print(f"warning: {failure['error']}", file=sys.stderr)
    missing, planned = store.unfinished(grids, blocks)
    if missing:
        note = f"note: {planned - missing} of {planned} runs are here; the command that trained"
        print(f"{note} them continues with the others.", file=sys.stderr)
    with contextlib.redirect_stderr(io.StringIO()):  # damaged blocks have been named
        others = len(store.every(folder)) - len(blocks)
    if others:
        note = f"note: {store.blocks(others)} of other settings in {folder / 'blocks'}"
        print(f"{note}, not shown.", file=sys.stderr)


def with_blocks(folder: pathlib.Path) -> pathlib.Path:
    """The folder; for an exported one, a folder in `results` that its blocks are copied to."""
    exported = (folder / export.FILE).is_file()
    if not exported or (folder / "blocks").is_dir():
        return folder
    described = claims.read(folder)
    target = pathlib.Path("results") / folder.resolve().name
    if described is not None:
        known = ("study", "edition")
        more = {name: described.more[name] for name in known if name in described.more}
        claims.check(target, described.grids, "move it away, or start in another folder", **more)
    export.bring_in(folder, target)
    print(f"{folder} holds exported blocks; the report goes to {target}.")
    if described is not None and not (target / "config.json").exists():
        store.write_json(target / "config.json", strict.loads((folder / "config.json").read_text()))
    return target


@dataclasses.dataclass(frozen=True)
class CacheCommand:
    """Show where results, data and the cache are, and how much space they take."""

    clear: bool = False
    """Remove the cache: compiled programs and decoded data sets. The next command makes it anew;
    results, prepared data sets and your own files stay."""


def show_cache(arguments: Sequence[str]) -> int:
    """Shows where results, data and the cache are, or clears the cache."""
    command = command_line.parse(CacheCommand, arguments, prog="python -m experiments cache")
    if command.clear:
        size = sum(part.bytes for part in cache.parts())
        cache.clear()
        print(f"Removed {cache.in_words(size)} from {cache.folder()}.")
        return 0
    lines = [("results/", "results, each study in a folder (--results changes the place)")]
    for part in cache.parts():
        where = cache.folder() / ("xla" if part.what == "compiled programs" else "*.npz")
        lines.append((str(where), f"{part.what}, {cache.in_words(part.bytes)}"))
    if given := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        lines.append((given, "compiled programs, by $JAX_COMPILATION_CACHE_DIR; --clear leaves it"))
    lines.append((str(cache.folder() / "convex"), "your files of a9a, mushrooms, spambase and w8a"))
    lines.append((str(prepared.root(None)), "image data sets, prepared by TFDS"))
    width = max(len(where) for where, _ in lines)
    print("\n".join(f"{where:<{width}}  {what}" for where, what in lines))
    print("python -m experiments cache --clear removes the compiled programs and the arrays.")
    return 0
