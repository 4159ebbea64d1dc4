"""The server's state as one file of NumPy arrays, replaced as a whole."""

import os
import pathlib
import zipfile
from typing import Any, NamedTuple

import jax
import numpy as np

from byzjax.flower._aggregation import State

_VERSION = 1


class Saved(NamedTuple):
    """What a server needs to continue.

    Attributes:
      round: the last completed round.
      state: model, optimizer and memory.
      slots: for each node that ever sent a row, its place in states with a row per worker.
      workers: the state of the node in each place; empty without a transformation per worker.
      seen: for each node, the digests of its last replies, with the round and the digest of the
        model that was sent.
    """

    round: int
    state: State
    slots: dict[int, int]
    workers: list[Any]
    seen: dict[int, dict[bytes, tuple[int, bytes]]]


def save(path: pathlib.Path, saved: Saved) -> None:
    """Writes beside the old file and replaces it, so that there is a whole one at any time."""
    told = [
        (node, server_round, reply, model)
        for node, replies in saved.seen.items()
        for reply, (server_round, model) in replies.items()
    ]
    arrays = {
        "version": np.int64(_VERSION),
        "round": np.int64(saved.round),
        "nodes": np.array(list(saved.slots), np.uint64),
        "seen_node": np.array([row[0] for row in told], np.uint64),
        "seen_round": np.array([row[1] for row in told], np.int64),
        "seen_reply": _bytes([row[2] for row in told]),
        "seen_model": _bytes([row[3] for row in told]),
    }
    for i, leaf in enumerate(jax.tree.leaves(saved.state)):
        arrays[f"state_{i}"] = _plain(leaf)
    if saved.workers:
        for i, leaves in enumerate(zip(*map(jax.tree.leaves, saved.workers))):
            arrays[f"worker_{i}"] = np.stack([np.asarray(leaf) for leaf in leaves])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: pathlib.Path, like: State, worker: Any) -> Saved:
    """Reads a file back into the structure of a new server's state.

    Raises:
      ValueError: the file is damaged, or of another model, optimizer, rule or mixing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"checkpoint {path.name} is damaged: {error}."[:200]) from error
    if arrays.get("version") != _VERSION:
        raise ValueError(f"checkpoint {path.name}: expected version {_VERSION}.")
    nodes = [int(node) for node in arrays["nodes"]]
    seen: dict[int, dict[bytes, tuple[int, bytes]]] = {}
    for node, server_round, reply, model in zip(
        arrays["seen_node"], arrays["seen_round"], arrays["seen_reply"], arrays["seen_model"]
    ):
        seen.setdefault(int(node), {})[reply.tobytes()] = int(server_round), model.tobytes()
    rows = _restored(path, arrays, "worker", worker, len(nodes)) if nodes else worker
    split = [jax.tree.map(lambda leaf, i=i: leaf[i], rows) for i in range(len(nodes))]
    return Saved(
        int(arrays["round"]),
        _restored(path, arrays, "state", like),
        {node: i for i, node in enumerate(nodes)},
        split if jax.tree.leaves(worker) else [worker] * len(nodes),
        seen,
    )


def _bytes(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    leaf = jax.numpy.asarray(leaf)
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _restored(path: pathlib.Path, arrays: dict, name: str, like: Any, *rows: int) -> Any:
    """The leaves of that name in the structure, shapes and dtypes of `like`."""
    leaves, structure = jax.tree.flatten(like)
    there = sum(key.startswith(f"{name}_") for key in arrays)
    if there != len(leaves):
        raise ValueError(
            f"checkpoint {path.name} has {there} arrays of the {name}; expected {len(leaves)}: "
            "continue with the same model, optimizer, rule and mixing."
        )
    restored = []
    for i, leaf in enumerate(leaves):
        leaf = jax.numpy.asarray(leaf)
        expected, array = _plain(leaf), arrays[f"{name}_{i}"]
        if array.shape != (*rows, *expected.shape):
            raise ValueError(
                f"checkpoint {path.name}: an array of the {name} has shape {array.shape}; "
                f"expected {(*rows, *expected.shape)}."
            )
        if array.dtype != expected.dtype:
            if array.dtype.kind != "V" or array.dtype.itemsize != expected.dtype.itemsize:
                raise ValueError(
                    f"checkpoint {path.name}: an array of the {name} is {array.dtype}; "
                    f"expected {expected.dtype}."
                )
            array = array.view(expected.dtype)  # bfloat16, of which NumPy stores the bits
        restored.append(
            jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
            if _is_key(leaf)
            else array
        )
    return jax.tree.unflatten(structure, restored)
