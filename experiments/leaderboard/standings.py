"""The results on docs/leaderboard.md, and the page beside them, from the exported table.

    python -m experiments.leaderboard.standings docs

Rewrites the text between the markers and `leaderboard/cpu.html`; a test checks that both agree with
`leaderboard/cpu.csv`.
"""

import pathlib
from collections.abc import Sequence

import pandas as pd

from experiments.grid import calls
from experiments.leaderboard import page as pages
from experiments.leaderboard import score
from experiments.text.arguments import rewrite

TABLE, PAGE = "cpu.csv", "cpu.html"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
KEY = list(score.SCENE)


def results(runs: pd.DataFrame) -> str:
    """What the page says of an exported table, as Markdown.

    First the rules alone in every ranking, then each ranking that has mixings, then the attacks by
    how many rows they are the worst of. A cell is the worst accuracy in per cent, mean over the
    seeds, and the rank among all rows of the ranking.
    """
    board = score.table(runs)
    columns = list(dict.fromkeys(map(_where, board.to_dict("records"))))
    board = board.assign(where=[_where(row) for row in board.to_dict("records")])
    audit = score.audit(runs)
    parts = [
        f"{len(board)} rows in {len(columns)} ranking{'s' * (len(columns) > 1)}, "
        f"{runs['attack'].nunique() - 1} attacks, {len(runs):,} runs. In {audit.lost} of "
        f"{audit.rows} audited rows the thinning lost the worst attack, by at most "
        f"{100 * audit.most:.1f} points.",
        "Rules alone: worst accuracy in per cent over the attacks with s = f, and the rank among "
        "all rows of the ranking:",
        _across(board[board["mixing"] == "none"], "where", columns),
    ]
    for where, part in board.groupby("where", sort=False):
        mixings = [name for name in runs["mixing"].unique() if name in set(part["mixing"])]
        if len(mixings) > 1:
            parts += [f"Behind a mixing, {where}:", _across(part, "mixing", mixings)]
    return "\n\n".join([*parts, "The worst attack of each row, in how many rows:", _worst(board)])


def _where(row: dict) -> str:
    data = row["dataset"] if row["dataset"] == "digits" else f"{row['dataset']}, {row['partition']}"
    return f"{data}, f = {row['f']}, momentum {row['momentum']:g}"


def _across(board: pd.DataFrame, by: str, columns: Sequence[str]) -> str:
    """Rules in rows, the best mean over the columns first; a blank where there is no such row."""
    order = board.groupby("rule")["worst"].mean().sort_values(ascending=False).index
    cells = {
        (row["rule"], row[by]): f"{100 * row['worst']:.1f} ({row['rank']})"
        for row in board.to_dict("records")
    }
    lines = [[f"`{rule}`", *(cells.get((rule, c), "") for c in columns)] for rule in order]
    return _markdown(lines, ["rule", *columns])


def _worst(board: pd.DataFrame) -> str:
    names = board["attack"].map(lambda text: calls.parse_call(text, "attack")[0])
    count = names.groupby(board["where"], sort=False).value_counts().unstack(0, fill_value=0)
    count = count.assign(all=count.sum(axis=1)).sort_values("all", ascending=False, kind="stable")
    count = count[[*list(dict.fromkeys(board["where"])), "all"]]
    return _markdown(
        [[f"`{name}`", *row] for name, row in zip(count.index, count.to_numpy())],
        ["attack", *count.columns],
    )


def _markdown(lines: Sequence[Sequence], columns: Sequence[str]) -> str:
    return pd.DataFrame(lines, columns=list(columns)).to_markdown(
        index=False, disable_numparse=True
    )


def written(page: str, docs: pathlib.Path) -> str:
    """The page with its results regenerated; `leaderboard/cpu.html` is written beside it."""
    runs = pd.read_csv(docs / "leaderboard" / TABLE)
    (docs / "leaderboard" / PAGE).write_text(pages.html(runs))
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{results(runs)}\n\n{END}{after}"


if __name__ == "__main__":
    rewrite("leaderboard.md", written, __doc__)
