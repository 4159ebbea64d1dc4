"""Cost of a step of an attack: `python -m benchmarks.attacks`, and `--write docs` for the page.

The unit is the honest mean, which every attack of this kind needs: one pass over the updates. An
attack also writes rows. In a training step the compiler may write them in place of the gradients;
in a separate function that keeps its argument, all n rows are copied, honest ones included.
"""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import byzjax
from benchmarks import timing
from benchmarks.pages import environment, markdown, write_csv
from benchmarks.rules import gaussian
from byzjax import attacks, stacked
from byzjax._program import Parser

GOAL = 3.0


def statistical() -> dict[str, Callable]:
    """Attacks that use statistics of the honest updates."""
    return {
        "little_is_enough": attacks.little_is_enough,
        "inner_product_manipulation": partial(attacks.inner_product_manipulation, epsilon=0.5),
        "sign_flip": attacks.sign_flip,
        "sign_flip of the mean": partial(attacks.sign_flip, of="mean"),
        "reversed_gradient": attacks.reversed_gradient,
        "reversed_gradient of the mean": partial(attacks.reversed_gradient, of="mean"),
        "omniscient": attacks.omniscient,
        "relocated": partial(_relocated, reference=0.5, base=0.5),
    }


def others() -> dict[str, Callable]:
    """Attacks that use distances or random numbers, for comparison."""
    return {
        "min_max": attacks.min_max,
        "min_sum": attacks.min_sum,
        "anti_cge": attacks.anti_cge,
        "fang_trimmed_mean": partial(attacks.fang_trimmed_mean, key=jax.random.key(0)),
        "gaussian": partial(attacks.gaussian, key=jax.random.key(0)),
    }


def _relocated(updates: jax.Array, byzantine: jax.Array, **hyperparameters) -> jax.Array:
    return attacks.relocated(updates, byzantine, jnp.zeros(updates.shape[1]), **hyperparameters)


def honest_mean(updates: jax.Array, byzantine: jax.Array) -> jax.Array:
    """The mean of the honest rows."""
    return stacked.mean_selected(updates, ~byzantine)


class _InPlace:
    """A compiled attack that may overwrite its argument, called on its own last result.

    Repeated attacks soon overflow, which does not change the time.
    """

    def __init__(self, attack: Callable, x: jax.Array, byzantine: jax.Array):
        self.compiled = jax.jit(attack, donate_argnums=0).lower(x, byzantine).compile()
        self.x, self.byzantine = x + 0, byzantine

    def __call__(self) -> None:
        self.x = jax.block_until_ready(self.compiled(self.x, self.byzantine))


def measure(n: int, d: int, f: int, rounds: int) -> list[dict[str, Any]]:
    """Each attack by itself, in place, and before a median."""
    x = gaussian(n, d)
    byzantine = jnp.asarray(np.random.default_rng(1).permutation(n) < f)
    mean = timing.compile_call(honest_mean, x, byzantine)
    rows = []
    for kind, table in (("statistical", statistical()), ("other", others())):
        for name, attack in table.items():

            def before_median(updates, byzantine, attack=attack):
                return byzjax.median(attack(updates, byzantine))

            alone = timing.compile_call(attack, x, byzantine)
            seconds = timing.take_turns(
                {
                    "mean": mean.call,
                    "alone": alone.call,
                    "in place": _InPlace(attack, x, byzantine),
                    "copy": timing.compile_call(jnp.copy, x).call,
                    "median": timing.compile_call(byzjax.median, x).call,
                    "before": timing.compile_call(before_median, x, byzantine).call,
                },
                rounds,
            )
            over = {what: s / seconds["mean"] for what, s in seconds.items()}
            rows.append(
                {
                    "attack": name,
                    "kind": kind,
                    "mean, ms": 1e3 * seconds["mean"],
                    "in place, ms": 1e3 * seconds["in place"],
                    "in place / mean": over["in place"],
                    "goal": f"<= {GOAL:g}" if kind == "statistical" else "",
                    "by itself / mean": over["alone"],
                    "a copy / mean": over["copy"],
                    "(with a median behind it - the median) / mean": over["before"]
                    - over["median"],
                    "temporaries / input": alone.temporary_bytes / x.nbytes,
                }
            )
            print(markdown(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default 9)")
    parser.add_argument("--write", type=pathlib.Path, help="folder for attack-cost.md and its CSV")
    options = parser.parse_args()
    timing.with_huge_pages("benchmarks.attacks")
    rows = measure(25, 10**6, 11, options.rounds)
    print(f"\n{environment()}\n\n{markdown(rows)}")
    if options.write:
        write_csv(options.write / "benchmarks", {"attacks": rows})
        (options.write / "attack-cost.md").write_text(page(options.write, rows))


def page(folder: pathlib.Path, rows: list[dict[str, Any]]) -> str:
    """The page of the documentation."""
    missed = [
        f"`{row['attack']}` ({row['in place / mean']:.1f})"
        for row in rows
        if row["kind"] == "statistical" and row["in place / mean"] > GOAL
    ]
    verdict = f"missed by {', '.join(missed)}" if missed else "reached by all of them"
    parts = [
        "# The cost of attacks",
        f"Made by `python -m benchmarks.attacks --write {folder}` on {environment()}.",
        "n = 25, d = 1e6, float32, 11 Byzantine workers. The unit is the time of the mean of the "
        "honest rows. Times are medians over rounds in which every call has a turn, with huge "
        "pages for all. *In place*: the compiled attack may overwrite its argument, as in a "
        "training step, where the gradients are not needed again. *By itself*: it may not, and "
        "also copies the honest rows. The last times are the additional time of a median with the "
        "attack before it.",
        f"Goal: a step of a statistical attack costs at most {GOAL:g} honest means; {verdict}.",
        markdown(rows),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
