"""Flower's own robust strategies and byzjax's on the same replies.

    python -m benchmarks.flower_strategies --write docs

needs `pip install "byzjax[flower]"`. Nodes send models of 10 coordinates around (1, ..., 1), with
standard deviation 0.1; the model sent was 0. A cell is the distance of the new model to the mean
of the honest ones, or what happens instead: "raises", which ends the run, or "skipped".
"""

import gc
import importlib.metadata
import io
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.supercore.task_identity import TaskIdentity

import byzjax
from benchmarks.pages import markdown, write_csv, written
from byzjax._program import Parser
from byzjax.flower import RobustStrategy

N, F, D = 11, 2, 10
Reply = tuple[dict[str, Array], dict[str, Any]]


def reply(values: Any, count: Any = 10) -> Reply:
    return {"w": Array(np.asarray(values, np.float32))}, {"num-examples": count}


def objects() -> Reply:
    buffer = io.BytesIO()
    np.save(buffer, np.array([None] * D, object), allow_pickle=True)
    return {"w": Array("float32", (D,), "numpy.ndarray", buffer.getvalue())}, {"num-examples": 10}


# What one node sends; `center` is the mean of the honest models.
INPUTS: dict[str, Callable[[np.ndarray], Reply]] = {
    "honest": lambda center: reply(center),
    "NaN": lambda center: reply(np.full(D, np.nan)),
    "1e38": lambda center: reply(np.full(D, 1e38)),
    "near the others, count 1e9": lambda center: reply(center + 0.05, 10**9),
    "near the others, count that makes the sum 0": lambda center: reply(center, -10 * (N - 1)),
    "another shape": lambda center: reply(np.ones((2, D))),
    "one array more": lambda center: ({**reply(center)[0], "v": Array(np.ones(1, "f4"))}, {}),
    "no count": lambda center: (reply(center)[0], {"accuracy": 1.0}),
    "array of objects": lambda center: objects(),
}


def strategies() -> dict[str, Callable[[], Any]]:
    some = {"min_train_nodes": 1, "min_available_nodes": 1}
    return {
        "FedAvg": lambda: flower.FedAvg(**some),
        "FedMedian": lambda: flower.FedMedian(**some),
        "FedTrimmedAvg(0.2)": lambda: flower.FedTrimmedAvg(**some, beta=0.2),
        "Krum": lambda: flower.Krum(**some, num_malicious_nodes=F),
        "MultiKrum": lambda: flower.MultiKrum(
            **some, num_malicious_nodes=F, num_nodes_to_select=N - F
        ),
        "Bulyan": lambda: flower.Bulyan(**some, num_malicious_nodes=F),
        "RobustStrategy(trimmed_mean)": lambda: RobustStrategy(byzjax.trimmed_mean, F),
    }


class Nodes:
    """A grid that only knows who is connected."""

    def __init__(self, n: int) -> None:
        self.n = n

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.n + 1))


def round_of(strategy: Any, replies: list[Reply], sent: np.ndarray) -> np.ndarray | None:
    """The new model after one round, or None if the round is skipped."""
    arrays = ArrayRecord({"w": Array(sent)})
    if isinstance(strategy, RobustStrategy):
        strategy.server.begin({"w": sent})
    messages = list(strategy.configure_train(1, arrays, ConfigRecord(), Nodes(len(replies))))
    answers = []
    for message, (own, metrics) in zip(messages, replies):
        message.metadata.__dict__["_message_id"] = "m"
        content = {"arrays": ArrayRecord(own), "metrics": MetricRecord(metrics)}
        answers.append(Message(RecordDict(content), reply_to=message))
    new, _ = strategy.aggregate_train(1, answers)
    return None if new is None else new["w"].numpy()


def cell(strategy: Any, replies: list[Reply], expected: np.ndarray) -> str:
    sent = np.zeros(expected.shape, np.float32)
    try:
        with np.errstate(all="ignore"):
            new = round_of(strategy, replies, sent)
    except BaseException as error:
        return f"raises {type(error).__name__}"
    if new is None:
        return "skipped"
    if new.shape != expected.shape:
        return f"shape {new.shape}"
    distance = float(np.linalg.norm(new.astype(np.float64) - expected))
    return "NaN" if np.isnan(distance) else f"{distance:.2g}"


def inputs() -> list[dict[str, Any]]:
    """One Byzantine node of 11, for each input and strategy."""
    honest = 1 + 0.1 * np.random.default_rng(0).normal(size=(N - 1, D)).astype(np.float32)
    center = honest.mean(0)
    rows = []
    for name, send in INPUTS.items():
        replies = [*map(reply, honest), send(center)]
        rows.append(
            {"one node sends": name}
            | {key: cell(make(), replies, center) for key, make in strategies().items()}
        )
    return rows


