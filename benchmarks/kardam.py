"""Cost and protection of Kardam's judges: `python -m benchmarks.kardam`, and `--write docs`.

Asynchronous training of the MLP with n = 15 workers, f = 4 of them declared and Byzantine, batch
16, step size 0.1, damping 1 / (1 + tau), on digits and MNIST (through TFDS). Accuracy is that of
the last model on all test samples. "Accepted" is the share of the arriving gradients, of honest or
of Byzantine workers, that the judges accepted. "Arrivals to 90 %" is where the accuracy first
reached 90 %, interpolated linearly between evaluations, and "slower by" is 1 - plain / judged,
compared with plain asynchronous training without Byzantine workers.
"""

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks.pages import environment, markdown, write_csv, written
from byzjax._program import Parser
from experiments.data import datasets
from experiments.grid import planning
from experiments.grid.config import Config
from experiments.models import zoo
from experiments.text.names import counted
from experiments.training import program as programs
from experiments.training.runs import block_runs

N, F, LEVEL = 15, 4, 0.9
ATTACKS = (
    "none",
    "gaussian(sigma=200)",
    "reversed_gradient(kappa=100)",
    "sign_flip",
    "little_is_enough",
    "inner_product_manipulation(epsilon=0.5)",
)
# Arrivals for each data set, and the interval between evaluations.
LENGTHS = {"digits": (9_000, 100), "mnist": (27_000, 900)}


def trained(config: Config, dataset: datasets.Dataset) -> list[dict[str, Any]]:
    """For each attack of the config, means over seeds of accuracy, acceptance and arrivals."""
    model = zoo.build("mlp", dataset.train_x.shape[1:], dataset.num_classes)
    lines = []
    blocks = planning.plan(config, 0)
    built: dict[tuple, programs.Program] = {}
    for block in tqdm(blocks, desc=f"{config.dataset}, {config.protocol}"):
        among, key = planning.choices(config, block), planning.program(config, block)
        if key not in built:
            built[key] = programs.build(config, dataset, model, block.rule, block.mixing, among)
        program = built[key]
        place = jnp.int32([spec.family for spec in among].index(block.attack.family))
        runs = block_runs(config, dataset, block.runs, block.attack)
        states, curve = program.start(place, runs), []
        for step in range(0, config.steps, config.eval_every):
            states, _ = program.advance(states, jnp.int32(step), place, runs)
            last = step + config.eval_every == config.steps
            curve.append(np.asarray(program.evaluate(states, last, runs).accuracy))
        accepted, rejected = (
            np.asarray(count) for count in (states.protocol.accepted, states.protocol.rejected)
        )
        byzantine, arrivals = np.asarray(runs.byzantine), accepted + rejected

        def share(of: np.ndarray, accepted=accepted, arrivals=arrivals) -> float:
            return float(accepted[of].sum() / arrivals[of].sum()) if of.any() else np.nan

        needed = [first(values, config.eval_every) for values in np.transpose(curve)]
        lines.append(
            {
                "attack": str(block.attack),
                "accuracy": float(np.mean(curve[-1])),
                "honest accepted": share(~byzantine),
                "liars accepted": share(byzantine),
                "needed": float(np.mean(needed)),
            }
        )
    return lines


def first(accuracy: np.ndarray, every: int) -> float:
    """Where a curve of evaluations, the first after `every`, reaches the level; NaN if never."""
    above = np.flatnonzero(accuracy >= LEVEL)
    if not len(above):
        return np.nan
    i = above[0]
    if i == 0:
        return float(every)
    low, high = accuracy[i - 1], accuracy[i]
    return float(every * (i + (LEVEL - low) / (high - low)))


def measure(names: tuple[str, ...], seeds: int) -> list[dict[str, Any]]:
    """One row for each data set, judge and attack."""
    rows = []
    for name in names:
        steps, every = LENGTHS[name]
        dataset = datasets.load(name)
        unit: dict[str, Any] = {}
        for judge, attacks in (("none", ("none",)), ("kardam", ATTACKS)):
            config = Config(
                dataset=name,
                protocol=f"asynchronous(judge={judge!r})",
                rule=("mean",),
                attack=attacks,
                n=N,
                f=F,
                s=(0, F) if len(attacks) > 1 else (0,),
                seeds=seeds,
                steps=steps,
                batch_size=16,
                learning_rate=0.1,
                momentum=0.0,
                eval_every=every,
            )
            for line in trained(config, dataset):
                unit = unit or line
                rows.append(
                    {
                        "data": name,
                        "judge": judge,
                        "attack": line["attack"],
                        "accuracy": f"{100 * line['accuracy']:.1f}",
                        "to plain, no liars": f"{100 * (line['accuracy'] - unit['accuracy']):+.1f}",
                        "honest accepted, %": percent(line["honest accepted"]),
                        "liars accepted, %": percent(line["liars accepted"]),
                        "arrivals to 90 %": f"{line['needed']:.0f}",
                        "slower by, %": percent(1 - unit["needed"] / line["needed"]),
                    }
                )
    return rows


def percent(share: float) -> str:
    """A share in per cent; empty if NaN."""
    return "" if np.isnan(share) else f"{100 * share:.1f}"


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds (default 3)")
    parser.add_argument("--datasets", nargs="+", default=list(LENGTHS), choices=list(LENGTHS))
    parser.add_argument("--write", type=pathlib.Path, help="folder of protocols.md, for its table")
    options = parser.parse_args()
    rows = measure(tuple(options.datasets), options.seeds)
    table = f"{environment()}; {counted(options.seeds, 'seed')}\n\n{markdown(rows)}"
    print(table)
    if options.write:
        write_csv(options.write / "benchmarks", {"kardam": rows})
        page = options.write / "protocols.md"
        page.write_text(written(page.read_text(), "kardam", table))


if __name__ == "__main__":
    main()
