"""The command `leaderboard`: runs, exports and ranks."""

import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.cli import material, options
from experiments.execution import claims, cost, store, sweep
from experiments.grid import calls, naming
from experiments.leaderboard import editions, engine, entries
from experiments.text import arguments as command_line
from experiments.text import columns, names

ACTIONS = ("run", "export", "rank", "rows")


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
    edition = _edition(command)
    if command.action == "rows":
        print(_rows(edition))
        return 0
    folder = _folder(command)
    grids = [command.places.of(grid) for grid in editions.first(edition)]
    if command.action == "run":
        shard, shards = options.shard(command.shard)
        status = _run(command, edition, editions.of_shard(grids, shard, shards), folder)
        if status or shards > 1 or command.dry_run:
            return status
    runs = engine.read(edition, grids, folder)
    if command.action == "export":
        runs.to_csv(folder / engine.FILE, index=False)
        print(f"Results: {folder / engine.FILE}")
        return 0
    print(_ranked(command, runs, folder))
    print(f"Results: {folder / 'table.csv'}")
    return 0


def _edition(command: options.LeaderboardCommand) -> editions.Edition:
    edition = editions.EDITIONS[command.edition]
    if command.rule:
        edition = edition._replace(rules=command.rule)
    return edition._replace(attacks=command.attack) if command.attack else edition


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
        tasks = sweep.tasks(grids, folder, data.describe)
        missing = [task for task in tasks if not store.read_block(task.path)]
        print(f"{len(tasks) - len(missing)} of {len(tasks)} blocks of the first stage are there.")
        print(cost.estimate(missing, data.describe) if missing else "Nothing is missing.")
        return 0
    settings = edition._asdict() | {"code": calls.code((*command.rule, *command.attack))}
    claims.write_command(folder, "leaderboard", settings)
    missing = engine.run(edition, grids, folder, data.describe, data.load)
    if missing:
        print(f"{store.blocks(missing)} failed; see {folder / 'failed'}.")
    return 1 if missing else 0


def _rows(edition: editions.Edition) -> str:
    out = []
    for f in edition.fs:
        rows = editions.rows(edition, f)
        attacks = editions.columns(edition, f)
        out.append(f"n = {edition.n}, f = {f}: {len(rows)} rows, {len(attacks)} attacks")
        out += [f"  {row.rule} behind {row.mixing}" for row in rows]
        out += [f"  under {attack}" for attack in attacks]
        reasons = entries.left_out(edition.n, f, edition.mixings)
        out += [f"  left out: {name}: {why}" for name, why in reasons.items()]
    return "\n".join(out)


def _ranked(command: options.LeaderboardCommand, runs: Any, folder: pathlib.Path) -> str:
    import pandas as pd  # imported here: pandas takes a second

    from experiments.leaderboard import score

    if command.against is not None:
        runs = engine.against(runs, pd.read_csv(command.against))
    board = score.table(runs)
    board.round(6).to_csv(folder / "table.csv", index=False)
    parts = []
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
