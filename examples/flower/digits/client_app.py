"""The clients. A node's configuration says which library it trains with, and whether it lies."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits import liars, task
from digits.training import LIBRARIES

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains on the node's own samples and replies with the new model."""
    node = context.node_config
    arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
    x, y = task.share(int(node["partition-id"]), int(node["num-partitions"]))
    trained = LIBRARIES[str(node["library"])](arrays, x, y)
    record = ArrayRecord({name: Array(np.asarray(leaf)) for name, leaf in trained.items()})
    metrics = MetricRecord({"num-examples": len(y)})
    reply = Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)
    return liars.replace(str(node.get("lies", "")), message, reply, context)
