"""Results of a study: curves, tables as CSV, Markdown and LaTeX, figures, and an HTML page."""

import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from experiments.grid import calls, specs
from experiments.grid import config as configs
from experiments.grid.config import Config
from experiments.report import backdoors, bits, figures, markup, page, private, scenes, summary
from experiments.text import columns
from experiments.text.names import counted
from experiments.training import diagnostics, texts


class About(NamedTuple):
    """The description of a study.

    Attributes:
      title: one line.
      claim: the claim it tests, as plain text: paragraphs, indented commands, `code`.
      command: the command that runs it.
    """

    title: str
    claim: str
    command: str


def ordered(blocks: Sequence[dict[str, Any]], grids: Sequence[Config]) -> list[dict[str, Any]]:
    """Finished blocks in the order of the grids."""
    places = []
    for grid in grids:
        identity = {name: getattr(grid, name) for name in configs.IDENTITY}
        ranks = {
            kind: {
                str(specs.Spec(kind, *calls.parse_call(text), {})): i
                for i, text in enumerate(texts)
            }
            for kind, texts in (
                ("rule", grid.rule),
                ("mixing", grid.mixing),
                ("attack", grid.attack),
            )
        }
        places.append((identity, ranks))

    def place(block: dict[str, Any]) -> tuple:
        for i, (identity, ranks) in enumerate(places):
            if all(_given(block, name, value) == value for name, value in identity.items()):
                kinds = [
                    ranks[kind].get(block[kind], len(ranks[kind])) for kind in ("rule", "mixing")
                ]
                attack = block["attack"]
                order = (
                    -1 if attack == "none" else ranks["attack"].get(attack, len(ranks["attack"]))
                )
                if all(block[kind] in ranks[kind] for kind in ("rule", "mixing")):
                    return i, *kinds, order, block.get("members", [])
        return len(places), 0, 0, 0, []

    return sorted(blocks, key=place)


def _given(block: dict[str, Any], name: str, otherwise: Any) -> Any:
    value = configs.setting(block, name)
    return otherwise if value is None else value


def varied(blocks: Sequence[dict[str, Any]]) -> list[str]:
    """The settings of the grids that differ between blocks."""
    return [
        name
        for name in configs.IDENTITY
        if len({repr(configs.setting(block, name)) for block in blocks}) > 1
    ]


