"""Private losses against loops over examples, alone and in protocols; SAFE-DSHB."""

import functools
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, privacy, protocols
from byzjax._numerics.float64 import float64
from tests import oracles
from tests.helpers import close, flat, near, regression_batch, regression_loss

KEY = jax.random.key(5)
PARAMS = {"b": jnp.float32(0.5), "w": jnp.array([1.0, -2.0, 0.5])}
N, B = 5, 6
ROOT = pathlib.Path(__file__).parents[1]


def batch_of(seed, n=N):
    """Samples of n workers, `[n, B, ...]`, on which gradients have norms from 0.5 to 30."""
    return regression_batch(seed, n, size=B)["workers"]


def first(batch):
    return jax.tree.map(lambda leaf: leaf[0], batch)


def clipped_mean(params, batch, c):
    """The loop of Abadi et al. without the noise: a vector (b, w)."""
    w, b = np.asarray(params["w"], np.float64), float(params["b"])
    total = np.zeros(4)
    for x, y in zip(np.asarray(batch["x"], np.float64), np.asarray(batch["y"], np.float64)):
        g = 2 * (x @ w + b - y) * np.array([1.0, *x])
        total += g / max(1.0, np.linalg.norm(g) / c)
    return total / len(batch["y"])


def noise(key):
    """The noise of a gradient in units of z C / b: a vector (b, w)."""
    _, b, w = jax.random.split(key, 3)
    return np.array([float(jax.random.normal(b)), *np.asarray(jax.random.normal(w, (3,)))])


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("microbatch", [None, 1, 3, B])
@pytest.mark.parametrize("c", [0.1, 5.0, 1e3])
def test_the_gradient_is_the_loop(c, microbatch):
    batch, z = first(batch_of(0)), 1.5
    loss = privacy.private(regression_loss, clip_norm=c, noise_multiplier=z, microbatch=microbatch)
    value, gradient = jax.jit(jax.value_and_grad(loss))(PARAMS, batch, key=KEY)
    assert value == jax.jit(regression_loss)(PARAMS, batch)
    expected = clipped_mean(PARAMS, batch, c) + z * c / B * noise(KEY)
    np.testing.assert_allclose(flat(gradient), expected, rtol=1e-5, atol=1e-5 * c)


@pytest.mark.parametrize("z", [0.0, 0.7])
def test_the_gradient_is_that_of_optax(z):
    batch = first(batch_of(1))
    loss = privacy.private(regression_loss, clip_norm=2.0, noise_multiplier=z)
    each = jax.tree.map(lambda leaf: leaf[:, None], batch)
    rows = jax.vmap(jax.grad(regression_loss), in_axes=(None, 0))(PARAMS, each)
    tx = optax.contrib.differentially_private_aggregate(2.0, z, KEY)
    near(jax.grad(loss)(PARAMS, batch, key=KEY), tx.update(rows, tx.init(PARAMS))[0])


def test_the_noise_is_gaussian_and_of_the_right_size():
    batch = first(batch_of(0))
    loss = privacy.private(regression_loss, clip_norm=3.0, noise_multiplier=2.0)
    keys = jax.random.split(KEY, 4000)
    draw = jax.jit(jax.vmap(lambda key: jax.grad(loss)(PARAMS, batch, key)))
    drawn = draw(keys)
    drawn = np.column_stack([drawn["b"], drawn["w"]]) - clipped_mean(PARAMS, batch, 3.0)
    deviation = 2.0 * 3.0 / B
    covariance = np.cov(drawn.T) / deviation**2
    assert np.abs(covariance - np.eye(4)).max() < 5 * math.sqrt(2 / 4000)
    assert np.abs(drawn.mean(axis=0)).max() < 4 * deviation / math.sqrt(4000)
    assert abs((drawn**4).mean() / deviation**4 - 3) < 0.3


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_no_example_adds_more_than_the_norm(bad):
    batch = first(batch_of(2))
    loss = privacy.private(regression_loss, clip_norm=1.0, noise_multiplier=0.0)
    batch["x"][2, 1] = bad
    with_bad = flat(jax.jit(jax.grad(loss))(PARAMS, batch))
    rest = jax.tree.map(lambda leaf: np.delete(leaf, 2, axis=0), batch)
    close(with_bad, clipped_mean(PARAMS, rest, 1.0) * (B - 1) / B, eps=1e-5)


