"""The losses of the study `diloco`: each rule under each attack, for each number H of local steps.

`experiments.analysis.findings` writes them into docs/studies/README.md.
"""

import math

import numpy as np
import pandas as pd

from experiments.analysis import paired
from experiments.grid import protocols, specs


def of_runs(curves: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of each run, with H, the number of rounds, and what the run lost.

    Args:
      curves: those of the study; `protocol` and `steps` are among its settings.

    Returns:
      One line per run. `loss` is infinite if the model is not finite; `excess` is the loss less
      that of the mean without attackers, of the same H and seed.
    """
    runs = paired.final(curves)
    local = [protocols.parse(text)[1]["local_steps"] for text in runs["protocol"]]
    loss = runs["loss"].where(runs["finite"]).fillna(math.inf)
    named = [_of_all_h(attack) for attack in runs["attack"]]
    runs = runs.assign(H=local, rounds=runs["steps"], loss=loss, attack=named)
    top = runs[(runs["defence"] == "mean") & (runs["s"] == 0)].set_index(["H", "seed"])["loss"]
    base = [top[key] for key in zip(runs["H"], runs["seed"])]
    return runs.assign(excess=runs["loss"] - base)


def _of_all_h(attack: str) -> str:
    """An attack without its first step, which depends on H."""
    spec = specs.read("attack", attack)
    return str(spec._replace(given={k: v for k, v in spec.given.items() if k != "until"}))


def written(curves: pd.DataFrame, bits: int) -> str:
    """The loss in each cell, then what the worst attack on each rule costs.

    Args:
      curves: those of the study.
      bits: what all workers send in a round.
    """
    runs = of_runs(curves)
    cells = ["H", "rounds", "defence"]
    losses, costs = [], []
    for (h, rounds, defence), part in runs.groupby(cells, sort=False):
        line = {"H": h, "rounds": rounds, "Gbit": f"{rounds * bits / 1e9:.1f}", "rule": defence}
        by_attack = dict(list(part.groupby("attack", sort=False)))
        losses.append(line | {name: _spread(some["loss"]) for name, some in by_attack.items()})
        lies = {name: some["loss"].mean() for name, some in by_attack.items() if name != "none"}
        worst = max(lies, key=lambda name: lies[name])
        columns = {"without attackers": "none", "under the worst attack": worst}
        costs.append(
            {"H": h, "rule": defence, "worst attack": f"`{worst}`"}
            | {label: _difference(by_attack[name]["excess"]) for label, name in columns.items()}
        )
    return "\n\n".join(
        [
            "Loss in nats, mean ± standard deviation over the seeds; Gbit are those of all "
            "workers:",
            _markdown(losses),
            "The loss less that of the mean without attackers, of the same H and seed, with the "
            "95 % interval:",
            _markdown(costs),
        ]
    )


def _spread(values: pd.Series) -> str:
    known = values[np.isfinite(values)]
    if known.empty:
        return "not finite"
    text = f"{known.mean():.3f}" + (f" ± {known.std():.3f}" if len(known) > 1 else "")
    return text + (f" ({len(values) - len(known)} not finite)" if len(known) < len(values) else "")


def _difference(values: pd.Series) -> str:
    if not np.isfinite(values).all():
        return "not finite"
    line = pd.Series(paired.interval(values.to_numpy())._asdict())
    return paired.shown(line, scale=1, digits=3)


def _markdown(lines: list[dict]) -> str:
    return pd.DataFrame(lines).fillna("").to_markdown(index=False, disable_numparse=True)
