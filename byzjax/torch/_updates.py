"""The forms in which updates come: stacked, or one for each worker."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from byzjax._mistakes import fitting, shown
from byzjax.torch._tensors import (
    array_of,
    check,
    check_float,
    is_float,
    is_tensor,
    is_whole,
    torch,
)

# Bytes from which the rows of a list are stacked by XLA, while the rule reads them, and not by
# PyTorch before: the C library maps new pages for each larger tensor, but reuses those of smaller
# ones.
LARGE = 2**25


class Stacked:
    """A tensor `[n, ...]`, or a dict of them.

    Attributes:
      arrays: the same as a tree of arrays.
      device: the device of all tensors.
      wide: whether one of them is float64.
    """

    def __init__(self, updates: Any) -> None:
        self.updates = updates
        leaves = list(leaves_of("updates", updates))
        if not leaves:
            raise ValueError(f"updates have no tensors; got {shown(updates)}.")
        for name, leaf in leaves:
            check_float(name, leaf)
        self.device = common_device(leaves)
        self.wide = any(leaf.dtype is torch.float64 for _, leaf in leaves)

    def arrays(self) -> Any:
        return rebuilt(self.updates, (array_of(leaf) for _, leaf in leaves_of("", self.updates)))

    def result(self, tensors: list[Any]) -> Any:
        """The tensors of one update, in the order of the leaves of `arrays`, as one update."""
        places = iter(jax.tree.leaves(rebuilt(self.updates, iter(range(len(tensors))))))
        ordered = [tensor for _, tensor in sorted(zip(places, tensors), key=lambda pair: pair[0])]
        return rebuilt(self.updates, iter(ordered))

    def data(self, name: str, value: Any) -> Any:
        """Data beside the updates, such as a trusted update, as a tree of arrays."""
        return mapped(name, value, array_of)


class Listed:
    """One update for each worker: tensors of one shape, or trees of one structure.

    Trees become one vector for each dtype: `[n, d]`, or a dict of them if there are several.
    Integers and truth values do not reach the rule; their result is the lower median.
    """

    def __init__(self, updates: Iterable[Any]) -> None:
        self.workers = [list(u) if isinstance(u, Iterator) else u for u in updates]
        if not self.workers:
            raise ValueError("updates are empty; expected one for each worker.")
        self.rows = [list(leaves_of("", worker)) for worker in self.workers]
        if not self.rows[0]:
            raise ValueError(f"updates[0] has no tensors; got {shown(self.workers[0])}.")
        self.same_names()
        self.same_tensors()
        self.device = common_device(self.rows[0])
        self.first = [leaf for _, leaf in self.rows[0]]
        self.bare = is_tensor(self.workers[0])
        floats = [k for k, leaf in enumerate(self.first) if is_float(leaf)]
        self.groups: dict[Any, list[int]] = {}
        for k in floats:
            self.groups.setdefault(self.first[k].dtype, []).append(k)
        self.wide = torch.float64 in self.groups

    def same_names(self) -> None:
        """Checks that all workers have the same entries, and orders them as worker 0 does."""
        names = [name for name, _ in self.rows[0]]
        for i, row in enumerate(self.rows):
            theirs = [name for name, _ in row]
            if theirs == names:
                continue
            lacking = [name for name in names if name not in set(theirs)]
            more = [name for name in theirs if name not in set(names)]
            if lacking or more:
                raise ValueError(f"updates disagree: {self._difference(i, lacking, more)}.")
            by_name = dict(row)
            self.rows[i] = [(name, by_name[name]) for name in names]

    def _difference(self, i: int, lacking: list[str], more: list[str]) -> str:
        if "" in (*lacking, *more):
            first, other = shown(self.workers[0]), shown(self.workers[i])
            return f"worker 0 sent {first}, worker {i} {other}"
        if lacking:
            return f"worker {i} has no {lacking[0]}, which worker 0 has"
        return f"worker {i} has {more[0]}, which worker 0 lacks"

    def same_tensors(self) -> None:
        """Checks that all workers' tensors have the same shape, dtype and device."""
        for name, leaf in self.rows[0]:
            check(f"updates[0]{name}", leaf)
            if not is_whole(leaf) or not name:
                check_float(f"updates[0]{name}", leaf)
        if all(is_whole(leaf) for _, leaf in self.rows[0]):
            check_float(f"updates[0]{self.rows[0][0][0]}", self.rows[0][0][1])
        kinds = [(leaf.shape, leaf.dtype, leaf.device) for _, leaf in self.rows[0]]
        for i, row in enumerate(self.rows[1:], 1):
            for (name, leaf), kind in zip(row, kinds):
                if not is_tensor(leaf) or leaf.layout is not torch.strided:
                    check(f"updates[{i}]{name}", leaf)
                if (leaf.shape, leaf.dtype, leaf.device) != kind:
                    raise _different(i, name, leaf, kind)

    def arrays(self) -> Any:
        """The matrices, or a tuple of rows that the program stacks."""
        if not self.bare:
            return self.by_dtype(self.matrix)
        tensors = [row[0][1].detach() for row in self.rows]
        if len(tensors) * tensors[0].nbytes >= LARGE:
            return tuple(map(array_of, tensors))
        return array_of(torch.stack(tensors))

    def matrix(self, places: list[int]) -> jax.Array:
        """The rows `[n, d]` of these entries."""
        size = sum(self.first[k].numel() for k in places)
        kind = {"dtype": self.first[places[0]].dtype, "device": self.device}
        matrix = torch.empty(len(self.rows), size, **kind)
        for row, vector in zip(self.rows, matrix):
            torch.cat([row[k][1].detach().reshape(-1) for k in places], out=vector)
        return array_of(matrix)

    def by_dtype(self, function: Callable) -> Any:
        """One value if all floats have one dtype, else a dict of one for each."""
        if len(self.groups) == 1:
            (places,) = self.groups.values()
            return function(places)
        return {str(dtype): function(places) for dtype, places in self.groups.items()}

    def result(self, tensors: list[Any]) -> Any:
        """The tensors of one update, in the order of the leaves of `arrays`, as one update."""
        if self.bare:
            return tensors[0]
        by_place: dict[int, Any] = {}
        for vector, dtype in zip(tensors, sorted(self.groups, key=str)):
            places = self.groups[dtype]
            sizes = [self.first[k].numel() for k in places]
            for k, part in zip(places, vector.split(sizes)):
                by_place[k] = part.reshape(self.first[k].shape)
        for k, leaf in enumerate(self.first):
            if k not in by_place:
                values = torch.stack([row[k][1] for row in self.rows]).to(torch.int64)
                by_place[k] = values.median(0).values.to(leaf.dtype)
        return rebuilt(self.workers[0], (by_place[k] for k in range(len(self.first))))

    def data(self, name: str, value: Any) -> Any:
        """Data beside the updates; a tree like one update becomes vectors as the updates do."""
        if isinstance(value, Iterator):
            value = list(value)
        own = dict(leaves_of("", value))
        names = [path for path, _ in self.rows[0]]
        if self.bare or set(own) != set(names):
            return mapped(name, value, array_of)
        for path, leaf in own.items():
            check(f"{name}{path}", leaf)
        return self.by_dtype(
            lambda places: array_of(joined([own[names[k]].to(self.first[k]) for k in places]))
        )