def test_half_precision_is_rounded_last():
    """A sum of many microbatches, which bfloat16 could not add up."""
    params = jnp.zeros(2, jnp.bfloat16)
    loss = privacy.private(
        lambda params, batch, key=None: jnp.mean(batch @ params),
        clip_norm=1.0,
        noise_multiplier=0.0,
        microbatch=1,
    )
    gradient = jax.grad(loss)(params, jnp.full((1000, 2), 0.3, jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(gradient, np.float32), 0.3, rtol=2**-8)


def test_float64_is_kept():
    with float64():
        params = jax.tree.map(lambda p: p.astype(jnp.float64), PARAMS)
        batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), first(batch_of(0)))
        loss = privacy.private(regression_loss, clip_norm=2.0, noise_multiplier=0.0)
        gradient = jax.grad(loss)(params, batch)
        assert gradient["w"].dtype == jnp.float64
        np.testing.assert_allclose(flat(gradient), clipped_mean(params, batch, 2.0), rtol=1e-12)


def test_strict_promotion_and_integers_in_the_batch():
    def loss_fn(params, batch, key=None):
        logits = batch["x"] @ params
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    batch = {"x": jnp.ones((4, 3)), "y": jnp.array([0, 1, 1, 0])}
    loss = privacy.private(loss_fn, clip_norm=1.0, noise_multiplier=1.0, microbatch=2)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        gradient, in_x = jax.jit(jax.grad(loss, argnums=(0, 1), allow_int=True))(
            jnp.zeros((3, 2)), batch, jax.random.PRNGKey(0)
        )
    assert gradient.shape == (3, 2)
    assert not np.asarray(in_x["x"]).any()


def test_each_example_has_a_key_of_its_own():
    """The noise of the loss, such as dropout, is not that of the gradient, nor shared."""

    def loss_fn(params, batch, key=None):
        return jnp.mean(batch @ params) + jax.random.normal(key) * params[0]

    loss = privacy.private(loss_fn, clip_norm=1e6, noise_multiplier=0.0)
    draw = jax.jit(jax.vmap(lambda key: jax.grad(loss)(jnp.zeros(2), jnp.zeros((9, 2)), key)))
    drawn = np.asarray(draw(jax.random.split(KEY, 2000)))
    assert drawn[:, 0].std() == pytest.approx(1 / 3, rel=0.1)  # the mean of 9 draws


def test_hyperparameters_may_be_traced():
    batch = first(batch_of(0))

    @jax.jit
    def gradient(c, z):
        loss = privacy.private(regression_loss, clip_norm=c, noise_multiplier=z)
        return jax.grad(loss)(PARAMS, batch, KEY)

    for c, z in ((1.0, 0.5), (2.0, 0.0)):
        expected = clipped_mean(PARAMS, batch, c) + z * c / B * noise(KEY)
        np.testing.assert_allclose(flat(gradient(c, z)), expected, rtol=1e-5, atol=1e-5)
    assert gradient._cache_size() == 1


def test_a_multiple_of_the_loss_and_no_parameters():
    batch = first(batch_of(0))
    loss = privacy.private(regression_loss, clip_norm=1.0, noise_multiplier=1.0)
    once = jax.grad(loss)(PARAMS, batch, KEY)
    thrice = jax.grad(lambda *args: 3 * loss(*args))(PARAMS, batch, KEY)
    close(flat(thrice), 3 * flat(once))
    constant = privacy.private(
        lambda p, b, key=None: jnp.float32(1.0), clip_norm=1.0, noise_multiplier=1.0
    )
    assert jax.grad(constant)({}, batch, KEY) == {}


def test_second_derivatives_raise_but_those_by_the_batch_do_not():
    batch = first(batch_of(0))
    loss = privacy.private(regression_loss, clip_norm=1.0, noise_multiplier=1.0)

    def norm(params, x):
        return optax.tree.norm(jax.grad(loss)(params, batch | {"x": x}, KEY))

    with pytest.raises(TypeError, match="private: the gradient of a private loss has no derivativ"):
        jax.grad(norm)(PARAMS, batch["x"])
    assert np.asarray(jax.grad(norm, argnums=1)(PARAMS, batch["x"])).any()  # inversion attacks
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda params: loss(params, batch, KEY), (PARAMS,), (PARAMS,))


