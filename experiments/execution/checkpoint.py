"""Checkpoints of unfinished blocks, by Orbax."""

import pathlib
import shutil
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.execution import hosts, strict
from experiments.training import devices, diagnostics
from experiments.training import program as programs


class Checkpoints:
    """The latest state of one block and its evaluations so far, managed by one process.

    Args:
      folder: the folder of this block only.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder.absolute()

    def _manager(self) -> Any:
        import orbax.checkpoint as ocp  # imported here: it takes a second

        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, create=False, multiprocessing_options=alone
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, states: Any, curves: list) -> None:
        """Saves the states and curves after `step` steps, replacing the previous checkpoint."""
        import orbax.checkpoint as ocp

        flat = [_flat(metrics, seen) for metrics, seen in curves]
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._manager() as manager:
            manager.save(
                step,
                args=ocp.args.Composite(
                    states=ocp.args.StandardSave(_arrays(states)),
                    curves=ocp.args.JsonSave({"all": flat}),
                ),
            )
            manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[int, Any, list] | None:
        """(step, states, curves), or None without a checkpoint.

        With several processes, only the first one reads; it broadcasts everything but the curves.

        Args:
          like: states of the same structure, such as the initial ones.
        """
        arrays = _arrays(like)
        kept = self._whole(arrays) if hosts.leads() else None
        step, arrays, curves = kept or (0, arrays, [])
        step, arrays = hosts.told((np.int32(step), arrays))
        return (int(step), _as_states(arrays, like), curves) if step else None

    def _whole(self, arrays: Any) -> tuple[int, Any, list] | None:
        """Reads the checkpoint; one that cannot be read is set aside, and the block restarts."""
        try:
            return self._read(arrays)
        except Exception as error:  # whatever Orbax raises for a missing or truncated part
            aside = self.folder.with_name(f"{self.folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            self.folder.rename(aside)
            print(
                f"warning: the checkpoint {self.folder} cannot be read "
                f"({type(error).__name__}); it is now {aside.name}, and the block starts again.",
                file=sys.stderr,
            )
            return None

    def _read(self, arrays: Any) -> tuple[int, Any, list] | None:
        if not self.folder.is_dir():
            return None
        import orbax.checkpoint as ocp

        with self._manager() as manager:
            step = manager.latest_step()
            if step is None:
                return None
            kept = manager.restore(
                step,
                args=ocp.args.Composite(
                    states=ocp.args.StandardRestore(arrays), curves=ocp.args.JsonRestore()
                ),
            )
        return step, kept["states"], [_whole(each) for each in kept["curves"]["all"]]

    def forget(self) -> None:
        """Removes the checkpoint."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _arrays(states: Any) -> Any:
    """The leaves as NumPy arrays; of PRNG keys, their data."""
    return jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if devices.is_key(x) else x), states
    )


def _as_states(arrays: Any, like: Any) -> Any:
    def leaf(array: np.ndarray, x: jax.Array) -> jax.Array:
        if devices.is_key(x):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(x))
        return jnp.asarray(array)

    return jax.tree.map(leaf, arrays, like)


def _flat(metrics: programs.Metrics, seen: dict[str, np.ndarray]) -> dict[str, list]:
    """An evaluation as JSON, which represents float32 values exactly; null stands for NaN."""
    arrays = metrics._asdict() | seen
    return {name: strict.plain(np.asarray(a).tolist()) for name, a in arrays.items()}


def _whole(flat: dict[str, list]) -> tuple[programs.Metrics, dict[str, np.ndarray]]:
    arrays = {
        name: np.array(values, bool if name == "finite" else np.float32)
        for name, values in flat.items()
    }
    metrics = programs.Metrics(*(arrays[name] for name in programs.Metrics._fields))
    names = (*diagnostics.NAMES, diagnostics.EXCESS)
    return metrics, {name: arrays[name] for name in names if name in arrays}