def few_nodes() -> list[dict[str, Any]]:
    """Four nodes: what a strategy does if f is too large, or if a quantile rounds to nothing."""
    honest = 1 + 0.1 * np.random.default_rng(1).normal(size=(4, D)).astype(np.float32)
    some = {"min_train_nodes": 1, "min_available_nodes": 1}
    rows = []
    for bad, makes in (
        (1, {"FedTrimmedAvg(0.2)": flower.FedTrimmedAvg(**some, beta=0.2)}),
        (2, {"Krum, f = 2": flower.Krum(**some, num_malicious_nodes=2)}),
        (1, {"Bulyan, f = 1": flower.Bulyan(**some, num_malicious_nodes=1)}),
        (1, {"RobustStrategy(trimmed_mean), f = 1": RobustStrategy(byzjax.trimmed_mean, 1)}),
        (2, {"RobustStrategy(krum), f = 2": RobustStrategy(byzjax.krum, 2, min_replies=1)}),
    ):
        replies = [*map(reply, honest[bad:]), *[reply(np.full(D, 1e6))] * bad]
        for name, strategy in makes.items():
            result = cell(strategy, replies, honest[bad:].mean(0))
            rows.append({"strategy": name, "of 4 nodes lie": bad, "distance": result})
    return rows


def precision() -> list[dict[str, Any]]:
    """Krum on models whose honest steps are small beside their weights, against exact distances.

    The Byzantine model is the honest mean plus 5 times a typical step.
    """
    n, f, step, rows = 10, 2, 1e-4, []
    some = {"min_train_nodes": 1, "min_available_nodes": 1}
    strategies = {
        "Krum": flower.Krum(**some, num_malicious_nodes=f),
        "RobustStrategy(krum)": RobustStrategy(byzjax.krum, f),
    }
    for d, draws in ((10**4, 20), (2 * 10**5, 20), (10**6, 4)):
        rng = np.random.default_rng(d)
        picks = {name: [] for name in strategies}
        exact = []
        for _ in range(draws):
            sent = rng.normal(size=d).astype(np.float32)
            noise = rng.normal(size=(n, d)).astype(np.float32)
            noise[0] = noise[1:].mean(0) + 5 * rng.normal(size=d)
            models = sent + np.float32(step) * noise
            exact.append(krum_of(models.astype(np.float64) - sent, f))
            for name, strategy in strategies.items():
                new = round_of(strategy, [reply(model) for model in models], sent)
                assert new is not None
                picks[name].append(int(np.argmin(np.abs(models - new).max(1))))
        rows += [
            {
                "d": d,
                "strategy": name,
                "draws": draws,
                "not Krum's": int(np.sum(np.array(own) != exact)),
                "Byzantine": own.count(0),
            }
            for name, own in picks.items()
        ]
    return rows


def krum_of(rows: np.ndarray, f: int) -> int:
    """The index that Krum selects, in float64 by differences."""
    distances = np.stack([((rows - row) ** 2).sum(1) for row in rows])
    scores = [
        np.sort(np.delete(own, i))[: len(rows) - f - 2].sum() for i, own in enumerate(distances)
    ]
    return int(np.argmin(scores))


def bulyan_draws(draws: int = 100) -> list[dict[str, Any]]:
    """How often the result differs from the paper's Bulyan, whose Krum is iterated."""
    rng, differs = np.random.default_rng(5), 0
    for _ in range(draws):
        models = rng.normal(size=(N, D)).astype(np.float32)
        some = {"min_train_nodes": 1, "min_available_nodes": 1}
        strategy = flower.Bulyan(**some, num_malicious_nodes=F)
        new = round_of(strategy, [reply(model) for model in models], np.zeros(D, np.float32))
        assert new is not None
        differs += not np.allclose(new, byzjax.bulyan(models, f=F), rtol=1e-4, atol=1e-5)
    return [{"draws": draws, "differs from the paper's Bulyan": differs}]


def main() -> None:
    """Measures, prints, and with `--write` writes the tables."""
    parser = Parser(description=__doc__)
    parser.add_argument("--write", type=pathlib.Path, help="folder of the pages")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    gc.freeze()  # Flower collects garbage for each reply of Bulyan
    print("flwr", importlib.metadata.version("flwr"))
    for name, measure in {
        "flower_inputs": inputs,
        "flower_few": few_nodes,
        "flower_precision": precision,
        "flower_bulyan": bulyan_draws,
    }.items():
        rows = measure()
        print(f"\n{name}\n{markdown(rows)}", flush=True)
        if options.write:
            write_csv(options.write / "benchmarks", {name: rows})
            page = options.write / "flower.md"
            page.write_text(written(page.read_text(), name, markdown(rows)))


if __name__ == "__main__":
    main()
