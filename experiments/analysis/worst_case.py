"""The damage of every attack to every rule, on the same honest updates."""

import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

import byzjax
from byzjax import attacks, theory
from experiments.data import datasets
from experiments.grid import calls, catalogue, specs
from experiments.models import zoo
from experiments.text import names


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """Every attack against every rule, once, on the same honest updates.

    Damage is the distance from the aggregate to the honest mean, in units of that mean's standard
    error, the root of sum_i |x_i - mean|^2 / (h (h - 1)) for h honest updates. f is the rule's
    limit for n workers and half of it, with f Byzantine workers. The white-box attack starts from
    all other attacks, so it is at least as strong. Results go to <results>/worst-case/, with other
    options to a folder named after them; running the command again resumes.
    """

    results: str = "results"
    """Folder of all studies."""
    rule: tuple[str, ...] = (
        *(name for name in catalogue.RULES if name not in ("multi_krum", *catalogue.REMEMBERING)),
        *("centered_clip", "fl_trust", "zeno"),
    )
    """Rules by name, with optional hyperparameters."""
    data: tuple[str, ...] = ("gaussian", "mnist")
    """gaussian (mean 0.3 in every coordinate, standard deviation 1), mnist (gradients of the
    initial mlp, 16 images per worker, random coordinates)."""
    size: tuple[str, ...] = ("11x100", "25x100", "25x10000")
    """Numbers of workers and coordinates."""
    steps: int = 100
    """Steps of each ascent of the white-box attack."""
    data_dir: Annotated[str | None, "PATH"] = None
    """TFDS folder of prepared data sets; default $TFDS_DATA_DIR, then that of TFDS."""
    download: bool = False
    """Let TFDS fetch what is missing, as for `run`."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One block: a rule on one set of honest updates."""

    rule: str
    name: str
    label: str
    data: str
    n: int
    f: int
    d: int
    limit: str


# Non-default hyperparameters of some rules; `radius` returns the typical distance of an honest
# update from the honest mean.
_GIVEN: dict[str, Callable[[int, int, Callable[[], float]], dict[str, Any]]] = {
    "huber": lambda n, f, radius: {"threshold": radius()},
    "geometric_median_of_means": lambda n, f, radius: {"k": min(n, 2 * f + 1)},
    "centered_clip": lambda n, f, radius: {"radius": radius()},
    "robust_learning_rate": lambda n, f, radius: {"threshold": f + 1},
    "zeno": lambda n, f, radius: {"learning_rate": 0.1, "rho": 0.01},
}


def _zeno(updates: Any, own: jax.Array, *, f: int, learning_rate: float, rho: float) -> Any:
    """Zeno with a loss whose gradient at 0 is the server's own update."""

    def loss(params: jax.Array) -> jax.Array:
        return jnp.sum(own * params) + jnp.sum(params**2) / 2

    params = jnp.zeros_like(own)
    return byzjax.zeno(updates, params, loss, f=f, learning_rate=learning_rate, rho=rho)


# Rules that also take a trusted update of the server: here an additional honest update.
WITH_OWN: dict[str, Callable] = {
    "fl_trust": byzjax.fl_trust,
    "zeno": _zeno,
    "centered_clip": byzjax.centered_clip,
}
SEARCHED = {
    "strongest alie": (attacks.little_is_enough, "z"),
    "strongest ipm": (attacks.inner_product_manipulation, "epsilon"),
    "strongest hidden": (partial(attacks.hidden_vulnerability, coordinate=0), "gamma"),
    "strongest hidden all": (attacks.hidden_vulnerability, "gamma"),
}


