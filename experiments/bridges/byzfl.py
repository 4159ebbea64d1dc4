"""ByzFL's `config.json` as grids.

The format is that of ByzFL 0.0.11: every value may be a list, and all combinations are trained.
Definitions that differ from those here become notes; what has no counterpart is refused.
"""

import itertools
from collections.abc import Callable
from typing import Any

from experiments.bridges.reading import Imported, known_keys, merged, number, one_of, refused
from experiments.grid.calls import written

# Samples of the training sets, which ByzFL splits by a share.
SAMPLES = {"mnist": 60000, "fashionmnist": 60000}
DATASETS = {"mnist": "mnist", "fashionmnist": "fashion_mnist"}
MODELS = {"fc_mnist": "mlp", "cnn_mnist": "cnn_5x5"}
SECTIONS = {
    "benchmark_config": (
        *("training_algorithm", "nb_steps", "device", "training_seed", "nb_training_seeds"),
        *("nb_workers", "nb_honest_clients", "f", "tolerated_f", "set_honest_clients_as_clients"),
        *("size_train_set", "data_distribution_seed", "nb_data_distribution_seeds"),
        "data_distribution",
    ),
    "model": (
        *("name", "dataset_name", "nb_labels", "loss", "learning_rate", "learning_rate_decay"),
        *("milestones", "optimizer_name"),
    ),
    "honest_clients": ("momentum", "weight_decay", "batch_size"),
    "evaluation_and_results": (
        *("evaluation_delta", "batch_size_evaluation", "evaluate_on_test", "store_models"),
        *("store_per_client_metrics", "data_folder", "results_directory"),
    ),
    "aggregator": ("name", "parameters"),
    "attack": ("name", "parameters"),
    "pre_aggregators": ("name", "parameters"),
}
# ByzFL's defaults of settings that a file may leave out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "benchmark_config": {
        "training_algorithm": {"name": "DSGD"},
        "nb_steps": 1000,
        "nb_training_seeds": 1,
        "nb_honest_clients": 10,
        "f": 0,
        "set_honest_clients_as_clients": False,
        "size_train_set": 0.8,
        "nb_data_distribution_seeds": 1,
        "data_distribution": {"name": "iid"},
    },
    "model": {
        "name": "cnn_mnist",
        "dataset_name": "mnist",
        "nb_labels": 10,
        "loss": "NLLLoss",
        "learning_rate": 0.1,
        "learning_rate_decay": 1.0,
        "milestones": [],
        "optimizer_name": "SGD",
    },
    "honest_clients": {"momentum": 0.9, "weight_decay": 1e-4, "batch_size": 32},
    "evaluation_and_results": {"evaluation_delta": 50},
}
_MIDDLE = (
    "of an even number of rows torch.median, and so ByzFL's {}, takes the lower of the two middle "
    "values; here it is their mean"
)
_SEARCH = (
    "{} searches in 20 evaluations from 0 upwards; here the strength is the most damaging one "
    "between 0.01 and 100"
)
_ITERATION = "{} finds an eigenvector by one random power iteration; here it is exact"
NOTES = {
    "Median": _MIDDLE.format("Median"),
    "Meamed": _MIDDLE.format("Meamed"),
    "CAF": _ITERATION.format("CAF"),
    "SMEA": _ITERATION.format("SMEA"),
    "Gaussian": "all Byzantine workers of ByzFL send the same noise; here each draws its own",
    "LabelFlipping": "ByzFL's Byzantine workers send the mean gradient of the honest workers' "
    "flipped labels, without momentum; here each sends that of its own samples, with momentum",
    "Optimal_ALittleIsEnough": _SEARCH.format("Optimal_ALittleIsEnough")
    + ", with mu - z sigma instead of mu + z sigma",
    "Optimal_InnerProductManipulation": _SEARCH.format("Optimal_InnerProductManipulation"),
    "fashionmnist": "ByzFL flips the images of fashionmnist at random, test images too, and does "
    "not normalise them; here they are normalised and never flipped",
    "dirichlet_niid": "here the shares are drawn again until every worker has a sample",
}
ALWAYS = (
    "initial models are drawn from PyTorch's distribution, but with other numbers, and batches are "
    "drawn with replacement; a seed of a run here stands for a pair of seeds there",
)


