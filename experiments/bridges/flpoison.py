"""FLPoison's YAML configurations as grids.

The format is that of FLPoison in September 2025 (commit 368c940). A file has one attack and one
defence, and lists of others with their parameters, all pairs of which are its benchmark. Clients of
FedSGD send a step of their own optimizer, the negative of learning rate times momentum; workers
here send the momentum, and thresholds are divided by the learning rate.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.bridges.reading import Imported, known_keys, merged, number, one_of, refused
from experiments.data.datasets import OUTLINES
from experiments.grid.calls import written
from experiments.models import zoo

DATASETS = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist", "CIFAR10": "cifar10"}
MODELS = {"lenet": "lenet", "lr": "softmax"}
NEEDED = (
    *("algorithm", "optimizer", "epochs", "num_clients", "num_adv", "batch_size", "learning_rate"),
    *("momentum", "weight_decay", "model", "dataset", "distribution"),
)
IGNORED = (
    *("seed", "gpu_idx", "num_workers", "record_time", "cache_partition", "tail_cls_from"),
    *("local_epochs", "output"),  # FedSGD takes one step
)
OTHERS = ("lr_scheduler", "milestones", "im_iid_gamma", "dirichlet_alpha")
LISTS = ("attack", "attack_params", "attacks", "defense", "defense_params", "defenses")
NOTES = {
    "iid": "FLPoison shares each class equally among the clients; here samples are shared at "
    "random",
    "non-iid": "here the shares are drawn again until every worker has a sample",
    "lr": "FLPoison resizes the images for lr to 32 x 32 pixels, and draws its weights from "
    "N(0, 0.02^2)",
    "lenet": "FLPoison resizes images as integers from 0 to 255, the model here as floats",
    "Bucketing": "FLPoison shuffles the rows in place, which repeats some and loses others; here "
    "they are permuted",
    "MinMax": "FLPoison halves steps to the largest factor; here it is exact",
    "MinSum": "FLPoison halves steps to the largest factor; here it is exact",
}
ALWAYS = (
    "batches are drawn with replacement here; FLPoison shuffles the samples of a client and goes "
    "through them",
    "FLPoison's attackers are the first clients, here a seed draws them; one seed is trained",
)


class Run(NamedTuple):
    """The settings that counterparts depend on.

    Attributes:
      n: number of clients.
      f: number of attackers.
      rate: learning rate.
      varies: whether it changes.
      size: number of the model's parameters.
    """

    n: int
    f: int
    rate: float
    varies: bool
    size: int


Settings = dict[str, Any]
Counterpart = tuple[Settings, Callable[[str, Run, Settings], Settings]]
"""Parameters with their defaults, and `settings(key, run, parameters)` of a grid."""


def read(content: Any, *, benchmark: bool = False) -> Imported:
    """The grids of a configuration.

    Args:
      content: the parsed YAML.
      benchmark: whether all pairs of its lists `attacks` and `defenses` are read, instead of its
        `attack` with its `defense`.

    Raises:
      ValueError: a setting is missing, unknown or has no counterpart; the error names its key.
    """
    content = known_keys("", content, (*NEEDED, *OTHERS, *LISTS, *IGNORED))
    for key in NEEDED:
        if key not in content:
            raise ValueError(f"{key} is missing; expected a configuration of FLPoison.")
    notes = dict.fromkeys(ALWAYS)
    shared = _training(content) | _data(content, notes)
    run = _run(content, shared["model"])
    runs = []
    for attack in _choices(content, "attack", benchmark):
        for defense in _choices(content, "defense", benchmark):
            of_both = _settings(attack, "attack", ATTACKS, run, notes)
            of_both |= _settings(defense, "defense", DEFENSES, run, notes)
            runs.append(shared | {"mixing": "none"} | of_both)
    return Imported(merged(runs), list(notes))


def _choices(content: Settings, kind: str, benchmark: bool) -> list[Settings]:
    """Attacks or defences as `{kind: name, kind_params: {...}}`."""
    key = f"{kind}s"
    listed = content.get(key, [])
    if not isinstance(listed, list):
        raise refused(key, listed, "a list")
    listed = [known_keys(key, each, (kind, f"{kind}_params")) for each in listed]
    if benchmark:
        if not listed:
            raise ValueError(f"{key} is missing; expected a list for --benchmark.")
        return [each for i, each in enumerate(listed) if each not in listed[:i]]
    if kind not in content:
        raise ValueError(f"{kind} is missing; expected the name of one, or --benchmark for lists.")
    chosen = {kind: content[kind]}
    if f"{kind}_params" in content:
        return [chosen | {f"{kind}_params": content[f"{kind}_params"]}]
    return [next((each for each in listed if each.get(kind) == content[kind]), chosen)]


def _settings(
    given: Settings, kind: str, table: dict[str, Counterpart], run: Run, notes: dict[str, None]
) -> Settings:
    """The settings of a grid for an attack or a defence."""
    name = one_of(kind, given.get(kind), table)
    if kind == "attack" and name != "NoAttack" and not run.f:
        raise refused(kind, name, "NoAttack, since num_adv is 0")
    if name in NOTES:
        notes[NOTES[name]] = None
    return _counterpart(name, given.get(f"{kind}_params") or {}, f"{kind}_params", table, run)


def _counterpart(
    name: str, given: Any, key: str, table: dict[str, Counterpart], run: Run
) -> Settings:
    defaults, settings = table[name]
    given = {k: v for k, v in known_keys(key, given, defaults).items() if v is not None}
    values = defaults | given
    for parameter, default in defaults.items():
        if isinstance(default, int | float) and not isinstance(default, bool):
            place = f"{key}.{parameter}"
            values[parameter] = number(place, values[parameter], type(default), -1e30)
    return settings(key, run, values)


def _training(content: Settings) -> Settings:
    one_of("algorithm", content["algorithm"], ("FedSGD",))
    one_of("optimizer", content["optimizer"], ("SGD",))
    steps = number("epochs", content["epochs"], int, 1)
    return {
        "seeds": 1,
        "steps": steps,
        "batch_size": number("batch_size", content["batch_size"], int, 1),
        "learning_rate": number("learning_rate", content["learning_rate"], float, 1e-30),
        "schedule": _schedule(content, steps),
        "momentum": number("momentum", content["momentum"], float, 0, 1),
        "momentum_kind": "undamped",
        "weight_decay": number("weight_decay", content["weight_decay"], float, 0),
    }


def _schedule(content: Settings, steps: int) -> str:
    name = content.get("lr_scheduler")
    if name is None:
        return "constant"
    if one_of("lr_scheduler", name, ("MultiStepLR", "CosineAnnealingLR")) == "CosineAnnealingLR":
        return "cosine"
    milestones = content.get("milestones")
    if not isinstance(milestones, list) or not milestones:
        raise refused("milestones", milestones, "a list of steps or shares of epochs")
    places = [number("milestones", each, float, 1e-9) for each in milestones]
    after = sorted({int(each * steps) if each < 1 else int(each) for each in places})
    if len(after) < len(places) or after[0] < 1:
        raise refused("milestones", milestones, "different steps, from 1 on")
    return f"steps({', '.join(map(str, after))})"


def _data(content: Settings, notes: dict[str, None]) -> Settings:
    dataset = one_of("dataset", content["dataset"], DATASETS)
    model = one_of("model", content["model"], MODELS if dataset != "CIFAR10" else ("lenet",))
    for name in (model, content["distribution"]):
        if name in NOTES:
            notes[NOTES[name]] = None
    return {
        "dataset": DATASETS[dataset],
        "model": MODELS[model],
        "init": "torch",
        "partition": _partition(content),
    }


def _partition(content: Settings) -> str:
    kinds = ("iid", "class-imbalanced_iid", "non-iid")
    kind = one_of("distribution", content["distribution"], kinds)
    if kind == "iid":
        return "iid"
    key = "dirichlet_alpha" if kind == "non-iid" else "im_iid_gamma"
    value = number(key, content.get(key), float, 1e-9)
    if kind == "non-iid":
        return f"dirichlet({value!r})"
    if value > 1:
        raise refused(key, value, "a number of at most 1")
    # The last of ten classes keeps this share.
    return f"long_tail({value ** (1 / 9)!r})"


def _run(content: Settings, model: str) -> Run:
    n = number("num_clients", content["num_clients"], int, 1)
    share = number("num_adv", content["num_adv"], float, 0)
    f = int(share) if share >= 1 else int(share * n)
    if f >= n:
        raise refused("num_adv", content["num_adv"], f"fewer than num_clients = {n}")
    network = zoo.build(model, OUTLINES[DATASETS[content["dataset"]]].shape, 10)
    varies = content.get("lr_scheduler") is not None
    return Run(n, f, float(content["learning_rate"]), varies, zoo.size(network))


def _scaled(key: str, run: Run, value: float) -> float:
    """A threshold of clients' steps as one of momenta."""
    if run.varies:
        raise refused(key, value, "a learning rate without lr_scheduler, or a rule of no threshold")
    return value / run.rate


