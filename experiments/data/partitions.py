"""Partitions of a data set's samples among the workers, as functions of their labels."""

import ast
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.text import names

_MAX_DRAWS = 1000  # of Dirichlet shares


class Kind(NamedTuple):
    """A kind of partition: `dirichlet(0.3)` is `Kind("dirichlet", 0.3)`; iid has no value."""

    name: str
    value: float | None = None


class _Form(NamedTuple):
    """How a kind is written, and which values it accepts; `accepts` is None without a value."""

    usage: str
    accepts: Callable[[float], bool] | None = None


def _positive(value: float) -> bool:
    return 0 < value < float("inf")


_FORMS = {
    "iid": _Form("iid"),
    "contiguous": _Form("contiguous"),
    "sorted": _Form("sorted"),
    "one_class": _Form("one_class"),
    "dirichlet": _Form("dirichlet(alpha) with alpha > 0", _positive),
    "pathological": _Form(
        "pathological(k) with an integer k >= 1", lambda k: isinstance(k, int) and k >= 1
    ),
    "gamma_similarity": _Form(
        "gamma_similarity(gamma) with 0 <= gamma <= 1", lambda g: 0 <= g <= 1
    ),
    "long_tail": _Form("long_tail(beta) with 0 < beta <= 1", lambda b: 0 < b <= 1),
    "unequal": _Form("unequal(alpha) with alpha > 0", _positive),
}
NAMES = tuple(_FORMS)
_WITHOUT_CLASSES = ("iid", "contiguous", "unequal")  # the kinds for text


def parse_partition(kind: str) -> Kind:
    """Parses a kind of partition as written on the command line; needs no data.

    Raises:
      ValueError: the kind is unknown, or its value is missing, superfluous or out of range.
    """
    try:
        match ast.parse(kind, mode="eval").body:
            case ast.Name(id=name) if name in _FORMS and _FORMS[name].accepts is None:
                return Kind(name)
            case ast.Call(
                func=ast.Name(id=name),
                args=[ast.Constant(value=float() | int() as value)],
                keywords=[],
            ) if name in _FORMS and not isinstance(value, bool):
                accepts = _FORMS[name].accepts
                if accepts is not None and accepts(value):
                    return Kind(name, value if name == "pathological" else float(value))
    except (SyntaxError, ValueError, TypeError, OverflowError, MemoryError, RecursionError):
        pass
    forms = {name: form.usage for name, form in _FORMS.items()}
    raise ValueError(names.wrong_form("kind of partition", kind, forms))


def check(kind: str, *, text: bool) -> None:
    """Checks a kind of partition without the data.

    Args:
      kind: as on the command line.
      text: whether samples are windows of text, which belong to no class.

    Raises:
      ValueError: the kind is unknown, its value is wrong, or it needs classes and there are none.
    """
    name, _ = parse_partition(kind)
    if text and name not in _WITHOUT_CLASSES:
        forms = ", ".join(_FORMS[each].usage for each in _WITHOUT_CLASSES)
        raise ValueError(f"{kind} goes by classes, which text has not; expected one of: {forms}.")


def partition(
    labels: np.ndarray, num_workers: int, kind: str, *, seed: int
) -> tuple[np.ndarray, ...]:
    """Partitions the samples among the workers: one array of indices each, no sample twice.

    With N samples and n workers, each kind but `long_tail` uses all samples. Unless stated
    otherwise, sizes differ by at most one; every worker has at least one sample.

    * `iid`: a random permutation, split evenly.
    * `contiguous`: split evenly in the order of the samples, such that each worker has consecutive
      ones, of a text its own chapters. The seed is unused.
    * `sorted`: sorted by label, split evenly; the seed is unused.
    * `one_class`: each worker has samples of one class; a class is shared evenly by its workers,
      whose numbers differ by at most one. It needs as many workers as classes, or more.
    * `dirichlet(alpha)`: each class is divided by weights ~ Dirichlet(alpha); a small alpha makes
      workers heterogeneous in labels and sizes (Yurochkin et al. 2019).
    * `pathological(k)`: sorted by label, split into n k shards, k random ones for each worker
      (McMahan et al. 2017, k = 2). A worker has at most k labels if no shard straddles two;
      the C - 1 borders between classes add at most C - 1 labels, over all workers. Sizes differ
      by at most k.
    * `gamma_similarity(gamma)`: a share gamma of the samples is distributed iid, the rest sorted by
      label; each worker gets a part of both (Karimireddy et al. 2020). At gamma = 1 this is
      `iid`, at gamma = 0 `sorted`.
    * `long_tail(beta)`: of class c = 0, 1, ... (by label) a random share beta**c is kept, rounded
      down but at least one sample; the kept samples are distributed sorted by label. The exact form
      is our reading of the long-tail sets of Karimireddy, He, Jaggi 2022, who also use them iid.
    * `unequal(alpha)`: like `iid`, but all samples beyond each worker's first are divided by
      weights ~ Dirichlet(alpha); a small alpha makes sizes unequal.

    Args:
      labels: `int[N]`, or `int[N, T]` for text, of which only N matters.
      num_workers: n.
      kind: one of the above, with a number in place of the letter.
      seed: determines every random choice.

    Returns:
      n arrays of indices into `labels`.

    Raises:
      ValueError: the kind is unknown or needs classes that text has not, there are too few samples
        or workers, or no Dirichlet draw gives every worker a sample.
    """
    labels = np.asarray(labels)
    check(kind, text=labels.ndim > 1)
    name, value = parse_partition(kind)
    if not 1 <= num_workers <= len(labels):
        raise ValueError(
            f"a partition needs 1 <= workers <= samples; got {num_workers} workers,"
            f" {len(labels)} samples."
        )
    rng = np.random.default_rng(seed)
    if name == "one_class":
        return _one_class(labels, num_workers, rng)
    if value is None:
        indices = np.arange(len(labels))
        if name == "iid":
            indices = rng.permutation(indices)
        elif name == "sorted":
            indices = _by_label(labels, indices)
        return tuple(np.array_split(indices, num_workers))
    return _DEALERS[name](labels, num_workers, value, rng)


