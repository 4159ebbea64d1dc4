"""How far every attack moves every rule: `python -m experiments worst-case`."""

import dataclasses
import functools
import itertools
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

import byzjax
from byzjax import attacks
from byzjax.facts import FACTS
from experiments import data, models, specs, sweep

mpl.use("Agg")

few = functools.partial


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """Every attack against every rule, once, on the same honest updates.

    Damage is the distance from the aggregate to the honest mean, in units of that mean's own error,
    the root of sum_i |x_i - mean|^2 / (h (h - 1)) for h honest updates. f is the rule's limit for n
    workers and half of it, and as many lie. The white box begins from all other attacks and can
    only be stronger. Results go to <results>/worst-case/, and a second start continues.
    """

    results: str = "results"
    """Folder of all studies."""
    rule: tuple[str, ...] = tuple(name for name in specs.RULES if name != "multi_krum")
    """Rules by name, with hyperparameters where wanted."""
    data: tuple[str, ...] = ("gaussian", "mnist")
    """gaussian (mean 0.3 in every coordinate, deviation 1), mnist (gradients of the mlp at its
    start, 16 images a worker, random coordinates)."""
    size: tuple[str, ...] = ("11x100", "25x100", "25x10000")
    """Numbers of workers and coordinates."""
    steps: int = 100
    """Steps of each ascent of the white box."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """TFDS folder of prepared data sets; default $TFDS_DATA_DIR, then TFDS's own."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One block: a rule on one set of honest updates."""

    rule: specs.Spec
    data: str
    n: int
    f: int
    d: int
    limit: str


# What rules need that only they know, where it is not the default.
_GIVEN: dict[str, Callable[[int, int, float], dict[str, Any]]] = {
    "huber": lambda n, f, radius: {"threshold": radius},
    "geometric_median_of_means": lambda n, f, radius: {"k": min(n, 2 * f + 1)},
}


def listed(key: jax.Array, rule: Callable, n: int, f: int) -> dict[str, Callable]:
    """The attacks of the table, `(updates, byzantine) -> updates`."""
    fixed = {
        "sign_flip": attacks.sign_flip,
        "sign_flip of mean": few(attacks.sign_flip, of="mean"),
        "reversed_gradient": attacks.reversed_gradient,
        "omniscient": attacks.omniscient,
        "zero": attacks.zero,
        "constant": attacks.constant,
        "gaussian": few(attacks.gaussian, key=key),
        "non_finite": attacks.non_finite,
        "flip_bits": attacks.flip_bits,
        "copy_worker": attacks.copy_worker,
        "anti_cge": attacks.anti_cge,
        "fang_trimmed_mean": few(attacks.fang_trimmed_mean, key=key),
        "little_is_enough": attacks.little_is_enough,
        "little_is_enough z=1.5": few(attacks.little_is_enough, z=1.5),
        "little_is_enough plus": few(attacks.little_is_enough, z=1.5, direction="plus"),
        "ipm 0.1": few(attacks.inner_product_manipulation, epsilon=0.1),
        "ipm 2": few(attacks.inner_product_manipulation, epsilon=2.0),
        **{f"min_max {d}": few(attacks.min_max, direction=d) for d in ("unit", "sign", "std")},
        **{f"min_sum {d}": few(attacks.min_sum, direction=d) for d in ("unit", "sign", "std")},
    }
    if n >= 2 * f + 2:
        fixed["fang_krum"] = few(attacks.fang_krum, rule=rule, f=f)
    searched = {
        "strongest alie": (attacks.little_is_enough, "z"),
        "strongest ipm": (attacks.inner_product_manipulation, "epsilon"),
        "strongest hidden": (few(attacks.hidden_vulnerability, coordinate=0), "gamma"),
        "strongest hidden all": (attacks.hidden_vulnerability, "gamma"),
    }
    search = few(attacks.strongest, rule=rule, low=0.01, high=100.0)
    return fixed | {
        name: few(search, attack=attack, strength=strength)
        for name, (attack, strength) in searched.items()
    }


