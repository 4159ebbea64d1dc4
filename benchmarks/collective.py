"""Communication and memory of rules on 8 devices: `python -m benchmarks.collective`.

`--write docs` updates the page. The model is GPT-2 small, 124 million parameters, with its 12
layers stacked in 14 leaves, as in frameworks that scan over layers, and with 148 leaves for some
rules; and the laboratory's gpt_mini, 10.7 million, in the leaves that it trains. Programs are
compiled for 8 simulated devices with 8 workers and analysed, not run: bytes sent by
`tests.traffic`, memory as reported by the compiler. Nothing depends on the machine's speed.
"""

import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import byzjax
from benchmarks.pages import environment, markdown, write_csv, written
from byzjax._program import Parser
from byzjax.facts import FACTS
from experiments.data import datasets
from experiments.models import zoo
from tests import traffic

N = 8
KEY = jax.random.key(0)
# Rules by name, with their arguments besides the updates; ONE stands for one update, as data.
ONE = object()
ARGUMENTS: dict[str, dict[str, Any]] = {
    "mean": {},
    "mean_of_finite": {},
    "median": {},
    "trimmed_mean": {"f": 2},
    "mean_around_median": {"f": 2},
    "phocas": {"f": 2},
    "majority_sign": {},
    "robust_learning_rate": {"threshold": 3},
    "aksel": {"f": 2},
    "krum": {"f": 2},
    "multi_krum": {"f": 2},
    "bulyan": {"f": 1},
    "minimum_diameter": {"f": 2},
    "minimum_eigenvalue": {"f": 2},
    "covariance_filter": {"f": 2},
    "spectral_filter": {"f": 2, "key": KEY},
    "geometric_median": {},
    "geometric_median_of_means": {"k": 5},
    "huber": {"threshold": 1.0},
    "centered_clip": {"center": ONE, "radius": 1.0},
    "comparative_elimination": {"f": 2},
    "nearest_to_pivot": {"f": 2},
    "medoid": {},
    "sign_guard": {"key": KEY},
    "gradient_splitting": {"f": 2, "key": KEY},
    "flame": {"key": KEY},
    "lasa": {},
    "flag": {},
    "fl_trust": {"trusted": ONE},
    "zeno": {
        "params": ONE,
        "trusted_loss": lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)),
        "f": 2,
        "learning_rate": 0.1,
        "rho": 1e-3,
    },
}
FEW = ("median", "aksel", "krum", "geometric_median")


def model(layers: int | None) -> dict[str, Any]:
    """Shapes and their FSDP sharding; layers stacked, or `layers` leaves of each kind."""
    kinds: dict[str, tuple[tuple[int, ...], P]] = {
        "qkv": ((768, 2304), P(None, "devices")),
        "out": ((768, 768), P("devices", None)),
        "up": ((768, 3072), P(None, "devices")),
        "down": ((3072, 768), P("devices", None)),
        "qkv_bias": ((2304,), P("devices")),
        "up_bias": ((3072,), P("devices")),
    }
    kinds |= {name: ((768,), P()) for name in ("out_bias", "down_bias", "scale1", "shift1")}
    kinds |= {name: ((768,), P()) for name in ("scale2", "shift2")}
    tree: dict[str, Any] = {
        "tokens": ((50304, 768), P("devices", None)),
        "places": ((1024, 768), P("devices", None)),
        "scale": ((768,), P()),
        "shift": ((768,), P()),
    }
    for name, (shape, spec) in kinds.items():
        if layers is None:
            tree[name] = ((12, *shape), P(None, *spec))
        else:
            tree |= {f"{name}{i}": (shape, spec) for i in range(layers)}
    return tree


def language_model(name: str) -> dict[str, Any]:
    """Shapes of a language model of the laboratory, and an FSDP sharding.

    Each leaf is sharded along its longest dimension that the number of devices divides, if any.
    """
    data = datasets.OUTLINES["tiny_shakespeare"]
    network = zoo.build(name, data.shape, data.num_classes, text=True)
    params = jax.eval_shape(network.init, KEY)
    leaves = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        spec: list[str | None] = [None] * leaf.ndim
        longest = max(leaf.shape, key=lambda size: (size % N == 0, size))
        if longest % N == 0:
            spec[leaf.shape.index(longest)] = "devices"
        leaves[jax.tree_util.keystr(path)] = leaf.shape, P(*spec)
    return leaves


def compiled(function: Callable, *args: Any) -> Any:
    """The program, compiled and not run."""
    return jax.jit(function).lower(*args).compile()


def held(program: Any) -> int:
    """Bytes on one device: arguments, temporaries, output."""
    memory = program.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


def abstract(leaves: dict[str, Any], mesh: Any, spec: Callable, *, stacked: bool) -> dict[str, Any]:
    """One update or stacked updates, with their sharding."""
    return {
        name: jax.ShapeDtypeStruct(
            (N, *shape) if stacked else shape, jnp.float32, sharding=NamedSharding(mesh, spec(own))
        )
        for name, (shape, own) in leaves.items()
    }


def filled(name: str, one: Any) -> dict[str, Any]:
    """The arguments of the rule besides the updates, with one update as data."""
    return {key: one if value is ONE else value for key, value in ARGUMENTS[name].items()}


