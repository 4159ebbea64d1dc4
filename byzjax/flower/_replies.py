"""Replies of clients, read without trusting anything in them."""

import hashlib
import io
from typing import Any, NamedTuple

import numpy as np

# Bytes of a NumPy header; NumPy itself refuses to evaluate longer ones.
_LONGEST_HEADER = 10_000
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_COUNTS = ("num-examples", "num_examples")
_IDENTITIES = ("node-id", "node_id", "src-node-id", "src_node_id")
_LARGEST_COUNT = 10**9


class Row(NamedTuple):
    """A well-formed reply.

    Attributes:
      update: reply minus what was sent, by name.
      digest: of the arrays of the reply.
      notes: implausible statements of the client, none of which is used.
    """

    update: dict[str, np.ndarray]
    digest: bytes
    notes: tuple[str, ...]


class Fault(NamedTuple):
    """Why a node has no row.

    Attributes:
      reason: for the log.
      malformed: whether it replied something that no honest client sends; else it is absent.
    """

    reason: str
    malformed: bool


class _MalformedError(Exception):
    """The reason is the text."""


def malformed(reason: str) -> Fault:
    return Fault(reason, True)


def absent(reason: str) -> Fault:
    return Fault(reason, False)


def quoted(text: Any) -> str:
    """A client's text in one line of the log."""
    whole = repr(str(text))
    return whole if len(whole) <= 80 else f"{whole[:76]}...'"


def read(message: Any, node: int, sent: dict[str, np.ndarray], key: str, group: str) -> Row | Fault:
    """The update in a message of Flower, or what is wrong with it; never raises.

    Args:
      message: the reply.
      node: the node that was asked, by Flower's account, not the message's.
      sent: the model that was sent, by name.
      key: of the record of arrays.
      group: the group of the messages of this round.
    """
    try:
        return _read(message, node, sent, key, group)
    except _MalformedError as error:
        return malformed(str(error))
    except Exception as error:  # whatever an object from outside can raise
        return malformed(f"unreadable ({type(error).__name__})")


def digest_of(arrays: dict[str, np.ndarray]) -> bytes:
    """The same for arrays of the same bits, 16 bytes."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.digest()


def _read(message: Any, node: int, sent: dict[str, np.ndarray], key: str, group: str) -> Row:
    claimed = message.metadata.src_node_id
    if claimed != node:
        raise _MalformedError(f"signed as node {quoted(claimed)}")
    if message.metadata.group_id != group:
        raise _MalformedError(f"of round {quoted(message.metadata.group_id)}, not {group}")
    if not message.has_content():
        raise _MalformedError("neither content nor an error")
    records = {name: record for name, record in message.content.items() if hasattr(record, "items")}
    holding = [name for name in records if type(records[name]).__name__ == "ArrayRecord"]
    if holding != [key]:
        names = ", ".join(map(quoted, holding[:3])) or "none"
        raise _MalformedError(f"expected one record of arrays, {key!r}; got {names}")
    arrays = dict(records[key].items())
    if len(arrays) != len(sent):
        raise _MalformedError(f"{len(arrays)} arrays; expected {len(sent)}")
    if strange := sorted(arrays.keys() - sent.keys()):
        raise _MalformedError(f"array {quoted(strange[0])}, which the model does not have")
    values = {name: _values(name, arrays[name], expected) for name, expected in sent.items()}
    update = {name: _difference(name, values[name], sent[name]) for name in sent}
    return Row(update, digest_of(values), _notes(records, node))


def _values(name: str, array: Any, expected: np.ndarray) -> np.ndarray:
    """The values of an array; its size is known to be right before a byte of it is read."""
    if array.stype != "numpy.ndarray":
        raise _MalformedError(f"{name}: serialised as {quoted(array.stype)}, not numpy.ndarray")
    _must_equal(name, "announced", tuple(array.shape), array.dtype, expected)
    data = array.data
    if not isinstance(data, bytes):
        raise _MalformedError(f"{name}: {quoted(type(data).__name__)} instead of bytes")
    header = io.BytesIO(data[:_LONGEST_HEADER])
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(header)](header)
    except Exception as error:  # of NumPy's parser of headers
        raise _MalformedError(f"{name}: no header of NumPy's format") from error
    _must_equal(name, "serialised", shape, dtype, expected)
    content = len(data) - header.tell()
    if content != expected.nbytes:
        raise _MalformedError(f"{name}: {content} bytes; expected {expected.nbytes}")
    flat = np.frombuffer(data, expected.dtype, offset=header.tell())
    values = flat.reshape(expected.shape, order="F" if fortran else "C")
    if not np.isfinite(values).all():
        raise _MalformedError(f"{name}: NaN or inf")
    return values


def _must_equal(name: str, how: str, shape: Any, dtype: Any, expected: np.ndarray) -> None:
    if tuple(shape) != expected.shape:
        raise _MalformedError(
            f"{name}: {how} shape {quoted(tuple(shape))}; expected {expected.shape}"
        )
    if str(dtype) != str(expected.dtype):
        raise _MalformedError(f"{name}: {how} dtype {quoted(dtype)}; expected {expected.dtype}")


def _difference(name: str, values: np.ndarray, sent: np.ndarray) -> np.ndarray:
    """Reply minus what was sent, at least float32."""
    wide = np.promote_types(sent.dtype, np.float32)
    with np.errstate(over="ignore"):
        update = values.astype(wide) - sent.astype(wide)
    if not np.isfinite(update).all():
        raise _MalformedError(f"{name}: too far from the model for {wide}")
    return update


def _notes(records: dict[str, Any], node: int) -> tuple[str, ...]:
    """What is implausible among the metrics and settings of a reply, of which none is used."""
    notes = []
    for record in records.values():
        for key, value in record.items():
            if key in _COUNTS:
                number = isinstance(value, int | float)
                if not number or not 0 <= value <= _LARGEST_COUNT:
                    notes.append(f"reports {key}={quoted(value)}")
            elif key in _IDENTITIES and str(value) != str(node):
                notes.append(f"calls itself node {quoted(value)}")
    return tuple(notes[:4])
