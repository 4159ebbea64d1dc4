"""The contract of the verbs: they are optax transformations and compose with optax's."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.experimental import aggregating

import byzjax
from byzjax import attacks
from tests.helpers import compiled

N, F = 7, 2
BYZANTINE = np.arange(N) >= N - F
PARAMS = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}


def stacked_updates(seed=0, n=N):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(n, *p.shape)).astype(np.float32) for name, p in PARAMS.items()}


def at(tree, k):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[k], tree)


def pairs(updates):
    """A mixing that changes n: means of neighbours, the last row alone."""
    return jax.tree.map(lambda x: (x + jnp.roll(x, -1, axis=0))[: N // 2 + 1] / 2, updates)


def noisy_mean(updates, *, scale=1.0, key):
    """A rule that draws random numbers."""
    mean = byzjax.mean(updates)
    return jax.tree.map(lambda x: x + scale * jax.random.normal(key, x.shape, x.dtype), mean)


def nearest_to(updates, trusted, *, keep=1):
    """A rule with data: the mean of the rows nearest to a trusted update."""
    distances = byzjax.stacked.squared_distances(updates, trusted)
    return byzjax.stacked.mean_selected(updates, byzjax.scores.ranks(distances) < keep)


VERBS = {
    "per_worker": lambda: byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=N),
    "per_worker(adam)": lambda: byzjax.per_worker(optax.scale_by_adam(), num_workers=N),
    "per_worker(noise)": lambda: byzjax.per_worker(
        optax.add_noise(0.1, 0.5, key=jax.random.key(0)), num_workers=N
    ),
    "attack": lambda: byzjax.attack(attacks.little_is_enough, BYZANTINE, f=F),
    "attack(key)": lambda: byzjax.attack(
        attacks.gaussian, BYZANTINE, sigma=1.0, key=jax.random.key(1)
    ),
    "mix": lambda: byzjax.mix(pairs),
    "aggregate": lambda: byzjax.aggregate(byzjax.aksel, f=F),
    "aggregate(key)": lambda: byzjax.aggregate(noisy_mean, scale=2.0, key=jax.random.key(2)),
}


def chain():
    return optax.chain(
        VERBS["per_worker"](),
        VERBS["attack(key)"](),
        byzjax.aggregate(byzjax.trimmed_mean, f=F),
        optax.sgd(0.1, momentum=0.9),
    )


ALL = VERBS | {"chain": chain}
verbs = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ALL]
)


@functools.cache
def one_update(name):
    """A verb and a program: the state after an update, and the update in all its forms."""
    tx = ALL[name]()

    @jax.jit
    def run(updates, state):
        out, after = tx.update(updates, state, PARAMS)
        extra, _ = tx.update(updates, state, PARAMS, step=3, loss=jnp.ones(()))
        without, _ = tx.update(updates, state)
        return after, {"plain": out, "with extra arguments": extra, "without params": without}

    return tx, run


def shape_and_dtype(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.asarray(x).dtype), tree)


# --- as optax expects ----------------------------------------------------------------------------


@pytest.mark.smoke
@verbs
def test_state_keeps_its_types(name):
    tx, run = one_update(name)
    state = tx.init(PARAMS)
    after, _ = run(stacked_updates(), state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert shape_and_dtype(after) == shape_and_dtype(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, PARAMS), state)


@verbs
def test_runs_in_a_scan(name):
    tx, run = one_update(name)
    batches = jax.tree.map(lambda *xs: np.stack(xs), *[stacked_updates(k) for k in range(3)])

    def step(state, updates):
        updates, state = tx.update(updates, state, PARAMS)
        return state, updates

    scan = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches))
    last, outs = scan(tx.init(PARAMS), batches)
    state = tx.init(PARAMS)
    for k in range(3):
        state, out = run(stacked_updates(k), state)
        chex.assert_trees_all_close(out["plain"], at(outs, k), atol=1e-6)
    assert jax.tree.structure(last) == jax.tree.structure(state)


@verbs
def test_unknown_extra_arguments_are_accepted(name):
    tx, run = one_update(name)
    _, out = run(stacked_updates(), tx.init(PARAMS))
    chex.assert_trees_all_equal(out["plain"], out["with extra arguments"])


@verbs
def test_params_may_be_left_out(name):
    tx, run = one_update(name)
    _, out = run(stacked_updates(), tx.init(PARAMS))
    chex.assert_trees_all_equal(out["plain"], out["without params"])


@verbs
def test_maps_over_seeds(name):
    """A key may be traced: a sweep maps over the keys from which transformations are built."""
    tx, run = one_update(name)
    many = jax.tree.map(lambda *xs: np.stack(xs), *[stacked_updates(k) for k in range(2)])
    mapped = jax.jit(jax.vmap(lambda u: tx.update(u, tx.init(PARAMS), PARAMS)[0]))(many)
    for k in range(2):
        _, out = run(stacked_updates(k), tx.init(PARAMS))
        chex.assert_trees_all_close(at(mapped, k), out["plain"], atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("per_worker", "mix"))) for n in ALL],
)
def test_it_is_the_same_without_jit(name):
    tx, run = one_update(name)
    after, out = run(stacked_updates(), tx.init(PARAMS))
    eager, state = tx.update(stacked_updates(), tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(eager, out["plain"], atol=1e-6)
    assert shape_and_dtype(state) == shape_and_dtype(after)


@verbs
def test_errors_of_unstacked_updates(name):
    tx, _ = one_update(name)
    updates = {"w": np.ones((N, 2, 3), np.float32), "b": np.ones((), np.float32)}
    with pytest.raises(ValueError, match=r"^no worker axis: \['b'\] is a scalar; stacked updates"):
        tx.update(updates, tx.init(PARAMS))
    by_shape = r"^\w+: updates\['b'\] has shape \(\), params\['b'\] \(3,\); expected \(n, 3\), one"
    scalar = r"^no worker axis: \['b'\] is a scalar"
    with pytest.raises(ValueError, match=f"{by_shape}|{scalar}"):
        tx.update(updates, tx.init(PARAMS), PARAMS)


def test_partition():
    """Different rules for different parts of one model."""
    tx = optax.partition(
        {"robust": byzjax.aggregate(byzjax.median), "plain": byzjax.aggregate(byzjax.mean)},
        {"w": "robust", "b": "plain"},
    )
    updates = stacked_updates()
    out, _ = jax.jit(tx.update)(updates, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(out["w"], np.median(updates["w"], axis=0), rtol=1e-6)
    np.testing.assert_allclose(out["b"], np.mean(updates["b"], axis=0), rtol=1e-6, atol=1e-6)


def test_inject_hyperparams():
    """A strength that follows a schedule; f stays a Python int inside the lambda."""
    tx = optax.inject_hyperparams(
        lambda epsilon: byzjax.attack(
            attacks.inner_product_manipulation, BYZANTINE, epsilon=epsilon
        )
    )(epsilon=optax.linear_schedule(0.0, 1.0, 10))
    state, update = jax.jit(tx.init)(PARAMS), jax.jit(tx.update)
    for step in range(3):
        updates = stacked_updates(step)
        out, state = update(updates, state, PARAMS)
        for leaf, rows in zip(jax.tree.leaves(out), jax.tree.leaves(updates)):
            rows[BYZANTINE] = -step / 10 * rows[~BYZANTINE].mean(axis=0)
            np.testing.assert_allclose(leaf, rows, rtol=1e-6, atol=1e-6)
    rate = optax.inject_hyperparams(
        lambda learning_rate: optax.chain(
            byzjax.aggregate(byzjax.krum, f=F), optax.sgd(learning_rate)
        )
    )(learning_rate=0.5)
    out, _ = jax.jit(lambda updates: rate.update(updates, rate.init(PARAMS), PARAMS))(
        stacked_updates()
    )
    krum = compiled(byzjax.krum, f=F)(stacked_updates())
    chex.assert_trees_all_close(out, jax.tree.map(lambda x: -0.5 * x, krum), atol=1e-6)


def test_optax_aggregating_process():
    tx = aggregating.process(
        VERBS["per_worker"](), byzjax.aggregate(byzjax.aksel, f=F), optax.sgd(0.1)
    )
    same = optax.chain(VERBS["per_worker"](), byzjax.aggregate(byzjax.aksel, f=F), optax.sgd(0.1))
    states = tx.init(PARAMS), same.init(PARAMS)

    @jax.jit
    def both(updates, states):
        return [t.update(updates, s, PARAMS) for t, s in zip((tx, same), states, strict=True)]

    for k in range(2):
        (out, *state), (expected, *state_of_same) = both(stacked_updates(k), states)
        states = *state, *state_of_same
        chex.assert_trees_all_equal(out, expected)


def test_an_optimizer_that_needs_the_loss():
    """optax's extra arguments (value, grad, value_fn) pass through to their consumer."""
    tx = optax.chain(
        byzjax.attack(attacks.little_is_enough, BYZANTINE, f=F),
        byzjax.aggregate(byzjax.median),
        optax.contrib.reduce_on_plateau(),
    )

    @jax.jit
    def both(updates):
        out, _ = tx.update(updates, tx.init(PARAMS), PARAMS, value=jnp.ones(()))
        return out, byzjax.median(attacks.little_is_enough(updates, BYZANTINE, f=F))

    chex.assert_trees_all_close(*both(stacked_updates()))


