"""Text as samples: windows of characters, each labelled with the characters that follow."""

from typing import Any

import numpy as np

Arrays = dict[str, Any]  # a NumPy array for each of train_x, train_y, test_x, test_y

CONTEXT = 64
"""Characters in a window."""

_OPENINGS = (  # of the plays after the first one, Coriolanus
    b"GLOUCESTER:\nNow is the winter of our discontent",  # Richard III
    b"KING RICHARD II:\nOld John of Gaunt",
    b"SAMPSON:\nGregory, o' my word",  # Romeo and Juliet
    b"WARWICK:\nI wonder how the king escaped",  # Henry VI, part 3
    b"ARCHIDAMUS:\nIf you shall chance, Camillo",  # The Winter's Tale
    b"DUKE VINCENTIO:\nEscalus.",  # Measure for Measure
    b"SLY:\nI'll pheeze you",  # The Taming of the Shrew
    b"Master:\nBoatswain!",  # The Tempest
)


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


def plays(raw: Arrays, first: int, last: int) -> Arrays:
    """The plays `first` to `last` of tiny_shakespeare, whose last tenth is to test on.

    The 14 characters that fill no window between the two parts of the whole text are missing.

    Args:
      raw: the windows of the whole text, as `arrays` makes them.
      first: number of the first play, from 0, in the order of the text.
      last: number of the play after the last one.

    Returns:
      Windows of the same length.

    Raises:
      ValueError: the text is another one.
    """
    text = raw["train_x"].tobytes() + raw["test_x"].tobytes()
    begins = [0, *(text.find(opening) for opening in _OPENINGS), len(text)]
    if sorted(set(begins)) != begins:
        raise ValueError("the text is not that of tiny_shakespeare: its plays are not in order.")
    part = text[begins[first] : begins[last]]
    cut = len(part) * 9 // 10
    return arrays(part[:cut], part[cut:], raw["train_x"].shape[1])


def encode(raw: Arrays, vocabulary: str | None = None) -> str:
    """Replaces characters by their places in the vocabulary, int32, in place.

    Args:
      raw: the windows.
      vocabulary: all characters, sorted; None for those of the training and the test text.

    Returns:
      The vocabulary.

    Raises:
      ValueError: a character is not in the vocabulary.
    """
    known = np.unique(np.concatenate([np.unique(each) for each in raw.values()]))
    if vocabulary is not None:
        whole = np.frombuffer(vocabulary.encode("latin-1"), np.uint8)
        if len(unknown := np.setdiff1d(known, whole)):
            raise ValueError(f"the vocabulary does not have {''.join(map(chr, unknown))!r}.")
        known = whole
    for field, each in raw.items():
        raw[field] = np.searchsorted(known, each).astype(np.int32)
    return "".join(map(chr, known))


def decode(tokens: Any, vocabulary: str) -> str:
    """The text of some places in the vocabulary."""
    return "".join(vocabulary[token] for token in np.asarray(tokens).reshape(-1))