def read(content: Any) -> Imported:
    """The grids of a `config.json`.

    Args:
      content: the parsed JSON.

    Raises:
      ValueError: a setting is unknown or has no counterpart; the error names key and value.
    """
    content = known_keys("", content, SECTIONS)
    filled = {
        name: DEFAULTS.get(name, {}) | known_keys(name, content.get(name, {}), SECTIONS[name])
        for name in DEFAULTS
    }
    filled |= {
        "aggregator": content.get("aggregator", {"name": "Average"}),
        "attack": content.get("attack", {"name": "NoAttack"}),
        "pre_aggregators": content.get("pre_aggregators", []),
    }
    notes = dict.fromkeys(ALWAYS)
    runs = [run for combination in _combinations("", filled) for run in _run(combination, notes)]
    if not runs:
        benchmark = filled["benchmark_config"]
        raise refused("benchmark_config.f", benchmark["f"], "f of at most tolerated_f")
    return Imported(merged(runs), list(notes))


def _combinations(key: str, value: Any) -> list[Any]:
    """All combinations of a nested object whose lists are alternatives."""
    if isinstance(value, dict):
        axes = [_combinations(name, each) for name, each in value.items()]
        return [dict(zip(value, values)) for values in itertools.product(*axes)]
    if not isinstance(value, list):
        return [value]
    whole = key in ("pre_aggregators", "milestones")
    if not value or (whole and not isinstance(value[0], list)):
        return [value]
    if whole:
        return value
    return [each for item in value for each in _combinations("", item)]


def _run(given: dict[str, Any], notes: dict[str, None]) -> list[dict[str, Any]]:
    """The settings of one combination, without those that ByzFL leaves out (f > tolerated_f)."""
    benchmark, model, workers = (
        given[name] for name in ("benchmark_config", "model", "honest_clients")
    )
    honest = number("benchmark_config.nb_honest_clients", benchmark["nb_honest_clients"], int, 1)
    s = number("benchmark_config.f", benchmark["f"], int, 0)
    f = number("benchmark_config.tolerated_f", benchmark.get("tolerated_f", s), int, 0)
    if s > f:
        return []
    whole = one_of(
        "benchmark_config.set_honest_clients_as_clients",
        benchmark["set_honest_clients_as_clients"],
        (False, True),
    )
    n = honest if whole and "nb_workers" not in benchmark else honest + s
    _algorithm(benchmark["training_algorithm"])
    attack, rule = given["attack"], given["aggregator"]
    name = known_keys("attack", attack, SECTIONS["attack"]).get("name", "NoAttack")
    if s and name == "NoAttack":
        raise refused("attack.name", name, f"an attack, or f = 0 (f is {s})")
    run = {
        "n": n,
        "f": f,
        "s": (s,),
        "rule": _named("aggregator", rule, RULES, notes, n, f),
        "mixing": _mixing(given["pre_aggregators"], notes, n, f),
        "attack": _named("attack", attack, ATTACKS, notes, n, f) if s else "none",
        "dealt_to": "honest",
        "partition": _partition(benchmark["data_distribution"], notes),
        "seeds": _seeds(benchmark),
    }
    return [run | _data_and_model(benchmark, model, notes) | _training(benchmark, given, workers)]


def _algorithm(given: Any) -> None:
    key = "benchmark_config.training_algorithm"
    given = known_keys(key, given, ("name", "parameters"))
    one_of(f"{key}.name", given.get("name", "DSGD"), ("DSGD",))
    known_keys(f"{key}.parameters", given.get("parameters", {}), ())


def _seeds(benchmark: dict[str, Any]) -> int:
    names = ("nb_training_seeds", "nb_data_distribution_seeds")
    one, other = (number(f"benchmark_config.{k}", benchmark[k], int, 1) for k in names)
    return one * other


