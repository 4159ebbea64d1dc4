"""Attacks that query the deployed rule: a search over strengths, and gradient ascent.

They maximise the *damage*, a function of the aggregate and the honest mean:

* `"distance"`: the distance of the aggregate to the honest mean;
* `"inner_product"`: minus their inner product, so that the step increases the loss;
* a function `(aggregate, honest_mean) -> number`.

A non-finite aggregate counts as infinite damage.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import one_of, positive, static_int
from byzjax._compiled import compiled
from byzjax._numerics.arrays import root, wide
from byzjax.attacks import _rows
from byzjax.attacks.bounded import min_max, min_sum
from byzjax.attacks.statistical import (
    inner_product_manipulation,
    little_is_enough,
    reversed_gradient,
)
from byzjax.stacked import PyTree

OBJECTIVES = ("distance", "inner_product")
# Step lengths of an ascent, in units of the honest spread. Shorter ones would approach the boundary
# of a selection to within rounding, where another program may select differently.
_SHORTEST, _LONGEST = 1e-3, 1e6
# Offsets at which a strength is refined around the best so far, in steps of the logarithmic grid.
# Most are positive, since damage often drops at the boundary of a selection. In 156 of 162 cases (9
# rules, 3 attacks, 6 settings) this finds the damage of a grid of 200 within 2 %.
_REFINEMENTS = (
    (-2 / 3, -1 / 3, 1 / 3, 2 / 3),
    (-1 / 6, 1 / 12, 1 / 6, 1 / 4),
    (-1 / 48, 1 / 48, 1 / 24, 1 / 16),
)


@compiled(low=positive)
def strongest(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    attack: Callable,
    rule: Callable,
    strength: str,
    low: float,
    high: float,
    coarse: int = 8,
    objective: str | Callable = "distance",
) -> PyTree:
    r"""An attack at the strength that does the most damage to the deployed rule.

    $$ \lambda^* = \arg\max_\lambda \, D\bigl(F(A_\lambda(x)), \mu\bigr) $$

    The search evaluates a geometric grid from `low` to `high` in one batch, then refines it three
    times with a few points around the best, each time closer and mostly above it, since damage
    often drops at the boundary of a selection. With `little_is_enough` and
    `inner_product_manipulation` these are Opt-ALIE and Opt-IPM of the literature. Cost:
    `coarse + 12` calls of the rule.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      attack: `attack(updates, byzantine, **{strength: value}) -> stacked updates`.
      rule: the server's aggregation, mixings included, `rule(updates) -> update`.
      strength: name of the attack's parameter, such as `"z"` or `"epsilon"`.
      low: smallest strength, positive; may be traced.
      high: largest strength; may be traced.
      coarse: number of grid points, a Python int, at least 2.
      objective: `"distance"`, `"inner_product"`, or `(aggregate, honest_mean) -> number`.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged. Memory: `coarse` times that of the
      rule and the updates.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, low is not positive, or the objective is unknown.
      TypeError: coarse is not a Python int.

    Example:
      >>> import byzjax, functools, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[0.0], [1.0], [2.0], [3.0], [4.0], [0.0]])
      >>> byzantine = jnp.arange(6) == 5
      >>> out = attacks.strongest(updates, byzantine, attack=attacks.little_is_enough,
      ...     rule=partial(byzjax.trimmed_mean, f=1), strength="z", low=0.01, high=100.0)
      >>> bool(out[5, 0] <= 0.0)  # beyond the honest range, where the trimmed mean moves most
      True

    Reference: the line search is that of Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan,
    Fixing by Mixing, AISTATS 2023 (arXiv:2302.01772), appendix; the points are ours.
    """
    byzantine = _rows.mask(updates, byzantine)

    coarse = static_int("coarse", coarse, at_least=2)
    damage = _damage(updates, byzantine, objective)

    def lie(value: jax.Array) -> PyTree:
        return attack(updates, byzantine, **{strength: value})

    of_all = jax.vmap(lambda logarithm: damage(rule(lie(jnp.exp(logarithm)))))
    least, largest = (jnp.log(jnp.asarray(value, jnp.float32)) for value in (low, high))
    step = (largest - least) / (coarse - 1)
    tried = least + step * jnp.arange(coarse, dtype=jnp.float32)
    values = of_all(tried)

    def refine(state, offsets):
        best, most = state
        tried = jnp.clip(best + step * offsets, least, largest)
        values = of_all(tried)
        best = jnp.where(jnp.max(values) > most, tried[jnp.argmax(values)], best)
        return (best, jnp.maximum(jnp.max(values), most)), None

    start = tried[jnp.argmax(values)], jnp.max(values)
    (best, _), _ = lax.scan(refine, start, jnp.array(_REFINEMENTS, jnp.float32))
    return _rows.replace(updates, byzantine, lie(jnp.exp(best)))


@compiled
def gradient_attack(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    rule: Callable,
    objective: str | Callable = "distance",
    steps: int = 100,
    starts: Sequence[Callable] | None = None,
    ascents: int = 4,
    within: str | None = None,
    key: jax.Array | None = None,
) -> PyTree:
    r"""Gradient ascent on the damage through the rule, over the rows of all attackers.

    $$ \max_{b_1, \dots, b_s} D\bigl(F(x_1, \dots, x_h, b_1, \dots, b_s), \mu\bigr) $$

    All starts are evaluated. Ascents run in parallel from the most damaging ones, from random rows,
    and from a combination of the starts (each coordinate from the start that moves the aggregate
    farthest there). The most damaging rows seen are sent, so the attack is never weaker than any
    start. Steps alternate between the gradient, a random direction and the direction away from the
    honest mean, since rules that select rows are flat between changes of the selection; the step
    length of each kind doubles after a success and halves after a failure. Cost: one call of the
    rule per start, and `steps` calls of the rule with its derivative for each of `ascents + 2`
    ascents.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      rule: the server's aggregation, `rule(updates) -> update`, differentiable.
      objective: `"distance"`, `"inner_product"`, or `(aggregate, honest_mean) -> number`.
      steps: number of steps of each ascent, a Python int.
      starts: attacks `(updates, byzantine) -> stacked updates`; by default `default_starts()`.
      ascents: number of starts to ascend from, besides the other two points; a Python int.
      within: None for no constraint; `"norm"` limits norms to the largest honest norm;
        `"distance"` limits distances to the honest mean to the largest honest one. Starts are
        projected.
      key: PRNG key for the random rows; `jax.random.key(0)` by default.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged. Memory: `ascents + 2` times that of
      the rule's gradient.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, there is no start, or the objective or `within` is
        unknown.
      TypeError: steps or ascents is not a Python int.

    Example:
      >>> import byzjax, functools, jax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[0.0], [1.0], [2.0], [3.0], [4.0], [0.0]])
      >>> byzantine = jnp.arange(6) == 5
      >>> attack = partial(attacks.gradient_attack, rule=byzjax.median, steps=20)
      >>> out = jax.jit(attack)(updates, byzantine)  # compiled: it calls the rule many times
      >>> float(abs(byzjax.median(out)[0] - 2.0)) > 0.45
      True

    Reference: ours; projected gradient ascent as in Madry et al., ICLR 2018 (arXiv:1706.06083), on
    rows in place of images.
    """
    byzantine = _rows.mask(updates, byzantine)
    steps = static_int("steps", steps, at_least=1)
    starts = default_starts() if starts is None else tuple(starts)
    if not starts:
        raise ValueError("gradient_attack needs at least one start; got none.")
    ascents = min(static_int("ascents", ascents, at_least=1), len(starts))
    if within is not None:
        one_of("within", within, ("norm", "distance"))
    detached = lax.stop_gradient(jax.tree.map(wide, updates))
    damage = _damage(updates, byzantine, objective)
    project = _projection(detached, byzantine, within)
    mean = _rows.honest_mean(detached, byzantine)
    noise_key, steps_key = jax.random.split(jax.random.key(0) if key is None else key)

    # Candidates are evaluated as they are sent: in the updates' dtype, with honest rows unchanged.
    def sent(rows: PyTree) -> PyTree:
        return _rows.replace(updates, byzantine, rows)

    def damage_of(rows: PyTree) -> jax.Array:
        return damage(rule(sent(rows)))

    initial = [project(jax.tree.map(wide, start(updates, byzantine))) for start in starts]
    initial = lax.stop_gradient(jax.tree.map(lambda *rows: jnp.stack(rows), *initial))
    aggregates = lax.map(lambda rows: rule(sent(rows)), initial)
    values = lax.map(damage, aggregates)
    _, chosen = lax.top_k(values, ascents)
    combined = project(jax.tree.map(_combined, initial, aggregates, mean))
    std = _rows.honest_std(detached, byzantine, mean, ddof=0)
    noise = _rows.normal(noise_key, detached)
    random = project(jax.tree.map(lambda mu, sd, r: mu + sd * r, mean, std, noise))
    others = jax.tree.map(lambda a, b: jnp.stack([a, b]), random, combined)
    rows = jax.tree.map(lambda old, new: jnp.concatenate([old[chosen], new]), initial, others)
    values = jnp.concatenate([values[chosen], lax.map(damage_of, others)])
    spread = jnp.maximum(_rows.norm(std), jnp.finfo(jnp.float32).tiny)
    climb = partial(_climb, damage_of, project, mean, byzantine, spread, steps)
    rows, values = jax.vmap(climb)(rows, values, jax.random.split(steps_key, ascents + 2))
    best = jnp.argmax(values)
    return sent(jax.tree.map(lambda leaf: leaf[best], rows))


def _combined(rows: jax.Array, aggregates: jax.Array, mean: jax.Array) -> jax.Array:
    """`[n, ...]` from `rows: [k, n, ...]`: per coordinate those whose aggregate is farthest."""
    away = jnp.abs(wide(aggregates) - mean)
    farthest = jnp.argmax(jnp.where(jnp.isfinite(away), away, 0), axis=0)
    return jnp.take_along_axis(rows, farthest[None, None], axis=0)[0]


def default_starts() -> tuple[Callable, ...]:
    """The default starts of `gradient_attack`: attacks at published strengths.

    Returns:
      Functions `(updates, byzantine) -> stacked updates`.

    Example:
      >>> len(default_starts()) > 10
      True
    """
    return (
        *[partial(inner_product_manipulation, epsilon=e) for e in (0.1, 0.5, 1.0, 2.0, 10.0)],
        *[
            partial(little_is_enough, z=z, direction=d)
            for z in (0.5, 1.5, 4.0)
            for d in ("minus", "plus")
        ],
        *[partial(min_max, direction=d) for d in ("unit", "sign", "std")],
        *[partial(min_sum, direction=d) for d in ("unit", "sign", "std")],
        partial(reversed_gradient, kappa=1.0),
        partial(reversed_gradient, kappa=100.0, of="mean"),
    )


def _damage(updates: PyTree, byzantine: jax.Array, objective: str | Callable) -> Callable:
    """The damage of an aggregate, +inf where it is not finite."""
    if not callable(objective):
        one_of("objective", objective, OBJECTIVES)
    mean = _rows.only(_rows.honest_mean(lax.stop_gradient(updates), byzantine))

    def damage(aggregate: PyTree) -> jax.Array:
        out = jax.tree.map(lambda leaf: wide(leaf)[None], aggregate)
        finite = jnp.isfinite(_rows.largest(out))
        if callable(objective):
            value = objective(_rows.only(out), mean)
        elif objective == "distance":
            away = jax.tree.map(lambda a, b: a - b[None], out, mean)
            unit = lax.stop_gradient(_rows.largest(away))  # squares would overflow before the norm
            unit = jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1)
            value = unit * _rows.norm(_rows.scale(1 / unit, away))
        else:
            value = -stacked.inner_products(out, mean)[0]
        return jnp.where(finite & ~jnp.isnan(value), value, jnp.inf)

    return damage


def _projection(detached: PyTree, byzantine: jax.Array, within: str | None) -> Callable:
    """Projects rows onto the set that `within` allows."""
    if within is None:
        return lambda rows: rows
    mean = _rows.honest_mean(detached, byzantine)
    center = mean if within == "distance" else jax.tree.map(jnp.zeros_like, mean)
    honest = jnp.where(byzantine, 0, stacked.squared_distances(detached, _rows.only(center)))
    radius = jnp.sqrt(jnp.max(honest))

    def project(rows: PyTree) -> PyTree:
        squares = stacked.squared_distances(rows, _rows.only(center))
        # A row of infinite distance is moved to the centre.
        factor = jnp.where(squares > radius**2, radius / jnp.sqrt(squares), 1)
        away = jax.tree.map(lambda x, c: x - c, rows, center)
        return jax.tree.map(jnp.add, center, stacked.scale(away, factor))

    return project


def _climb(
    damage_of: Callable,
    project: Callable,
    mean: PyTree,
    byzantine: jax.Array,
    spread: jax.Array,
    steps: int,
    rows: PyTree,
    value: jax.Array,
    key: jax.Array,
) -> tuple[PyTree, jax.Array]:
    """The most damaging rows seen in one ascent from these, and their damage."""
    gradient = jax.grad(damage_of)

    def normalised(direction: PyTree) -> PyTree:
        """Restricted to Byzantine rows and scaled to the honest spread; 0 stays 0."""
        clean = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0), direction)
        clean = stacked.scale(clean, byzantine.astype(jnp.float32))
        # First by the largest entry, so that squares neither underflow nor overflow.
        clean = _rows.scale(_rows.ratio(1, _rows.largest(clean)), clean)
        length = root(jnp.sum(stacked.squared_norms(clean)))
        return _rows.scale(_rows.ratio(spread, length), clean)

    def step(state, inputs):
        rows, value, tangent, lengths = state
        index, k = inputs
        kind = index % 3
        random = _rows.normal(k, rows)
        outward = jax.tree.map(lambda x, mu: x - mu, rows, mean)
        direction = jax.tree.map(
            lambda *leaves: lax.select_n(kind, *leaves), tangent, random, outward
        )
        direction = normalised(direction)
        there = project(
            jax.tree.map(lambda x, d: x + lengths[kind].astype(d.dtype) * d, rows, direction)
        )
        reached = damage_of(there)
        better = reached > value
        rows = jax.tree.map(lambda a, b: jnp.where(better, a, b), there, rows)
        value = jnp.where(better, reached, value)
        # The gradient is that of the rows that are kept.
        tangent = lax.cond(better, gradient, lambda _: tangent, rows)
        lengths = lengths.at[kind].multiply(jnp.where(better, 2.0, 0.5))
        return (rows, value, tangent, jnp.clip(lengths, _SHORTEST, _LONGEST)), None

    state = (rows, value, gradient(rows), jnp.ones(3, jnp.float32))
    (rows, value, _, _), _ = lax.scan(
        step, state, (jnp.arange(steps), jax.random.split(key, steps))
    )
    return rows, value
