"""Trained language models on disk, from which fine-tuning starts.

A base model is a folder with `weights`, an Orbax checkpoint of the parameters, and `base.json`,
which says what they are and what they were trained on.
"""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments.text import bases
from experiments.text.bases import FACTS, WEIGHTS


class Base(NamedTuple):
    """A trained model.

    Attributes:
      params: its parameters, float32, a nested dict as that of `zoo.Model.init`.
      facts: the content of `base.json`: `model`, `vocabulary`, `context`, the type of the stored
        numbers and their hash, and how and on what they were trained.
    """

    params: Any
    facts: dict[str, Any]


def save(folder: pathlib.Path, params: Any, facts: dict[str, Any], dtype: Any = jnp.bfloat16):
    """Writes a base model.

    Args:
      folder: a new folder.
      params: the parameters, a nested dict of arrays.
      facts: `model`, `vocabulary`, `context`, and whatever else is to be remembered.
      dtype: the type of the stored numbers.

    Raises:
      FileExistsError: the folder has weights already.
    """
    import orbax.checkpoint as ocp  # imported here: it takes a second

    stored = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
    path = folder.absolute() / WEIGHTS
    if path.exists():
        raise FileExistsError(f"{path} is there already; expected a new folder.")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, stored)
    known = {"dtype": jnp.dtype(dtype).name, "sha256": digest(stored)}
    (folder / FACTS).write_text(json.dumps(facts | known, indent=1) + "\n")


def load(
    folder: pathlib.Path, *, model: str, context: int, vocabulary: str | int | None = None
) -> Base:
    """Reads a base model, and checks that it is the one that is needed.

    Args:
      folder: the folder.
      model: name of the model, such as `gpt_micro`.
      context: length of the windows.
      vocabulary: the characters, or their number; None for any.

    Returns:
      The parameters as float32, and what is known of them.

    Raises:
      FileNotFoundError: the folder has no base model.
      ValueError: it is of another model, length or vocabulary, or its files are damaged.

    Example:
      >>> import jax, pathlib, tempfile
      >>> from experiments.models import base, zoo
      >>> model = zoo.build("gpt_nano", (4,), 3, text=True)
      >>> folder = pathlib.Path(tempfile.mkdtemp()) / "mine"
      >>> facts = {"model": "gpt_nano", "context": 4, "vocabulary": "abc"}
      >>> base.save(folder, model.init(jax.random.key(0)), facts)
      >>> base.load(folder, model="gpt_nano", context=4).facts["dtype"]
      'bfloat16'
    """
    import orbax.checkpoint as ocp

    facts = bases.read(folder)
    wanted: dict[str, Any] = {"model": model, "context": context}
    if isinstance(vocabulary, str):
        wanted["vocabulary"] = vocabulary
    for name, value in wanted.items():
        if facts[name] != value:
            raise ValueError(f"{folder} has {name} {facts[name]!r}; expected {value!r}.")
    if isinstance(vocabulary, int) and len(facts["vocabulary"]) != vocabulary:
        count = len(facts["vocabulary"])
        raise ValueError(f"{folder} has {count} characters; expected {vocabulary}.")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.restore((folder / WEIGHTS).absolute())
    except Exception as error:  # whatever Orbax raises for a missing or truncated part
        kind = type(error).__name__
        raise ValueError(f"{folder / WEIGHTS} cannot be read ({kind}); fetch it again.") from error
    if digest(stored) != facts["sha256"]:
        raise ValueError(f"{folder / WEIGHTS} differs from the sha256 in {FACTS}; fetch it again.")
    return Base(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), stored), facts)


def digest(params: Any) -> str:
    """The sha256 of all leaves in the order of their names: name, type, shape, bytes."""
    out = hashlib.sha256()
    for name, leaf in sorted(traverse_util.flatten_dict(params, sep="/").items()):
        array = np.asarray(leaf)
        out.update(f"{name} {array.dtype} {array.shape}\n".encode())
        out.update(array.tobytes())
    return out.hexdigest()
