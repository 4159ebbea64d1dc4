"""Compression of what workers send, by name, as on the command line (`top_k(k=0.01)`)."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from byzjax import compress
from byzjax.compress._compressor import NUMBER
from experiments.grid import calls, protocols
from experiments.grid.config import NO_COMPRESSOR, Config
from experiments.text import names

COMPRESSORS: dict[str, Callable[..., compress.Compressor]] = {
    name: getattr(compress, name) for name in ("top_k", "rand_k", "quantize", "sign")
}
FEEDBACK: dict[str, Callable[..., compress.Compressor]] = {
    name: getattr(compress, name) for name in ("error_feedback", "ef21")
}
OPTIONS = ("feedback", "byzantine")
"""Hyperparameters of every compressor here."""


class Compression(NamedTuple):
    """A compressor of the workers.

    Attributes:
      name: a key of `COMPRESSORS`.
      given: its own hyperparameters.
      feedback: a key of `FEEDBACK`, or None.
      byzantine: whether what Byzantine workers send is compressed as well.
    """

    name: str
    given: dict[str, Any]
    feedback: str | None = None
    byzantine: bool = False

    def of_honest(self, key: jax.Array) -> compress.Compressor:
        """The compressor of an honest worker; `key` is for one that draws."""
        inner = self._plain(key)
        return inner if self.feedback is None else FEEDBACK[self.feedback](inner)

    def of_byzantine(self, key: jax.Array) -> compress.Compressor:
        """The format that malicious updates obey; `key` is that of the honest workers."""
        # What error feedback adds is no part of the format; an estimate of EF21 is.
        inner = self._plain(key)
        return compress.ef21(inner) if self.feedback == "ef21" else inner

    def _plain(self, key: jax.Array) -> compress.Compressor:
        function = COMPRESSORS[self.name]
        drawn = {"key": key} if "key" in inspect.signature(function).parameters else {}
        # Error feedback needs a compressor that loses nothing of what it has drawn.
        scaled = self.feedback is not None and self.name == "rand_k"
        return function(**({"unbiased": False} if scaled else {}) | self.given | drawn)


def parse(text: str) -> Compression | None:
    """A compressor from its specification; None for none.

    Raises:
      ValueError: the name is unknown, the text cannot be parsed, or a value is out of range.
      TypeError: a hyperparameter is unknown, missing or of the wrong type.
    """
    name, given = calls.parse_call(text, "compressor")
    if name == NO_COMPRESSOR and not given:
        return None
    if name not in COMPRESSORS:
        raise ValueError(names.unknown("compressor", name, (NO_COMPRESSOR, *COMPRESSORS)))
    own = inspect.signature(COMPRESSORS[name]).parameters
    known = [*(each for each in own if each != "key"), *OPTIONS]
    if wrong := [each for each in given if each not in known]:
        raise TypeError(names.no_parameter(name, wrong, known))
    needed = [each for each in known if each in own and own[each].default is own[each].empty]
    if missing := [each for each in needed if each not in given]:
        written = ", ".join(f"{each}=..." for each in missing)
        raise TypeError(f"{name} needs {', '.join(missing)}; write {name}({written}).")
    feedback, byzantine = given.pop("feedback", None), given.pop("byzantine", False)
    if feedback not in (None, *FEEDBACK):
        raise ValueError(names.one_of("feedback", feedback, FEEDBACK))
    if not isinstance(byzantine, bool):
        raise TypeError(f"byzantine must be True or False; got {byzantine!r}.")
    made = Compression(name, given, feedback, byzantine)
    made.of_honest(jax.random.key(0))  # raises for a wrong hyperparameter
    return made


def check(config: Config, parameters: int = 0) -> None:
    """Checks the compressor and whether the protocol supports it.

    Args:
      config: a grid.
      parameters: number of model parameters; 0 if it is not known.

    Raises:
      ValueError: an unknown name or a wrong value, more coordinates than the model has, or a
        protocol whose workers send nothing that can be compressed.
      TypeError: a hyperparameter is unknown, missing or of the wrong type.
    """
    chosen = parse(config.compressor)
    if chosen is None:
        return
    name, _ = protocols.parse(config.protocol)
    if not protocols.PROTOCOLS[name].compresses:
        able = [each for each, known in protocols.PROTOCOLS.items() if known.compresses]
        raise ValueError(
            f"{name} has no compressor; got {config.compressor}. Expected --protocol "
            f"{', '.join(able[:-1])} or {able[-1]}."
        )
    if chosen.given.get("shared") and protocols.drawn(config) is not None:
        raise ValueError(
            f"shared coordinates need all workers in every step; got {config.compressor} and "
            f"{config.protocol}."
        )
    if parameters:
        message_bits(config, parameters)


def message_bits(config: Config, parameters: int) -> int:
    """The bits of one worker's message about a model of so many parameters."""
    chosen = parse(config.compressor)
    if chosen is None:
        return NUMBER * parameters
    model = np.broadcast_to(np.float32(0), (parameters,))
    return chosen.of_honest(jax.random.key(0)).bits(model)


def step_bits(config: Config, parameters: int) -> int:
    """The bits that all workers send in one step."""
    return message_bits(config, parameters) * (protocols.drawn(config) or config.n)