def fixed(key: jax.Array, byzantine: jax.Array, own: jax.Array) -> dict[str, Callable]:
    """The attacks that do not use the rule, `(updates, byzantine) -> updates`."""

    def mimic(updates: jax.Array, byzantine: jax.Array) -> jax.Array:
        """`mimic` after a warm-up of 10 steps with the same honest updates."""
        tx = attacks.mimic(byzantine, key=key, warmup=10)

        def again(state, _):
            sent, state = tx.update(updates, state)
            return state, sent

        _, sent = jax.lax.scan(again, tx.init(own), None, length=10)
        return sent[-1]

    return {
        "sign_flip": attacks.sign_flip,
        "sign_flip of mean": partial(attacks.sign_flip, of="mean"),
        "reversed_gradient": attacks.reversed_gradient,
        "omniscient": attacks.omniscient,
        "zero": attacks.zero,
        "constant": attacks.constant,
        "gaussian": partial(attacks.gaussian, key=key),
        "gambler": partial(attacks.gambler, key=key),
        "non_finite": attacks.non_finite,
        "flip_bits": attacks.flip_bits,
        "lose_coordinates": partial(attacks.lose_coordinates, key=key),
        "copy_worker": attacks.copy_worker,
        "mimic": mimic,
        "anti_cge": attacks.anti_cge,
        "fang_trimmed_mean": partial(attacks.fang_trimmed_mean, key=key),
        "little_is_enough": attacks.little_is_enough,
        "little_is_enough z=1.5": partial(attacks.little_is_enough, z=1.5),
        "little_is_enough plus": partial(attacks.little_is_enough, z=1.5, direction="plus"),
        "relocated": partial(attacks.relocated, momentum=own, reference=0.5, base=0.5),
        "ipm 0.1": partial(attacks.inner_product_manipulation, epsilon=0.1),
        "ipm 2": partial(attacks.inner_product_manipulation, epsilon=2.0),
        **{f"min_max {d}": partial(attacks.min_max, direction=d) for d in ("unit", "sign", "std")},
        **{f"min_sum {d}": partial(attacks.min_sum, direction=d) for d in ("unit", "sign", "std")},
    }


@functools.cache
def fixed_rows(kind: str, n: int, d: int, f: int, data_dir: str | None) -> dict[str, np.ndarray]:
    """The rows sent under each of the attacks that do not use the rule."""
    x, own = updates_of(kind, n, d, data_dir)
    byzantine = jnp.arange(n) >= n - f
    table = fixed(jax.random.key(1), byzantine, jnp.asarray(own))
    sent = jax.jit(lambda x: {name: attack(x, byzantine) for name, attack in table.items()})
    rows = sent(jnp.asarray(x))
    return {name: np.asarray(rows[name]) for name in table}  # jit sorts the keys


def deployed(setting: Setting, own: jax.Array) -> Callable:
    """The rule, `updates -> update`."""
    name, given = calls.parse_call(setting.rule)
    if name not in WITH_OWN:
        return specs.deployed(specs.parse("rule", setting.rule, f=setting.f))
    if "f" in inspect.signature(WITH_OWN[name]).parameters:
        given = {"f": setting.f} | given
    return lambda updates: WITH_OWN[name](updates, own, **given)


