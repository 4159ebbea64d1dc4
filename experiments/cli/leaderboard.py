"""The command `leaderboard`: runs, exports, ranks, submits and verifies."""

import pathlib
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import pandas as pd

from experiments.cli import material, options
from experiments.execution import claims, store, sweep
from experiments.grid import calls, naming
from experiments.grid.config import Config
from experiments.leaderboard import (
    editions,
    engine,
    entries,
    measures,
    price,
    score,
    submission,
    verification,
)
from experiments.text import arguments as command_line
from experiments.text import columns, names

ACTIONS = ("run", "export", "rank", "rows", "measure", "submit", "verify", "page")


def leaderboard(arguments: Sequence[str]) -> int:
    """Ranks every rule by its worst accuracy over all attacks."""
    command = command_line.parse(
        options.LeaderboardCommand, arguments, prog="python -m experiments leaderboard"
    )
    for name, value, known in (
        ("action", command.action, ACTIONS),
        ("edition", command.edition, editions.EDITIONS),
    ):
        if value not in known:
            raise ValueError(names.one_of(name, value, known))
    if command.action in ("verify", "page"):
        return _verify(command) if command.action == "verify" else _page(command)
    edition = _edition(command)
    if command.action == "rows":
        print(_rows(edition))
        return 0
    folder = _folder(command)
    if command.action == "measure":
        at = {f: [m for c in edition.cells if c.f == f for m in c.mixings] for f in edition.fs}
        rows = [(row, edition.n, f) for f in at for row in editions.rows(edition, f, at[f])]
        folder.mkdir(parents=True, exist_ok=True)
        measures.table(rows).to_csv(folder / measures.FILE, index=False)
        print(f"Results: {folder / measures.FILE}")
        return 0
    grids = [command.places.of(grid) for grid in editions.first(edition)]
    if command.action == "run":
        shard, shards = options.shard(command.shard)
        status = _run(command, edition, editions.of_shard(edition, grids, shard, shards), folder)
        if status or shards > 1 or command.dry_run:
            return status
    runs, missing = engine.read(edition, grids, folder)
    if command.action == "submit":
        return _submit(command, runs, missing)
    for line in _left_out(grids, missing):
        print(line)
    if command.action == "export":
        if (folder / measures.FILE).is_file():
            runs = measures.joined(runs, pd.read_csv(folder / measures.FILE))
        if command.against is not None:
            runs = engine.completed(runs, pd.read_csv(command.against))
        runs.to_csv(folder / engine.FILE, index=False)
        print(f"Results: {folder / engine.FILE}")
        return 0
    print(_ranked(command, runs, folder))
    print(f"Results: {folder / 'table.csv'}")
    return 0


def _page(command: options.LeaderboardCommand) -> int:
    if command.file is None or command.to is None:
        raise ValueError(
            "page needs two files: python -m experiments leaderboard page CSV OUT.html."
        )
    from experiments.leaderboard import page  # imported here: matplotlib takes a second

    pathlib.Path(command.to).write_text(page.html(pd.read_csv(command.file)))
    print(f"Results: {command.to}")
    return 0


def _left_out(grids: Sequence[Config], missing: Sequence[Config]) -> list[str]:
    """What is said of rows that are not finished."""
    if not missing:
        return []
    of = Counter(editions.key_of(grid)[2:] for grid in grids)
    lines = [f"{len(missing)} of {names.counted(len(grids), 'row')} are not finished and left out:"]
    for scene, count in Counter(editions.key_of(grid)[2:] for grid in missing).items():
        where = ", ".join(f"{name} {value}" for name, value in zip(score.SCENE, scene))
        lines.append(f"  {where}: {count} of {of[scene]}")
    return lines


def _submit(
    command: options.LeaderboardCommand, runs: pd.DataFrame, missing: Sequence[Config]
) -> int:
    if missing:
        raise ValueError(
            f"{names.counted(len(missing), 'row')} of the edition are not finished; repeat `run`."
        )
    given = [(kind, name) for kind in submission.KINDS for name in getattr(command, kind)]
    if len(given) != 1:
        raise ValueError(f"submit takes one --rule or one --attack; got {len(given)}.")
    kind, name = given[0]
    submitted = submission.made(runs, kind, name, command.edition)
    function = calls.parse_call(name, kind)[0].replace(":", "-")
    path = pathlib.Path(command.file or f"{function}-{command.edition}.json")
    submitted.write(path)
    module = function.partition("-")[0]
    print(
        f"{path}: {names.counted(len(submitted.cells), 'cell')}, version {submitted.version}; a "
        f"pull request adds it and {module}.py to submissions/."
    )
    return 0