# --- defences ------------------------------------------------------------------------------------


def _rule(name: str, **options: Any) -> Counterpart:
    return {}, lambda key, run, given: {"rule": written(name, options)}


def _krum(key: str, run: Run, given: Settings) -> Settings:
    m = int(given["avg_percentage"] * run.n) if "avg_percentage" in given else 1
    if not 1 <= m <= run.n - run.f:
        most = (run.n - run.f) / run.n
        raise refused(
            f"{key}.avg_percentage", given["avg_percentage"], f"from {1 / run.n} to {most}"
        )
    chosen = {} if m == 1 else {"m": m}
    return {"rule": written("krum", chosen | {"neighbors": "n-f-1", "squared": False})}


def _trimmed_mean(key: str, run: Run, given: Settings) -> Settings:
    f = int(given["beta"] * run.n)
    if not 1 <= f < run.n / 2:
        raise refused(f"{key}.beta", given["beta"], f"from {1 / run.n} to below 0.5")
    return {"rule": written("trimmed_mean", {"f": f})}


def _geometric_median(key: str, run: Run, given: Settings) -> Settings:
    nu = _scaled(f"{key}.epsilon", run, given["epsilon"])
    options = {"smoothing": nu, "iterations": given["num_iters"], "start": "zero"}
    return {"rule": written("geometric_median", options)}


