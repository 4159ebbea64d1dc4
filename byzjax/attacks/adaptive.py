"""Attacks that try the deployed rule: a search over strengths, and ascent through the rule.

What they maximise is the *damage*, a number made of the aggregate and the honest mean:

* `"distance"`: the distance of the aggregate to the honest mean;
* `"inner_product"`: minus the inner product of both, so that the step leads uphill;
* a function `(aggregate, honest_mean) -> number`.

An aggregate that is not finite is infinite damage.
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
# Steps of an ascent, in units of how much honest updates vary. Shorter ones would creep to within
# rounding of a selection's edge, where the same rule in another program may select otherwise.
_SHORTEST, _LONGEST = 1e-3, 1e6
# Where the search for a strength looks around the best so far, in steps of its grid's logarithm.
# Most of the points lie above, since damage often ends at the edge of a selection. Of 162 cases (9
# rules, 3 attacks, 6 settings) this finds the damage of a grid of 200 within 2 % in 156.
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

    First over a geometric grid from `low` to `high`, all its points at once; then, three times,
    over a few points around the best, ever closer to it and most of them above, since damage often
    ends at the edge of a selection. Opt-ALIE and Opt-IPM of the literature are this for
    `little_is_enough` and `inner_product_manipulation`. Cost: `coarse + 12` calls of the rule.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, who attacks; may be traced.
      attack: `attack(updates, byzantine, **{strength: value}) -> stacked updates`.
      rule: all that the server does, mixings included, `rule(updates) -> update`.
      strength: name of the attack's parameter, such as `"z"` or `"epsilon"`.
      low: smallest strength, positive; may be traced.
      high: largest strength; may be traced.
      coarse: points of the grid, a Python int, at least 2.
      objective: `"distance"`, `"inner_product"`, or `(aggregate, honest_mean) -> number`.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged. Memory: that of the rule and of the
      updates, `coarse` times.

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
    r"""Every liar's row is moved uphill on the damage, by its gradient through the rule.

    $$ \max_{b_1, \dots, b_s} D\bigl(F(x_1, \dots, x_h, b_1, \dots, b_s), \mu\bigr) $$

    All starts are tried. The most damaging ones, random rows, and rows put together of the starts
    (in every coordinate of the one that moves the aggregate farthest there) are climbed from side
    by side, and the most damaging rows ever seen are sent: never weaker than any of the starts.
    Steps go in turn along the gradient, along a random direction and straight away from the honest
    mean, since rules that select rows are flat between their edges; a kind of step is twice as long
    after a success and half as long after a failure. Cost: the rule once for each start, and the
    rule with its derivative `steps` times for each of the `ascents + 2` that are climbed from.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, who attacks; may be traced.
      rule: all that the server does, `rule(updates) -> update`, differentiable.
      objective: `"distance"`, `"inner_product"`, or `(aggregate, honest_mean) -> number`.
      steps: number of steps of each ascent, a Python int.
      starts: attacks `(updates, byzantine) -> stacked updates`; by default `default_starts()`.
      ascents: how many of the starts are climbed from, besides the other rows; a Python int.
      within: None for any row; `"norm"`, no lie longer than the longest honest update;
        `"distance"`, none farther from the honest mean than the farthest honest update. Starts are
        moved there.
      key: draws the random rows; `jax.random.key(0)` by default.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged. Memory: that of the gradient of the
      rule, `ascents + 2` times.

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
      >>> out = jax.jit(attack)(updates, byzantine)  # compiled, for it tries the rule many times
      >>> float(abs(byzjax.median(out)[0] - 2.0)) > 0.45
      True

    Reference: ours; projected gradient ascent as in Madry et al., ICLR 2018 (arXiv:1706.06083), on
    rows in the place of images.
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

    # What is tried is what is sent: in the dtype of the updates, with the honest rows as they are.
    def sent(rows: PyTree) -> PyTree:
        return _rows.replace(updates, byzantine, rows)

    def damage_of(rows: PyTree) -> jax.Array:
        return damage(rule(sent(rows)))

    begun = [project(jax.tree.map(wide, start(updates, byzantine))) for start in starts]
    begun = lax.stop_gradient(jax.tree.map(lambda *rows: jnp.stack(rows), *begun))
    aggregates = lax.map(lambda rows: rule(sent(rows)), begun)
    values = lax.map(damage, aggregates)
    _, chosen = lax.top_k(values, ascents)
    together = project(jax.tree.map(_put_together, begun, aggregates, mean))
    std = _rows.honest_std(detached, byzantine, mean, ddof=0)
    noise = _rows.normal(noise_key, detached)
    random = project(jax.tree.map(lambda mu, sd, r: mu + sd * r, mean, std, noise))
    others = jax.tree.map(lambda a, b: jnp.stack([a, b]), random, together)
    rows = jax.tree.map(lambda found, new: jnp.concatenate([found[chosen], new]), begun, others)
    values = jnp.concatenate([values[chosen], lax.map(damage_of, others)])
    spread = jnp.maximum(_rows.norm(std), jnp.finfo(jnp.float32).tiny)
    climb = partial(_climb, damage_of, project, mean, byzantine, spread, steps)
    rows, values = jax.vmap(climb)(rows, values, jax.random.split(steps_key, ascents + 2))
    best = jnp.argmax(values)
    return sent(jax.tree.map(lambda leaf: leaf[best], rows))


