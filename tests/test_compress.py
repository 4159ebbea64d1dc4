"""Compressors against loops over coordinates, and their bits."""

import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, compress
from byzjax._numerics import thresholds
from byzjax._numerics.largest import largest
from tests.helpers import close

KEY = jax.random.key(5)
PARAMS = {"w": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}
D = 17


def update_of(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=p.shape), dtype) for name, p in PARAMS.items()}


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def top(x, k):
    """The k entries of largest magnitude, the first of equal ones; a loop over all of them."""
    out = np.zeros_like(x)
    for j in sorted(range(len(x)), key=lambda j: (-abs(x[j]), j))[:k]:
        out[j] = x[j]
    return out


@pytest.mark.smoke
@pytest.mark.parametrize("k", [1, 5, 16, D, 0.01, 0.3, 1.0])
def test_top_k_is_the_loop(k):
    compressor, x = compress.top_k(k), update_of(0)
    count = k if isinstance(k, int) else max(1, math.ceil(k * D))
    out, _ = jax.jit(compressor.update)(x, compressor.init(PARAMS))
    np.testing.assert_array_equal(flat(out), top(flat(x), count))
    assert compressor.bits(PARAMS) == count * (32 + 5)


@pytest.mark.parametrize("columns", [7, 2**16])
@pytest.mark.parametrize("values", ["normal", "ties", "zeros", "NaN and infinity"])
def test_the_largest_of_many(values, columns, monkeypatch):
    monkeypatch.setattr(thresholds, "COUNTED_COLUMNS", columns)
    x = np.abs(np.random.default_rng(1).normal(size=300)).astype(np.float32)
    if values == "ties":
        x = np.round(2 * x)
    if values == "zeros":
        x[10:] = 0
    if values == "NaN and infinity":
        x[[7, 100]], x[[5, 200, 250]] = np.nan, np.inf
    order = sorted(range(300), key=lambda j: (not np.isnan(x[j]), -np.nan_to_num(x[j]), j))
    ks = (1, 2, 3, 5, 60, 299, 300)
    outs = jax.jit(lambda x: [largest(x, k) for k in ks])(x)
    for k, chosen in zip(ks, outs, strict=True):
        assert set(np.flatnonzero(chosen)) == set(order[:k])


@pytest.mark.parametrize("unbiased", [True, False])
def test_rand_k_is_fair(unbiased):
    compressor, x = compress.rand_k(5, KEY, unbiased=unbiased), update_of(1)

    def step(state, _):
        out, state = compressor.update(x, state)
        return state, out

    _, outs = jax.lax.scan(step, compressor.init(PARAMS), None, length=4000)
    outs = np.concatenate([np.asarray(leaf).reshape(4000, -1) for leaf in jax.tree.leaves(outs)], 1)
    assert (np.count_nonzero(outs, axis=1) == 5).all()
    sent = np.where(outs != 0, outs / flat(x), 0)
    scale = D / 5 if unbiased else 1.0
    close(sent[sent != 0], np.full(4000 * 5, scale))
    drawn = (outs != 0).mean(axis=0)
    deviation = math.sqrt(5 / D * (1 - 5 / D) / 4000)
    assert np.abs(drawn - 5 / D).max() < 4 * deviation
    assert compressor.bits(PARAMS) == 5 * 32 + 64


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("key", [KEY, jax.random.PRNGKey(3)], ids=["typed", "raw"])
def test_workers_draw_the_same_coordinates_if_shared(shared, key):
    tx = byzjax.per_worker(compress.rand_k(5, key, shared=shared), 4)
    rows = jnp.ones((4, D))
    state, drawn = tx.init(jnp.zeros(D)), []
    for _ in range(3):
        out, state = jax.jit(tx.update)(rows, state)
        drawn.append(np.asarray(out) != 0)
    same = shared or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key)  # as with any raw key
    for mask in drawn:
        assert (mask == mask[0]).all() == same
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[1] != drawn[2]).any()


