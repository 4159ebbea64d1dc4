"""Text as samples: windows of characters, each labelled with the characters that follow."""

from typing import Any

import numpy as np

Arrays = dict[str, Any]  # a NumPy array for each of train_x, train_y, test_x, test_y

CONTEXT = 64
"""Characters in a window."""


def windows(text: bytes, length: int = CONTEXT) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a text into consecutive windows; with c its characters, x[i, t] = c[iT + t].

    Args:
      text: one byte for each character.
      length: T.

    Returns:
      x and y, both `uint8[N, T]` with N = (characters - 1) // T, in the order of the text: y[i, t]
      is the character after x[i, t]. What does not fill a window is left out.

    Raises:
      ValueError: the text is too short for one window.
    """
    count = (len(text) - 1) // length
    if count < 1:
        raise ValueError(
            f"a window of {length} characters and the next one need {length + 1}; got {len(text)}."
        )
    characters = np.frombuffer(text, np.uint8)
    x, y = (characters[i : i + count * length].reshape(count, length).copy() for i in (0, 1))
    return x, y


def arrays(train: bytes, test: bytes, length: int = CONTEXT) -> Arrays:
    """The windows of a text to train on and of one to test on."""
    (train_x, train_y), (test_x, test_y) = windows(train, length), windows(test, length)
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def encode(raw: Arrays) -> str:
    """Replaces characters by their places in the vocabulary, int32, in place.

    Returns:
      The vocabulary: the characters of the training and the test text, sorted.
    """
    known = np.unique(np.concatenate([np.unique(each) for each in raw.values()]))
    for field, each in raw.items():
        raw[field] = np.searchsorted(known, each).astype(np.int32)
    return "".join(map(chr, known))


def decode(tokens: Any, vocabulary: str) -> str:
    """The text of some places in the vocabulary."""
    return "".join(vocabulary[token] for token in np.asarray(tokens).reshape(-1))
