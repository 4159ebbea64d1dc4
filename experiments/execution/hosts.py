"""Multiple hosts: processes that train together by `jax.distributed`; only the first one writes.

All processes run the same command. Each loads the data and computes the gradients of its own
workers; only the first one reads and writes the study's folder, and broadcasts what the others
need, so hosts need no shared file system.
"""

import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

# Timeout for all processes to start.
START_SECONDS = 300
# A process without a heartbeat for this long counts as dead, and the others stop.
HEARTBEAT_SECONDS = 100


class StoppedError(Exception):
    """A process cannot continue, possibly because another one has died."""


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins this process with others, of which only the first prints; no-op if all are None.

    Args:
      coordinator: `host:port` of the first process, or `auto`.
      num_processes: number of processes.
      process_id: index of this process, from 0.

    `auto` and None are detected under SLURM, on TPU pods and on Kubernetes.

    Raises:
      ValueError: the arguments are inconsistent, or cannot be detected.
    """
    given = f"coordinator={coordinator}, num_processes={num_processes}, process_id={process_id}"
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise ValueError(f"num_processes and process_id need a coordinator; got {given}.")
        return
    if coordinator != "auto" and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"coordinator must be host:port, or auto; got {coordinator!r}.")
    if num_processes is not None and num_processes < 1:
        raise ValueError(f"num_processes must be at least 1; got {num_processes}.")
    if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
        raise ValueError(f"process_id must lie in 0 .. num_processes - 1; got {given}.")
    # Printed first: if a process is missing, JAX terminates this one without returning.
    print(f"Waiting at most {START_SECONDS} s for all processes; {given}.", file=sys.stderr)
    try:
        address = None if coordinator == "auto" else coordinator
        jax.distributed.initialize(
            address,
            num_processes,
            process_id,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ValueError(
            f"no SLURM, TPU pod or Kubernetes environment detected; got {given}. {error}"
        ) from error
    sys.excepthook = _end_with_traceback
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX catches it without terminating the process
    if not leads():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)


def several() -> bool:
    """Whether this is one of several processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def leads() -> bool:
    """Whether this is the process that reads, writes and prints."""
    return not several() or jax.process_index() == 0


def told(tree: Any) -> Any:
    """Broadcasts the arrays of the first process bit for bit; of the others only shapes matter."""
    if not several():
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    # As bytes: the broadcast is a sum, in which -0 would become 0.
    sent = multihost_utils.broadcast_one_to_all(
        [np.frombuffer(leaf.tobytes(), np.uint8) for leaf in leaves]
    )
    return jax.tree.unflatten(
        structure,
        [np.frombuffer(x.tobytes(), y.dtype).reshape(y.shape) for x, y in zip(sent, leaves)],
    )


def check_same(lines: Sequence[str]) -> None:
    """Checks that all processes have the same lines.

    Raises:
      ValueError: they do not.
    """
    if not several():
        return
    digest = hashlib.sha256("\n".join(lines).encode()).digest()
    digests = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    others = [i for i, other in enumerate(digests) if (other != digests[0]).any()]
    if others:
        raise ValueError(
            f"processes {', '.join(map(str, others))} plan different blocks than process 0; "
            "expected the same options, data and version everywhere."
        )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """An error in one of several processes stops all, so that none waits for another.

    Raises:
      StoppedError: in place of any error, with several processes.
    """
    try:
        yield
    except Exception as error:
        if not several():
            raise
        first_line = (str(error).strip() or "no message").splitlines()[0]
        raise StoppedError(
            f"process {jax.process_index()} of {jax.process_count()} stopped: "
            f"{type(error).__name__}: {first_line.rstrip('.')}. The cause may be that another "
            "process has died. Restart all of them: finished blocks and the last checkpoint are "
            "kept."
        ) from error


def _end_with_traceback(*error: Any) -> NoReturn:
    sys.__excepthook__(*error)
    end(1)


def end(status: int) -> NoReturn:
    """Ends this process; if it failed, without waiting for others, which may wait for it."""
    if status and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
