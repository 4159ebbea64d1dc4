"""The laboratory's command line, which also logs the bits of its states and can kill itself.

`python -m tests.experiments.one_of_several FILE EVALUATIONS SIGNAL OPTION...` writes a line to FILE
per evaluation, and after EVALUATIONS of them sends itself the signal. It saves a checkpoint after
every evaluation, and a process that is silent for five seconds counts as dead.
"""

import hashlib
import os
import sys

import jax
import numpy as np

from experiments.cli import commands
from experiments.execution import block as blocks
from experiments.execution import hosts
from experiments.training import devices

ALIKE = devices.equal_on_all


def watched(path, evaluations=0, signal=0):
    """`devices.equal_on_all`, which also logs, saves and sends the signal."""
    count = 0

    def watch(*args):
        nonlocal count
        states, results = ALIKE(*args)
        count += 1
        with open(path, "a") as file:
            file.write(digest(states) + "\n")
        if count == evaluations:
            os.kill(os.getpid(), signal)
        return states, results

    return watch


def digest(states):
    """A digest of all bits that this process holds on its first device."""
    leaves = [x.addressable_data(0) for x in jax.tree.leaves(states)]
    arrays = [np.asarray(jax.random.key_data(x) if devices.is_key(x) else x) for x in leaves]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


if __name__ == "__main__":
    path, evaluations, signal, *options = sys.argv[1:]
    devices.equal_on_all = watched(path, int(evaluations), int(signal))
    blocks.CHECKPOINT_SECONDS, hosts.HEARTBEAT_SECONDS = 0.0, 5
    hosts.end(commands.main(options))