# --- in protocols --------------------------------------------------------------------------------


def safe_dshb(loss, byzantine, beta, **options):
    return protocols.parameter_server(
        loss,
        num_workers=N,
        send=byzjax.per_worker(optax.ema(beta, debias=False), N),
        attack=byzjax.attack(attacks.sign_flip, byzantine),
        rule=byzjax.aggregate(byzjax.minimum_eigenvalue, f=1),
        server=optax.sgd(0.1),
        **options,
    )


def test_safe_dshb_is_the_papers_loop():
    c, z, beta, byzantine = 2.0, 0.8, 0.9, np.arange(N) == 3
    loss = privacy.private(regression_loss, clip_norm=c, noise_multiplier=z, microbatch=2)
    server = safe_dshb(loss, jnp.asarray(byzantine), beta)
    state, step = server.init(PARAMS, KEY), jax.jit(server.step, donate_argnums=0)
    theta, momenta = flat(PARAMS), np.zeros((N, 4))
    for t in range(6):
        key, batch = jax.random.fold_in(KEY, t), batch_of(10 + t)
        state, _ = step(state, {"workers": batch}, key)
        for i in range(N):
            own = jax.tree.map(lambda leaf: leaf[i], batch)  # noqa: B023
            g = clipped_mean({"b": theta[0], "w": theta[1:]}, own, c)
            g = g + z * c / B * noise(jax.random.fold_in(key, i))
            momenta[i] = beta * momenta[i] + (1 - beta) * g
        sent = np.where(byzantine[:, None], -momenta, momenta)
        theta = theta - 0.1 * oracles.minimum_eigenvalue(sent, 1)
        np.testing.assert_allclose(flat(server.models(state)), theta, rtol=2e-5, atol=2e-5)


def updates_of(server, batch, steps=1):
    """What the workers sent in each step, in one scan: `[steps, rows, 4]`."""

    def step(state, t):
        state, info = server.step(state, {"workers": batch}, jax.random.fold_in(KEY, t))
        return state, (info.honest, info.senders)

    scanned = jax.jit(lambda: jax.lax.scan(step, server.init(PARAMS, KEY), jnp.arange(steps))[1])()
    honest, senders = scanned
    rows = np.concatenate([honest["b"][..., None], honest["w"]], axis=-1)
    return rows, senders


@pytest.mark.parametrize("options", [{}, {"workers_at_once": 2}])
def test_workers_and_steps_draw_their_own_noise(options):
    """All have the same data, and the gradient is nothing but noise."""
    same = jax.tree.map(lambda leaf: np.repeat(leaf[:1], N, axis=0), batch_of(0))
    loss = privacy.private(regression_loss, clip_norm=1e-3, noise_multiplier=1e6)
    server = protocols.parameter_server(
        loss, num_workers=N, rule=byzjax.aggregate(byzjax.mean), server=optax.sgd(1e-9), **options
    )
    rows, _ = updates_of(server, same, steps=40)
    rows = rows.reshape(-1, 4) / (1e3 / B)
    assert len(np.unique(rows)) == rows.size
    between = np.corrcoef(rows.reshape(40, -1).T)
    assert np.abs(between - np.eye(4 * N)).max() < 5 / math.sqrt(40)


def test_absent_workers_draw_nothing():
    """The noise of a round is that of the drawn workers' own indices."""
    batch = batch_of(0)
    loss = privacy.private(regression_loss, clip_norm=1.0, noise_multiplier=1.0)
    server = protocols.parameter_server(
        loss, num_workers=N, per_round=2, rule=byzjax.aggregate(byzjax.mean), server=optax.sgd(1e-9)
    )
    rows, senders = updates_of(server, batch)
    for row, i in zip(rows[0], np.asarray(senders[0])):
        own = jax.tree.map(lambda leaf: leaf[i], batch)  # noqa: B023
        expected = (
            clipped_mean(PARAMS, own, 1.0)
            + noise(jax.random.fold_in(jax.random.fold_in(KEY, 0), i)) / B
        )
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)


