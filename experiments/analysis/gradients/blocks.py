"""The measurements of one training, stored on disk."""

import functools
import hashlib
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import byzjax
from experiments.analysis.gradients import draw, measure
from experiments.analysis.gradients.draw import Stage
from experiments.data import datasets
from experiments.execution import locks, store
from experiments.models import zoo


class Sizes(NamedTuple):
    """The sizes of the measurements."""

    settings: tuple[tuple[str, str], ...]  # data and model
    samples: int  # of the data, the first ones
    seeds: int
    steps: tuple[int, ...]
    batches: tuple[int, ...]
    pool: int  # workers that are drawn
    group: int  # workers of which statistics are taken
    tested: int  # coordinates
    workers: tuple[int, ...]
    trials: int  # for each number of workers, and as many as the pool has
    d: int  # coordinates, where n grows
    coordinates: tuple[int, ...]  # where d grows, at random
    units: tuple[int, ...]  # widths of the hidden layer of mlp
    n: int  # where d grows


INDEPENDENT = ("gaussian", "independent")
MLP = ("mnist", "mlp")
FULL = Sizes(
    settings=(INDEPENDENT, ("mnist", "softmax"), ("cifar10", "cnn")),
    samples=5000,
    seeds=1,
    steps=(0, 50, 200),
    batches=(1, 8, 32),
    pool=130,
    group=65,
    tested=500,
    workers=(9, 17, 33, 65, 129),
    trials=3,
    d=1000,
    coordinates=(100, 1000, 5000),
    units=(),
    n=33,
)
QUICK = FULL._replace(
    settings=(INDEPENDENT, ("digits", "softmax")),
    samples=1000,
    seeds=2,
    steps=(0, 50),
    batches=(1, 8),
    pool=18,
    group=9,
    tested=50,
    workers=(5, 9, 17),
    trials=1,
    d=100,
    coordinates=(30, 100, 300),
    units=(),
    n=9,
)
IN_N = (1, 8)  # batches for which the errors are measured against n
IN_D = 8  # and against d
PLAN = ("settings", "seeds", "units")  # which blocks there are, not what they hold
AT = 50  # the step at which models of several widths are compared


class Block(NamedTuple):
    """One training: its data, model, width of the hidden layer (0 for the default) and seed."""

    data: str
    model: str
    units: int
    seed: int


def plan(sizes: Sizes) -> list[Block]:
    """All trainings, in the order in which they run."""
    seeds = range(sizes.seeds)
    one = [Block(*setting, 0, seed) for seed in seeds for setting in sizes.settings]
    return one + [Block(*MLP, units, seed) for units in sizes.units for seed in seeds]


def _source() -> str:
    text = [pathlib.Path(str(module.__file__)).read_bytes() for module in (draw, measure)]
    return hashlib.sha256(b"".join(text)).hexdigest()[:16]


def measured(block: Block, sizes: Sizes, folder: pathlib.Path, data_dir: str | None) -> dict:
    """The block's measurements, from its file if it is there."""
    described = {
        **block._asdict(),
        **{name: value for name, value in sizes._asdict().items() if name not in PLAN},
        "source": _source(),
        "byzjax": byzjax.__version__,
    }
    path = store.block_path(folder, described)
    if (content := store.read_block(path, ("lines", "seconds"))) is not None:
        return content
    with locks.alone(path.parents[1] / "locks" / path.stem, f"{block.data}, {block.model}"):
        if path.is_file() and (content := store.read_block(path, ("lines", "seconds"))):
            return content
        begin = time.process_time()
        lines = [
            line for stage in _stages(block, sizes, data_dir) for line in _of(stage, block, sizes)
        ]
        content = described | {"lines": lines, "seconds": time.process_time() - begin}
        content["environment"] = store.environment()
        store.write_json(path, content)
    return content


@functools.lru_cache(2)
def _samples(name: str, count: int, data_dir: str | None) -> tuple[np.ndarray, np.ndarray, int]:
    dataset = datasets.load(name, data_dir=data_dir)
    return dataset.train_x[:count], dataset.train_y[:count], dataset.num_classes