def curves(blocks: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One line per evaluation of each run.

    Args:
      blocks: finished blocks, of one or more grids.

    Returns:
      rule, mixing, attack, s, seed, the settings that differ between the blocks, step, accuracy,
      loss, finite, optional metrics (such as validation, to_optimum), and the diagnostics; NaN for
      missing numbers. If a block has a compressor, also the bits that all workers have sent so far.
    """
    names = varied(blocks)
    asked = [name for name in scenes.ASKED if any(name in b["runs"][0] for b in blocks)]
    measured = ("accuracy", "loss", *asked, *diagnostics.NAMES)
    columns: dict[str, list] = {
        name: []
        for name in (
            *("rule", "mixing", "attack", "s", "seed", *names, "step", "accuracy", "loss"),
            *("finite", *asked, *diagnostics.NAMES),
        )
    }
    for block in blocks:
        of_block = {"rule": block["rule"], "mixing": block["mixing"], "attack": block["attack"]}
        of_block |= {name: configs.setting(block, name) for name in names}
        for run in block["runs"]:
            count = len(run["step"])
            for name, value in (of_block | {"s": run["s"], "seed": run["seed"]}).items():
                columns[name] += [value] * count
            for name in ("step", "finite"):
                columns[name] += run[name]
            for name in measured:
                columns[name] += run.get(name) or [None] * count
    data = pd.DataFrame(columns)
    if any(configs.setting(block, "compressor") != configs.NO_COMPRESSOR for block in blocks):
        data[scenes.SENT] = np.concatenate([bits.of_block(block) for block in blocks])
    numbers = {name: "float64" for name in measured}
    return data.astype({**numbers, "step": int, "s": int, "seed": int, "finite": bool})


def table(data: pd.DataFrame) -> pd.DataFrame:
    """Final test accuracy over the seeds.

    Args:
      data: the curves.

    Returns:
      One line per rule, mixing (if there is any), attack, s and setting: mean, standard deviation,
      minimum and maximum over the seeds; number of seeds; number of final models that are not
      finite; `low` and `high`, the 95 % confidence interval of the mean by Student's t, empty for
      one seed; and the first evaluation at which a model was not finite. With client sampling,
      also the number of rounds of all seeds in which more Byzantine workers were drawn than the
      rule was told to tolerate, and their share; on text the mean loss in nats and in bits per
      character; with a compressor the bits that all workers of one run have sent; under
      backdoors the attack success rate, likewise over the seeds.
    """
    mixing = ["mixing"] if (data["mixing"] != "none").any() else []
    keys = ["rule", *mixing, "attack", "s", *scenes.settings(data)]
    groups = scenes.final(data).groupby(keys, sort=False, dropna=False)
    out = groups["accuracy"].agg(["mean", "std", "min", "max"]).reset_index()
    out["seeds"] = groups["seed"].nunique().to_numpy()
    out["diverged"] = (groups["finite"].count() - groups["finite"].sum()).to_numpy().astype(int)
    count = groups["accuracy"].count().to_numpy()
    quantile = stats.t.ppf(0.975, np.maximum(count - 1, 1))
    half = np.where(count > 1, quantile * out["std"] / np.sqrt(np.maximum(count, 1)), np.nan)
    out["low"], out["high"] = out["mean"] - half, out["mean"] + half
    where = data["step"].where(~data["finite"])
    first = where.groupby([data[key] for key in keys], sort=False, dropna=False).min()
    lines = pd.MultiIndex.from_frame(out[keys])
    out["diverged_at"] = first.reindex(lines).astype("Int64").to_numpy()
    if "excess_rounds" in data:
        out["excess_rounds"] = groups["excess_rounds"].sum(min_count=1).to_numpy()
        out["excess_share"] = groups["excess_share"].mean().to_numpy()
    if scenes.SENT in data:
        out[scenes.SENT] = groups[scenes.SENT].max().to_numpy()
    if texts.BITS in data:
        out["loss"] = groups["loss"].mean().to_numpy()
        out[texts.BITS] = groups[texts.BITS].mean().to_numpy()
    if backdoors.SUCCESS in data:
        out = out.assign(**backdoors.summary(groups))
    return out.astype({"diverged_at": "Int64"})


def cell(row: pd.Series) -> str:
    """A mean over the seeds in per cent, with the standard deviation if there are several."""
    text = f"{100 * row['mean']:.1f}"
    if row["seeds"] > 1:
        text += f" ± {100 * row['std']:.1f}"
    return text + (" (NaN)" if row["diverged"] else "")


def wide_table(results: pd.DataFrame, s: int) -> pd.DataFrame:
    """Rules against attacks for one s and one setting, as text in per cent."""
    chosen = results[(results["s"] == s) | (results["attack"] == "none")].copy()
    if "mixing" in chosen:
        chosen["rule"] = [scenes.defence(*pair) for pair in zip(chosen["rule"], chosen["mixing"])]
    chosen["text"] = chosen.apply(cell, axis=1)
    out = chosen.pivot(index="rule", columns="attack", values="text")
    attacks = sorted(chosen["attack"].unique(), key=lambda attack: attack != "none")
    out = out.reindex(index=chosen["rule"].unique(), columns=attacks)
    return out.fillna("")


def wide_tables(results: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Heading and `wide_table` of each part of a study: accuracies, then attack success rates."""
    out = []
    for setting, part in scenes.split(results):
        some = sorted(s for s in part["s"].unique() if s > 0)
        for s in some or [0] if len(part) else []:
            out.append((_heading("Final test accuracy", setting, s), wide_table(part, s)))
            rates = backdoors.instead(part[part["s"] == s])
            if len(rates):
                out.append((_heading("Attack success rate", setting, s), wide_table(rates, s)))
    return out


def _heading(measured: str, setting: dict[str, Any], s: int) -> str:
    where = f"{scenes.say(setting)}, " if setting else ""
    liars = counted(int(s), "liar")
    return f"{measured} in per cent, mean ± standard deviation, {where}s = {liars}"


_NOT_FINITE = "(NaN): the model of at least one seed is not finite."


def text(
    results: pd.DataFrame, width: int | None = None, blocks: Sequence[dict[str, Any]] = ()
) -> str:
    """The tables as Markdown, one per setting and s, and sentences below them.

    Args:
      results: the table of a study.
      width: of a terminal, for which to write; None for Markdown.
      blocks: the finished blocks, of which private ones have an epsilon.
    """
    parts = []
    for title, wide in wide_tables(results):
        heading = f"{title}:"
        if width is None:
            parts += [heading, wide.to_markdown()]
        else:
            rows = [[name, *row] for name, row in zip(wide.index, wide.to_numpy().tolist())]
            parts += ["\n".join(textwrap.wrap(heading, width))]
            parts += [columns.fitted(["rule", *wide.columns], rows, width)]
    if results["diverged"].any():
        parts.append(_NOT_FINITE)
    said = backdoors.WORDS if len(backdoors.instead(results)) else None
    more = [said, summary.excess(results), summary.bits(results), *private.sentences(blocks)]
    for sentence in filter(None, more):
        parts.append(sentence if width is None else "\n".join(textwrap.wrap(sentence, width)))
    return "\n\n".join(parts or ["No run is finished."])


_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}