def test_gossip_takes_private_losses():
    loss = privacy.private(regression_loss, clip_norm=5.0, noise_multiplier=0.01)
    gossip = protocols.gossip(
        loss,
        graph=protocols.graphs.complete(N),
        rule=byzjax.aggregate(byzjax.trimmed_mean, f=1),
        optimizer=optax.sgd(0.1),
    )
    batch, state = batch_of(0), gossip.init(PARAMS, KEY)
    step = jax.jit(lambda state, k: gossip.step(state, {"workers": batch}, k)[0])
    before = float(regression_loss(PARAMS, first(batch)))
    for t in range(40):
        state = step(state, jax.random.fold_in(KEY, t))
    after = regression_loss(jax.tree.map(lambda leaf: leaf[0], gossip.models(state)), first(batch))
    assert float(after) < 0.2 * before


def test_variance_reduction_refuses_noise_that_would_cancel():
    loss = privacy.private(regression_loss, clip_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(
        TypeError, match=r"^variance_reduced: a private loss has the same noise at "
    ):
        protocols.variance_reduced(
            loss,
            estimator=protocols.marina(0.1),
            num_workers=N,
            rule=byzjax.aggregate(byzjax.mean),
            server=optax.sgd(0.1),
        )


# --- mistakes ------------------------------------------------------------------------------------


def gradient(batch=None, key=KEY, loss_fn=regression_loss, **given):
    given = {"clip_norm": 1.0, "noise_multiplier": 1.0} | given
    batch = first(batch_of(0)) if batch is None else batch
    return jax.grad(privacy.private(loss_fn, **given))(PARAMS, batch, key=key)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            functools.partial(gradient, key=None),
            TypeError,
            r"^private: the gradient of regression_loss needs a key for its noise; write jax\.grad",
        ),
        (functools.partial(gradient, key=3), TypeError, "key must be a PRNG key; got"),
        (
            functools.partial(gradient, clip_norm=0.0),
            ValueError,
            r"^clip_norm must be positive; got clip_norm=0\.0\.$",
        ),
        (
            functools.partial(gradient, noise_multiplier=-1),
            ValueError,
            r"^noise_multiplier must be at least 0; got noise_multiplier=-1\.$",
        ),
        (
            functools.partial(gradient, microbatch=4),
            ValueError,
            r"^private: microbatch must divide the batch; got microbatch=4, b=6\.",
        ),
        (functools.partial(gradient, microbatch=0), ValueError, "microbatch must be at least 1"),
        (
            functools.partial(gradient, batch={"x": np.ones((4, 3)), "y": np.ones(3)}),
            ValueError,
            r"^private: leaves of a batch have shape \[b, .* b >= 1; got \['x'\] \(4, 3\), \['y'\]",
        ),
        (
            functools.partial(gradient, batch={"x": np.ones((0, 3)), "y": np.ones(0)}),
            ValueError,
            "with b >= 1",
        ),
        (
            functools.partial(gradient, loss_fn=lambda params, batch: 0.0),
            TypeError,
            r"^private: <lambda> must take key, used or not",
        ),
        (
            functools.partial(gradient, loss_fn=3),
            TypeError,
            r"^private: loss_fn must be a function",
        ),
    ],
)
def test_mistakes(make, error, message):
    with pytest.raises(error, match=message) as raised:
        make()
    line, *_ = str(raised.value).splitlines()  # JAX adds a note on its frames to some
    assert len(line) <= 200


def test_a_value_needs_no_key():
    loss = privacy.private(regression_loss, clip_norm=1.0, noise_multiplier=1.0)
    batch = first(batch_of(0))
    assert loss(PARAMS, batch) == regression_loss(PARAMS, batch)


# --- the page ------------------------------------------------------------------------------------


def test_the_page_prints_what_it_says(capsys):
    page = (ROOT / "docs" / "privacy.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    printed = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names = {"__name__": "page"}
    for code, text in zip(blocks, printed, strict=True):
        if "epsilon(" in code:
            pytest.importorskip("dp_accounting")
        exec(code, names)
        assert capsys.readouterr().out == text