def _by_label(labels: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Sorts indices by their labels, then by index."""
    return indices[np.lexsort((indices, labels[indices]))]


def _one_class(
    labels: np.ndarray, num_workers: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    classes, sizes = np.unique(labels, return_counts=True)
    if num_workers < len(classes):
        raise ValueError(
            f"one_class needs workers >= classes; got {num_workers} workers, {len(classes)} "
            "classes."
        )
    of_worker = rng.permutation(num_workers) % len(classes)
    if (np.bincount(of_worker) > sizes).any():
        raise ValueError(
            f"one_class needs a sample of its class for each of {num_workers} workers; the "
            f"smallest class has {sizes.min()}."
        )
    parts: list[np.ndarray] = [labels[:0]] * num_workers
    for c, label in enumerate(classes):
        workers = np.flatnonzero(of_worker == c)
        samples = rng.permutation(np.flatnonzero(labels == label))
        for worker, part in zip(workers, np.array_split(samples, len(workers))):
            parts[worker] = part
    return tuple(parts)


def _dirichlet(
    labels: np.ndarray, num_workers: int, alpha: float, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    classes = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    sizes = np.array([len(c) for c in classes])
    for _ in range(_MAX_DRAWS):
        shares = rng.dirichlet(np.full(num_workers, alpha), size=len(classes))
        cuts = (np.cumsum(shares, axis=1)[:, :-1] * sizes[:, None]).astype(int)
        counts = np.diff(cuts, axis=1, prepend=0, append=sizes[:, None])
        if counts.sum(axis=0).min() >= 1:
            pieces = zip(*[np.split(c, cut) for c, cut in zip(classes, cuts)])
            return tuple(np.concatenate(worker) for worker in pieces)
    raise ValueError(
        f"dirichlet({alpha:g}) left some of {num_workers} workers without any of {len(labels)}"
        f" samples in each of {_MAX_DRAWS} draws; take a larger alpha or fewer workers."
    )


def _pathological(
    labels: np.ndarray, num_workers: int, k: float, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    k = int(k)
    if num_workers * k > len(labels):
        raise ValueError(
            f"pathological({k}) needs workers * k <= samples; got {num_workers} workers,"
            f" {len(labels)} samples."
        )
    shards = np.array_split(_by_label(labels, np.arange(len(labels))), num_workers * k)
    hands = rng.permutation(len(shards)).reshape(num_workers, k)
    return tuple(np.concatenate([shards[shard] for shard in hand]) for hand in hands)


def _gamma_similarity(
    labels: np.ndarray, num_workers: int, gamma: float, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    order = rng.permutation(len(labels))
    shared = round(gamma * len(labels))
    # The sorted part fills each worker up to its even share of all samples.
    filled = _even_sizes(shared, num_workers)
    left = _even_sizes(len(labels), num_workers) - filled
    pieces = zip(_cut(order[:shared], filled), _cut(_by_label(labels, order[shared:]), left))
    return tuple(np.concatenate(pair) for pair in pieces)


def _long_tail(
    labels: np.ndarray, num_workers: int, beta: float, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    kept = []
    for c, label in enumerate(np.unique(labels)):
        indices = rng.permutation(np.flatnonzero(labels == label))
        kept.append(indices[: max(1, int(len(indices) * beta**c))])
    order = _by_label(labels, np.concatenate(kept))
    if len(order) < num_workers:
        raise ValueError(
            f"long_tail({beta:g}) keeps {len(order)} of {len(labels)} samples, too few for"
            f" {num_workers} workers; take a larger beta or fewer workers."
        )
    return tuple(np.array_split(order, num_workers))


def _unequal(
    labels: np.ndarray, num_workers: int, alpha: float, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    order = rng.permutation(len(labels))
    spare = len(labels) - num_workers
    ends = (np.cumsum(rng.dirichlet(np.full(num_workers, alpha)))[:-1] * spare).astype(int)
    return _cut(order, 1 + np.diff(ends, prepend=0, append=spare))


def _even_sizes(samples: int, num_workers: int) -> np.ndarray:
    """The sizes of `np.array_split`: the first workers get one more."""
    return samples // num_workers + (np.arange(num_workers) < samples % num_workers)


def _cut(order: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.split(order, np.cumsum(sizes)[:-1]))


_DEALERS: dict[str, Callable[..., tuple[np.ndarray, ...]]] = {
    "dirichlet": _dirichlet,
    "pathological": _pathological,
    "gamma_similarity": _gamma_similarity,
    "long_tail": _long_tail,
    "unequal": _unequal,
}