def _stages(block: Block, sizes: Sizes, data_dir: str | None) -> Iterator[Stage]:
    if block.data == "gaussian":
        yield _independent(block, sizes)
        return
    x, y, classes = _samples(block.data, sizes.samples, data_dir)
    options: dict[str, Any] = {"units": block.units} if block.units else {}
    model = zoo.build(block.model, x.shape[1:], classes, **options)
    steps = (AT,) if block.units else sizes.steps
    batches = (IN_D,) if block.units else sizes.batches
    yield from draw.stages(
        *(model, x, y), steps=steps, batches=batches, workers=sizes.pool, seed=block.seed
    )


def _independent(block: Block, sizes: Sizes) -> Stage:
    """Rows of independent normal coordinates, with the mean 0.3, in the place of a batch of 8."""
    d = 20 * sizes.d
    rows = 0.3 + np.random.default_rng(block.seed).normal(size=(sizes.pool, d))
    return Stage(0, 0.0, np.full(d, 0.3), {IN_D: rows.astype(np.float32)})


def _of(stage: Stage, block: Block, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """The lines of one stage."""
    rng = np.random.default_rng((block.seed, stage.step))
    for batch, rows in stage.rows.items():
        at = {"step": stage.step, "batch": batch}
        if block.units:
            yield from _errors_in_d(rows, stage.gradient, at | {"part": "widths"}, sizes, rng)
            continue
        sample = rng.choice(rows.shape[1], min(sizes.tested, rows.shape[1]), replace=False)
        for begin in range(0, sizes.pool - sizes.group + 1, sizes.group):
            group = rows[begin : begin + sizes.group]
            values = measure.statistics(group, stage.gradient, sample)
            yield at | {"part": "statistics", "d": rows.shape[1], "loss": stage.loss} | values
        if batch in IN_N:
            yield from _errors_in_n(rows, stage.gradient, at, sizes, rng)
        if batch == IN_D:
            part = at | {"part": "coordinates"}
            yield from _errors_in_d(rows, stage.gradient, part, sizes, rng)


def _errors_in_n(
    rows: np.ndarray, gradient: np.ndarray, at: dict, sizes: Sizes, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    chosen = rng.choice(rows.shape[1], min(sizes.d, rows.shape[1]), replace=False)
    rows, gradient = rows[:, chosen], gradient[chosen]
    kinds = {"drawn": rows, "gaussian": measure.like(rows, gradient, rng)}
    for kind, updates in kinds.items():
        scale = _scale(updates, gradient)
        for n in sizes.workers:
            for trial in range(min(sizes.trials, sizes.pool // n)):
                own = updates[trial * n : (trial + 1) * n]
                for case, error, angle in measure.errors(own, gradient, scale):
                    line = {"part": "workers", "updates": kind, **case._asdict()}
                    size = {"n": n, "d": len(chosen)}
                    yield at | line | size | {"error": error, "angle": angle}


def _errors_in_d(
    rows: np.ndarray, gradient: np.ndarray, at: dict, sizes: Sizes, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """In random coordinates, others in each trial; with the spread and the norm of all."""
    whole = {
        "spread": _scale(rows, gradient),
        "norm": float(np.linalg.norm(gradient)),
        "of": len(gradient),
    }
    for d in sizes.coordinates[-1:] if at["part"] == "widths" else sizes.coordinates:
        for trial in range(min(sizes.trials, sizes.pool // sizes.n)):
            chosen = rng.choice(len(gradient), d, replace=False)
            part, g = rows[:, chosen], gradient[chosen]
            scale, own = _scale(part, g), part[trial * sizes.n : (trial + 1) * sizes.n]
            for case, error, angle in measure.errors(own, g, scale, measure.ALONG_D):
                line = {"n": sizes.n, "d": d, "scale": scale, "error": error, "angle": angle}
                yield at | case._asdict() | line | whole


def _scale(rows: np.ndarray, gradient: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.sum((rows.astype(np.float64) - gradient) ** 2, axis=1))))