# --- the chain is the composition of the functions -----------------------------------------------


def test_the_chain_is_the_composition():
    tx = optax.chain(
        byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=N),
        byzjax.attack(attacks.sign_flip, BYZANTINE),
        byzjax.mix(pairs),
        byzjax.aggregate(byzjax.trimmed_mean, f=1),
        optax.sgd(0.1),
    )
    state, momenta = tx.init(PARAMS), jax.tree.map(np.zeros_like, stacked_updates())
    update = jax.jit(tx.update)

    @jax.jit
    def composed(updates, momenta):
        momenta = jax.tree.map(lambda m, u: 0.9 * m + 0.1 * u, momenta, updates)
        mixed = pairs(attacks.sign_flip(momenta, BYZANTINE))
        return momenta, jax.tree.map(lambda x: -0.1 * x, byzjax.trimmed_mean(mixed, f=1))

    for k in range(3):
        updates = stacked_updates(k)
        out, state = update(updates, state, PARAMS)
        momenta, expected = composed(updates, momenta)
        chex.assert_trees_all_close(out, expected, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.ema(0.9),
        lambda: optax.scale_by_adam(),
        lambda: optax.clip_by_global_norm(0.5),
        lambda: optax.add_decayed_weights(0.1),
    ],
    ids=["ema", "adam", "clip", "decay"],
)
def test_per_worker_equals_a_loop_over_workers(make):
    params = jax.tree.map(lambda p: p + 2, PARAMS)
    lifted, single = byzjax.per_worker(make(), num_workers=N), make()
    state, states = lifted.init(params), [single.init(params) for _ in range(N)]
    update_all, update_one = jax.jit(lifted.update), jax.jit(single.update)
    for k in range(2):
        updates = stacked_updates(k)
        out, state = update_all(updates, state, params)
        for i in range(N):
            expected, states[i] = update_one(at(updates, i), states[i], params)
            chex.assert_trees_all_close(at(out, i), expected, atol=1e-6)


