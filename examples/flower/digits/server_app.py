"""The server: a rule of byzjax, a checkpoint, a report."""

import pathlib

import numpy as np
import optax
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

import byzjax
from byzjax.flower import RobustStrategy
from digits import task

app = ServerApp()


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """On the server's own samples."""
    del server_round
    return MetricRecord({"accuracy": task.accuracy({k: a.numpy() for k, a in arrays.items()})})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Trains, from the checkpoint if there is one."""
    config = context.run_config
    folder = pathlib.Path(str(config["folder"]))
    strategy = RobustStrategy(
        byzjax.trimmed_mean,
        f=int(config["f"]),
        mixing=byzjax.nearest_neighbors,
        server_optimizer=optax.sgd(1.0, momentum=0.5),
        min_nodes=int(config["nodes"]),
        min_replies=int(config["min-replies"]),
        patience=1.0,
        checkpoint=folder / "server.npz",
        report=folder / "rounds.jsonl",
    )
    strategy.start(
        grid,
        ArrayRecord({name: Array(np.asarray(leaf)) for name, leaf in task.model().items()}),
        num_rounds=int(config["rounds"]),
        timeout=float(config["timeout"]),
        evaluate_fn=evaluate,
    )
