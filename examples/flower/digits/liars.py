"""What dishonest clients send: `replace(lies, ...)`, one name or one for each round, by commas."""

import io
import os
import time
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supernode.runtime import run_clientapp

Values = dict[str, np.ndarray]


def replace(lies: str, message: Message, reply: Message, context: Context) -> Message:
    """The reply, or what the client sends instead."""
    names = lies.split("+")
    name = names[(int(message.content["config"]["server-round"]) - 1) % len(names)]
    if not name:
        return reply
    if name in VALUES:
        sent = {key: array.numpy() for key, array in message.content["arrays"].items()}
        trained = {key: array.numpy() for key, array in reply.content["arrays"].items()}
        reply.content["arrays"] = _record(VALUES[name](sent, trained))
        return reply
    return DEEDS[name](message, reply, context)


def _record(values: Values) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


def _all(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Values, Values], Values]:
    return lambda sent, trained: {name: change(value) for name, value in trained.items()}


# Another model in place of the trained one.
VALUES: dict[str, Callable[[Values, Values], Values]] = {
    "reversed": lambda sent, trained: {k: sent[k] - 10 * (trained[k] - sent[k]) for k in sent},
    "nan": _all(lambda value: value * np.float32("nan")),
    "inf": _all(lambda value: value + np.float32("inf")),
    "1e38": _all(lambda value: np.full_like(value, 1e38)),
    "shape": _all(lambda value: value[None]),
    "dtype": _all(lambda value: value.astype(np.float64)),
    "fewer": lambda sent, trained: {"w": trained["w"]},
    "more": lambda sent, trained: {**trained, "c": trained["b"]},
}


def _objects(message: Message, reply: Message, context: Context) -> Message:
    """A pickle: whoever loads it runs code of the client."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([print] * 10, object), allow_pickle=True)
    reply.content["arrays"]["b"] = Array("float32", (10,), "numpy.ndarray", buffer.getvalue())
    return reply


def _ten_gigabytes(message: Message, reply: Message, context: Context) -> Message:
    """Announced in the header, not sent."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10 * 2**28,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    reply.content["arrays"]["b"] = Array("float32", (10,), "numpy.ndarray", buffer.getvalue())
    return reply


def _empty(message: Message, reply: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=message)


def _old(message: Message, reply: Message, context: Context) -> Message:
    """The first arrays that it ever sent."""
    if "old" not in context.state:
        context.state["old"] = reply.content["arrays"]
    return Message(RecordDict({"arrays": context.state["old"]}), reply_to=message)


def _another_id(message: Message, reply: Message, context: Context) -> Message:
    reply.content["identity"] = ConfigRecord({"node-id": 1})
    return reply


def _signed_as_another(message: Message, reply: Message, context: Context) -> Message:
    """Another id in the message itself, which SuperNode and SuperLink pass on as content."""
    fields, to_proto = reply.metadata.__dict__, run_clientapp.message_to_proto
    ours, fields["_src_node_id"] = fields["_src_node_id"], 1

    def honest_outside(outside: Message):
        fields["_src_node_id"] = ours
        envelope = to_proto(outside)
        fields["_src_node_id"] = 1
        return envelope

    run_clientapp.message_to_proto = honest_outside
    return reply


def _twice(message: Message, reply: Message, context: Context) -> Message:
    push = run_clientapp.push_message

    def both(client, pushed, where):
        push(client, pushed, where)
        second = Message(RecordDict({"arrays": _record({"w": np.zeros(1)})}), reply_to=message)
        push(client, second, where)

    run_clientapp.push_message = both
    return reply


def _silence(message: Message, reply: Message, context: Context) -> Message:
    time.sleep(3600)
    return reply


def _crash(message: Message, reply: Message, context: Context) -> Message:
    os._exit(9)


def _counting(count: int) -> Callable[[Message, Message, Context], Message]:
    def deed(message: Message, reply: Message, context: Context) -> Message:
        reply.content["metrics"] = MetricRecord({"num-examples": count})
        return reply

    return deed


DEEDS: dict[str, Callable[[Message, Message, Context], Message]] = {
    "objects": _objects,
    "10GB": _ten_gigabytes,
    "empty": _empty,
    "old": _old,
    "id": _another_id,
    "signed": _signed_as_another,
    "twice": _twice,
    "silence": _silence,
    "crash": _crash,
    "huge": _counting(10**18),
    "negative": _counting(-5),
}