def _centered_clipping(key: str, run: Run, given: Settings) -> Settings:
    radius = _scaled(f"{key}.norm_threshold", run, given["norm_threshold"])
    options = {"radius": radius, "iterations": given["num_iters"]}
    return {"rule": written("centered_clipping", options)}


def _dnc(key: str, run: Run, given: Settings) -> Settings:
    dropped = given["fliter_frac"] * run.f
    if dropped != int(dropped):
        raise refused(f"{key}.fliter_frac", given["fliter_frac"], f"a multiple of 1 / {run.f}")
    options = {
        "coordinates": int(given["subsample_frac"] * run.size),
        "iterations": given["num_iters"],
        "remove": given["fliter_frac"],
    }
    return {"rule": written("spectral_filter", options)}


def _bucketing(key: str, run: Run, given: Settings) -> Settings:
    place = f"{key}.selected_aggregator"
    inner = [name for name in DEFENSES if name not in ("Bucketing", "NormClipping")]
    name = one_of(place, given["selected_aggregator"], inner)
    buckets = -(-run.n // max(1, given["bucket_size"]))
    rule = _counterpart(name, {}, key, DEFENSES, run._replace(n=buckets))
    return rule | {"mixing": written("bucketing", {"s": given["bucket_size"]})}


def _norm_clipping(key: str, run: Run, given: Settings) -> Settings:
    norm = {"max_norm": _scaled(f"{key}.norm_threshold", run, given["norm_threshold"])}
    if not one_of(f"{key}.weakDP", given["weakDP"], (False, True)):
        return {"rule": "mean", "mixing": written("clip_norms", norm)}
    if given["noise_mean"]:
        raise refused(f"{key}.noise_mean", given["noise_mean"], "0")
    # Each client's step has noise of its own there; here the mean has all of it.
    sigma = _scaled(f"{key}.noise_std", run, given["noise_std"]) / math.sqrt(run.n)
    return {"rule": "mean", "mixing": written("weak_dp", norm | {"sigma": sigma})}


_CHECK = {"enable_check": False}  # of n against f, which is always checked here
DEFENSES: dict[str, Counterpart] = {
    "Mean": _rule("mean"),
    "Median": _rule("median"),
    "TrimmedMean": ({"beta": 0.1}, _trimmed_mean),
    "Krum": (_CHECK, _krum),
    "MultiKrum": ({"avg_percentage": 0.2, **_CHECK}, _krum),
    "RFA": ({"num_iters": 3, "epsilon": 1e-6}, _geometric_median),
    "CenteredClipping": ({"norm_threshold": 100.0, "num_iters": 1}, _centered_clipping),
    "DnC": ({"subsample_frac": 0.2, "num_iters": 5, "fliter_frac": 1.0}, _dnc),
    "Bucketing": ({"bucket_size": 2, "selected_aggregator": "Krum"}, _bucketing),
    "NormClipping": (
        {"weakDP": False, "norm_threshold": 3.0, "noise_mean": 0.0, "noise_std": 0.002},
        _norm_clipping,
    ),
}

# --- attacks -------------------------------------------------------------------------------------


def _attack(run: Run, name: str, options: Settings) -> Settings:
    return {"n": run.n, "f": run.f, "s": (run.f,), "attack": written(name, options)}


def _plain(name: str, **options: Any) -> Counterpart:
    return {}, lambda key, run, given: _attack(run, name, options)


def _none(key: str, run: Run, given: Settings) -> Settings:
    return {"n": run.n, "f": run.f, "s": (0,), "attack": "none"}


def _started(key: str, given: Settings) -> None:
    place = f"{key}.attack_start_epoch"
    one_of(place, given["attack_start_epoch"], (None,))


def _manipulation(key: str, run: Run, given: Settings) -> Settings:
    _started(key, given)
    return _attack(run, "inner_product_manipulation", {"epsilon": given["scaling_factor"]})


def _little(key: str, run: Run, given: Settings) -> Settings:
    _started(key, given)
    z = given["z_max"]
    if z is None:
        honest = run.n - run.f
        share = (honest - (run.n // 2 + 1 - run.f)) / honest
        if not 0 < share < 1:
            raise refused(f"{key}.z_max", None, f"a number ({run.f} of {run.n} clients attack)")
        z = statistics.NormalDist().inv_cdf(share)
    z = number(f"{key}.z_max", z, float, -1e30)
    return _attack(run, "little_is_enough", {"z": z, "ddof": 0})


def _gaussian(key: str, run: Run, given: Settings) -> Settings:
    if given["noise_mean"]:
        raise refused(f"{key}.noise_mean", given["noise_mean"], "0")
    return _attack(run, "gaussian", {"sigma": _scaled(f"{key}.noise_std", run, given["noise_std"])})


def _mimic(key: str, run: Run, given: Settings) -> Settings:
    place, honest = given["choice"] - run.f, run.n - run.f
    if not 0 <= place < honest:
        raise refused(
            f"{key}.choice", given["choice"], f"an honest client, from {run.f} to {run.n - 1}"
        )
    return _attack(run, "copy_worker", {"worker": place})


def _flip_labels(key: str, run: Run, given: Settings) -> Settings:
    one_of(f"{key}.attack_strategy", given["attack_strategy"], ("continuous",))
    one_of(f"{key}.attack_model", given["attack_model"], ("all2all",))
    return _attack(run, "flip_labels", {})


_SEARCH = {"gamma_init": 10.0, "stop_threshold": 1e-5}
ATTACKS: dict[str, Counterpart] = {
    "NoAttack": ({}, _none),
    "IPM": ({"scaling_factor": 0.1, "attack_start_epoch": None}, _manipulation),
    "ALIE": ({"z_max": None, "attack_start_epoch": None}, _little),
    "Gaussian": ({"noise_mean": 0.0, "noise_std": 1.0}, _gaussian),
    "Mimic": ({"choice": 0}, _mimic),
    "MinMax": (_SEARCH, _plain("min_max", direction="unit")[1]),
    "MinSum": (_SEARCH, _plain("min_sum", direction="unit")[1]),
    "SignFlipping": _plain("sign_flip"),
    "LabelFlipping": (
        {
            "attack_model": "targeted",
            "attack_strategy": "continuous",
            # Not used with all2all:
            "source_label": 2,
            "target_label": 7,
            "single_epoch": 0,
            "poison_frequency": 5,
            "poisoning_ratio": 0.32,
        },
        _flip_labels,
    ),
}
