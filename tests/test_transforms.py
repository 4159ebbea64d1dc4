"""The contract of the verbs: they are optax transformations, and compose with optax's own."""

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

N, F = 7, 2
BYZANTINE = jnp.arange(N) >= N - F
PARAMS = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}


def stacked_updates(seed=0, n=N):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=(n, *p.shape)), jnp.float32), PARAMS)


def pairs(updates):
    """A mixing that changes n: means of neighbours, the last by itself."""
    return jax.tree.map(lambda x: (x + jnp.roll(x, -1, axis=0))[: N // 2 + 1] / 2, updates)


def noisy_mean(updates, *, scale=1.0, key):
    """A rule that draws random numbers."""
    mean = byzjax.mean(updates)
    return jax.tree.map(lambda x: x + scale * jax.random.normal(key, x.shape, x.dtype), mean)


def nearest_to(updates, trusted, *, keep=1):
    """A rule with data: the mean of the rows nearest to a trusted update."""
    distances = byzjax.stacked.squared_distances(updates, trusted)
    return byzjax.stacked.mean_of(updates, byzjax.scores.ranks(distances) < keep)


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
verbs = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in ALL.items()])


def shape_and_dtype(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.asarray(x).dtype), tree)


# --- as optax expects ----------------------------------------------------------------------------


@verbs
def test_state_keeps_its_types(make):
    tx = make()
    state = tx.init(PARAMS)
    _, after = jax.jit(tx.update)(stacked_updates(), state, PARAMS)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert shape_and_dtype(after) == shape_and_dtype(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, PARAMS), state)


@verbs
def test_runs_in_a_scan(make):
    tx = make()
    batches = jax.tree.map(lambda *xs: jnp.stack(xs), *[stacked_updates(k) for k in range(3)])

    def step(state, updates):
        updates, state = tx.update(updates, state, PARAMS)
        return state, updates

    last, outs = jax.jit(lambda state: jax.lax.scan(step, state, batches))(tx.init(PARAMS))
    state = tx.init(PARAMS)
    for k in range(3):
        state, out = step(state, stacked_updates(k))
        chex.assert_trees_all_close(out, jax.tree.map(lambda x, k=k: x[k], outs), atol=1e-6)
    assert jax.tree.structure(last) == jax.tree.structure(state)


@verbs
def test_unknown_extra_arguments_are_accepted(make):
    tx = make()
    plain, _ = tx.update(stacked_updates(), tx.init(PARAMS), PARAMS)
    extra, _ = tx.update(stacked_updates(), tx.init(PARAMS), PARAMS, step=3, loss=jnp.ones(()))
    chex.assert_trees_all_equal(plain, extra)


@verbs
def test_params_may_be_left_out(make):
    tx = make()
    with_params, _ = tx.update(stacked_updates(), tx.init(PARAMS), PARAMS)
    without, _ = tx.update(stacked_updates(), tx.init(PARAMS))
    chex.assert_trees_all_equal(with_params, without)


@verbs
def test_maps_over_seeds(make):
    """A key may be traced: a sweep maps over the keys from which transformations are built."""
    tx = make()

    def run(updates):
        return tx.update(updates, tx.init(PARAMS), PARAMS)[0]

    many = jax.tree.map(lambda *xs: jnp.stack(xs), *[stacked_updates(k) for k in range(2)])
    mapped = jax.jit(jax.vmap(run))(many)
    for k in range(2):
        one = jax.tree.map(lambda x, k=k: x[k], mapped)
        chex.assert_trees_all_close(one, run(stacked_updates(k)), atol=1e-6)


@verbs
def test_unstacked_updates_give_one_clear_line(make):
    tx = make()
    with pytest.raises(ValueError, match=r"^no worker axis: \['b'\] is a scalar; stacked updates"):
        tx.update({"w": jnp.ones((N, 2, 3)), "b": jnp.ones(())}, tx.init(PARAMS), PARAMS)