def _partition(given: Any, notes: dict[str, None]) -> str:
    key = "benchmark_config.data_distribution"
    given = known_keys(key, given, ("name", "distribution_parameter"))
    value = given.get("distribution_parameter", 1.0)
    name = one_of(
        f"{key}.name",
        given.get("name", "iid"),
        ("iid", "extreme_niid", "gamma_similarity_niid", "dirichlet_niid"),
    )
    if name in NOTES:
        notes[NOTES[name]] = None
    place = f"{key}.distribution_parameter"
    if name == "gamma_similarity_niid":
        if number(place, value, float, 0) > 1:
            raise refused(place, value, "a number from 0 to 1")
        return f"gamma_similarity({float(value)!r})"
    if name == "dirichlet_niid":
        return f"dirichlet({number(place, value, float, 1e-9)!r})"
    return {"iid": "iid", "extreme_niid": "sorted"}[name]


def _data_and_model(
    benchmark: dict[str, Any], model: dict[str, Any], notes: dict[str, None]
) -> dict[str, Any]:
    dataset = one_of("model.dataset_name", model["dataset_name"], DATASETS)
    if dataset in NOTES:
        notes[NOTES[dataset]] = None
    one_of("model.nb_labels", model["nb_labels"], (10,))
    # The networks end with log_softmax, which does not change a second time.
    one_of("model.loss", model["loss"], ("NLLLoss", "CrossEntropyLoss"))
    one_of("model.optimizer_name", model["optimizer_name"], ("SGD",))
    place = "benchmark_config.size_train_set"
    share = number(place, benchmark["size_train_set"], float, 1e-9)
    if share > 1:
        raise refused(place, share, "a share of at most 1")
    return {
        "dataset": DATASETS[dataset],
        "model": MODELS[one_of("model.name", model["name"], MODELS)],
        "init": "torch",
        "validation": SAMPLES[dataset] - int(share * SAMPLES[dataset]),
    }


def _training(
    benchmark: dict[str, Any], given: dict[str, Any], workers: dict[str, Any]
) -> dict[str, Any]:
    model, evaluation = given["model"], given["evaluation_and_results"]
    steps = number("benchmark_config.nb_steps", benchmark["nb_steps"], int, 1)
    place = "evaluation_and_results.evaluation_delta"
    every = number(place, evaluation["evaluation_delta"], int, 1)
    if steps % every:
        raise refused(place, every, f"a divisor of nb_steps = {steps}")
    return {
        "steps": steps,
        "eval_every": every,
        "learning_rate": number("model.learning_rate", model["learning_rate"], float, 1e-30),
        "schedule": _schedule(model, steps),
        "momentum": number("honest_clients.momentum", workers["momentum"], float, 0, 1),
        "weight_decay": number("honest_clients.weight_decay", workers["weight_decay"], float, 0),
        "weight_decay_at": "server",
        "batch_size": number("honest_clients.batch_size", workers["batch_size"], int, 1),
    }


def _schedule(model: dict[str, Any], steps: int) -> str:
    milestones = model["milestones"]
    if not isinstance(milestones, list):
        raise refused("model.milestones", milestones, "a list of steps")
    key = "model.milestones"
    after = sorted({number(key, each, int, 1) for each in milestones})
    decay = number("model.learning_rate_decay", model["learning_rate_decay"], float, 1e-30)
    if decay == 1 or all(each >= steps for each in after):
        return "constant"
    if decay != 0.1 or len(after) < len(milestones):
        key, value = ("model.learning_rate_decay", decay) if decay != 0.1 else (key, milestones)
        raise refused(key, value, "0.1 at different milestones, or 1.0")
    return f"steps({', '.join(map(str, after))})"


