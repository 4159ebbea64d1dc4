"""Rules, mixings and attacks by name."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax

import byzjax
from byzjax import attacks
from byzjax.facts import FACTS
from experiments.text import names


def _strongest(attack: Callable, strength: str, short: str) -> Callable:
    """An attack of the library at its most damaging strength against the deployed rule."""

    def best(
        updates: Any,
        byzantine: jax.Array,
        *,
        rule: Callable,
        low: float = 0.01,
        high: float = 100.0,
        objective: str = "distance",
    ) -> Any:
        return attacks.strongest(
            updates,
            byzantine,
            attack=attack,
            rule=rule,
            strength=strength,
            low=low,
            high=high,
            objective=objective,
        )

    best.__name__ = f"strongest_{short}"
    best.__doc__ = f"`{attack.__name__}` at its most damaging strength against the deployed server."
    return best


def no_attack(updates: Any, byzantine: jax.Array) -> Any:
    """No attack: all workers are honest, whatever `byzantine` says."""
    del byzantine
    return updates


def _honest_updates_of_flipped_labels(updates: Any, byzantine: jax.Array) -> Any:
    """Data poisoning: the training step flips the labels of the Byzantine workers."""
    del byzantine
    return updates


def _honest_updates_of_shifted_tokens(updates: Any, byzantine: jax.Array, *, by: int = 1) -> Any:
    """Data poisoning: the training step shifts the labels of the Byzantine workers."""
    del byzantine, by
    return updates


def _honest_updates_of_images_with_a_trigger(
    updates: Any,
    byzantine: jax.Array,
    *,
    target: int = 0,
    share: float = 0.5,
    size: int = 3,
    value: float | None = None,
    then: str | None = None,
) -> Any:
    """A backdoor: the training step adds a bright square to images of the Byzantine workers."""
    del byzantine, target, share, size, value, then
    return updates


def _honest_updates_of_images_with_parts_of_a_trigger(
    updates: Any,
    byzantine: jax.Array,
    *,
    target: int = 0,
    share: float = 0.5,
    size: int = 3,
    gap: int = 1,
    place: int = 0,
    value: float | None = None,
    then: str | None = None,
) -> Any:
    """A backdoor of which each Byzantine worker sees a part: one of four bright bars (DBA)."""
    del byzantine, target, share, size, gap, place, value, then
    return updates


def byz_mean(updates: Any, byzantine: jax.Array, *, z: float | None = None) -> Any:
    """`little_is_enough` from half of the attackers; the others make it the mean of all rows."""
    attack = functools.partial(attacks.little_is_enough, z=z)
    return attacks.byz_mean(updates, byzantine, attack=attack)


def alternating(
    updates: Any,
    byzantine: jax.Array,
    step: jax.Array,
    *,
    f: int,
    every: int = 1,
    epsilon: float = 0.5,
) -> Any:
    """`little_is_enough` and `inner_product_manipulation` in turns."""
    both = attacks.alternating(
        functools.partial(attacks.little_is_enough, f=f),
        functools.partial(attacks.inner_product_manipulation, epsilon=epsilon),
        every=every,
    )
    return both(updates, byzantine, step)


def sleeping(
    updates: Any, byzantine: jax.Array, step: jax.Array, *, until: int = 100, epsilon: float = 0.5
) -> Any:
    """`inner_product_manipulation` by workers that are honest in the first `until` steps."""
    awake = attacks.sleeping(byzantine, until=until)(step)
    return attacks.inner_product_manipulation(updates, awake, epsilon=epsilon)


def _of_kind(kind: str) -> dict[str, Callable]:
    """The functions of this kind in `byzjax.facts` that need only the workers' updates."""
    functions = {name: getattr(byzjax, name) for name, f in FACTS.items() if f.kind == kind}
    return {name: f for name, f in functions.items() if needed(f) <= {"updates", "num_workers"}}


def _ordered(table: dict[str, Callable], first: Sequence[str]) -> dict[str, Callable]:
    """The best known first, then the others in alphabetical order."""
    return {name: table[name] for name in (*first, *sorted(table.keys() - set(first)))}


def needed(function: Callable) -> set[str]:
    """The positional parameters without a default."""
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name for p in parameters if p.kind in positional and p.default is p.empty}


# Stateful rules, which are transformations.
REMEMBERING: dict[str, Callable] = _of_kind("memory")
# All rules that need only the workers' updates.
RULES: dict[str, Callable] = {
    **_ordered(
        _of_kind("rule"),
        first=("mean", "median", "trimmed_mean", "krum", "multi_krum", "aksel"),
    ),
    **REMEMBERING,
}


def no_mixing(updates: Any) -> Any:
    """No mixing before the rule."""
    return updates


MIXINGS: dict[str, Callable] = {"none": no_mixing} | _of_kind("mixing")


def takes_updates(candidate: Any) -> bool:
    """Whether it is safe to call: a name on the command line need not be a rule."""
    try:
        signature = inspect.signature(candidate)
    except (TypeError, ValueError):  # nothing to call, or a built-in function
        return False
    made = inspect.get_annotations(candidate, eval_str=False).get("return")
    made = made if isinstance(made, str) else getattr(made, "__name__", "")
    return "updates" in signature.parameters or "GradientTransformation" in made


def _attacks() -> dict[str, Callable]:
    """The attacks of the library that need only the workers' updates and the deployed rule."""
    known = {"updates", "byzantine", "num_workers", "step", "center", "weights"}
    functions = {name: getattr(attacks, name) for name in attacks.__all__}
    return {
        name: f
        for name, f in functions.items()
        if takes_updates(f)
        and needed(f) <= known
        and "attack" not in inspect.signature(f).parameters
    }