def settings(config: WorstCase) -> list[Setting]:
    """All blocks, in the order in which they run.

    Raises:
      ValueError: a name or a size is unknown.
    """
    out = []
    for name in config.data:
        if name not in ("gaussian", "mnist"):
            raise ValueError(names.one_of("data", name, ("gaussian", "mnist")))
    if config.download and "mnist" in config.data:
        datasets.load("mnist", data_dir=config.data_dir, download=True)
    for kind, size, text in itertools.product(config.data, config.size, config.rule):
        n, _, d = size.partition("x")
        if not (n.isdigit() and d.isdigit()):
            raise ValueError(f"size must be WORKERSxCOORDINATES, such as 25x100; got {size!r}.")
        n, d = int(n), int(d)
        name, options = calls.parse_call(text)
        if "f" in options:
            raise ValueError(f"f is set to the rule's limit and half of it; omit it from {text!r}.")
        facts = specs.facts_of(name)
        if facts is None and ":" in name:
            raise ValueError(
                f"{name} has no facts, so its limit is unknown; expected a dict FACTS with "
                f"{name.partition(':')[2]!r} in its module."
            )
        a, b = (2, 1) if facts is None else facts.needs
        most = (n - b) // a if a > 1 else (n - 1) // 2
        if name == "minimum_eigenvalue" and n > 16:
            most = min(most, 3)  # with 25 workers 2,300 subsets per step; f = 5 has 53,130
        for limit, f in (("limit", most), ("half", max(1, most // 2))):
            if f >= 1:
                radius = partial(_radius, kind, n, d, config.data_dir)
                given = _GIVEN.get(name, lambda n, f, radius: {})(n, f, radius)
                rule = _with(text, given)
                if name not in WITH_OWN:
                    specs.parse("rule", rule, f=f)
                out.append(Setting(rule, name, text, kind, n, f, d, limit))
    return out


def _radius(kind: str, n: int, d: int, data_dir: str | None) -> float:
    x, _ = updates_of(kind, n, d, data_dir)
    away = np.linalg.norm(x - x.mean(axis=0), axis=1)
    return float(f"{np.median(away):.3g}")


def _with(text: str, given: dict[str, Any]) -> str:
    name, already = calls.parse_call(text)
    everything = given | already
    arguments = ", ".join(f"{key}={value!r}" for key, value in everything.items())
    return f"{name}({arguments})" if everything else name


@functools.cache
def updates_of(kind: str, n: int, d: int, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The honest updates `[n, d]`, and a further one `[d]`, the server's own."""
    rng = np.random.default_rng(n * d)
    if kind == "gaussian":
        rows = (0.3 + rng.normal(size=(n + 1, d))).astype(np.float32)
        return rows[:n], rows[n]
    dataset = datasets.load("mnist", data_dir=data_dir)
    model = zoo.build("mlp", dataset.train_x.shape[1:], dataset.num_classes)
    params = model.init(jax.random.key(0))
    chosen = rng.choice(len(dataset.train_y), (n + 1, 16), replace=False)
    batch = {"x": jnp.asarray(dataset.train_x[chosen]), "y": jnp.asarray(dataset.train_y[chosen])}
    gradients = jax.vmap(jax.grad(model.loss), in_axes=(None, 0))(params, batch)
    rows = np.concatenate(
        [np.asarray(leaf).reshape(n + 1, -1) for leaf in jax.tree.leaves(gradients)], axis=1
    )
    alive = np.flatnonzero(rows.std(axis=0) > 0)  # most border pixels are always 0
    rows = rows[:, rng.choice(alive, d, replace=False)].astype(np.float32)
    return rows[:n], rows[n]


def measure(setting: Setting, config: WorstCase) -> dict[str, Any]:
    """The damage of every attack, None if the aggregate is not finite, and the proved bound."""
    n, f, d = setting.n, setting.f, setting.d
    x, own = updates_of(setting.data, n, d, config.data_dir)
    rule, liars = deployed(setting, jnp.asarray(own)), np.arange(n) >= n - f
    byzantine = jnp.asarray(liars)

    @jax.jit
    def searched(x: jax.Array) -> jax.Array:
        """One program for all attacks with a strength search, so the rule is compiled once."""

        def search(kind: jax.Array) -> jax.Array:
            def lie(updates, byzantine, *, strength):
                branches = [
                    lambda value, attack=attack, name=name: attack(
                        updates, byzantine, **{name: value}
                    )
                    for attack, name in SEARCHED.values()
                ]
                return jax.lax.switch(kind, branches, strength)

            return attacks.strongest(
                *(x, byzantine), attack=lie, rule=rule, strength="strength", low=0.01, high=100.0
            )

        return jax.lax.map(search, jnp.arange(len(SEARCHED)))

    @jax.jit
    def climbed(x: jax.Array, rows: jax.Array) -> jax.Array:
        starts = [lambda updates, byzantine, row=row: row for row in rows]
        return attacks.gradient_attack(x, byzantine, rule=rule, starts=starts, steps=config.steps)

    rows = dict(fixed_rows(setting.data, n, d, f, config.data_dir))
    rows |= zip(SEARCHED, np.asarray(searched(jnp.asarray(x))))
    if n >= 2 * f + 2:
        rows["fang_krum"] = np.asarray(
            jax.jit(partial(attacks.fang_krum, rule=rule, f=f))(x, byzantine)
        )
    rows["gradient_attack"] = np.asarray(climbed(x, jnp.stack(list(rows.values()))))
    aggregates = jax.jit(lambda rows: jax.lax.map(rule, rows))(jnp.stack(list(rows.values())))
    honest = x[~liars].astype(np.float64)
    mean, h = honest.mean(axis=0), len(honest)
    spread = float(np.sum((honest - mean) ** 2))
    unit = math.sqrt(spread / (h * (h - 1)))
    damage = {}
    for name, aggregate in zip(rows, np.asarray(aggregates, np.float64)):
        away = float(np.linalg.norm(aggregate - mean))
        damage[name] = away / unit if math.isfinite(away) else None
    kappa = None
    if setting.name in byzjax.rules.__all__:
        _, options = calls.parse_call(setting.rule)
        kappa = theory.proved("kappa", setting.name, n, f, **options)
    bound = None if kappa is None else math.sqrt(kappa * spread / h) / unit
    return {"damage": damage, "bound": bound}