def _mixing(given: Any, notes: dict[str, None], n: int, f: int) -> str:
    if not isinstance(given, list):
        raise refused("pre_aggregators", given, "a list")
    stages = [_named("pre_aggregators", each, MIXINGS, notes, n, f) for each in given]
    if len(stages) > 1:
        return written("experiments.bridges.mixings:in_turn", {"stages": tuple(stages)})
    return stages[0] if stages else "none"


def _named(
    key: str, given: Any, table: dict[str, "Counterpart"], notes: dict[str, None], n: int, f: int
) -> str:
    """A rule, mixing or attack by its name here."""
    given = known_keys(key, given, SECTIONS[key])
    name = one_of(f"{key}.name", given.get("name"), table)
    place = f"{key}.parameters"
    defaults, text_of = table[name]
    parameters = dict(known_keys(place, given.get("parameters", {}), (*defaults, "f")))
    parameters.pop("f", None)  # ByzFL puts tolerated_f in its place
    values = {}
    for parameter, default in defaults.items():
        value = parameters.get(parameter, default)
        values[parameter] = number(f"{place}.{parameter}", value, type(default), -1e30)
    if name in NOTES:
        notes[NOTES[name]] = None
    text = text_of(n, f, values)
    if text is None:
        raise refused(place, parameters, f"mu = 0 of {name}")
    return text


Counterpart = tuple[dict[str, Any], Callable[[int, int, dict[str, Any]], str | None]]


def _plain(name: str, **options: Any) -> Counterpart:
    return {}, lambda n, f, given: written(name, options)


def _renamed(name: str, parameters: dict[str, tuple[str, Any]], **options: Any) -> Counterpart:
    """A counterpart whose parameters have other names: `{"tau": ("z", 1.5)}`, with the default."""
    defaults = {theirs: default for theirs, (_, default) in parameters.items()}

    def text_of(n: int, f: int, given: dict[str, Any]) -> str:
        return written(name, {parameters[k][0]: v for k, v in given.items()} | options)

    return defaults, text_of


RULES: dict[str, Counterpart] = {
    "Average": _plain("mean"),
    "Median": _plain("median"),
    "TrMean": _plain("trimmed_mean"),
    "GeometricMedian": _renamed(
        "geometric_median", {"nu": ("smoothing", 0.1), "T": ("iterations", 3)}, start="zero"
    ),
    "Krum": _plain("krum", neighbors="n-f-1"),
    "MultiKrum": ({}, lambda n, f, given: written("krum", {"m": n - f, "neighbors": "n-f-1"})),
    "CenteredClipping": _renamed(
        "centered_clipping", {"tau": ("radius", 100.0), "L": ("iterations", 1)}
    ),
    "MDA": _plain("minimum_diameter"),
    "Meamed": _plain("mean_around_median"),
    "CAF": _plain("covariance_filter"),
    "SMEA": _plain("minimum_eigenvalue"),
}
MIXINGS: dict[str, Counterpart] = {
    "NNM": _plain("nearest_neighbors"),
    "Bucketing": _renamed("bucketing", {"s": ("s", 1)}),
    "Clipping": _renamed("clip_norms", {"c": ("max_norm", 2.0)}),
    "ARC": _plain("adaptive_clipping"),
}
ATTACKS: dict[str, Counterpart] = {
    "SignFlipping": _plain("sign_flip", of="mean"),
    "InnerProductManipulation": _renamed("inner_product_manipulation", {"tau": ("epsilon", 2.0)}),
    "Optimal_InnerProductManipulation": _plain("strongest_ipm"),
    "ALittleIsEnough": _renamed("little_is_enough", {"tau": ("z", 1.5)}, direction="plus"),
    "Optimal_ALittleIsEnough": _plain("strongest_alie"),
    "Mimic": _renamed("copy_worker", {"epsilon": ("worker", 0)}),
    "Inf": ({}, lambda n, f, given: "non_finite(value=inf)"),
    "Gaussian": (
        {"mu": 0.0, "sigma": 1.0},
        lambda n, f, given: None if given["mu"] else written("gaussian", {"sigma": given["sigma"]}),
    ),
    "LabelFlipping": _plain("flip_labels"),
}
