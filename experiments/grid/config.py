"""What a grid of runs is: one frozen dataclass, which is also the command line."""

import dataclasses
import shlex
from typing import Annotated, Any

import tyro

from experiments.grid import calls

DEFAULT_PROTOCOL = "parameter_server"


@dataclasses.dataclass(frozen=True)
class Config:
    """Train one model for every (rule, mixing, attack, number of liars, seed) and compare.

    n workers send what they learnt from their own data to one server; s of them lie; the server
    aggregates with a rule that tolerates f. Without options this is the main job: digits, 25
    workers, f = 11. Results go to results/<study>/, and a second start continues with what is
    missing there.
    """

    study: str = "main"
    """Name of the study: results go to <results>/<study>/."""
    dataset: str = "digits"
    """digits (comes with scikit-learn), mnist, fashion_mnist or cifar10 (through TFDS), a9a,
    mushrooms, spambase or w8a (from files)."""
    model: str = "mlp"
    """softmax, logistic (two classes), mlp (100 hidden units), cnn (small), cnn_5x5, cnn_mnist,
    cnn_cifar or resnet20."""
    rule: tuple[str, ...] = ("mean", "median", "trimmed_mean", "krum", "multi_krum", "aksel")
    """Rules, with hyperparameters where wanted: aksel "krum(f=4, m=3)". The declared
    f is filled in. A rule of your own: my_rules:nearest, from my_rules.py in this folder; likewise
    mixings and attacks."""
    mixing: tuple[str, ...] = ("none",)
    """What stands in front of the rule: none, nearest_neighbors, "bucketing(s=2)",
    "clip_norms(max_norm=1)", adaptive_clipping."""
    attack: tuple[str, ...] = (
        "none",
        "sign_flip",
        "little_is_enough",
        "inner_product_manipulation",
        "non_finite",
    )
    """Attacks: none, sign_flip, "little_is_enough(z=1.5)", "inner_product_manipulation(epsilon=2)",
    "gaussian(sigma=1)", "non_finite(value=-inf)", flip_labels, strongest_alie, gradient_attack,
    mimic and the others of byzjax.attacks. The declared f is filled in where an attack takes one,
    and mixing and rule where it tries them."""
    protocol: str = DEFAULT_PROTOCOL
    """Who talks to whom: parameter_server, "parameter_server(per_round=5)",
    "replicated_servers(num_servers=5)", replicated_state_machine, "gossip(graph='ring')",
    "asynchronous(judge='kardam')" or "redundant(r=3, s=1)"."""
    n: int = 25
    """Number of workers."""
    f: int = 11
    """Number of faults that the rules are declared to tolerate."""
    s: tuple[int, ...] = (0, 1, 5, 11)
    """Numbers of workers that really lie, each at most f. With s = 0 there is no attack: that runs
    once for each rule."""
    seeds: int = 3
    """Number of seeds; a seed decides the model's start, the liars, the partition and batches."""
    steps: int = 300
    """Training steps."""
    batch_size: int = 16
    """Samples that a worker draws, with replacement from its own, for each gradient."""
    learning_rate: float = 0.5
    """The server's step size at first."""
    schedule: str = "constant"
    """How the step size goes on: constant, "hyperbolic(k)" (lr / (1 + t / k)), cosine, or
    "steps(a, b)" (a tenth from step a, a hundredth from step b)."""
    momentum: float = 0.9
    """beta of the momentum; 0 for none."""
    momentum_at: str = "worker"
    """worker (each keeps its own and sends it), server (which keeps one for each worker, of what
    it received) or update (of what the rule returned)."""
    momentum_kind: str = "damped"
    """damped (m = beta m + (1 - beta) g), undamped (m = beta m + g) or nesterov (undamped)."""
    weight_decay: float = 0.0
    """lambda: each worker's gradient gains lambda times the parameters."""
    clip: float = 0.0
    """Largest norm of a worker's gradient, which is clipped before momentum; 0 for any."""
    average: bool = False
    """Evaluate the average of all models since the start (Polyak), not the last one."""
    optimum: bool = False
    """Also measure how far the model is from the minimiser of the training loss, of which weight
    decay is a part; for the model logistic."""
    partition: str = "iid"
    """How samples are dealt out to workers: iid, "dirichlet(0.3)", sorted, "pathological(2)",
    "gamma_similarity(0.5)", "long_tail(0.5)" or "unequal(1)"."""
    dealt_to: str = "all"
    """Among whom: all n workers, or honest ones only, and the liars draw from all samples."""
    validation: int = 0
    """Training samples that no worker gets: the accuracy on them is what settings are chosen by
    (`python -m experiments choose`)."""
    eval_every: int = 25
    """Steps between evaluations on the test set; divides the number of steps."""
    eval_samples: int = 0
    """Test samples of an evaluation before the last, the first ones; 0 for all. The last one is on
    all of them."""
    results: str = "results"
    """Folder of all studies."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Folder of prepared data sets; default $TFDS_DATA_DIR, then TFDS's own, and for the convex
    sets $BYZJAX_DATA_DIR."""
    download: bool = False
    """Let TFDS download and prepare a data set that is missing (needs TensorFlow)."""

    @property
    def code(self) -> str:
        """The files that rules, mixings and attacks of one's own come from; else empty."""
        return calls.code((*self.rule, *self.mixing, *self.attack))


# What says where things lie, or which other blocks there are: not what a block's numbers come from.
_ELSEWHERE = ("study", "rule", "mixing", "attack", "s", "seeds", "results", "data_dir", "download")
IDENTITY = (
    *(field.name for field in dataclasses.fields(Config) if field.name not in _ELSEWHERE),
    "code",
)


# Settings that came later: a block names them where they are not the only ones that there were.
_LATER = {"protocol": DEFAULT_PROTOCOL, "dealt_to": "all", "code": ""}


def setting(block: dict[str, Any], name: str) -> Any:
    """A setting of a finished block; what it does not name had its default, or had no name yet."""
    return block.get(name, _LATER.get(name))


def identity(config: Config) -> dict[str, Any]:
    """The settings that decide a block's numbers; what came later is named if it is not default."""
    named = {name: getattr(config, name) for name in IDENTITY}
    return {name: value for name, value in named.items() if _LATER.get(name) != value}


def options(config: Config) -> str:
    """What was written on the command line, where it is not the default."""
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            words.append(f"--{field.name.replace('_', '-')}")
            if value is not True:
                words += map(str, value) if isinstance(value, tuple) else [str(value)]
    return shlex.join(words)