def all_aggregate(name: str, mesh: Any, leaves: dict[str, Any]) -> dict[str, Any]:
    """One worker per device, with the model on every device; also `lax.pmean`, for comparison."""
    rows = abstract(leaves, mesh, lambda _: P("devices"), stacked=True)
    one = abstract(leaves, mesh, lambda _: P(), stacked=False)

    def on_device(rows: Any, one: Any = None) -> Any:
        own = {key: leaf[0] for key, leaf in rows.items()}
        if name == "lax.pmean":
            return lax.pmean(own, "devices")
        return byzjax.all_aggregate(getattr(byzjax, name), own, "devices", **filled(name, one))

    args = (rows, one) if takes_one(name) else (rows,)
    program = compiled(
        jax.shard_map(
            on_device, mesh=mesh, in_specs=(P("devices"), P())[: len(args)], out_specs=P()
        ),
        *args,
    )
    d = sum(leaf.size for leaf in one.values())
    messages = traffic.collectives(program.as_text(), N)
    numbers = [(sent / 4, times) for _, sent, times in messages]
    few = sum(sent * times for sent, times in numbers if sent <= 4 * N**2)
    return {
        "sent / d": (sum(sent * times for sent, times in numbers) - few) / d,
        "numbers besides": int(few),
        "held / d": held(program) / 4 / d,
    }


def takes_one(name: str) -> bool:
    """Whether the rule has data."""
    return ONE in ARGUMENTS.get(name, {}).values()


def sharded(name: str, mesh: Any, leaves: dict[str, Any], *, plain: bool = False) -> dict[str, Any]:
    """Stacked updates with sharded coordinates; `plain` is XLA without our help."""
    rows = abstract(leaves, mesh, lambda own: P(None, *own), stacked=True)
    one = abstract(leaves, mesh, lambda own: own, stacked=False)
    shardings = {key: leaf.sharding for key, leaf in one.items()}
    rule = getattr(byzjax, name)
    rule = rule if plain else byzjax.sharded(rule, shardings)

    def step(rows: Any, one: Any = None) -> Any:
        return lax.with_sharding_constraint(rule(rows, **filled(name, one)), shardings)

    program = compiled(step, *((rows, one) if takes_one(name) else (rows,)))
    share = sum(4 * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in rows.values())
    sent = [size for _, size, _ in traffic.collectives(program.as_text(), N)]
    return {
        "held / share": held(program) / share,
        "largest message, kB": max(sent, default=0) / 1e3,
    }


def goal(name: str) -> float:
    """The goal for `held / share`: lower for rules that do not use distances between rows."""
    facts = FACTS[name]
    return 1.5 if name in ("mean", "aksel") or not (facts.full or name == "bulyan") else 1.6


def of_rules(mesh: Any) -> list[dict[str, Any]]:
    """One row per rule; layers stacked."""
    leaves = model(layers=None)
    rows = [{"rule": "lax.pmean"} | all_aggregate("lax.pmean", mesh, leaves)]
    for name in ARGUMENTS:
        row = {"rule": name} | all_aggregate(name, mesh, leaves)
        if name != "zeno":  # its loss is a function of whole updates
            row |= sharded(name, mesh, leaves) | {"goal": goal(name)}
        rows.append(row)
        print(row, flush=True)
    heads = list(rows[1])
    return [{head: row.get(head) for head in heads} for row in rows]


def of_layouts(mesh: Any) -> list[dict[str, Any]]:
    """Other layouts of the model, and XLA without our help, for a few rules."""
    rows = []
    for name in FEW:
        row: dict[str, Any] = {"rule": name}
        for what, layers, plain in (
            ("sharded, 14 leaves", None, False),
            ("sharded, 148 leaves", 12, False),
            ("plain jit, 14 leaves", None, True),
        ):
            metrics = sharded(name, mesh, model(layers), plain=plain)
            row[f"{what}: held / share"] = metrics["held / share"]
            if plain:
                row[f"{what}: largest message, MB"] = metrics["largest message, kB"] / 1e3
        rows.append(row)
        print(row, flush=True)
    return rows


def of_language(
    mesh: Any, name: str = "gpt_mini", rules: Sequence[str] = ("mean", *FEW)
) -> list[dict[str, Any]]:
    """Memory of a device for a language model, beside an eighth of its stacked updates."""
    leaves = language_model(name)
    total = 4 * N * sum(math.prod(shape) for shape, _ in leaves.values())
    share = total / N / 1e6
    rows = []
    for rule in rules:
        ours, plain = (sharded(rule, mesh, leaves, plain=it) for it in (False, True))
        row = {"rule": rule, "share, MB": share, "held, MB": share * ours["held / share"]}
        row |= {"held / share": ours["held / share"], "plain jit": plain["held / share"]}
        rows.append(row)
        print(row, flush=True)
    return rows


PARTS = {"rules": of_rules, "layouts": of_layouts, "language": of_language}


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, nargs="*", default=list(PARTS), help="all")
    parser.add_argument("--write", type=pathlib.Path, help="folder of collective.md")
    options = parser.parse_args()
    mesh = jax.make_mesh((N,), ("devices",), axis_types=(AxisType.Auto,))
    for part in options.part:
        rows = PARTS[part](mesh)
        text = f"{environment()}\n\n{markdown(rows)}"
        print(text)
        if options.write:
            write_csv(options.write / "benchmarks", {f"collective_{part}": rows})
            page = options.write / "collective.md"
            page.write_text(written(page.read_text(), part, text))


if __name__ == "__main__":
    main()