@pytest.mark.parametrize("bits", [2, 3, 8, 16])
def test_quantized_values_are_neighbouring_levels_and_right_on_average(bits):
    compressor, x = compress.quantize(bits, KEY), update_of(2)
    levels, norm = 2 ** (bits - 1) - 1, np.linalg.norm(flat(x))

    def step(state, _):
        out, state = compressor.update(x, state)
        return state, out

    _, outs = jax.lax.scan(step, compressor.init(PARAMS), None, length=4000)
    outs = np.concatenate([np.asarray(leaf).reshape(4000, -1) for leaf in jax.tree.leaves(outs)], 1)
    level, exact = outs * levels / norm, flat(x) * levels / norm
    assert np.abs(level - np.round(level)).max() < 1e-3 * levels
    assert np.abs(level - exact).max() < 1 + 1e-3
    part = np.abs(exact) % 1
    deviation = np.sqrt(part * (1 - part) / 4000) + 1e-4 * levels
    assert (np.abs(level.mean(axis=0) - exact) < 4 * deviation).all()
    error = ((outs - flat(x)) ** 2).sum(axis=1).mean()
    assert error <= min(D / levels**2, math.sqrt(D) / levels) * norm**2
    assert compressor.bits(PARAMS) == bits * D + 32


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_quantizing_neither_overflows_nor_vanishes(scale):
    compressor = compress.quantize(8, KEY)
    x = scale * jnp.arange(1.0, 10.0)
    out, _ = compressor.update(x, compressor.init(x))
    assert np.abs(np.asarray(out, np.float64) / scale - np.arange(1.0, 10.0)).max() < 17 / 127
    zero, _ = compressor.update(0 * x, compressor.init(x))
    assert not np.asarray(zero).any()


def test_signs():
    compressor, x = compress.sign(), update_of(3)
    x["b"] = x["b"].at[0].set(0.0)
    out, _ = compressor.update(x, compressor.init(PARAMS))
    mean = sum(abs(v) for v in flat(x)) / D
    close(flat(out), [mean if v >= 0 else -mean for v in flat(x)])
    assert compressor.bits(PARAMS) == D + 32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["error_feedback", "ef21"])
