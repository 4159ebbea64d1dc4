"""The mimic attack on heterogeneous MNIST: a published table, repeated without looking it up.

Claim (Karimireddy, He, Jaggi, Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing,
ICLR 2022, arXiv:2006.09365): Byzantine workers that copy one honest worker, and so look like one,
cost robust rules accuracy on data sorted by label, and less if buckets of two are averaged before
the rule; on iid data they cost little.

    python -m experiments study mimic --edition cpu

MNIST, CNN 32-64-128, n = 25, s = f = 5, batch 32, step size 0.01, no momentum, 600 steps, 3 seeds;
data sorted by label and partitioned among the 20 honest workers, or iid; Byzantine workers draw
from all data and choose the worker that they copy in the first step. Mean, Krum, median, RFA (eight
steps from zero, nu 0.1), centered clipping (radius 10, three iterations), and two modes of Aksel
that the publication does not have, each with buckets of one and of two; f is unchanged after
bucketing. Published numbers are means of the last five evaluations, one every 30 steps, and so are
those of the page. Every run is a block of its own, sorted data come first, and `--seeds 1` trains
the first seed of everything. The CPU edition has 84 runs of about five minutes on 2 idle cores; the
full edition adds undamped worker momentum of 0.9.

What was published for this attack is to be compared with these numbers once they are committed, and
was not looked up before; the page of the studies says what was known.
"""

from experiments.grid.config import Config

RULES = (
    "krum",
    "centered_clipping(radius=10.0, iterations=3)",
    "geometric_median(iterations=8, smoothing=0.1, start='zero')",
    "median",
    "mean",
    "aksel",
    "aksel(mode='n-f')",
)


def _grids(momenta: tuple[float, ...]) -> tuple[Config, ...]:
    return tuple(
        Config(
            study="mimic",
            dataset="mnist",
            model="cnn_mnist",
            rule=RULES,
            mixing=("none", "bucketing(s=2)"),
            attack=("mimic(warmup=1)",),
            n=25,
            f=5,
            s=(5,),
            seeds=3,
            steps=600,
            batch_size=32,
            learning_rate=0.01,
            momentum=momentum,
            momentum_kind="undamped",
            partition=partition,
            dealt_to="honest",
            eval_every=30,
            together=1,
        )
        for momentum in momenta
        for partition in ("sorted", "iid")
    )


EDITIONS = {"full": _grids((0.0, 0.9)), "cpu": _grids((0.0,))}