def latex_escape(value: str) -> str:
    """Text escaped for LaTeX."""
    return "".join(_SPECIAL.get(sign, sign) for sign in value)


def latex(results: pd.DataFrame) -> str:
    r"""The tables as LaTeX floats, one per setting and s; needs `\usepackage{booktabs}`."""
    parts = [r"% needs \usepackage{booktabs}"]
    for title, wide in wide_tables(results):
        lines = [["rule", *wide.columns], *([name, *row] for name, row in wide.iterrows())]
        rows = [" & ".join(latex_escape(str(cell)) for cell in line) + r" \\" for line in lines]
        caption = f"{title}."
        if any("NaN" in line for line in rows[1:]):
            caption += f" {_NOT_FINITE}"
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering\small",
                    rf"\caption{{{latex_escape(caption)}}}",
                    rf"\begin{{tabular}}{{l{'r' * len(wide.columns)}}}",
                    r"\toprule",
                    rows[0],
                    r"\midrule",
                    *rows[1:],
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def write(
    folder: pathlib.Path,
    blocks: Sequence[dict[str, Any]],
    grids: Sequence[Config],
    about: About,
    failures: Sequence[dict[str, Any]] = (),
) -> pd.DataFrame:
    """Writes all results of a study into its folder.

    These are table.csv, table.md, table.tex, curves.csv, index.html, and the figures as PNG and
    SVG.

    Args:
      folder: the folder; created if missing.
      blocks: the finished blocks, in any order.
      grids: their grids.
      about: title, claim and command.
      failures: the failed blocks: their settings and `error`.

    Returns:
      The table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = ordered(blocks, grids)
    data = curves(blocks)
    results = table(data)
    results.round(6).to_csv(folder / "table.csv", index=False)
    data.to_csv(folder / "curves.csv", index=False)
    (folder / "table.md").write_text(text(results, blocks=blocks) + "\n")
    (folder / "table.tex").write_text(latex(results))
    pictures = []
    with figures.style():
        for name, drawing in figures.make(data, grids).items():
            vector, raster = figures.render(drawing.figure)
            (folder / f"{name}.svg").write_text(vector)
            (folder / f"{name}.png").write_bytes(raster)
            title, above = figures.above(drawing.figure)
            shown = (name, drawing.caption, drawing.setting, title, vector, above)
            pictures.append(markup.Picture(*shown))
    study = page.Study(*about, grids, blocks, results, pictures, failures)
    (folder / "index.html").write_text(page.html(study))
    return results