def read(updates: Any) -> Stacked | Listed:
    """Updates in the form in which they came."""
    if is_tensor(updates) or isinstance(updates, Mapping):
        return Stacked(updates)
    if isinstance(updates, list | tuple | Iterator):
        return Listed(updates)
    check("updates", updates)
    raise AssertionError


def joined(tensors: list[Any]) -> Any:
    """The tensors one after another, as one vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def leaves_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The names and values of all entries of nested dicts and lists."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves_of(f"{name}[{key!r}]", part)
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from leaves_of(f"{name}[{i}]", part)
    else:
        yield name, value


def rebuilt(template: Any, leaves: Iterator[Any]) -> Any:
    """Nested dicts and lists of the form of the template with these leaves."""
    if isinstance(template, Mapping):
        pairs = [(key, rebuilt(part, leaves)) for key, part in template.items()]
        made = OrderedDict(pairs) if isinstance(template, OrderedDict) else dict(pairs)
        if hasattr(template, "_metadata"):  # of a state dict: versions of its modules
            vars(made)["_metadata"] = getattr(template, "_metadata")  # noqa: B009
        return made
    if isinstance(template, list | tuple):
        parts = [rebuilt(part, leaves) for part in template]
        return parts if isinstance(template, list) else tuple(parts)
    return next(leaves)


def mapped(name: str, value: Any, function: Callable) -> Any:
    """The value with this function of each tensor in it; all else stays."""
    leaves = []
    for path, leaf in leaves_of(name, value):
        if is_tensor(leaf):
            check(path, leaf)
        leaves.append(function(leaf) if is_tensor(leaf) else leaf)
    return rebuilt(value, iter(leaves))


def common_device(leaves: list[tuple[str, Any]]) -> Any:
    """The one device of all tensors."""
    (first, leaf), device = leaves[0], leaves[0][1].device
    for name, other in leaves:
        if other.device != device:
            raise ValueError(
                f"updates are on several devices: {first or 'one'} on {leaf.device}, "
                f"{name} on {other.device}; move them to one."
            )
    return device


def _different(i: int, name: str, leaf: Any, kind: tuple) -> ValueError:
    """The error for a worker's tensor that differs from that of worker 0."""
    shape, dtype, device = kind
    what, ours, theirs = "device", device, leaf.device
    if leaf.shape != shape:
        what, ours, theirs = "shape", tuple(shape), tuple(leaf.shape)
    elif leaf.dtype != dtype:
        what, ours, theirs = "dtype", dtype, leaf.dtype
    of = f"{name} of " if name else ""
    return ValueError(
        fitting(
            f"updates disagree in {what}: {of}worker 0 has {ours}, {of}worker {i} {theirs}.",
            f"updates disagree in {what}: worker 0 has {ours}, worker {i} {theirs}.",
        )
    )
