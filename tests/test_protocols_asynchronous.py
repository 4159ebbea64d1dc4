"""The asynchronous server against an event loop in NumPy, and the guarantees of its judges."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, protocols

N, F, BATCH, DIM, EVENTS = 7, 2, 4, 3, 200
BYZANTINE = np.arange(N) < F
RATE, KEY = 0.05, jax.random.key(3)
TARGET = np.arange(1.0, 1.0 + DIM)
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(EVENTS, N, BATCH, DIM)).astype(np.float32)
YS = (XS @ TARGET + 0.1 * RNG.normal(size=(EVENTS, N, BATCH))).astype(np.float32)
TRUSTED_X = RNG.normal(size=(EVENTS, 16, DIM)).astype(np.float32)
DATA = {
    "workers": {"x": XS, "y": YS},
    "trusted": {"x": TRUSTED_X, "y": (TRUSTED_X @ TARGET).astype(np.float32)},
}
PARAMS = {"w": np.full(DIM, 0.5, np.float32)}


def loss_fn(params, batch, key=None):
    del key
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def scan(protocol, events=EVENTS, params=PARAMS, key=KEY, data=DATA):
    """The final state and the `Info` of every step."""

    def step(state, inputs):
        k, batch = inputs
        state, info = protocol.step(state, batch, jax.random.fold_in(key, k))
        return state, (info, protocol.models(state), state.accepted, state.stages[-1])

    some = jax.tree.map(lambda x: x[:events], data)
    return jax.lax.scan(step, protocol.init(params, key), (jnp.arange(events), some))


# --- the event loop, in float64 ------------------------------------------------------------------


@functools.cache
def draws(n=N, speeds=None):
    """The computation times, from the keys that the protocol uses."""
    slow = np.ones(n) if speeds is None else 1 / np.asarray(speeds)
    first = np.asarray(jax.random.exponential(KEY, (n,)), np.float64) * slow

    @jax.jit
    @jax.vmap
    def time(event):
        key = jax.random.fold_in(KEY, event)
        return jax.random.exponential(jax.random.fold_in(key, n + 1))

    return first, np.asarray(time(np.arange(EVENTS)), np.float64), slow


@functools.cache
def read_ages(most):
    """The age of each coordinate at each pull, from the keys that the protocol uses."""

    @jax.jit
    @jax.vmap
    def ages(event):
        key = jax.random.fold_in(jax.random.fold_in(KEY, event), N + 2)
        return jax.random.randint(jax.random.split(key, 1)[0], (DIM,), 0, most + 1)

    return np.asarray(ages(np.arange(EVENTS)))


def loop_gradient(w, x, y):
    return 2 * x.T.astype(np.float64) @ (x @ w - y) / len(y)


def event_loop(
    judge,
    attack,
    *,
    damping=lambda tau: 1.0,
    max_staleness=np.inf,
    speeds=None,
    momentum=0.0,
    max_read_age=0,
):
    """`judge(p, g, pulled, now, trusted) -> (factor, note)`; `note()` is called on acceptance."""
    first, later, slow = draws(speeds=speeds)
    done = list(first)
    w, trace = np.full(DIM, 0.5), np.zeros(DIM)
    pulled, versions, version = [w.copy() for _ in range(N)], [0] * N, 0
    history, models, ages = [], [w.copy()], read_ages(max_read_age)
    for t in range(EVENTS):
        p = int(np.argmin(done))
        now = done[p]
        g = attack(p, loop_gradient(pulled[p], XS[t, p], YS[t, p]))
        trusted = loop_gradient(w, TRUSTED_X[t], TRUSTED_X[t] @ TARGET)
        tau = version - versions[p]
        factor, note = judge(p, g, pulled[p], w, trusted)
        ok = factor > 0 and tau <= max_staleness
        if ok:
            note()
            trace = momentum * trace + damping(tau) * factor * g
            w = w - RATE * trace
            version += 1
            models.append(w.copy())
        history.append((p, tau, ok, w.copy()))
        pulled[p] = np.array([models[max(0, version - age)][j] for j, age in enumerate(ages[t])])
        versions[p] = version
        done[p] = now + later[t] * slow[p]
    return history


def accept_all(p, g, pulled, now, trusted):
    return 1.0, lambda: None


def loop_kardam(n, f, window, use_norms):
    """Both filters as in the paper: lists, loops and sorts."""
    last_of, norms, rates = {}, {}, {q: [] for q in range(n)}
    server = {"gradient": np.zeros(DIM), "model": np.zeros(DIM), "refused": 0}
    recent = []

    def quantile(values):
        return sorted(values)[len(values) - f - 1]

    def judge(p, g, pulled, now, trusted):
        if p in last_of and np.linalg.norm(pulled - last_of[p][1]) > 0:
            g_old, x_old = last_of[p]
            rates[p].append(np.linalg.norm(g - g_old) / np.linalg.norm(pulled - x_old))
        last_of[p], norms[p] = (g, pulled), np.linalg.norm(g)
        coefficients = [max(s[-window:]) for s in rates.values() if s]
        step = np.linalg.norm(now - server["model"])
        short = len(norms) >= 2 * f + 1 and norms[p] <= quantile(list(norms.values()))
        if len(coefficients) >= 2 * f + 1 and step > 0 and server["refused"] < n:
            ok = np.linalg.norm(g - server["gradient"]) / step <= quantile(coefficients)
            ok = ok and (short or use_norms != "always")
        else:
            ok = short or use_norms == "never"
        server["refused"] += not ok

        def note():
            server.update(gradient=g, model=now.copy(), refused=0)
            recent.append(p)

        return float(ok and p not in recent[-2 * f :]), note

    return judge


def loop_zeno(rho, epsilon):
    def judge(p, g, pulled, now, trusted):
        factor = np.linalg.norm(trusted) / np.linalg.norm(g)
        long = factor * g
        score = RATE * long @ trusted - rho * long @ long + RATE * epsilon
        return float(score >= 0) * factor, lambda: None

    return judge


def honest_attack(p, g):
    return g


def reversed_attack(p, g):
    return -100.0 * g if BYZANTINE[p] else g


def flipped_attack(p, g):
    return -g if BYZANTINE[p] else g


REVERSED = byzjax.attack(attacks.reversed_gradient, BYZANTINE, kappa=100.0)
FLIPPED = byzjax.attack(attacks.sign_flip, BYZANTINE)
SPEEDS = (3.0, 1.0, 1.0, 0.5, 1.0, 2.0, 1.0)

# name: (options of the protocol, judge of the loop, attack of the loop, options of the loop)
CASES = {
    "all within a limit": (
        {
            "damping": protocols.inverse_damping(),
            "max_staleness": 8,
            "attack": FLIPPED,
            "speeds": np.float32(SPEEDS),
        },
        lambda: accept_all,
        flipped_attack,
        {"damping": lambda tau: 1 / (1 + tau), "max_staleness": 8, "speeds": SPEEDS},
    ),
    "kardam": (
        {
            "judge": protocols.kardam(f=F, window=3),
            "damping": protocols.exponential_damping(0.1),
            "attack": REVERSED,
            "server": optax.sgd(RATE, momentum=0.5),
        },
        lambda: loop_kardam(N, F, 3, "always"),
        reversed_attack,
        {"damping": lambda tau: np.exp(-0.1 * tau), "momentum": 0.5},
    ),
    "coordinates of their own ages": (
        {"max_read_age": 5, "max_staleness": 8, "attack": FLIPPED},
        lambda: accept_all,
        flipped_attack,
        {"max_read_age": 5, "max_staleness": 8},
    ),
    "kardam, the formula alone": (
        {"judge": protocols.kardam(f=F, window=1, norms="never"), "attack": FLIPPED},
        lambda: loop_kardam(N, F, 1, "never"),
        flipped_attack,
        {},
    ),
    "kardam, norms otherwise": (
        {"judge": protocols.kardam(f=F, norms="otherwise"), "attack": FLIPPED},
        lambda: loop_kardam(N, F, 25, "otherwise"),
        flipped_attack,
        {},
    ),
    "zeno++": (
        {
            "judge": [protocols.zeno_plus_plus(learning_rate=RATE, rho=0.01, epsilon=1e-6)],
            "attack": REVERSED,
        },
        lambda: loop_zeno(0.01, 1e-6),
        reversed_attack,
        {},
    ),
}


def make(**options):
    return protocols.asynchronous(
        loss_fn, **{"num_workers": N, "server": optax.sgd(RATE)} | options
    )


@functools.cache
def run_of(name):
    return jax.device_get(jax.jit(lambda: scan(make(**CASES[name][0])))())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.smoke] * (name == "kardam")) for name in CASES]
)
def test_equals_the_event_loop(name):
    state, (info, models, accepted, _) = run_of(name)
    _, judge, attack, options = CASES[name]
    history = event_loop(judge(), attack, **options)
    workers, _, ok, ws = (np.array(column) for column in zip(*history))
    np.testing.assert_array_equal(info.senders[:, 0], workers)
    new = np.diff(accepted.sum(axis=1), prepend=0)
    np.testing.assert_array_equal(new, ok)
    np.testing.assert_allclose(models["w"][:, 0], ws, rtol=2e-4, atol=2e-5)
    counts = np.bincount(workers, minlength=N)
    np.testing.assert_array_equal(state.accepted + state.rejected, counts)
    np.testing.assert_array_equal(state.accepted, np.bincount(workers[ok], minlength=N))
    assert 10 < ok.sum() < EVENTS - 10


def test_kardam_rejects_reversed_gradients():
    state, _ = run_of("kardam")
    rate = state.accepted / (state.accepted + state.rejected)
    assert state.rejected[BYZANTINE].sum() > 40
    assert rate[BYZANTINE].max() < 0.05
    assert rate[~BYZANTINE].min() > 0.1


def test_zeno_rejects_reversed_gradients_until_the_trusted_one_is_noise():
    state, (info, _, accepted, _) = run_of("zeno++")
    assert BYZANTINE[info.senders[:40, 0]].sum() > 5
    assert accepted[39, BYZANTINE].sum() == 0
    assert accepted[39, ~BYZANTINE].sum() > 20
    np.testing.assert_allclose(state.params["w"], TARGET, atol=0.05)


def test_a_rejected_gradient_moves_nothing():
    _, (info, models, accepted, optimizer) = run_of("kardam")
    rejected = np.flatnonzero(np.diff(accepted.sum(axis=1)) == 0) + 1
    assert len(rejected) > 50
    for leaf in jax.tree.leaves((models, optimizer)):
        np.testing.assert_array_equal(leaf[rejected], leaf[rejected - 1])
    assert np.any(models["w"][0] != models["w"][-1])
    np.testing.assert_array_equal(info.aggregate["w"][rejected], 0)
    assert (np.abs(info.sent["w"][rejected]).max(axis=(1, 2)) > 0).all()


def test_info_holds_what_was_computed_and_what_arrived():
    _, (info, *_) = run_of("kardam")
    assert info.senders.shape == (EVENTS, 1)
    assert info.honest["w"].shape == info.sent["w"].shape == (EVENTS, 1, DIM)
    lies = BYZANTINE[info.senders[:, 0]]
    np.testing.assert_array_equal(info.sent["w"][~lies], info.honest["w"][~lies])
    np.testing.assert_allclose(info.sent["w"][lies], -100 * info.honest["w"][lies], rtol=1e-6)


def test_without_ages_no_history_is_kept():
    assert make().init(PARAMS, KEY).history is None
    state = make(max_read_age=2).init({"w": PARAMS["w"], "b": np.float32(0)}, KEY)
    assert jax.tree.map(jnp.shape, state.history) == {"w": (3, DIM), "b": (3,)}
    with pytest.raises(ValueError, match="max_read_age must be at least 0; got"):
        make(max_read_age=-1)


def test_ages_are_uniform_and_differ_between_coordinates():
    """The server adds 1 to all coordinates at each step: what a worker reads tells its ages."""
    n, age, count = 3, 4, 4000
    counting = protocols.asynchronous(
        lambda params, batch, key=None: -jnp.sum(params["w"]),
        num_workers=n,
        server=optax.sgd(1.0),
        max_read_age=age,
    )

    def step(state, k):
        state, info = counting.step(state, {"workers": jnp.zeros((n, 1))}, jax.random.key(k))
        read = jnp.take(state.pulled["w"], info.senders[0], axis=0)
        return state, state.params["w"] - read

    begun = counting.init({"w": jnp.zeros(DIM)}, KEY)
    _, ages = jax.jit(lambda: jax.lax.scan(step, begun, jnp.arange(count)))()
    ages = np.asarray(ages)
    assert ages.max() == age
    assert (ages[:2].max(axis=1) <= [1, 2]).all()  # nothing is older than the first model
    shares = np.bincount(ages[age:].astype(int).ravel(), minlength=age + 1) / ages[age:].size
    np.testing.assert_allclose(shares, 1 / (age + 1), atol=0.02)
    assert np.abs(np.corrcoef(ages[age:].T) - np.eye(DIM)).max() < 0.06


def windows(accepted_workers):
    return np.lib.stride_tricks.sliding_window_view(accepted_workers, 2 * F + 1)


def test_2f_plus_1_accepted_gradients_come_from_as_many_workers():
    for name in ("kardam", "kardam, the formula alone"):
        _, (info, _, accepted, _) = run_of(name)
        used = info.senders[np.diff(accepted.sum(axis=1), prepend=0) > 0, 0]
        assert all(len(set(window)) == 2 * F + 1 for window in windows(used))
        assert len(windows(used)) > 10
    _, (info, *_) = run_of("zeno++")
    assert min(len(set(window)) for window in windows(info.senders[:, 0])) < 2 * F + 1


# --- BASGD ---------------------------------------------------------------------------------------


def test_buffers_equal_the_loop():
    buffers = 5
    protocol = make(buffers=buffers, rule=byzjax.aggregate(byzjax.median), attack=REVERSED)
    state, (info, models, accepted, _) = jax.device_get(jax.jit(lambda: scan(protocol))())

    first, later, _ = draws()
    done, w = list(first), np.full(DIM, 0.5)
    pulled, held, steps, ws = [w.copy() for _ in range(N)], [[] for _ in range(buffers)], 0, []
    for t in range(EVENTS):
        p = int(np.argmin(done))
        held[p % buffers].append(reversed_attack(p, loop_gradient(pulled[p], XS[t, p], YS[t, p])))
        if all(held):
            w = w - RATE * np.median([np.mean(gs, axis=0) for gs in held], axis=0)
            held, steps = [[] for _ in range(buffers)], steps + 1
        else:
            np.testing.assert_array_equal(info.aggregate["w"][t], 0)
        ws.append(w.copy())
        pulled[p], done[p] = w.copy(), done[p] + later[t]
    np.testing.assert_allclose(models["w"][:, 0], ws, rtol=2e-4, atol=2e-5)
    assert state.version == steps > 10
    assert accepted[-1].sum() == EVENTS
    np.testing.assert_array_equal(state.waiting, [len(gs) for gs in held])


# --- time ----------------------------------------------------------------------------------------


def watch(bins):
    """A judge that accepts everything and records staleness."""

    def judge(state, arrival):
        return jnp.float32(1), state.at[jnp.minimum(arrival.staleness, bins - 1)].add(1)

    return protocols.Judge(
        lambda n: None,
        lambda params, n: jnp.zeros(bins, jnp.int32),
        judge,
        lambda state, arrival: state,
    )


def test_staleness_is_geometric_and_speeds_are_shares():
    events, bins, n = 6000, 40, 5
    data = {"workers": {"x": np.zeros((n, 1), np.float32)}}

    @jax.jit
    @jax.vmap
    def run(speeds):
        protocol = protocols.asynchronous(
            lambda params, batch, key=None: jnp.sum(params * batch["x"]),
            num_workers=n,
            server=optax.sgd(1.0),
            judge=[watch(bins)],
            speeds=speeds,
        )

        def step(state, k):
            return protocol.step(state, data, jax.random.fold_in(KEY, k))[0], None

        state, _ = jax.lax.scan(step, protocol.init(jnp.zeros(()), KEY), jnp.arange(events))
        return state.judges[0], state.accepted, state.rejected

    speeds = np.array([[1.0] * n, [4.0, 1.0, 1.0, 1.0, 1.0]], np.float32)
    stale, accepted, rejected = jax.device_get(run(speeds))
    np.testing.assert_array_equal(rejected, 0)
    np.testing.assert_array_equal(accepted.sum(axis=1), events)
    shares = speeds / speeds.sum(axis=1, keepdims=True)
    deviation = np.sqrt(events * shares * (1 - shares))
    assert (np.abs(accepted - events * shares) < 4 * deviation).all()
    expected = events / n * (1 - 1 / n) ** np.arange(15)
    assert (np.abs(stale[0, :15] - expected) < 4 * np.sqrt(expected) + n).all()
    mean = (stale[0] * np.arange(bins)).sum() / events
    assert abs(mean - (n - 1)) < 0.25


def test_one_honest_worker_is_sgd():
    protocol = protocols.asynchronous(
        loss_fn, num_workers=1, server=optax.adam(0.1), damping=protocols.exponential_damping(3.0)
    )
    data = jax.tree.map(lambda x: x[:, :1], DATA["workers"])

    @jax.jit
    def run():
        return scan(protocol, events=20, data={"workers": data})

    adam, params = optax.adam(0.1), PARAMS
    state = adam.init(params)

    @jax.jit
    def step(params, state, batch):
        updates, state = adam.update(jax.grad(loss_fn)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    for k in range(20):
        batch = {name: values[k, 0] for name, values in data.items()}
        params, state = step(params, state, batch)
    final, _ = run()
    chex.assert_trees_all_close(final.params, params, rtol=1e-6, atol=1e-7)
    assert final.version == 20


def test_dampings():
    tau = np.array([0, 1, 5])
    constant, inverse, exponential = (
        np.asarray(jax.jit(make())(tau))
        for make in (
            protocols.constant_damping,
            protocols.inverse_damping,
            protocols.exponential_damping,
        )
    )
    np.testing.assert_array_equal(constant, 1)
    np.testing.assert_allclose(inverse, [1, 1 / 2, 1 / 6], rtol=1e-6)
    np.testing.assert_allclose(np.log(exponential), -0.2 * tau, rtol=1e-5)
    for damping in (protocols.inverse_damping(), protocols.exponential_damping(0.7)):
        values = np.asarray(jax.jit(damping)(np.arange(10)))
        assert values[0] == 1
        assert (np.diff(values) < 0).all()


# --- under attack --------------------------------------------------------------------------------


def several(updates, byzantine, which, *, key):
    """Gaussian noise, the reversed gradient, or NaN."""
    lies = (
        attacks.gaussian(updates, byzantine, sigma=200.0, key=key),
        attacks.reversed_gradient(updates, byzantine, kappa=100.0),
        attacks.non_finite(updates, byzantine),
    )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves)[which], *lies)


def distances_under_attack(judge):
    """Three of ten workers send noise, the reversed gradient or NaN; in the last run none do.

    Final distances to the solution relative to initial ones, and each worker's acceptance rate.
    """
    n, events, target = 10, 1000, TARGET.astype(np.float32)
    liars = np.arange(n) < 3

    @jax.jit
    @jax.vmap
    def run(which, byzantine):
        protocol = protocols.asynchronous(
            loss_fn,
            num_workers=n,
            server=optax.sgd(RATE),
            judge=judge,
            damping=protocols.inverse_damping(),
            attack=byzjax.attack(several, byzantine, which=which, key=KEY),
        )

        def step(state, k):
            key = jax.random.fold_in(KEY, k)
            x = jax.random.normal(key, (n, 8, DIM))
            noise = 0.1 * jax.random.normal(jax.random.fold_in(key, n + 2), (n, 8))
            batch = {"workers": {"x": x, "y": x @ target + noise}}
            return protocol.step(state, batch, key)[0], None

        state, _ = jax.lax.scan(step, protocol.init(PARAMS, KEY), jnp.arange(events))
        start = jnp.linalg.norm(PARAMS["w"] - target)
        return jnp.linalg.norm(state.params["w"] - target) / start, state.accepted, state.rejected

    masks = np.stack([liars, liars, liars, np.zeros(n, bool)])
    distances, accepted, rejected = jax.device_get(run(np.array([0, 1, 2, 0]), masks))
    return distances, accepted / (accepted + rejected)


def test_kardam_converges_under_just_under_a_third_of_liars():
    distances, rates = distances_under_attack(protocols.kardam(f=3))
    assert (distances < 0.05).all(), distances
    assert (rates[:3, :3] < 0.02).all(), rates
    assert (rates[2, :3] == 0).all()
    # The frequency filter's limit: seven are heard in turn, or at most four of ten at a time.
    assert (np.abs(rates[:3, 3:].mean(axis=1) - 1 / 7) < 0.04).all(), rates
    assert 0.2 < rates[3].mean() <= 0.4, rates


def test_without_a_judge_the_same_liars_win():
    distances, _ = distances_under_attack(())
    assert not (distances[:3] < 1).any(), distances
    assert distances[3] < 0.05


@pytest.mark.slow
def test_without_norms_one_large_coefficient_lets_an_attack_pass():
    distances, rates = distances_under_attack(protocols.kardam(f=3, norms="never"))
    assert not (distances[:2] < 1).any(), distances
    assert (rates[:2, :3].max(axis=1) > 0.02).all(), rates
    assert distances[3] < 0.05


def test_a_sweep_over_masks_and_keys():
    options = {k: v for k, v in CASES["kardam"][0].items() if k != "attack"}

    @jax.jit
    @jax.vmap
    def run(mask, key):
        attack = byzjax.attack(attacks.reversed_gradient, mask, kappa=100.0)
        state, _ = scan(make(attack=attack, **options), key=key)
        return state.params["w"], state.accepted

    masks = np.arange(N) < np.array([0, F, F])[:, None]
    keys = jnp.stack([KEY, KEY, jax.random.key(9)])
    models, accepted = jax.device_get(run(masks, keys))
    state, _ = run_of("kardam")
    np.testing.assert_array_equal(accepted[1], state.accepted)
    np.testing.assert_allclose(models[1], state.params["w"], rtol=1e-5)
    assert (accepted[0] != accepted[1]).any()
    assert (accepted[2] != accepted[1]).any()
    np.testing.assert_allclose(models, np.tile(TARGET, (3, 1)), atol=0.5)


# --- errors and info -----------------------------------------------------------------------------


def test_types_shapes_and_traffic():
    tree = {"w": np.zeros((4, 2), jnp.bfloat16), "b": np.zeros(2, np.float32)}
    server = protocols.asynchronous(
        lambda params, batch, key=None: jnp.sum(params["w"] * batch["x"].astype(jnp.bfloat16)),
        num_workers=7,
        server=optax.adam(0.1),
        judge=[*protocols.kardam(f=2), protocols.zeno_plus_plus(learning_rate=0.1)],
        buffers=3,
        rule=byzjax.aggregate(byzjax.median),
    )
    state = jax.eval_shape(server.init, tree, KEY)
    batch = {"workers": {"x": np.ones((7, 1), "f4")}, "trusted": {"x": np.ones(1, "f4")}}
    after, info = jax.eval_shape(server.step, state, batch, KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    chex.assert_trees_all_equal_shapes_and_dtypes(info.aggregate, tree)
    assert jax.eval_shape(server.models, state)["w"].shape == (1, 4, 2)
    assert server.traffic(tree) == protocols.Traffic(2, 20)
    large = [x for x in jax.tree.leaves(state.judges) if x.size >= 7 * 8]
    assert sum(x.shape == (7, 4, 2) for x in large) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_workers": 0}, ValueError, "num_workers must be at least 1; got num_workers=0."),
        ({"num_workers": 2.0}, TypeError, "num_workers must be a Python int; got float, 2.0"),
        (
            {"judge": protocols.kardam(f=3)},
            ValueError,
            "lipschitz needs n >= 3f + 1; got n=7, f=3.",
        ),
        (
            {"judge": protocols.kardam(f=2), "num_workers": 6},
            ValueError,
            "lipschitz needs n >= 3f + 1; got n=6, f=2.",
        ),
        (
            {"judge": [protocols.frequency(f=3)]},
            ValueError,
            "frequency needs n >= 3f + 1; got n=7, f=3.",
        ),
        (
            {"buffers": 8, "rule": byzjax.aggregate(byzjax.median)},
            ValueError,
            "asynchronous needs buffers <= num_workers; got buffers=8, num_workers=7.",
        ),
        ({"buffers": 3}, ValueError, "buffers and rule must be given together; "),
        (
            {"speeds": np.ones(3, np.float32)},
            ValueError,
            r"speeds have shape (3,); 7 workers need shape (7,).",
        ),
        ({"max_staleness": -1}, ValueError, "max_staleness must be at least 0; "),
    ],
)
def test_impossible_options_stop_at_once(options, error, message):
    with pytest.raises(error) as caught:
        make(**options)
    assert str(caught.value).startswith(message)


def test_invalid_judges_and_batches_raise():
    with pytest.raises(ValueError, match=r"^norms must be one of always, otherwise, never; "):
        protocols.lipschitz(f=1, norms="sometimes")
    with pytest.raises(ValueError, match=r"^window must be at least 1; got window=0"):
        protocols.lipschitz(f=1, window=0)
    with pytest.raises(TypeError, match=r"^f must be a Python int; got float"):
        protocols.frequency(f=1.0)
    with pytest.raises(ValueError, match=r"^learning_rate must be positive; got learning_rate=0"):
        protocols.zeno_plus_plus(learning_rate=0)
    with pytest.raises(ValueError, match=r"^alpha must be at least 0; got alpha=-1"):
        protocols.exponential_damping(-1)
    state = jax.eval_shape(make().init, PARAMS, KEY)
    three = {"workers": jax.tree.map(lambda x: x[0, :3], DATA["workers"])}
    with pytest.raises(ValueError, match=r"^expected batches of 7 workers; got 3\."):
        jax.eval_shape(make().step, state, three, KEY)
    zeno = make(judge=[protocols.zeno_plus_plus(learning_rate=RATE)])
    state = jax.eval_shape(zeno.init, PARAMS, KEY)
    untrusted = {"workers": jax.tree.map(lambda x: x[0], DATA["workers"])}
    with pytest.raises(TypeError, match=r"^zeno_plus_plus needs trusted; "):
        jax.eval_shape(zeno.step, state, untrusted, KEY)
