"""The class whose instances aggregate PyTorch tensors."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from byzjax import _mistakes
from byzjax._numerics.float64 import float64
from byzjax.torch import _state, _tensors, _updates
from byzjax.torch._stages import Recipe, prng_key, program, stages_of


class Aggregator:
    r"""A rule, behind mixings and memories, for updates that are PyTorch tensors.

    $$ F(x_1, \dots, x_n) = \operatorname{rule}(\operatorname{pre}_k(\cdots
       \operatorname{pre}_1(x_1, \dots, x_n))) $$

    An instance is a function of updates. It has the interface of the aggregators of ByzFL, and of
    its `RobustAggregator`, so that it can stand in their place.

    Updates come as

    * a tensor `[n, ...]`, one row for each worker, or a dict of such tensors, as from
      `torch.func.vmap`;
    * a list of one tensor for each worker;
    * a list of one list of tensors (such as `model.parameters()`) or one state dict for each
      worker, which are matched by name. The rule sees them as vectors `[n, d]`, one matrix for each
      dtype.

    and one update returns: of the same kind, dtypes and device.

    Memory: a tensor that is contiguous and aligned is not copied, nor is the result; lists are
    copied into one tensor. The result shares no memory with the arguments or the state, and the
    call returns after JAX has finished reading, so that both may be changed in place.

    Derivatives: none. Tensors that require a gradient are detached.

    Dtypes: float16, bfloat16, float32 and float64, which is computed in float64 whatever the
    setting `jax_enable_x64`. Integers and truth values in state dicts, such as
    `num_batches_tracked` of BatchNorm, do not reach the rule: their result is the lower median of
    the workers' values, coordinate by coordinate, which f < n / 2 workers cannot move outside of
    the range of the others.

    Requirement: those of the rule and the mixings. Cost: theirs, and one copy of lists.

    Args:
      rule: a rule such as `byzjax.krum`, an aggregation with memory such as
        `byzjax.centered_clipping` or the transformation that it makes, or the name of one, such as
        `"krum"`.
      f: number of faults to tolerate, a Python int, for the rule and those mixings that take it.
      pre: mixings in their order before the rule: functions, partial functions, names, or optax
        transformations from stacked updates to stacked updates, such as `byzjax.per_worker(...)`.
      key: seed, a Python int or a PRNG key, for a rule or mixings that draw random numbers; each
        call draws new ones.
      **hyperparameters: those of the rule, and data that stay the same in all calls.

    Returns:
      An instance. Call it with updates and, by position or name, the data that the rule takes
      beside them, such as the `trusted` update of `fl_trust`.

    Raises:
      ModuleNotFoundError: PyTorch is not installed.
      ValueError: there is no rule or mixing of this name; in a call, the updates disagree in names,
        shapes, dtypes or devices, or lie on a device that JAX does not have.
      TypeError: a hyperparameter is missing or unknown; in a call, something is no dense tensor of
        real floats.

    Example:
      >>> import byzjax.torch, torch
      >>> aggregator = byzjax.torch.Aggregator("krum", f=1, pre=["nearest_neighbors"])
      >>> aggregator(torch.tensor([[1.0], [2.0], [3.0], [4.0], [99.0]]))
      tensor([2.5000])
    """

    def __init__(
        self,
        rule: Callable | str | Any,
        f: int | None = None,
        pre: Iterable[Any] = (),
        key: int | jax.Array | None = None,
        **hyperparameters: Any,
    ) -> None:
        _tensors.needs_torch()
        pre = pre if isinstance(pre, str | Mapping) or callable(pre) else list(pre)
        key = None if key is None else prng_key(key)
        self._recipe = Recipe(stages_of(rule, pre, f, key, hyperparameters))
        self._program = program(self._recipe)
        self._device: jax.Device | None = None
        self.reset()

    def __repr__(self) -> str:
        return f"byzjax.torch.Aggregator({', '.join(s.name for s in self._recipe.stages)})"

    def __call__(self, updates: Any, *data: Any, **named: Any) -> Any:
        """One update of those of all workers.

        Args:
          updates: stacked, or one for each worker; see `Aggregator`.
          *data: data of the rule beside the updates, in the order of its parameters.
          **named: the same by name.

        Returns:
          One update of the kind of `updates`.
        """
        form = _updates.read(updates)
        device = _tensors.device_of("updates", form.device)
        beside = {name: form.data(name, value) for name, value in self._data(data, named).items()}
        wide = float64() if form.wide else contextlib.nullcontext()
        with wide, jax.default_device(device):
            arrays = form.arrays()
            states = self._states_for(arrays)
            result, after = self._program(arrays, states, beside)
            jax.block_until_ready((result, after))
        one = 0 if isinstance(arrays, tuple) else arrays
        if jax.tree.structure(result) != jax.tree.structure(one):
            raise TypeError(
                f"Aggregator: {self._recipe.stages[-1].name} returned "
                f"{_mistakes.shown(result)}; expected one update."
            )
        self._states = after
        others = jax.tree.leaves((arrays, beside)) + _state.arrays_of(after)
        return form.result(_tensors.own_tensors(jax.tree.leaves(result), others))

    def aggregate_vectors(self, vectors: Any) -> Any:
        """The same as a call; under this name ByzFL's `Server` calls its `robust_aggregator`.

        Args:
          vectors: stacked, or one for each worker; see `Aggregator`.

        Returns:
          One update of the kind of `vectors`.
        """
        return self(vectors)

    def reset(self) -> None:
        """Forgets all calls: memories and keys are again those of a new instance.

        Returns:
          None.
        """
        self._states: Any = None
        self._loaded: Mapping[str, Any] = {}
        self._form: Any = None

    def state_dict(self) -> dict[str, Any]:
        """What the instance remembers between calls, as tensors to be saved with a checkpoint.

        Returns:
          A dict of tensors by name, which are copies; empty before the first call.
        """
        if self._states is None:
            return dict(self._loaded)
        return _state.saved(self._states)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state that `state_dict` returned, of the same rule and mixings.

        Args:
          state: the dict. Its shapes are checked in the next call, which knows those of updates.

        Returns:
          None.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"Aggregator: the state must be a dict; got {_mistakes.shown(state)}.")
        self.reset()
        self._loaded = {name: tensor.detach().clone() for name, tensor in state.items()}

    def _data(self, data: tuple, named: dict[str, Any]) -> dict[str, Any]:
        """The data beside the updates by their names."""
        *_, rule = self._recipe.stages
        takes = rule.data or ()
        if len(data) > len(takes):
            beside = f"; it takes {_mistakes.listed(takes)}" if takes else ""
            raise TypeError(
                f"Aggregator: {rule.name} takes {len(takes)} tensors beside the updates{beside}; "
                f"got {len(data)}."
            )
        values = dict(zip(takes, data)) | named
        bound: dict[str, Any] = {}
        known, missing = {"senders", "step"}, []
        for stage in self._recipe.stages:
            bound |= dict(stage.bound)
            known |= set(stage.data or ())
            missing += stage.missing
        closed = all(stage.data is not None for stage in self._recipe.stages)
        unknown = [name for name in named if name not in known]
        if unknown and closed:
            raise TypeError(
                f"Aggregator: {rule.name} takes no {unknown[0]} with a call; hyperparameters "
                "belong to Aggregator(...)."
            )
        values = bound | values
        lacking = [name for name in missing if name not in values]
        if lacking:
            raise TypeError(
                f"Aggregator: {rule.name} needs {', '.join(lacking)}; write "
                f"aggregator(updates, {', '.join(lacking)})."
            )
        return values

    def _states_for(self, arrays: Any) -> tuple:
        """The states for updates of these shapes, from memory, from a checkpoint or new."""
        first = 0 if isinstance(arrays, tuple) else 1
        leaves = jax.tree.leaves(arrays)[: None if first else 1]
        form = [(leaf.shape[first:], leaf.dtype) for leaf in leaves]
        if self._states is None:
            states = self._recipe.init(arrays)
            self._states = _state.restored(states, self._loaded) if self._loaded else states
        elif form != self._form:
            _state.check_same(self._states, jax.eval_shape(lambda: self._recipe.init(arrays)))
        self._form = form
        return self._states
