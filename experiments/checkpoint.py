"""Half-way states of long blocks, by Orbax; a block that is finished needs none."""

import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from experiments import diagnostics, train


class Checkpoints:
    """The newest state of one block, and its evaluations so far.

    Args:
      folder: of this block alone.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder.absolute()

    def save(self, step: int, states: Any, curves: list) -> None:
        """Keeps what there is after so many steps, in the place of what was kept before."""
        import orbax.checkpoint as ocp  # only here: it takes a second to import

        flat = [_flat(metrics, found) for metrics, found in curves]
        with ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=1)
        ) as manager:
            manager.save(
                step,
                args=ocp.args.Composite(
                    states=ocp.args.StandardSave(states), curves=ocp.args.JsonSave({"all": flat})
                ),
            )
            manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[int, Any, list] | None:
        """(step, states, curves), or None if there is nothing to go on from.

        Args:
          like: states of the same structure, as the block begins with.
        """
        if not self.folder.is_dir():
            return None
        import orbax.checkpoint as ocp

        with ocp.CheckpointManager(self.folder) as manager:
            step = manager.latest_step()
            if step is None:
                return None
            shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            found = manager.restore(
                step,
                args=ocp.args.Composite(
                    states=ocp.args.StandardRestore(shapes), curves=ocp.args.JsonRestore()
                ),
            )
        return step, found["states"], [_whole(each) for each in found["curves"]["all"]]

    def forget(self) -> None:
        """Removes all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _flat(metrics: train.Metrics, found: dict[str, np.ndarray]) -> dict[str, list]:
    """An evaluation as JSON, which writes a float32 with all digits that tell it from others."""
    arrays = metrics._asdict() | found
    return {name: np.asarray(a).tolist() for name, a in arrays.items()}


def _whole(flat: dict[str, list]) -> tuple[train.Metrics, dict[str, np.ndarray]]:
    arrays = {
        name: np.asarray(values, bool if name == "finite" else np.float32)
        for name, values in flat.items()
    }
    metrics = train.Metrics(*(arrays[name] for name in train.Metrics._fields))
    return metrics, {name: arrays[name] for name in diagnostics.NAMES}