def _put_together(rows: jax.Array, aggregates: jax.Array, mean: jax.Array) -> jax.Array:
    """`[n, ...]` of `rows: [k, n, ...]`, in every coordinate those whose aggregate is farthest."""
    away = jnp.abs(wide(aggregates) - mean)
    farthest = jnp.argmax(jnp.where(jnp.isfinite(away), away, 0), axis=0)
    return jnp.take_along_axis(rows, farthest[None, None], axis=0)[0]


def default_starts() -> tuple[Callable, ...]:
    """Attacks from which `gradient_attack` begins, at strengths that papers use.

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
    """Moves rows to where they may be."""
    if within is None:
        return lambda rows: rows
    mean = _rows.honest_mean(detached, byzantine)
    center = mean if within == "distance" else jax.tree.map(jnp.zeros_like, mean)
    honest = jnp.where(byzantine, 0, stacked.squared_distances(detached, _rows.only(center)))
    radius = jnp.sqrt(jnp.max(honest))

    def project(rows: PyTree) -> PyTree:
        squares = stacked.squared_distances(rows, _rows.only(center))
        # A row without a length is moved to the centre.
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
    """The most damaging rows seen on the way up from these, and their damage."""
    gradient = jax.grad(damage_of)

    def own(direction: PyTree) -> PyTree:
        """Of the liars alone, as long as their updates vary; 0 where it is nowhere."""
        clean = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0), direction)
        clean = stacked.scale(clean, byzantine.astype(jnp.float32))
        # First by the largest entry: squares of small or large gradients would vanish or overflow.
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
        direction = own(direction)
        there = project(
            jax.tree.map(lambda x, d: x + lengths[kind].astype(d.dtype) * d, rows, direction)
        )
        reached = damage_of(there)
        better = reached > value
        rows = jax.tree.map(lambda a, b: jnp.where(better, a, b), there, rows)
        value = jnp.where(better, reached, value)
        # The slope is that of the rows that are kept.
        tangent = lax.cond(better, gradient, lambda _: tangent, rows)
        lengths = lengths.at[kind].multiply(jnp.where(better, 2.0, 0.5))
        return (rows, value, tangent, jnp.clip(lengths, _SHORTEST, _LONGEST)), None

    state = (rows, value, gradient(rows), jnp.ones(3, jnp.float32))
    (rows, value, _, _), _ = lax.scan(
        step, state, (jnp.arange(steps), jax.random.split(key, steps))
    )
    return rows, value
