"""The contract of rules."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from byzjax import transforms
from byzjax._compiled import taught
from byzjax._mistakes import name_of, shown
from byzjax._signature import must_be_function
from byzjax.facts import Facts, inequality
from byzjax.testing._clauses import PLATFORMS, brief, clause, close, text
from byzjax.testing._corners import check_corners
from byzjax.testing.rows import DIM, attacked, broken_promise, grid

_STEP = 2.0**-10  # step of finite differences, in float32


@brief
@taught
def check_rule(
    rule: Callable,
    facts: Facts,
    *,
    bound: Callable[[int, int], float] | None = None,
    kappa: Callable[[int, int], float] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    loop: Callable | None = None,
    units: Sequence[str] = (),
    trusted: int = 0,
    eps: float = 1e-5,
    seed: int = 0,
    **hyperparameters: Any,
) -> tuple[str, ...]:
    r"""Checks a rule against its facts and against the contract of all rules.

    The laws that the facts claim, each up to rounding:

    $$ F(x_{\pi}) = F(x), \qquad F(x + v) = F(x) + v, \qquad F(c\,x) = c\,F(x), \qquad
       F(y, \dots, y) = y $$

    and the promise, against all of `lies` at any position of the attackers. Without faults the rule
    must accept the fewest workers that the facts allow (as many as in the last size, if its
    hyperparameters need more), and leaves that are small, empty or of bfloat16. Wrap a rule that
    takes data besides the updates in a function that supplies them.

    Args:
      rule: `rule(updates, *, f, axis_name=None, **hyperparameters) -> update`; without `f` if the
        facts state that it takes none.
      facts: the claims to check.
      bound: C(n, f) of the promise `"bounded"`: the largest distance to the honest mean, in honest
        diameters.
      kappa: kappa(n, f), the largest squared distance to it, in units of the honest variance; may
        replace `bound`.
      sizes: pairs (n, f) to try; by default the fewest workers for one fault, and 12 workers with
        the most faults. Where whole rows may tie, the order of the workers matters: choose others.
      loop: a plain NumPy implementation in float64, `loop(x, f, **hyperparameters) -> [d]`; results
        must agree, also for non-finite rows.
      units: hyperparameters in the unit of the updates, which are scaled with them.
      trusted: number of leading workers that are never Byzantine.
      eps: tolerance, as a fraction of the largest value.
      seed: seeds all random inputs.
      **hyperparameters: those of the rule, with a key if it takes one.

    Returns:
      The clauses that were checked. Cost: seconds; four programs for each size.

    Raises:
      AssertionError: the rule violates one of them.
      ValueError: there is no size to try, or `"bounded"` is claimed without a bound or a kappa.

    Example:
      >>> import byzjax
      >>> held = check_rule(byzjax.median, byzjax.facts.FACTS["median"])
      >>> held[:5]
      ('permutes', 'shifts', 'scales', 'repeats', 'promise: range')
    """
    must_be_function("check_rule", rule)
    name = name_of(rule)
    if not isinstance(facts, Facts):
        raise TypeError(
            f"check_rule needs the claims of {name}, byzjax.facts.Facts; got {shown(facts)}: write "
            f'check_rule({name}, Facts("rule", (2, 1), ...)).'
        )
    if facts.promise == "bounded" and bound is None and kappa is None:
        raise ValueError(f"{name} claims to be bounded; check_rule needs a bound or a kappa.")

    def call(updates: Any, f: int, scale: float = 1.0, **more: Any) -> Any:
        given = {k: scale * v if k in units else v for k, v in hyperparameters.items()}
        return rule(updates, **({"f": f} if facts.takes_f else {}), **given, **more)

    clause_of = functools.partial(clause, name)
    of_loop = None if loop is None else functools.partial(loop, **hyperparameters)
    rng = np.random.default_rng(seed)
    sizes = _sizes(facts) if sizes is None else sizes
    if not sizes:
        raise ValueError("check_rule needs at least one size (n, f).")
    clauses: list[str] = []
    for n, f in sizes:
        bounds = {name: c and c(n, f) for name, c in (("bound", bound), ("kappa", kappa))}
        clauses += _check_values(
            clause_of, call, facts, n, f, rng, bounds, of_loop, trusted, eps, bool(units)
        )
    tried = list(dict.fromkeys(clauses))
    tried += _check_forms(clause_of, rule, call, facts, *sizes[-1], rng, eps)
    otherwise = sizes[-1][0] if hyperparameters or getattr(rule, "keywords", None) else None
    tried += check_corners(clause_of, call, facts, rng, eps, otherwise)
    if facts.takes_f:
        with clause_of("errors"):
            _check_errors(name, call, facts)
        tried.append("errors")
    return tuple(tried)


def _sizes(facts: Facts) -> list[tuple[int, int]]:
    """The fewest workers for one fault, and about 12 with the most faults."""
    a, b = facts.needs
    n = max(12, 2 * a + b)
    return [(max(a + b, 3), 1), (n, (n - b) // a if a else 1)]


def _check_values(
    clause_of, call, facts, n, f, rng, bounds, loop, trusted, eps, in_units
) -> list[str]:
    """Laws, promise and derivatives for one (n, f), in three compiled functions."""
    x, offset, scale = grid(rng, n), 8.0 * rng.integers(-8, 9, size=DIM), 2.0**7
    order = rng.permutation(n)
    laws = [x, x[order], x + offset, x if in_units else scale * x, np.repeat(x[:1], n, axis=0)]
    sent = list(attacked(rng, n, f, trusted=trusted)) if f else []
    rows = jnp.asarray(np.stack([*laws, *(m for m, _ in sent)]), jnp.float32)
    mapped = jax.jit(jax.vmap(lambda x: call(x, f)))
    with clause_of("under jit and vmap"):
        results = np.asarray(mapped(rows), np.float64)
    (out, permuted, shifted, scaled, repeated), of_attacked = results[:5], results[5:]
    if in_units:
        scaled = jax.jit(lambda x: call(x, f, scale))(scale * rows[0])
    largest, tried, at = np.abs(x).max(), [], f"n={n}, f={f}"
    for law, actual, expected, size in (
        ("permutes", permuted, out, largest),
        ("shifts", shifted, out + offset, np.abs(x + offset).max()),
        ("scales", scaled, scale * out, scale * largest),
        ("repeats", repeated, x[0], largest),
    ):
        if getattr(facts, law):
            with clause_of(f"{law}, {at}"):
                close(actual, expected, size, eps)
            tried.append(law)
    for (matrix, byzantine), result in zip(sent, of_attacked):
        with clause_of(f"promise {facts.promise!r}, {at}"):
            if broken := broken_promise(facts.promise, matrix, byzantine, result, **bounds):
                raise AssertionError(
                    f"{broken}, after workers {np.flatnonzero(byzantine).tolist()} sent "
                    f"{text(matrix[byzantine][0])}: {text(result)}."
                )
    if sent and facts.promise != "none":
        tried.append(f"promise: {facts.promise}")
    if loop is not None:
        with clause_of(f"equals its loop, {at}"):
            for matrix, result in zip([x, *(m for m, _ in sent)], [out, *of_attacked]):
                single = np.asarray(matrix, np.float32).astype(np.float64)
                if facts.promise == "none" and _is_large(single):
                    continue  # sums of such rows overflow in float32 but not in the loop
                with np.errstate(invalid="ignore"):
                    close(result, loop(single, f), largest, eps, alike=facts.promise == "none")
        tried.append("equals its loop")
    with clause_of(f"derivatives, {at}"):
        _check_derivatives(lambda x: call(x, f), mapped, rows, facts, rng, eps)
    return [*tried, "derivatives"]


def _is_large(matrix: np.ndarray) -> bool:
    return bool((np.isfinite(matrix) & (np.abs(matrix) > 1e12)).any())


def _check_derivatives(rule, mapped, rows, facts, rng, eps) -> None:
    """Equal to differences and in both modes, finite everywhere, 0 for non-finite values."""

    def both(x, dx, dy):
        _, forward = jax.jvp(rule, (x,), (dx,))
        _, backward = jax.vjp(rule, x)
        return forward, backward(dy)[0]

    dx = jnp.asarray(rng.normal(size=rows.shape), jnp.float32)
    dy = jnp.asarray(rng.normal(size=(len(rows), DIM)), jnp.float32)
    forward, backward = jax.jit(jax.vmap(both))(rows, dx, dy)
    harmless = [0, 4]  # a random matrix, and one whose rows coincide
    kept = range(len(rows)) if facts.promise != "none" else harmless
    for i in kept:
        if not (np.isfinite(forward[i]).all() and np.isfinite(backward[i]).all()):
            raise AssertionError(f"it is not finite at {text(rows[i])}.")
    there = np.isfinite(rows) | np.isin(np.arange(len(rows)), kept, invert=True)[:, None, None]
    if (np.where(there, 0, backward) != 0).any():
        raise AssertionError("the derivative at a non-finite value is not 0.")
    one = np.sum(np.asarray(forward[0], np.float64) * dy[0])
    other = np.sum(np.asarray(backward[0], np.float64) * dx[0])
    close(one, other, 1.0, 10 * eps)
    ahead, behind = (np.asarray(mapped(rows + h * dx), np.float64) for h in (_STEP, -_STEP))
    tangents = (ahead[:3] - behind[:3]) / (2 * _STEP)  # of random matrices
    apart = np.abs(tangents - forward[:3]).max(axis=1)
    # One of the three may be at a kink of the rule, or where the selection changes.
    if sum(apart <= 0.02 * (1 + np.abs(tangents).max(axis=1))) < 2:
        worst = int(np.argmax(apart))
        raise AssertionError(f"{text(forward[worst])} instead of {text(tangents[worst])}.")


def _check_forms(clause_of, rule, call, facts, n, f, rng, eps) -> list[str]:
    """Checks that the result does not depend on the form of the updates."""
    x = jnp.asarray(grid(rng, n, 8), jnp.float32)
    low = x.astype(jnp.bfloat16).astype(jnp.float32)
    tree = {"b": x[:, 0], "w": (x[:, 1:5].reshape(n, 2, 1, 2), low[:, 5:].astype(jnp.bfloat16))}
    largest = float(jnp.max(jnp.abs(x)))
    traces = []

    @jax.jit
    def compiled(updates):
        traces.append(None)
        return call(updates, f)

    with clause_of("one trace for two calls"):
        compiled(x), compiled(x + 1)
        if len(traces) != 1:
            raise AssertionError(f"{len(traces)} traces.")
    flat = compiled(x.at[:, 5:].set(low[:, 5:]))
    with clause_of("the same with and without jit"):
        close(call(x, f), compiled(x), largest, eps)
    same = "of its form" if facts.layers else "what its flat vector gives"
    with clause_of(f"a tree gives {same}"):
        out = call(tree, f)
        if jax.tree.structure(out) != jax.tree.structure(tree):
            raise AssertionError(f"the result is a tree of another structure: {out}.")
        like = jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype), tree)
        made = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), out)
        if made != like:
            raise AssertionError(f"shapes and dtypes are {made}, expected {like}.")
        if not facts.layers:
            close(jnp.append(out["b"], out["w"][0]), flat[:5], largest, eps)
            close(out["w"][1].astype(jnp.float32), flat[5:], largest, 2**-7)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

    def value_and_gradient(updates):
        out, backward = jax.vjp(lambda u: call(u, f), updates)
        return out, backward(out)

    strict = jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict")
    with clause_of("strict promotion"), strict[0], strict[1]:
        jax.eval_shape(value_and_gradient, shapes)
    with clause_of(f"lowers for {', '.join(PLATFORMS)}"):
        jax.export.export(jax.jit(value_and_gradient), platforms=PLATFORMS)(shapes)
    with clause_of("stands in a chain"):
        # `call` has already bound the hyperparameters.
        tx = transforms.aggregate(lambda updates: call(updates, f))
        jax.eval_shape(lambda u: tx.update(u, tx.init({}))[0], shapes)
    tried = ["jit", "trees and dtypes", "strict promotion", "lowers", "stands in a chain"]
    devices = math.gcd(jax.device_count(), 8)
    if devices > 1 and "axis_name" in inspect.signature(rule).parameters:
        with clause_of(f"coordinates sliced over {devices} devices"):
            sliced = _sliced(lambda x: call(x, f, axis_name="shard"), x, devices)
            close(sliced, call(x, f), largest, eps)
        tried.append(f"coordinates sliced over {devices} devices")
    return tried


def _sliced(rule: Callable, x: jax.Array, count: int) -> jax.Array:
    """The rule where each of `count` devices holds a slice of the coordinates."""
    devices, auto = jax.devices()[:count], (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((count,), ("shard",), devices=devices, axis_types=auto)
    spec = jax.sharding.PartitionSpec
    sliced = jax.shard_map(rule, mesh=mesh, in_specs=spec(None, "shard"), out_specs=spec("shard"))
    return jax.jit(sliced)(x)


def _check_errors(name: str, call: Callable, facts: Facts) -> None:
    a, b = facts.needs
    n = a + b - 1
    expected = f"{name} needs {inequality(facts.needs)}; got n={n}, f=1."
    for f, kind, words in ((1, ValueError, expected), (1.0, TypeError, "f must be a Python int")):
        try:
            call(jnp.ones((n, 2)), f)
        except kind as error:
            if words in str(error):
                continue
            raise AssertionError(f"it says {str(error)!r}, expected {words!r}.") from error
        raise AssertionError(f"{n} updates with f={f} do not raise {kind.__name__}: {words!r}.")