def _verify(command: options.LeaderboardCommand) -> int:
    if command.file is None:
        raise ValueError("verify needs a file: python -m experiments leaderboard verify FILE.")
    path = pathlib.Path(command.file)
    submitted = submission.read(path)
    sys.path.insert(0, str(path.resolve().parent))  # the module lies next to the file
    if (here := submission.here()) != submitted.versions:
        other = ", ".join(f"{k} {v} (here {here.get(k)})" for k, v in submitted.versions.items())
        print(f"note: submitted with {other}.")
    salt = secrets.token_hex(8) if command.salt is None else command.salt
    print(f"{submitted.name}, version {submitted.version}: with --salt {salt}.")

    def placed(grids: Sequence[Config]) -> tuple[list[Config], material.Material]:
        there = [command.places.of(grid) for grid in grids]
        return there, material.Material(there)

    def train(grids: Sequence[Config]) -> list[dict[str, Any]]:
        there, data = placed(grids)
        with tempfile.TemporaryDirectory() as folder:
            tasks = sweep.tasks(there, pathlib.Path(folder), data.describe)
            finished = sweep.run(tasks, pathlib.Path(folder), data.load)
        if len(finished) < len(tasks):
            raise ValueError(f"{store.blocks(len(tasks) - len(finished))} failed.")
        return finished

    def params(grid: Config) -> Any:
        ((grid,), data) = placed([grid])
        model = sweep.model_of(grid, data.describe(grid))
        return jax.eval_shape(model.init, jax.random.key(0))

    verification.verify(submitted, salt, train, params, print)
    print(f"{path} is verified.")
    return 0


def _edition(command: options.LeaderboardCommand) -> editions.Edition:
    edition = editions.EDITIONS[command.edition]
    if command.rule:
        edition = edition._replace(rules=command.rule)
    if command.attack:
        edition = edition._replace(attacks=command.attack)
    own = any(":" in attack for attack in command.attack)
    return edition._replace(**editions.alone(edition)) if own and not command.rule else edition


def _folder(command: options.LeaderboardCommand) -> pathlib.Path:
    given = {name: getattr(command, name) for name in ("rule", "attack") if getattr(command, name)}
    base = f"leaderboard-{command.edition}"
    name = naming.named(f"{base}_", given) if given else base
    return pathlib.Path(command.places.results) / name


def _run(
    command: options.LeaderboardCommand,
    edition: editions.Edition,
    grids: list,
    folder: pathlib.Path,
) -> int:
    data = material.Material(grids)
    if command.dry_run:
        tasks = sweep.tasks(engine.priced(edition, grids), folder, data.describe)
        missing = [task for task in tasks if not store.read_block(task.path)]
        print(f"{len(tasks) - len(missing)} of {len(tasks)} blocks are there.")
        print(price.of(missing, data.describe) if missing else "Nothing is missing.")
        return 0
    settings = edition._asdict() | {"code": calls.code((*command.rule, *command.attack))}
    claims.write_command(folder, "leaderboard", settings)
    missing = engine.run(edition, grids, folder, data.describe, data.load)
    if missing:
        print(f"{store.blocks(missing)} failed; see {folder / 'failed'}.")
    return 1 if missing else 0


def _rows(edition: editions.Edition) -> str:
    out = []
    for cell in edition.cells:
        rows = editions.rows(edition, cell.f, cell.mixings)
        attacks = editions.columns(edition, cell.f)
        where = f"{cell.scene}, n = {edition.n}, f = {cell.f}, momentum {cell.momentum}"
        out.append(f"{where}: {len(rows)} rows, {len(attacks)} attacks, {cell.steps} steps")
        out += [f"  {row.rule} behind {row.mixing}" for row in rows]
    for f in edition.fs:
        out.append(f"n = {edition.n}, f = {f}:")
        out += [f"  under {attack}" for attack in editions.columns(edition, f)]
        reasons = entries.left_out(edition.n, f, edition.mixings)
        out += [f"  left out: {name}: {why}" for name, why in reasons.items()]
    return "\n".join(out)


def _ranked(command: options.LeaderboardCommand, runs: Any, folder: pathlib.Path) -> str:
    parts = []
    if command.against is not None:
        others = pd.read_csv(command.against)
        parts = [_broken(runs, others, attack) for attack in command.attack if ":" in attack]
        runs = runs if parts else engine.against(runs, others)
    board = score.table(runs)
    board.round(6).to_csv(folder / "table.csv", index=False)
    shown = ["rank", "defence", "worst", "low", "high", "gap", "without", "attack", "kappa"]
    for scene, part in board.groupby(list(score.SCENE), sort=False):
        where = ", ".join(f"{name} {value}" for name, value in zip(score.SCENE, scene))
        part = part.astype({"rank": str})
        parts += [f"{where}:", columns.of_frame(part[shown], "%.3f")]
    result = score.audit(runs)
    parts.append(
        f"{names.counted(result.rows, 'audited row')}: the thinning of attacks loses the worst one "
        f"in {result.lost}, by at most {result.most:.3f}."
    )
    return "\n\n".join(parts)


def _broken(runs: pd.DataFrame, others: pd.DataFrame, attack: str) -> str:
    of = score.broken(engine.under_others(runs, others), attack)
    lines = [
        f"{attack} breaks {len(of.alone)} of {names.counted(of.rows, 'row')} that no other "
        f"attack breaks, and hurts {len(of.worst)} clearly more than every other."
    ]
    lines += [f"  breaks {row}" for row in of.alone]
    lines += [f"  hurts most {row}" for row in of.worst if row not in of.alone]
    return "\n".join(lines)