def test_feedback_is_the_loop(kind, dtype):
    compressor = getattr(compress, kind)(compress.top_k(4))
    state, kept, total, wanted = compressor.init(PARAMS), np.zeros(D), np.zeros(D), np.zeros(D)
    eps = float(jnp.finfo(dtype).eps)
    for step in range(8):
        x = update_of(step, dtype)
        out, state = jax.jit(compressor.update)(x, state)
        if kind == "error_feedback":
            whole = flat(x) + kept
            expected = top(whole, 4)
            kept = whole - flat(out)  # what is rounded away is kept, too
        else:
            expected = kept = kept + top(flat(x) - kept, 4)
        np.testing.assert_allclose(flat(out), expected, rtol=4 * eps, atol=1e-6)
        memory = state.error if kind == "error_feedback" else state.estimate
        np.testing.assert_allclose(flat(memory), kept, rtol=1e-5, atol=1e-5)
        total, wanted = total + flat(out), wanted + flat(x)
    if kind == "error_feedback":  # nothing is lost
        np.testing.assert_allclose(total + kept, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["error_feedback", "ef21"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_sent_and_forgotten(kind, bad):
    compressor = getattr(compress, kind)(compress.top_k(2))
    state = compressor.init(jnp.zeros(3))
    first, state = compressor.update(jnp.array([bad, 1.0, 2.0]), state)
    assert not np.isfinite(first[0])
    for _ in range(4):
        out, state = compressor.update(jnp.array([1.0, 1.0, 2.0]), state)
        assert np.isfinite(out).all()


@pytest.mark.parametrize("kind", ["top_k", "ef21"])
def test_malicious_updates_obey_the_format(kind):
    n, byzantine = 5, jnp.arange(5) >= 3
    inner = compress.top_k(2)
    inner = inner if kind == "top_k" else compress.ef21(inner)
    tx = optax.chain(
        byzjax.attack(attacks.sign_flip, byzantine), compress.of_byzantine(inner, byzantine)
    )
    rows = jax.random.normal(KEY, (n, 6))
    out, _ = tx.update(rows, tx.init(jnp.zeros(6)))
    np.testing.assert_array_equal(out[:3], rows[:3])
    for i in (3, 4):
        np.testing.assert_array_equal(out[i], top(-np.asarray(rows[i]), 2))


def test_malicious_updates_of_a_round():
    byzantine = np.arange(5) >= 3
    tx = compress.of_byzantine(compress.top_k(1), byzantine)
    rows, senders = jax.random.normal(KEY, (3, 4)), jnp.array([1, 4, 0])
    out, _ = tx.update(rows, tx.init(jnp.zeros(4)), senders=senders)
    np.testing.assert_array_equal(out[jnp.array([0, 2])], rows[jnp.array([0, 2])])
    np.testing.assert_array_equal(out[1], top(np.asarray(rows[1]), 1))


def test_error_feedback_trains_where_the_compressor_alone_does_not():
    """Karimireddy et al. 2019, section 3: signs of one sample at a time go the wrong way."""
    directions = jnp.array([[1.5, -0.5], [-0.5, 1.5]])  # plus or minus (1, -1) by sign

    def loss(x, k):
        return jnp.square(jnp.dot(directions[k % 2], x))

    def trained(compressor):
        tx = optax.chain(compressor, optax.sgd(0.02))

        def step(carry, k):
            x, state = carry
            updates, state = tx.update(jax.grad(loss)(x, k), state)
            return (optax.apply_updates(x, updates), state), None

        x = jnp.array([1.0, 1.0])
        carry = jax.jit(lambda: jax.lax.scan(step, (x, tx.init(x)), jnp.arange(400))[0])()
        return carry[0]

    alone = trained(compress.sign())
    assert abs(float(alone.sum()) - 2) < 1e-3  # both signs keep x + y
    assert np.abs(trained(compress.error_feedback(compress.sign()))).max() < 0.05


def test_a_ledger_counts_messages():
    compressor = compress.ledger(compress.error_feedback(compress.top_k(0.01)))
    tx = byzjax.per_worker(compressor, 3)
    params = jnp.zeros(1000)
    state = tx.init(params)
    for k in range(5):
        _, state = tx.update(jax.random.normal(jax.random.key(k), (3, 1000)), state)
    messages = optax.tree_utils.tree_get(state, "messages")
    np.testing.assert_array_equal(messages, [5, 5, 5])
    assert compressor.bits(params) == 10 * (32 + 10)
    assert compressor.bits(params) <= 0.032 * 32 * 1000  # the part of a whole message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compress.top_k(0), "top_k needs k >= 1 coordinates; got k = 0."),
        (lambda: compress.top_k(1.5), r"top_k needs a part 0 < k <= 1.0 of the .*; got k = 1.5."),
        (lambda: compress.top_k(20).init(PARAMS), "needs k <= d coordinates; got k = 20, d = 17."),
        (lambda: compress.top_k("all"), "top_k needs k, a Python int or a float; got str."),
        (lambda: compress.rand_k(2, 3), "key"),
        (lambda: compress.quantize(1, KEY), "bits"),
        (lambda: compress.quantize(32, KEY), "quantize needs bits <= 16; got bits = 32."),
        (lambda: compress.error_feedback(optax.sgd(1.0)), "error_feedback needs a compressor"),
        (lambda: compress.ledger(compress.sign), "ledger needs a compressor.*; got function."),
    ],
)
def test_mistakes(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_the_page_prints_what_it_says(capsys):
    page = (pathlib.Path(__file__).parents[1] / "docs" / "compression.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names = {"__name__": "page"}
    exec(code, names)
    assert capsys.readouterr().out == "420 of 32000 bits of each worker\n"
    assert names["step"].shape == (1000,)
    sent = np.count_nonzero(names["step"])
    assert sent <= 2 * 10  # the honest workers agree here, the attackers send ten coordinates
