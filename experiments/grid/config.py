"""The settings of a grid of runs: one frozen dataclass, which also defines the command line."""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Annotated, Any

from byzjax.facts import FACTS
from experiments.grid import calls
from experiments.text import bases
from experiments.text.arguments import SHOWN

DEFAULT_PROTOCOL = "parameter_server"
NO_COMPRESSOR = "none"
NO_BASE = "none"
FOLLOWS: Any = None  # a default that follows from other settings: see `Config.__post_init__`


def default_f(n: int, rules: Sequence[str] = ()) -> int:
    """The most faults that Krum, (n - 3) // 2, and these rules tolerate."""
    most = [(n - 3) // 2]
    for text in rules:
        facts = FACTS.get(text.partition("(")[0].strip())
        if facts is not None and facts.takes_f and facts.needs[0] > 0:
            most.append((n - facts.needs[1]) // facts.needs[0])
    return max(0, min(most))


def default_s(f: int) -> tuple[int, ...]:
    """None, one, half of f and f Byzantine workers."""
    return tuple(sorted({0, min(1, f), f // 2, f})) if f >= 0 else (0,)


def default_eval_every(steps: int) -> int:
    """The divisor of `steps` nearest to 25, as a ratio."""
    if not 1 <= steps <= 10**6:
        return 25
    divisors = [k for k in range(1, steps + 1) if steps % k == 0]
    return min(divisors, key=lambda k: max(k, 25) / min(k, 25))


@dataclasses.dataclass(frozen=True)
class Config:
    """Train one model for every rule, mixing, attack, number s of attackers, and seed.

    n workers send updates computed on their own data to a server; s of them are Byzantine; the
    server aggregates with a rule that tolerates f. The defaults are the main job: digits, 25
    workers, f = 11. Results go to results/main/, with other options to a folder named after them,
    or to results/<study>/; running the command again computes only what is missing there.
    """

    study: str = "main"
    """Name of the study: results go to <results>/<study>/. Without it, the name is made of the
    options that differ from the defaults, such as learning-rate-0.1. A folder keeps its settings:
    more rules, mixings, attacks, s or seeds extend it, others are refused."""
    dataset: str = "digits"
    """digits (comes with scikit-learn), mnist, fashion_mnist, cifar10 or the text
    tiny_shakespeare (through TFDS) and its parts shakespeare_first_six and shakespeare_last_three,
    a9a, mushrooms, spambase or w8a (from files)."""
    model: str = "mlp"
    """softmax, logistic (two classes), mlp (100 hidden units), cnn (small), cnn_5x5, lenet,
    cnn_mnist, cnn_cifar or resnet20; for text gpt_nano, gpt_micro or gpt_mini."""
    init: str = "flax"
    """Distribution of the initial weights: flax (kernels normal, biases 0) or torch (both uniform,
    as PyTorch's layers draw them by default)."""
    base: str = NO_BASE
    """Trained weights that every run starts from: none, gpt_micro (trained on
    shakespeare_first_six), or the folder of your own, ./FOLDER."""
    lora: int = 0
    """Rank of adapters, which alone are trained and sent (LoRA), on the weights of a base; 0 to
    train all weights."""
    rule: tuple[str, ...] = ("mean", "median", "trimmed_mean", "krum", "multi_krum", "aksel")
    """Rules, with optional hyperparameters: aksel "krum(f=4, m=3)". The declared f is filled in.
    A rule of your own: my_rules:nearest, from my_rules.py in this folder; likewise mixings and
    attacks."""
    mixing: tuple[str, ...] = ("none",)
    """Mixings applied before the rule: none, nearest_neighbors, "bucketing(s=2)",
    "clip_norms(max_norm=1)", adaptive_clipping, "weak_dp(max_norm=1, sigma=0.01)"."""
    attack: tuple[str, ...] = (
        "none",
        "sign_flip",
        "little_is_enough",
        "inner_product_manipulation",
        "non_finite",
    )
    """Attacks: none, sign_flip, "little_is_enough(z=1.5)", "inner_product_manipulation(epsilon=2)",
    "gaussian(sigma=1)", "non_finite(value=-inf)", flip_labels, shift_tokens,
    "add_trigger(target=7)", strongest_alie, gradient_attack, mimic and the others of
    byzjax.attacks. The declared f, the mixing and the rule are filled in where an attack takes
    them."""
    protocol: str = DEFAULT_PROTOCOL
    """Communication protocol: parameter_server, "parameter_server(per_round=5)",
    "replicated_servers(num_servers=5)", replicated_state_machine, "gossip(graph='ring')",
    "asynchronous(judge='kardam')", "redundant(r=3, s=1)" or
    "variance_reduced(estimator='marina', p=0.1)", with saga and storm(a) as other estimators."""
    compressor: str = NO_COMPRESSOR
    """Compression of what workers send: none, "top_k(k=0.01)", "rand_k(k=0.1, shared=True)",
    "quantize(bits=4)" or sign; with feedback='error_feedback' or feedback='ef21' among its
    hyperparameters, what a message leaves out is sent later, and with byzantine=True malicious
    updates are compressed as well. The report then counts bits."""
    n: int = 25
    """Number of workers."""
    f: int = dataclasses.field(
        default=FOLLOWS, metadata={SHOWN: "the most that Krum and all rules tolerate, 11 of 25"}
    )
    """Declared number of faults that the rules tolerate, among the drawn if per_round workers are
    drawn for each step."""
    s: tuple[int, ...] = dataclasses.field(
        default=FOLLOWS, metadata={SHOWN: "0, 1, f // 2 and f, so 0 1 5 11"}
    )
    """Actual numbers of Byzantine workers, each at most f (below n if per_round workers are drawn).
    With s = 0 there is no attack, and each rule runs once."""
    seeds: int = 5
    """Number of seeds; a seed determines the initial model, the Byzantine workers, the partition
    and the batches."""
    together: int = 0
    """Most runs that train together and are stored as one block; 0 for as many as fit into 2 GiB.
    With 1 a grid of long runs can be interrupted after each of them."""
    steps: int = 300
    """Training steps."""
    batch_size: int = 16
    """Samples per gradient, drawn with replacement from the worker's own (without it, if there is a
    noise_multiplier)."""
    learning_rate: float = 0.2
    """The server's initial step size."""
    schedule: str = "constant"
    """Step size schedule: constant, "hyperbolic(k)" (lr / (1 + t / k)), cosine, or "steps(a, b)"
    (a tenth from step a, a hundredth from step b)."""
    momentum: float = 0.9
    """Momentum coefficient beta; 0 for none."""
    momentum_at: str = "worker"
    """worker (each keeps its own and sends it), server (which keeps one for each worker, of the
    updates received) or update (of the aggregate)."""
    momentum_kind: str = "damped"
    """damped (m = beta m + (1 - beta) g), undamped (m = beta m + g) or nesterov (undamped)."""
    weight_decay: float = 0.0
    """lambda: each worker adds lambda times the parameters to its gradient."""
    weight_decay_at: str = "worker"
    """worker (before momentum) or server, which adds lambda times the parameters to the
    aggregate."""
    clip: float = 0.0
    """Norm at which workers clip their gradients, before momentum; 0 for no clipping."""
    clip_examples: float = 0.0
    """Norm at which workers clip the gradient of each example, before they average and before clip;
    0 for no clipping."""
    noise_multiplier: float = 0.0
    """Standard deviation of the noise that workers add to the sum of the clipped gradients, in
    units of clip_examples (DP-SGD); 0 for none. With noise, batches are drawn without replacement,
    as `byzjax.privacy.epsilon` assumes."""
    average: bool = False
    """Evaluate the average of all models so far (Polyak) instead of the last one."""
    optimum: bool = False
    """Also measure the distance from the model to the minimiser of the training loss, weight decay
    included; only for the model logistic."""
    partition: str = "iid"
    """How samples are partitioned among the workers: iid, contiguous, "dirichlet(0.3)", sorted,
    one_class, "pathological(2)", "gamma_similarity(0.5)", "long_tail(0.5)" or "unequal(1)"."""
    dealt_to: str = "all"
    """Who shares the samples: all (n workers), or honest (the honest workers only; Byzantine
    workers draw from all samples)."""
    validation: int = 0
    """Number of training samples held out from all workers; `python -m experiments choose` selects
    settings by the accuracy on them."""
    eval_every: int = dataclasses.field(
        default=FOLLOWS, metadata={SHOWN: "the divisor nearest to 25"}
    )
    """Steps between evaluations on the test set; divides the number of steps."""
    eval_samples: int = 0
    """Number of test samples (the first ones) for evaluations before the last; 0 for all. The last
    evaluation uses all of them."""
    results: str = "results"
    """Folder of all studies."""
    data_dir: Annotated[str | None, "PATH"] = None
    """Folder of prepared data sets; default $TFDS_DATA_DIR, then TFDS's own, and for the convex
    sets $BYZJAX_DATA_DIR."""
    download: bool = False
    """Let TFDS download and prepare a data set that is missing (needs TensorFlow)."""

    def __post_init__(self):
        """Fills in the defaults that follow from other settings."""
        for name, value in _following(self.n, self.rule, self.f, self.steps):
            if getattr(self, name) is FOLLOWS:
                object.__setattr__(self, name, value)

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of each setting, given the settings that it follows from."""
        plain = {field.name: field.default for field in dataclasses.fields(self)}
        return (
            plain | dict(_following(self.n, self.rule, None, self.steps)) | {"s": default_s(self.f)}
        )

    @property
    def code(self) -> str:
        """Hashes of the files of user-defined rules, mixings and attacks; empty without any."""
        return calls.code((*self.rule, *self.mixing, *self.attack))

    @property
    def weights(self) -> str:
        """Hash of the weights of the base model; empty without one."""
        return "" if self.base == NO_BASE else bases.digest(self.base)


def _following(n: int, rules: Sequence[str], f: int | None, steps: int) -> list[tuple[str, Any]]:
    """The defaults of f, s and eval_every; f is the given one, if any."""
    f = default_f(n, rules) if f is None else f
    return [("f", f), ("s", default_s(f)), ("eval_every", default_eval_every(steps))]


# Settings that give locations or select blocks, and do not affect a block's numbers.
_OF_BLOCKS = ("rule", "mixing", "attack", "s", "seeds", "together")
_ELSEWHERE = ("study", *_OF_BLOCKS, "results", "data_dir", "download")
IDENTITY = (
    *(field.name for field in dataclasses.fields(Config) if field.name not in _ELSEWHERE),
    "code",
    "weights",
)


# Settings added later: a block names them only if they differ from the former behaviour.
_LATER = {
    "protocol": DEFAULT_PROTOCOL,
    "compressor": NO_COMPRESSOR,
    "dealt_to": "all",
    "code": "",
    "init": "flax",
    "base": NO_BASE,
    "lora": 0,
    "weights": "",
    "clip_examples": 0.0,
    "noise_multiplier": 0.0,
    "weight_decay_at": "worker",
}


def setting(block: dict[str, Any], name: str) -> Any:
    """A setting of a finished block; one that it does not name had its default."""
    return block.get(name, _LATER.get(name))


def identity(config: Config) -> dict[str, Any]:
    """The settings that determine a block's numbers; later ones only if not the default."""
    named = {name: getattr(config, name) for name in IDENTITY}
    return {name: value for name, value in named.items() if _LATER.get(name) != value}


def options(config: Config) -> str:
    """The command-line options that differ from their defaults."""
    words = []
    for name, default in config.defaults.items():
        value = getattr(config, name)
        if value != default:
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words += map(str, value) if isinstance(value, tuple) else [str(value)]
    return shlex.join(words)