def settings(config: WorstCase) -> list[Setting]:
    """All blocks, in the order in which they run.

    Raises:
      ValueError: a name or a size is unknown.
    """
    out = []
    for name in config.data:
        if name not in ("gaussian", "mnist"):
            raise ValueError(f"data must be gaussian or mnist; got {name!r}.")
    for kind, size, text in itertools.product(config.data, config.size, config.rule):
        n, _, d = size.partition("x")
        if not (n.isdigit() and d.isdigit()):
            raise ValueError(f"a size reads as 25x100, workers and coordinates; got {size!r}.")
        n, d = int(n), int(d)
        name = specs.parse_call(text)[0]
        a, b = FACTS[name].needs if name in FACTS else (2, 1)
        most = (n - b) // a if a else (n - 1) // 2
        if name == "minimum_eigenvalue" and n > 16:
            most = min(most, 3)  # of 25 workers: 2,300 subsets at every step; f = 5 has 53,130
        for limit, f in (("limit", most), ("half", max(1, most // 2))):
            if f >= 1:
                given = _GIVEN.get(name, lambda n, f, radius: {})(n, f, math.sqrt(d))
                spec = specs.parse("rule", _with(text, given), f=f)
                out.append(Setting(spec, kind, n, f, d, limit))
    return out


def _with(text: str, given: dict[str, Any]) -> str:
    name, already = specs.parse_call(text)
    everything = given | already
    arguments = ", ".join(f"{key}={value!r}" for key, value in everything.items())
    return f"{name}({arguments})" if everything else name


@functools.cache
def updates_of(kind: str, n: int, d: int, data_dir: str | None) -> np.ndarray:
    """`[n, d]`, what honest workers would send."""
    rng = np.random.default_rng(n * d)
    if kind == "gaussian":
        return (0.3 + rng.normal(size=(n, d))).astype(np.float32)
    dataset = data.load("mnist", data_dir=data_dir)
    model = models.build("mlp", dataset.train_x.shape[1:], dataset.num_classes)
    params = model.init(jax.random.key(0))
    chosen = rng.choice(len(dataset.train_y), (n, 16), replace=False)
    batch = {"x": jnp.asarray(dataset.train_x[chosen]), "y": jnp.asarray(dataset.train_y[chosen])}
    gradients = jax.vmap(jax.grad(model.loss), in_axes=(None, 0))(params, batch)
    rows = np.concatenate(
        [np.asarray(leaf).reshape(n, -1) for leaf in jax.tree.leaves(gradients)], axis=1
    )
    alive = np.flatnonzero(rows.std(axis=0) > 0)  # most pixels at the rim are never lit
    return rows[:, rng.choice(alive, d, replace=False)].astype(np.float32)


def measure(setting: Setting, x: np.ndarray, steps: int) -> dict[str, Any]:
    """The damage of every attack, None where the aggregate is not finite."""
    rule = specs.deployed(setting.rule)
    liars = np.arange(setting.n) >= setting.n - setting.f
    byzantine = jnp.asarray(liars)
    table = listed(jax.random.key(1), rule, setting.n, setting.f)

    @jax.jit
    def sent(x: jax.Array) -> dict[str, jax.Array]:
        return {name: attack(x, byzantine) for name, attack in table.items()}

    @jax.jit
    def climbed(x: jax.Array, rows: dict[str, jax.Array]) -> jax.Array:
        starts = [lambda updates, byzantine, row=row: row for row in rows.values()]
        return attacks.gradient_attack(x, byzantine, rule=rule, starts=starts, steps=steps)

    rows = sent(jnp.asarray(x))
    rows["gradient_attack"] = climbed(jnp.asarray(x), rows)
    honest = x[~liars].astype(np.float64)
    mean, h = honest.mean(axis=0), len(honest)
    spread = float(np.sum((honest - mean) ** 2))
    unit = math.sqrt(spread / (h * (h - 1)))
    aggregates = jax.jit(lambda rows: {name: rule(row) for name, row in rows.items()})(rows)
    damage = {}
    for name in [*table, "gradient_attack"]:  # a compiled function sorts its names
        away = float(np.linalg.norm(np.asarray(aggregates[name], np.float64) - mean))
        damage[name] = away / unit if math.isfinite(away) else None
    facts = FACTS.get(setting.rule.name)
    kappas = [k.value(setting.n, setting.f) for k in facts.kappa[:1]] if facts else []
    return {
        "damage": damage,
        "bound": math.sqrt(kappas[0] * spread / h) / unit if kappas else None,
    }


def run(config: WorstCase) -> pd.DataFrame:
    """Measures what is missing, and returns one line for each setting and attack."""
    folder = pathlib.Path(config.results) / "worst-case"
    lines = []
    for setting in tqdm(settings(config), unit="rule"):
        described: dict[str, Any] = {
            "rule": str(setting.rule),
            "data": setting.data,
            "n": setting.n,
            "f": setting.f,
            "d": setting.d,
            "steps": config.steps,
            "byzjax": byzjax.__version__,
        }
        path = sweep.block_path(folder, described)
        found = sweep.read_block(path)
        if found is None:
            x = updates_of(setting.data, setting.n, setting.d, config.data_dir)
            found = described | measure(setting, x, config.steps)
            found["environment"] = sweep.environment()
            sweep.write_json(path, found)
            jax.clear_caches()  # every rule is a program of its own
        for attack, damage in found["damage"].items():
            lines.append(
                {
                    "data": setting.data,
                    "n": setting.n,
                    "d": setting.d,
                    "f": setting.f,
                    "at": setting.limit,
                    "rule": setting.rule.name,
                    "attack": attack,
                    "damage": math.inf if damage is None else damage,
                    "bound": found["bound"],
                }
            )
    return pd.DataFrame(lines)


def write(config: WorstCase, table: pd.DataFrame) -> list[pathlib.Path]:
    """The table as CSV and one heatmap for each set of updates; returns the paths."""
    folder = pathlib.Path(config.results) / "worst-case"
    paths = [folder / "damage.csv"]
    table.to_csv(paths[0], index=False, float_format="%.5g")
    for (kind, n, d, at), part in table.groupby(["data", "n", "d", "at"], sort=False):
        path = folder / f"{kind}-{n}x{d}-{at}.png"
        half = "" if at == "limit" else "half "
        heatmap(part, f"{kind}, n = {n}, d = {d}, f at {half}the limit").savefig(path, dpi=110)
        paths.append(path)
    return paths


def heatmap(part: pd.DataFrame, title: str) -> Figure:
    """Rules against attacks; colour by the logarithm, the number in every cell, grey for none."""
    wide = part.pivot(index="rule", columns="attack", values="damage")
    wide = wide.loc[part["rule"].unique(), part["attack"].unique()]
    figure = Figure(figsize=(0.6 * wide.shape[1] + 4, 0.36 * wide.shape[0] + 3), layout="tight")
    axes = figure.subplots()
    sns.heatmap(
        np.log10(wide.clip(0.1, 1000)),  # what is unbounded has the darkest colour
        ax=axes,
        annot=wide.map(_label),
        fmt="",
        cmap="rocket_r",
        vmin=-1,
        vmax=3,
        annot_kws={"size": 7},
        cbar_kws={"label": "log10 of the damage", "pad": 0.01},
    )
    axes.set_facecolor("0.9")
    axes.set(title=f"Damage in errors of the honest mean: {title}", xlabel="", ylabel="")
    axes.tick_params(axis="y", rotation=0, labelsize=8)
    axes.set_xticks(axes.get_xticks(), wide.columns, rotation=50, ha="right", fontsize=8)
    return figure


def _label(value: float) -> str:
    if math.isinf(value):
        return "∞"
    if value < 1e-3:
        return "0"
    return f"{value:.2g}" if value < 1000 else f"{value:.0e}".replace("e+", "e")


def main(arguments: list[str]) -> int:
    """Runs the table; returns the exit status."""
    config = tyro.cli(WorstCase, prog="python -m experiments worst-case", args=arguments)
    try:
        table = run(config)
    except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    paths = write(config, table)
    worst = table[table["attack"] == "gradient_attack"]
    print(worst.drop(columns=["attack"]).to_string(index=False, float_format="%.3g"))
    print("\n".join(str(path) for path in paths))
    return 0
