"""DiLoCo beside one worker: `python -m benchmarks.strangers`, and `--write docs`.

`gpt_nano` on tiny_shakespeare: 16 workers, each with its own plays, that take ten local steps of
AdamW between two messages, and one worker that takes as many steps of AdamW on the same number of
characters in each, drawn from all plays. First without attackers, where the loss of the mean should
be within 0.05 nats of the one worker's; then three of the sixteen send negated differences, and the
loss of the trimmed mean and of Aksel should be within 0.15 of that of the mean without attackers.
The loss is that on the last tenth of the text, which nobody trains on.

The step sizes of AdamW are chosen first, by the accuracy on 785 windows held out of the training
text, with seed 0: for the one worker, and for the sixteen by the mean without attackers.
"""

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks.pages import environment, markdown, write_csv, written
from byzjax._program import Parser
from experiments.data import datasets
from experiments.execution import sweep
from experiments.grid.config import Config

N, F, H = 16, 3, 10
WINDOWS, LOCAL_STEPS = 2, 300
RATES = {1: (0.001, 0.002, 0.004), N: (0.0005, 0.001, 0.002, 0.004)}
HELD = 785  # windows, a twentieth of those to train on
GOALS = {"none": 0.05, "sign_flip": 0.15}
RULES = ("mean", "trimmed_mean", "aksel(mode='n-f')")


def adamw(rate: float, local_steps: int) -> str:
    """The protocol, on the command line."""
    return (
        f"parameter_server(local_steps={local_steps}, local='adamw', local_rate={rate}, "
        "keep_local_state=True)"
    )


def alone(rate: float, **more: Any) -> Config:
    """One worker, whose every step is the server's."""
    return _config(
        n=1,
        f=0,
        s=(0,),
        rule=("mean",),
        attack=("none",),
        protocol=adamw(rate, 1),
        batch_size=N * WINDOWS,
        steps=LOCAL_STEPS,
        learning_rate=1.0,
        momentum=0.0,
        **more,
    )


def together(rate: float, rule: Sequence[str], attack: Sequence[str], **more: Any) -> Config:
    """Sixteen workers and a server with Nesterov momentum."""
    return _config(
        n=N,
        f=F,
        s=(0,) if tuple(attack) == ("none",) else (0, F),
        rule=tuple(rule),
        attack=tuple(attack),
        protocol=adamw(rate, H),
        batch_size=H * WINDOWS,
        steps=LOCAL_STEPS // H,
        learning_rate=0.7,
        momentum=0.9,
        momentum_at="update",
        momentum_kind="nesterov",
        **more,
    )


def _config(**more: Any) -> Config:
    config = Config(
        study="strangers",
        dataset="tiny_shakespeare",
        model="gpt_nano",
        partition="contiguous",
        **more,
    )
    return dataclasses.replace(config, eval_every=config.steps)


def final(configs: Sequence[Config], metric: str) -> dict[tuple[int, str, str, int], list[float]]:
    """The last value of a metric of each seed, by n, rule, attack and s."""
    out: dict[tuple[int, str, str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        tasks = sweep.tasks(configs, folder, load)
        blocks = sweep.run(tasks, folder, load)
        if len(blocks) != len(tasks):
            raise RuntimeError(f"expected {len(tasks)} finished blocks; got {len(blocks)}.")
        for block in blocks:
            for run in block["runs"]:
                key = block["n"], block["rule"], block["attack"], run["s"]
                value = run[metric][-1]  # None if the model is not finite
                out.setdefault(key, []).append(math.inf if value is None else value)
    return out


def load(config: Config) -> datasets.Dataset:
    """The data set of a run."""
    return datasets.load(config.dataset)


def tune() -> list[dict[str, Any]]:
    """The accuracy on held-out windows for each step size."""
    rows: list[dict[str, Any]] = []
    for n, rates in RATES.items():
        for rate in rates:
            more: dict[str, Any] = {"seeds": 1, "validation": HELD}
            made = alone(rate, **more) if n == 1 else together(rate, ["mean"], ["none"], **more)
            ((accuracy,),) = final([made], "validation").values()
            tried = {"workers": n, "step size": f"{rate:g}"}
            rows.append(tried | {"accuracy, held out": f"{accuracy:.4f}"})
            print(rows[-1], flush=True)
    return rows


def best(tuned: list[dict[str, Any]], n: int) -> float:
    """The step size of n workers with the highest accuracy."""
    mine = [row for row in tuned if row["workers"] == n]
    return float(max(mine, key=lambda row: float(row["accuracy, held out"]))["step size"])


def table(losses: dict[tuple[int, str, str, int], list[float]]) -> list[dict[str, Any]]:
    """One line for each run, with the mean loss of its seeds, and the goal if it has one."""
    means = {key: sum(values) / len(values) for key, values in losses.items()}
    rows = []
    for (n, rule, attack, s), loss in means.items():
        row: dict[str, Any] = {"workers": n, "rule": rule if n > 1 else "", "attack": attack}
        row |= {"s": s, "seeds": len(losses[n, rule, attack, s]), "loss": f"{loss:.3f}"}
        row |= dict.fromkeys(("beside", "difference", "goal", "reached"), "")
        if n > 1:
            key = (1, "mean", "none", 0) if s == 0 else (n, "mean", "none", 0)
            more = loss - means[key]
            row["beside"] = "one worker" if s == 0 else "the mean without attackers"
            row["difference"] = f"{more:+.3f}"
            if (rule == "mean") == (s == 0):
                goal = GOALS[attack]
                row |= {"goal": f"<= {goal}", "reached": "yes" if more <= goal else "no"}
        rows.append(row)
    return rows


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each run (default 3)")
    parser.add_argument("--write", type=pathlib.Path, help="folder of strangers.md")
    options = parser.parse_args()
    tuned = tune()
    many = together(best(tuned, N), RULES, tuple(GOALS), seeds=options.seeds)
    rows = table(final([alone(best(tuned, 1), seeds=options.seeds), many], "loss"))
    text = f"{environment()}\n\n{markdown(rows)}\n\nThe step sizes tried:\n\n{markdown(tuned)}"
    print(text)
    if options.write:
        tables = {"strangers": rows, "strangers_step_sizes": tuned}
        write_csv(options.write / "benchmarks", tables)
        page = options.write / "strangers.md"
        page.write_text(written(page.read_text(), "strangers", text))


if __name__ == "__main__":
    main()
