"""Text that a language model writes."""

import jax
import jax.numpy as jnp
from jax import lax

from experiments.models import zoo

CHARACTERS = 200
TEMPERATURE = 0.8
# Keys of a run on text: its loss in bits per character, and what the model of seed 0 writes.
BITS = "bits_per_character"
SAMPLE = "sample"


def write(
    model: zoo.Model, params: zoo.Params, key: jax.Array, length: int, first: int = 0
) -> jax.Array:
    r"""Draws `CHARACTERS` characters one after another, each from softmax(logits / `TEMPERATURE`).

    The model sees the last T characters, at first only `first`.

    Args:
      model: a language model.
      params: its parameters.
      key: PRNG key of the draws.
      length: T, the length of its windows.
      first: the character before the text; by default the first one of the vocabulary, which in
        tiny_shakespeare is the end of a line.

    Returns:
      `int32[CHARACTERS]`, without `first`.
    """

    def one(text: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        start = jnp.maximum(place - length, 0)
        window = lax.dynamic_slice(text, (start,), (length,))
        # What is not yet written is behind the last character, and the model is causal.
        logits = model.apply(params, window[None])[0, place - 1 - start]
        drawn = jax.random.categorical(jax.random.fold_in(key, place), logits / TEMPERATURE)
        return text.at[place].set(drawn.astype(text.dtype)), None

    text = jnp.zeros(max(CHARACTERS + 1, length), jnp.int32).at[0].set(first)
    text, _ = lax.scan(one, text, jnp.arange(1, CHARACTERS + 1))
    return text[1 : CHARACTERS + 1]