def test_per_worker_hands_on_extra_arguments():
    def update(updates, state, params=None, *, factor, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda x: factor * x, updates), state

    single = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    lifted = byzjax.per_worker(single, num_workers=N)
    update = jax.jit(functools.partial(lifted.update, factor=3.0, other=1))
    out, _ = update(stacked_updates(), lifted.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(out, jax.tree.map(lambda x: 3 * x, stacked_updates()))


def test_per_worker_counts():
    tx = VERBS["per_worker"]()
    with pytest.raises(
        ValueError, match=r"^per_worker was made for 7 workers; got updates of 6: name them, upd"
    ):
        tx.update(stacked_updates(n=6), tx.init(PARAMS))
    with pytest.raises(TypeError, match=r"^num_workers must be a Python int; got float"):
        byzjax.per_worker(optax.identity(), num_workers=7.0)
    with pytest.raises(ValueError, match=r"^num_workers must be at least 1; got num_workers=0\.$"):
        byzjax.per_worker(optax.identity(), num_workers=0)


# --- randomness ----------------------------------------------------------------------------------


def test_simulated_workers_draw_different_noise():
    noise = optax.add_noise(1.0, 0.0, key=jax.random.key(0))
    tx = byzjax.per_worker(noise, num_workers=N)
    state, zeros = tx.init(PARAMS), jax.tree.map(np.zeros_like, stacked_updates())
    update = jax.jit(tx.update)
    first, state = update(zeros, state)
    second, state = update(zeros, state)
    drawn = np.concatenate([first["w"].reshape(N, -1), second["w"].reshape(N, -1)])
    assert len(np.unique(drawn)) == drawn.size
    again, _ = update(zeros, tx.init(PARAMS))
    chex.assert_trees_all_equal(again, first)


def test_keys_are_split_at_every_update():
    key = jax.random.key(5)
    tx = byzjax.aggregate(noisy_mean, scale=2.0, key=key)
    state, updates = tx.init(PARAMS), stacked_updates()
    following, now = jax.random.split(key)
    update, noisy = jax.jit(tx.update), compiled(noisy_mean, scale=2.0)
    first, state = update(updates, state)
    chex.assert_trees_all_close(first, noisy(updates, key=now))
    second, state = update(updates, state)
    chex.assert_trees_all_close(second, noisy(updates, key=jax.random.split(following)[1]))
    assert not np.allclose(first["w"], second["w"])


def test_a_sweep_maps_over_keys_and_masks():
    """Built inside the traced run, from that run's key and mask."""

    def run(key, byzantine):
        tx = optax.chain(
            byzjax.attack(attacks.gaussian, byzantine, key=key), byzjax.aggregate(byzjax.mean)
        )
        return tx.update(stacked_updates(), tx.init(PARAMS))[0]["b"]

    keys = jax.random.split(jax.random.key(0), 3)
    masks = np.stack([BYZANTINE, BYZANTINE, np.zeros(N, bool)])
    outs = np.asarray(jax.jit(jax.vmap(run))(keys, masks))
    assert len(np.unique(outs, axis=0)) == 3
    np.testing.assert_allclose(outs[2], stacked_updates()["b"].mean(axis=0), rtol=1e-6)
    raw = jax.random.PRNGKey(0)  # a raw key works for the verbs as well
    assert jax.eval_shape(run, raw, BYZANTINE).shape == (3,)


# --- arguments -----------------------------------------------------------------------------------


def test_data_from_the_extra_arguments():
    updates, trusted = stacked_updates(), jax.tree.map(lambda x: x[0] + 0.01, stacked_updates(1))
    expected = compiled(nearest_to, keep=2)(updates, trusted)
    by_update = byzjax.aggregate(nearest_to, keep=2)
    out, _ = jax.jit(by_update.update)(updates, by_update.init(PARAMS), PARAMS, trusted=trusted)
    chex.assert_trees_all_close(out, expected)
    by_verb = byzjax.aggregate(nearest_to, keep=2, trusted=trusted)
    out, _ = jax.jit(by_verb.update)(updates, by_verb.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(out, expected)
    with pytest.raises(TypeError, match=r".") as error:
        by_update.update(updates, by_update.init(PARAMS), PARAMS)
    assert str(error.value) == (
        "aggregate: nearest_to needs trusted; give it with aggregate or with each update, "
        "as in tx.update(updates, state, params, trusted=...)."
    )


def test_what_the_verb_was_given_comes_first():
    tx = byzjax.attack(attacks.inner_product_manipulation, BYZANTINE, epsilon=0.5)
    update = jax.jit(functools.partial(tx.update, epsilon=9.0))
    out, _ = update(stacked_updates(), tx.init(PARAMS), PARAMS)
    attack = compiled(attacks.inner_product_manipulation, epsilon=0.5)
    expected = attack(stacked_updates(), BYZANTINE)
    chex.assert_trees_all_close(out, expected)


WRONG = {
    "aggregate: aksel has no parameter g; it takes f, mode, weights.": lambda: byzjax.aggregate(
        byzjax.aksel, f=1, g=2
    ),
    "aggregate: aksel needs f; write aggregate(aksel, f=...).": lambda: byzjax.aggregate(
        byzjax.aksel
    ),
    "aggregate: mean has no parameter f; it takes weights.": lambda: byzjax.aggregate(
        byzjax.mean, f=1
    ),
    "aggregate: krum has no parameter key; it takes f, m, neighbors, squared.": lambda: (
        byzjax.aggregate(byzjax.krum, f=1, key=jax.random.key(0))
    ),
    "aggregate: noisy_mean needs key; write aggregate(noisy_mean, key=jax.random.key(0)).": (
        lambda: byzjax.aggregate(noisy_mean)
    ),
    "attack: gaussian needs key; write attack(gaussian, byzantine, key=jax.random.key(0)).": (
        lambda: byzjax.attack(attacks.gaussian, BYZANTINE)
    ),
    "attack: sign_flip has no parameter f; it takes of.": lambda: byzjax.attack(
        attacks.sign_flip, BYZANTINE, f=2
    ),
    "mix: pairs has no parameter f; it takes nothing else.": lambda: byzjax.mix(pairs, f=2),
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_keywords_raise_at_construction(text):
    with pytest.raises(TypeError, match=r".") as error:
        WRONG[text]()
    assert str(error.value) == text


def test_functions_of_every_kind():
    """Compiled functions, partials and functions with **kwargs have signatures too."""
    by_jit = jax.jit(byzjax.trimmed_mean, static_argnames="f")
    expected = by_jit(stacked_updates(), f=F)

    def open_ended(updates, **hyperparameters):
        return byzjax.trimmed_mean(updates, **hyperparameters)

    for tx in (
        byzjax.aggregate(by_jit, f=F),
        byzjax.aggregate(functools.partial(byzjax.trimmed_mean, f=F)),
        byzjax.aggregate(open_ended, f=F),
        byzjax.aggregate(lambda updates: byzjax.trimmed_mean(updates, f=F)),
    ):
        out, _ = jax.jit(tx.update)(stacked_updates(), tx.init(PARAMS), PARAMS)
        chex.assert_trees_all_close(out, expected)


def test_an_extra_argument_never_sets_a_hyperparameter():
    """optax's schedulers and line searches take `value`; `non_finite` has a different `value`."""
    tx = byzjax.attack(attacks.non_finite, np.array([False, True]))

    @jax.jit
    def sent(value):
        return tx.update(jnp.ones((2, 3)), tx.init(jnp.zeros(3)), value=value)[0]

    np.testing.assert_array_equal(sent(0.5), [[1, 1, 1], [jnp.nan] * 3])


def test_a_rule_is_computed_once_however_often_it_is_read():
    transformation = optax.chain(byzjax.aggregate(byzjax.median), optax.adam(0.1))
    params, updates = np.zeros(300, np.float32), np.ones((15, 300), np.float32)

    def step(params, state, updates):
        change, state = transformation.update(updates, state, params)
        return optax.apply_updates(params, change), state, optax.tree.norm(change)

    text = jax.jit(step).lower(params, transformation.init(params), updates).compile().as_text()
    sorting = [part for part in text.split("\n\n") if part.count(" minimum(") > 10]
    assert len(sorting) == 1


def test_networks_do_not_run_in_the_shapes_of_leaves():
    # Rows of 100 coordinates: a network of 51 workers took 3.1 ms instead of 1.1 as vectors.
    updates = {"w": jnp.ones((9, 340, 100)), "b": jnp.ones((9, 40_000))}
    text = jax.jit(byzjax.median).lower(updates).compile().as_text()
    networks = [part for part in text.split("\n\n") if part.count(" minimum(") > 10]
    assert len(networks) == 2
    assert not [part for part in networks if "= f32[340,100]" in part]