# All attacks that need only the workers' updates and the deployed rule; stateful ones are
# transformations.
ATTACKS: dict[str, Callable] = _ordered(
    {
        **_attacks(),
        "none": no_attack,
        "flip_labels": _honest_updates_of_flipped_labels,
        "shift_tokens": _honest_updates_of_shifted_tokens,
        "add_trigger": _honest_updates_of_images_with_a_trigger,
        "distributed_trigger": _honest_updates_of_images_with_parts_of_a_trigger,
        "alternating": alternating,
        "byz_mean": byz_mean,
        "sleeping": sleeping,
        "strongest_alie": _strongest(attacks.little_is_enough, "z", "alie"),
        "strongest_ipm": _strongest(attacks.inner_product_manipulation, "epsilon", "ipm"),
    },
    first=("none", "sign_flip", "little_is_enough", "inner_product_manipulation", "gaussian"),
)


# Attacks whose success is measured on test images with the trigger: the functions that add it.
BACKDOORS: dict[str, Callable] = {
    "add_trigger": attacks.add_trigger,
    "distributed_trigger": attacks.distributed_trigger,
}
# Attacks on the data of Byzantine workers, whose updates are honest otherwise.
POISONS = ("flip_labels", "shift_tokens", *BACKDOORS)


# Hyperparameters that may be traced: attacks that differ only in these share one branch of a
# compiled program.
STRENGTHS: dict[str, tuple[str, ...]] = {
    "alternating": ("epsilon",),
    "anti_cge": ("margin",),
    "constrain_and_scale": ("alpha", "max_norm"),
    "constant": ("value",),
    "dissensus": ("epsilon",),
    "drop": ("probability", "value"),
    "fang_trimmed_mean": ("factor",),
    "gambler": ("factor", "probability"),
    "gaussian": ("sigma",),
    "hidden_vulnerability": ("gamma",),
    "hybrid_sparse": ("sparse_z", "z"),
    "inner_product_manipulation": ("epsilon",),
    "little_is_enough": ("z",),
    "lose_coordinates": ("share", "value"),
    "model_replacement": ("boost",),
    "omniscient": ("factor",),
    "reversed_gradient": ("kappa",),
    "sleeping": ("epsilon",),
}


MOST_STRENGTHS = max(map(len, STRENGTHS.values()))


TABLES: dict[str, dict[str, Callable]] = {"rule": RULES, "mixing": MIXINGS, "attack": ATTACKS}


# Parameters that the run supplies; all others are hyperparameters.
FROM_RUN = ("byzantine", "num_workers", "key", "axis_name", "rule", "updates", "step", "weights")

# Names in papers that mean something else in a run than in the library.
ELSEWHERE: dict[str, dict[str, str]] = {
    "rule": dict.fromkeys(("cc", "centered_clip"), "centered_clipping"),
    "mixing": {"no": "none"},
    "attack": {"no": "none"},
}


# Why no run can use a function, where its positional parameters do not say it.
_REASONS = {
    "centered_clip": "needs a center: use centered_clipping, which remembers one",
    "strongest": "needs an attack: use strongest_alie or strongest_ipm",
    "rotating": "changes who attacks at which step, and runs have fixed attackers",
}


def hyperparameters(function: Callable) -> list[str]:
    """The hyperparameters of a rule, a mixing or an attack, with their defaults: `m=1`."""
    out = []
    for name, parameter in inspect.signature(function).parameters.items():
        positional = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if name in FROM_RUN or (positional and parameter.default is parameter.empty):
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            out.append("...")
        elif parameter.default is parameter.empty:
            out.append(name if name == "f" else f"{name}=...")
        else:
            out.append(f"{name}={_shortest(parameter.default)}")
    return out


def _shortest(value: Any) -> str:
    short = f"{value:g}" if isinstance(value, float) else repr(value)
    return (
        short if not isinstance(value, float) or repr(float(short)) == repr(value) else repr(value)
    )


def not_offered(kind: str) -> dict[str, str]:
    """The functions of the library that no run can use, and why."""
    if kind == "attack":
        functions = {name: getattr(attacks, name) for name in attacks.__all__}
        functions = {k: f for k, f in functions.items() if needed(f) & {"byzantine", "batch"}}
    else:
        kinds = {"rule": ("rule", "memory"), "mixing": ("mixing",)}[kind]
        functions = {k: getattr(byzjax, k) for k, f in FACTS.items() if f.kind in kinds}
    reasons = {}
    for name, function in functions.items():
        parameters = [p for p in inspect.signature(function).parameters if p in needed(function)]
        missing = " and ".join(key for key in parameters if key not in FROM_RUN)
        if name not in TABLES[kind]:
            default = f"needs {missing}, which a run does not have"
            reasons[name] = _REASONS.get(name, default)
    return reasons


def unknown(kind: str, name: str) -> str:
    """The error for a rule, a mixing or an attack that is not in its table."""
    if (reason := not_offered(kind).get(name)) is not None:
        return f"{name} is not offered on the command line: it {reason}."
    for other, table in TABLES.items():
        if name in table and name != "none":
            article = "an" if other == "attack" else "a"
            return f"unknown {kind} {name!r}; it is {article} {other}: write --{other} {name}."
    return names.unknown(kind, name, TABLES[kind], ELSEWHERE[kind])
