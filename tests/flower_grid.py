"""A grid of Flower within the process: clients are functions, honest or not."""

import io

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs byzjax[flower]")

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


class LocalGrid(Grid):
    """Nodes by id: `client(message, round) -> replies`, or None for silence."""

    def __init__(self, clients):
        self.clients, self.replies, self.sent = clients, {}, []

    def set_run(self, run):
        pass

    @property
    def run(self):
        return None

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self.clients)[::-1]

    def push_messages(self, messages):
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"message {len(self.sent)}"
            self.sent.append(message)
            ids.append(message.metadata.message_id)
            node = message.metadata.dst_node_id
            reply = self.clients[node](message, int(message.metadata.group_id))
            if reply is not None:
                self.replies[ids[-1]] = reply if isinstance(reply, list) else [reply]
        return ids

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        replies = self.replies.pop(message_id, [])
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def send_and_receive(self, messages, *, timeout=None):
        return [reply for i in self.push_messages(messages) for reply in self.pull_messages([i])]


def record(**arrays):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})


def values_of(message):
    return {name: array.numpy() for name, array in message.content["arrays"].items()}


def answer(message, arrays, **records):
    metrics = MetricRecord({"num-examples": 10})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics, **records}), reply_to=message)


def moves(step):
    """An honest client that adds `step(round)` to each array."""

    def client(message, server_round):
        change = step(server_round)
        old = values_of(message)
        return answer(
            message, record(**{k: (v + change[k]).astype(v.dtype) for k, v in old.items()})
        )

    return client


def raw(data, shape=(2,), dtype="float32", stype="numpy.ndarray"):
    return ArrayRecord({"w": Array(dtype, shape, stype, data), "b": Array(np.zeros((), "float32"))})


def npy(array, pickled=False):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def announcing(shape, dtype="<f4"):
    """A header that announces an array, with 8 bytes of it."""
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + b"\0" * 8


def whole(value):
    return record(w=np.full(2, value, np.float32), b=np.float32(value))


def altered(message, **metadata):
    """An honest reply whose own account of itself is false."""
    reply = answer(message, whole(0.5))
    for name, value in metadata.items():
        reply.metadata.__dict__[f"_{name}"] = value
    return reply


GOOD = whole(0.5)
HUGE = (10 * 2**28,)  # 10 GB of float32

# What a client sends instead of a model `w: float32[2], b: float32[]`, and what the log says.
MALFORMED = {
    "NaN": (lambda m: answer(m, whole(np.nan)), "NaN or inf"),
    "inf": (lambda m: answer(m, whole(-np.inf)), "NaN or inf"),
    "shape": (lambda m: answer(m, record(w=np.ones((2, 1), "f4"), b=np.float32(0))), "shape"),
    "dtype": (lambda m: answer(m, record(w=np.ones(2), b=np.float32(0))), "dtype 'float64'"),
    "byte order": (lambda m: answer(m, raw(announcing((2,), ">f4"))), "serialised dtype"),
    "one array less": (lambda m: answer(m, record(w=np.ones(2, "f4"))), "1 arrays; expected 2"),
    "one array more": (
        lambda m: answer(m, record(w=np.ones(2, "f4"), b=np.float32(0), c=np.float32(0))),
        "3 arrays; expected 2",
    ),
    "another name": (
        lambda m: answer(m, record(w=np.ones(2, "f4"), **{"b\nround 9: ok": np.float32(0)})),
        r"array 'b\\nround 9: ok'",
    ),
    "objects": (
        lambda m: answer(m, raw(npy(np.array([{}, {}], object), pickled=True))),
        "serialised dtype 'object'",
    ),
    "objects announced": (
        lambda m: answer(m, raw(npy(np.array([{}, {}], object), pickled=True), dtype="object")),
        "announced dtype 'object'",
    ),
    "pickle": (lambda m: answer(m, raw(b"\x80\x04N.")), "no header"),
    "10 GB announced": (lambda m: answer(m, raw(announcing(HUGE), HUGE)), "announced shape"),
    "10 GB in the header": (lambda m: answer(m, raw(announcing(HUGE))), "serialised shape"),
    "cut off": (lambda m: answer(m, raw(npy(np.ones(2, "f4"))[:-1])), "7 bytes; expected 8"),
    "longer": (lambda m: answer(m, raw(npy(np.ones(2, "f4")) + b"\0")), "9 bytes; expected 8"),
    "another format": (lambda m: answer(m, raw(b"", stype="pickle")), "serialised as 'pickle'"),
    "a header that is code": (
        lambda m: answer(m, raw(b"\x93NUMPY\x01\x00\x10\x00__import__('os')\n" + b"\0" * 8)),
        "no header",
    ),
    "empty": (lambda m: Message(RecordDict(), reply_to=m), "got none"),
    "no arrays": (lambda m: answer(m, ArrayRecord()), "0 arrays; expected 2"),
    "another key": (
        lambda m: Message(RecordDict({"weights": GOOD}), reply_to=m),
        "got 'weights'",
    ),
    "two records": (lambda m: answer(m, GOOD, more=whole(1.0)), "got 'arrays', 'more'"),
    "another node's id": (lambda m: altered(m, src_node_id=1), "signed as node '1'"),
    "another round": (lambda m: altered(m, group_id="7"), "of round '7', not 1"),
    "another message": (
        lambda m: altered(m, reply_to_message_id="message 0"),
        "names another message",
    ),
    "twice": (lambda m: [answer(m, GOOD), answer(m, whole(9.0))], "2 replies to one message"),
    "undecodable": (lambda m: [ValueError("no such chunk")], r"decoded \(ValueError\)"),
}
ABSENT = {
    "silence": (lambda m: None, "no reply within"),
    "crash": (lambda m: Message(Error(2, "boom"), reply_to=m), "error 'boom'"),
    "connection": (lambda m: [ConnectionError("reset")], r"no reply within .*ConnectionError"),
}
# Well-formed replies with false statements, all ignored.
STATEMENTS = {
    "huge count": (MetricRecord({"num-examples": 10**18}), "num-examples='1000"),
    "negative count": (MetricRecord({"num-examples": -5}), "num-examples='-5'"),
    "NaN count": (MetricRecord({"num-examples": float("nan")}), "num-examples='nan'"),
    "node id": (ConfigRecord({"node-id": 1}), "calls itself node '1'"),
}