def test_partition():
    """Different rules for different parts of one model."""
    tx = optax.partition(
        {"robust": byzjax.aggregate(byzjax.median), "plain": byzjax.aggregate(byzjax.mean)},
        {"w": "robust", "b": "plain"},
    )
    updates = stacked_updates()
    out, _ = jax.jit(tx.update)(updates, tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(out["w"], byzjax.median(updates["w"]))
    chex.assert_trees_all_close(out["b"], byzjax.mean(updates["b"]))


def test_inject_hyperparams():
    """A strength that follows a schedule; f stays a Python int inside the lambda."""
    tx = optax.inject_hyperparams(
        lambda epsilon: byzjax.attack(
            attacks.inner_product_manipulation, BYZANTINE, epsilon=epsilon
        )
    )(epsilon=optax.linear_schedule(0.0, 1.0, 10))
    state = tx.init(PARAMS)
    for step in range(3):
        updates = stacked_updates(step)
        out, state = jax.jit(tx.update)(updates, state, PARAMS)
        expected = attacks.inner_product_manipulation(updates, BYZANTINE, epsilon=step / 10)
        chex.assert_trees_all_close(out, expected, atol=1e-6)
    rate = optax.inject_hyperparams(
        lambda learning_rate: optax.chain(
            byzjax.aggregate(byzjax.krum, f=F), optax.sgd(learning_rate)
        )
    )(learning_rate=0.5)
    out, _ = jax.jit(rate.update)(stacked_updates(), rate.init(PARAMS), PARAMS)
    krum = byzjax.krum(stacked_updates(), f=F)
    chex.assert_trees_all_close(out, jax.tree.map(lambda x: -0.5 * x, krum), atol=1e-6)


def test_optax_aggregating_process():
    tx = aggregating.process(
        VERBS["per_worker"](), byzjax.aggregate(byzjax.aksel, f=F), optax.sgd(0.1)
    )
    same = optax.chain(VERBS["per_worker"](), byzjax.aggregate(byzjax.aksel, f=F), optax.sgd(0.1))
    state, state_of_same = tx.init(PARAMS), same.init(PARAMS)
    for k in range(2):
        out, state = tx.update(stacked_updates(k), state, PARAMS)
        expected, state_of_same = same.update(stacked_updates(k), state_of_same, PARAMS)
        chex.assert_trees_all_equal(out, expected)


def test_an_optimizer_that_needs_the_loss():
    """optax's own extra arguments (value, grad, value_fn) pass through and reach their reader."""
    tx = optax.chain(
        byzjax.attack(attacks.little_is_enough, BYZANTINE, f=F),
        byzjax.aggregate(byzjax.median),
        optax.contrib.reduce_on_plateau(),
    )
    out, _ = tx.update(stacked_updates(), tx.init(PARAMS), PARAMS, value=jnp.ones(()))
    expected = byzjax.median(attacks.little_is_enough(stacked_updates(), BYZANTINE, f=F))
    chex.assert_trees_all_close(out, expected)


# --- the chain is the functions, one after another -----------------------------------------------


def test_the_chain_is_the_composition():
    tx = optax.chain(
        byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=N),
        byzjax.attack(attacks.sign_flip, BYZANTINE),
        byzjax.mix(pairs),
        byzjax.aggregate(byzjax.trimmed_mean, f=1),
        optax.sgd(0.1),
    )
    state, momenta = tx.init(PARAMS), jax.tree.map(jnp.zeros_like, stacked_updates())
    for k in range(3):
        updates = stacked_updates(k)
        out, state = jax.jit(tx.update)(updates, state, PARAMS)
        momenta = jax.tree.map(lambda m, u: 0.9 * m + 0.1 * u, momenta, updates)
        mixed = pairs(attacks.sign_flip(momenta, BYZANTINE))
        expected = jax.tree.map(lambda x: -0.1 * x, byzjax.trimmed_mean(mixed, f=1))
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
    params = jax.tree.map(lambda p: p + 2.0, PARAMS)
    lifted, single = byzjax.per_worker(make(), num_workers=N), make()
    state, states = lifted.init(params), [single.init(params) for _ in range(N)]
    for k in range(2):
        updates = stacked_updates(k)
        out, state = jax.jit(lifted.update)(updates, state, params)
        for i in range(N):
            own = jax.tree.map(lambda x, i=i: x[i], updates)
            expected, states[i] = single.update(own, states[i], params)
            chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], out), expected, atol=1e-6)


def test_per_worker_hands_on_extra_arguments():
    def update(updates, state, params=None, *, factor, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda x: factor * x, updates), state

    single = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    lifted = byzjax.per_worker(single, num_workers=N)
    out, _ = lifted.update(stacked_updates(), lifted.init(PARAMS), PARAMS, factor=3.0, other=1)
    chex.assert_trees_all_close(out, jax.tree.map(lambda x: 3 * x, stacked_updates()))


def test_per_worker_counts():
    tx = VERBS["per_worker"]()
    with pytest.raises(
        ValueError, match=r"^per_worker was made for 7 workers; got updates of 6\.$"
    ):
        tx.update(stacked_updates(n=6), tx.init(PARAMS))
    with pytest.raises(TypeError, match=r"^num_workers must be a Python int; got float\.$"):
        byzjax.per_worker(optax.identity(), num_workers=7.0)
    with pytest.raises(ValueError, match=r"^num_workers must be at least 1; got num_workers=0\.$"):
        byzjax.per_worker(optax.identity(), num_workers=0)


# --- randomness ----------------------------------------------------------------------------------


def test_simulated_workers_draw_different_noise():
    noise = optax.add_noise(1.0, 0.0, key=jax.random.key(0))
    tx = byzjax.per_worker(noise, num_workers=N)
    state, zeros = tx.init(PARAMS), jax.tree.map(jnp.zeros_like, stacked_updates())
    first, state = tx.update(zeros, state)
    second, state = tx.update(zeros, state)
    drawn = np.concatenate([first["w"].reshape(N, -1), second["w"].reshape(N, -1)])
    assert len(np.unique(drawn)) == drawn.size
    again, _ = tx.update(zeros, tx.init(PARAMS))
    chex.assert_trees_all_equal(again, first)


def test_keys_are_split_at_every_update():
    key = jax.random.key(5)
    tx = byzjax.aggregate(noisy_mean, scale=2.0, key=key)
    state, updates = tx.init(PARAMS), stacked_updates()
    following, now = jax.random.split(key)
    first, state = tx.update(updates, state)
    chex.assert_trees_all_close(first, noisy_mean(updates, scale=2.0, key=now))
    second, state = tx.update(updates, state)
    chex.assert_trees_all_close(
        second, noisy_mean(updates, scale=2.0, key=jax.random.split(following)[1])
    )
    assert not np.allclose(first["w"], second["w"])


def test_a_sweep_maps_over_keys_and_masks():
    """Built inside the traced run, from that run's key and mask."""

    def run(key, byzantine):
        tx = optax.chain(
            byzjax.attack(attacks.gaussian, byzantine, key=key), byzjax.aggregate(byzjax.mean)
        )
        return tx.update(stacked_updates(), tx.init(PARAMS))[0]["b"]

    keys = jax.random.split(jax.random.key(0), 3)
    masks = jnp.stack([BYZANTINE, BYZANTINE, jnp.zeros(N, bool)])
    outs = jax.jit(jax.vmap(run))(keys, masks)
    assert len(np.unique(outs, axis=0)) == 3
    np.testing.assert_allclose(outs[2], byzjax.mean(stacked_updates())["b"], rtol=1e-6)
    raw = jax.random.PRNGKey(0)  # a raw key works for the verbs as well
    assert run(raw, BYZANTINE).shape == (3,)


# --- arguments -----------------------------------------------------------------------------------


def test_data_from_the_extra_arguments():
    updates, trusted = stacked_updates(), jax.tree.map(lambda x: x[0] + 0.01, stacked_updates(1))
    expected = nearest_to(updates, trusted, keep=2)
    by_update = byzjax.aggregate(nearest_to, keep=2)
    out, _ = jax.jit(by_update.update)(updates, by_update.init(PARAMS), PARAMS, trusted=trusted)
    chex.assert_trees_all_close(out, expected)
    by_verb = byzjax.aggregate(nearest_to, keep=2, trusted=trusted)
    out, _ = by_verb.update(updates, by_verb.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(out, expected)
    with pytest.raises(TypeError, match=r".") as error:
        by_update.update(updates, by_update.init(PARAMS), PARAMS)
    assert str(error.value) == (
        "aggregate: nearest_to needs trusted; give it with aggregate or with each update, "
        "as in tx.update(updates, state, params, trusted=...)."
    )


def test_what_the_verb_was_given_comes_first():
    tx = byzjax.attack(attacks.inner_product_manipulation, BYZANTINE, epsilon=0.5)
    out, _ = tx.update(stacked_updates(), tx.init(PARAMS), PARAMS, epsilon=9.0)
    expected = attacks.inner_product_manipulation(stacked_updates(), BYZANTINE, epsilon=0.5)
    chex.assert_trees_all_close(out, expected)


WRONG = {
    "aggregate: aksel has no parameter g; it takes f, mode.": lambda: byzjax.aggregate(
        byzjax.aksel, f=1, g=2
    ),
    "aggregate: aksel needs f; write aggregate(aksel, f=...).": lambda: byzjax.aggregate(
        byzjax.aksel
    ),
    "aggregate: mean has no parameter f; it takes nothing else.": lambda: byzjax.aggregate(
        byzjax.mean, f=1
    ),
    "aggregate: krum has no parameter key; it takes f, m, neighbors, squared.": lambda: (
        byzjax.aggregate(byzjax.krum, f=1, key=jax.random.key(0))
    ),
    "aggregate: noisy_mean needs key; write aggregate(noisy_mean, key=...).": (
        lambda: byzjax.aggregate(noisy_mean)
    ),
    "attack: gaussian needs key; write attack(gaussian, key=...).": lambda: byzjax.attack(
        attacks.gaussian, BYZANTINE
    ),
    "attack: sign_flip has no parameter f; it takes of.": lambda: byzjax.attack(
        attacks.sign_flip, BYZANTINE, f=2
    ),
    "mix: pairs has no parameter f; it takes nothing else.": lambda: byzjax.mix(pairs, f=2),
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_keywords_are_told_at_construction(text):
    with pytest.raises(TypeError, match=r".") as error:
        WRONG[text]()
    assert str(error.value) == text


def test_functions_of_every_kind():
    """Compiled functions, partials and functions with **kwargs have signatures too."""
    expected = byzjax.trimmed_mean(stacked_updates(), f=F)
    compiled = jax.jit(byzjax.trimmed_mean, static_argnames="f")

    def open_ended(updates, **hyperparameters):
        return byzjax.trimmed_mean(updates, **hyperparameters)

    for tx in (
        byzjax.aggregate(compiled, f=F),
        byzjax.aggregate(functools.partial(byzjax.trimmed_mean, f=F)),
        byzjax.aggregate(open_ended, f=F),
        byzjax.aggregate(lambda updates: byzjax.trimmed_mean(updates, f=F)),
    ):
        out, _ = tx.update(stacked_updates(), tx.init(PARAMS), PARAMS)
        chex.assert_trees_all_close(out, expected)


def test_an_extra_argument_never_sets_a_hyperparameter():
    """optax's schedulers and line searches are given `value`; `non_finite` has one of its own."""
    tx = byzjax.attack(attacks.non_finite, jnp.array([False, True]))

    @jax.jit
    def sent(value):
        return tx.update(jnp.ones((2, 3)), tx.init(jnp.zeros(3)), value=value)[0]

    np.testing.assert_array_equal(sent(0.5), [[1, 1, 1], [jnp.nan] * 3])


def test_a_rule_is_computed_once_however_often_it_is_read():
    transformation = optax.chain(byzjax.aggregate(byzjax.median), optax.adam(0.1))
    params, updates = jnp.zeros(300), jnp.ones((15, 300))

    def step(params, state, updates):
        change, state = transformation.update(updates, state, params)
        return optax.apply_updates(params, change), state, optax.tree.norm(change)

    text = jax.jit(step).lower(params, transformation.init(params), updates).compile().as_text()
    sorting = [part for part in text.split("\n\n") if part.count(" minimum(") > 10]
    assert len(sorting) == 1
