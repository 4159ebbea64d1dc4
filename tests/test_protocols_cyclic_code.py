"""Redundant nodes with the cyclic code: attackers change no more than the last digits."""

import contextlib
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, protocols
from byzjax.protocols import codes
from tests.helpers import regression_loss as loss_fn
from tests.test_protocols_redundant import KEY, PARAMS, RATE, batches_of, draco, train


def cyclic_matrices(nodes, s):
    """C_1, C_2 of the unitary DFT matrix, and W = C_1 Q, 0 in row i outside {i, ..., i + 2s}."""
    places = np.arange(nodes)
    dft = np.exp(2j * np.pi * np.outer(places, places) / nodes) / np.sqrt(nodes)
    first, last = dft[:, : nodes - 2 * s], dft[:, nodes - 2 * s :]
    weights = np.zeros((nodes, nodes), complex)
    for k in range(nodes):
        outside = [i for i in range(nodes) if (k - i) % nodes > 2 * s]
        rest = np.linalg.solve(first[outside, 1:], -first[outside, 0])
        weights[:, k] = first @ np.concatenate([[1], rest])
        weights[outside, k] = 0
    return first, last, weights


def located(rows, s, direction):
    """The paper's decoder: (the sum, the attackers found), from roots of a locator polynomial."""
    nodes = len(rows)
    first, last, _ = cyclic_matrices(nodes, s)
    syndrome = last.conj().T @ (rows @ direction)
    matrix = np.array([[syndrome[a + b] for b in range(s)] for a in range(s)])
    locator = np.linalg.pinv(matrix, rcond=1e-8) @ -syndrome[s:]
    powers = np.exp(-2j * np.pi * np.outer(np.arange(nodes), np.arange(s + 1)) / nodes)
    values = np.abs(powers @ np.append(locator, 1))
    attackers = [i for i in np.argsort(values)[:s] if values[i] < 1e-6 * values.max()]
    honest = [i for i in range(nodes) if i not in attackers]
    target = np.eye(nodes - 2 * s)[0]
    take = np.linalg.lstsq(first[honest].T, target.astype(complex), rcond=None)[0]
    return np.real(take @ rows[honest]), set(attackers)


SIZES = [(7, 1), (7, 2), (7, 3), (8, 2), (9, 2), (16, 3)]
over_sizes = pytest.mark.parametrize(("nodes", "s"), SIZES)
some_sizes, few_sizes = [
    pytest.mark.parametrize(
        ("nodes", "s"),
        [pytest.param(*x, marks=[] if x in quick else pytest.mark.slow) for x in SIZES],
    )
    for quick in ([(7, 2), (16, 3)], [(8, 2)])
]
WIDTH, MASKS = 40, 50
encode = jax.jit(codes.encode, static_argnames="s")
decode_many = jax.jit(
    lambda rows, keys, s: jax.vmap(lambda m, key: codes.decode(m, s=s, key=key))(rows, keys),
    static_argnames="s",
)


def encoded(gradients, s):
    """The nodes' messages, as complex numbers."""
    messages = encode(gradients, s=s)
    return np.asarray(messages["re"]) + 1j * np.asarray(messages["im"])


def decoded(sent, s, key=KEY):
    """The sums of many words `[m, P, WIDTH]`, with one program per (P, s)."""
    count = len(CYCLIC_LIES) * MASKS
    padded = np.concatenate([sent, np.zeros((count - len(sent), *sent.shape[1:]), sent.dtype)])
    parts = {"re": padded.real, "im": padded.imag}
    return decode_many(parts, jax.random.split(key, count), s)[: len(sent)]


def beside(rows, noise, factor):
    """Each row plus noise, whose norm is `times` the row's."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows + factor * lengths / math.sqrt(2 * WIDTH) * noise


def one_nan(rows, noise):
    del noise
    rows = rows.copy()
    rows.real[..., 3] = math.nan
    return rows


# What an attacker sends, from its honest row and noise. In the last entry but one sizes differ by
# 1e9: node i's error is 1e6, 1 or 1e-3 times as long as its row, by i mod 3.
SIZE = 10.0 ** np.array([6, 0, -3])
CYCLIC_LIES = {
    "-100 g added": lambda x, noise: x - 100 * x,
    "constant": lambda x, noise: np.full_like(x, -100 - 100j),
    "sigma 200": lambda x, noise: 200 * noise,
    "1e-3 of the norm": lambda x, noise: beside(x, noise, 1e-3),
    "1e-3, real": lambda x, noise: beside(x, noise.real, 1e-3),
    "1e-4, real": lambda x, noise: beside(x, noise.real, 1e-4),
    "1e-5": lambda x, noise: beside(x, noise, 1e-5),
    "1e-6": lambda x, noise: beside(x, noise, 1e-6),
    "1e-7": lambda x, noise: beside(x, noise, 1e-7),
    "1e6, 1 and 1e-3": lambda x, noise: beside(
        x, noise, SIZE[np.arange(x.shape[-2]) % 3, None].astype(noise.real.dtype)
    ),
    "not a number": lambda x, noise: np.full_like(x, complex(math.nan, math.nan)),
    "infinity": lambda x, noise: np.full_like(x, complex(-math.inf, math.inf)),
    "one NaN": one_nan,
    "the largest": lambda x, noise: np.full_like(x, 3.4e38 - 3.4e38j),
    "1e30": lambda x, noise: 1e30 * noise,
    "zero": lambda x, noise: np.zeros_like(x),
}


def sets_of(rng, nodes, s, most=MASKS):
    """No node, then sets of up to s nodes: all sets, or neighbours and random ones as fit."""
    chosen = [c for k in range(s + 1) for c in itertools.combinations(range(nodes), k)]
    if len(chosen) > most:
        first = [chosen[0], *itertools.islice(itertools.combinations(range(nodes), s), 3)]
        sizes = rng.integers(1, s + 1, size=most - len(first))
        chosen = first + [tuple(rng.choice(nodes, k, replace=False)) for k in sizes]
    masks = np.zeros((len(chosen), nodes), bool)
    for mask, c in zip(masks, chosen):
        mask[list(c)] = True
    return masks


def worst_errors(nodes, s, dtype):
    """For each attack, the largest error over all masks relative to the norm of the sum."""
    rng = np.random.default_rng(nodes + s)
    masks = sets_of(rng, nodes, s)
    gradients = rng.normal(size=(nodes, WIDTH)).astype(dtype)
    total = np.sum(gradients.astype(np.float64), axis=0)
    rows = encoded(gradients, s)
    sent = []
    for lie in CYCLIC_LIES.values():
        drawn = rng.normal(size=(2, len(masks), *rows.shape)).astype(dtype)
        lies = lie(np.broadcast_to(rows, drawn.shape[1:]), drawn[0] + 1j * drawn[1])
        sent.append(np.where(masks[..., None], lies.astype(rows.dtype), rows))
    sums = decoded(np.concatenate(sent), s)
    assert sums.dtype == dtype
    errors = np.linalg.norm(np.asarray(sums, np.float64) - total, axis=1) / np.linalg.norm(total)
    return dict(zip(CYCLIC_LIES, errors.reshape(len(CYCLIC_LIES), -1).max(axis=1)))


@contextlib.contextmanager
def with_64_bits():
    if hasattr(jax, "enable_x64"):
        with jax.enable_x64(True):
            yield
    else:
        from jax.experimental import enable_x64

        with enable_x64():
            yield


@some_sizes
def test_the_sum_is_recovered_for_any_attackers(nodes, s):
    for name, error in worst_errors(nodes, s, np.float32).items():
        assert error < 2e-5, (name, error)


@few_sizes
def test_the_sum_is_recovered_in_float64(nodes, s):
    with with_64_bits():
        for name, error in worst_errors(nodes, s, np.float64).items():
            assert error < 1e-13, (name, error)


@some_sizes
def test_messages_are_those_of_the_paper(nodes, s):
    """W by its definition, from linear systems; 0 outside the window, all values recoverable."""
    gradients = np.random.default_rng(0).normal(size=(nodes, WIDTH)).astype(np.float32)
    first, _, weights = cyclic_matrices(nodes, s)
    rows = weights @ gradients.astype(np.float64)
    np.testing.assert_allclose(encoded(gradients, s), rows, atol=1e-6 * np.abs(rows).max())
    messages = encoded(np.eye(nodes, WIDTH, dtype=np.float32), s)[:, :nodes]
    inside = (np.arange(nodes)[None] - np.arange(nodes)[:, None]) % nodes <= 2 * s
    assert (messages[~inside] == 0).all()
    assert (np.abs(messages[inside]) > 0.1).all()
    np.testing.assert_allclose(first[:, 0].conj() @ messages, np.ones(nodes), atol=1e-5)


@over_sizes
def test_constants_of_the_search(nodes, s):
    _, _, weights = cyclic_matrices(nodes, s)
    checks, sums = [np.array(c) for c in codes._constants(nodes, s)]
    every = list(itertools.combinations(range(nodes), s))
    assert checks.shape == (len(every), s, nodes)
    for chosen, check, take in zip(every, checks, sums):
        assert (check[:, chosen] == 0).all()
        assert (take[list(chosen)] == 0).all()
    size = np.abs(weights).max()
    np.testing.assert_allclose(checks @ weights, np.zeros_like(checks), atol=1e-13 * size)
    np.testing.assert_allclose(sums @ weights, np.ones_like(sums), atol=1e-13 * size)
    # The shortest row that does so follows from a decomposition.
    first, _, _ = cyclic_matrices(nodes, s)
    for chosen, take in list(zip(every, sums))[:: max(1, len(every) // 20)]:
        rest = [i for i in range(nodes) if i not in chosen]
        target = np.eye(nodes - 2 * s)[0].astype(complex)
        shortest = np.linalg.lstsq(first[rest].T, target, rcond=None)[0]
        np.testing.assert_allclose(take[rest], shortest, atol=1e-11)


@pytest.mark.parametrize(("nodes", "s"), [(7, 2), pytest.param(9, 2, marks=pytest.mark.slow)])
def test_decoder_agrees_with_the_papers(nodes, s):
    """Theirs uses complex128 and locates the attackers; more than s errors mislead both."""
    rng = np.random.default_rng(3)
    _, _, weights = cyclic_matrices(nodes, s)
    gradients = rng.normal(size=(nodes, WIDTH))
    total = np.linalg.norm(gradients.sum(axis=0))
    words, theirs = [], []
    for trial in range(12):
        rows = weights @ gradients
        liars = rng.choice(nodes, trial % (s + 1), replace=False)
        rows[liars] = 30 * (rng.normal(size=(len(liars), WIDTH, 2)) @ [1, 1j])
        expected, attackers = located(rows, s, rng.normal(size=WIDTH))
        assert attackers >= set(liars)
        theirs.append(expected)
        words.append(rows)
    words.append(words[-1].copy())
    words[-1][: s + 1] += 30 * rng.normal(size=WIDTH)
    *ours, broken = decoded(np.array(words).astype(np.complex64), s)
    assert np.linalg.norm(np.array(ours) - theirs, axis=1).max() < 1e-5 * total
    assert np.linalg.norm(broken - gradients.sum(axis=0)) > total


def test_gradients_of_zero_leave_nothing_to_find():
    """All sets agree then, and the chosen set does not contain the attacker."""
    words = np.zeros((1, 7, WIDTH), np.complex64)
    words[0, 5] = complex(math.nan, math.inf)
    np.testing.assert_array_equal(decoded(words, 2), 0)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_training_with_the_cyclic_code(dtype):
    """As with the mean without attackers; mapped over masks and keys, with the protocol inside."""
    nodes, s = 7, 2
    params, batches = jax.tree.map(
        lambda x: x.astype(jnp.dtype(dtype)), (PARAMS, batches_of(nodes))
    )
    masks = sets_of(np.random.default_rng(0), nodes, s, 12)

    @jax.jit
    @jax.vmap
    def run(byzantine, key):
        protocol = protocols.redundant(
            loss_fn,
            **{"num_workers": nodes, "s": s, "code": "cyclic", "server": optax.sgd(RATE)},
            attack=byzjax.attack(attacks.reversed_gradient, byzantine, kappa=100.0),
        )
        return train(protocol, batches, key, params)

    models, info = jax.device_get(run(masks, jax.random.split(KEY, len(masks))))
    mean = draco(batches, np.zeros(nodes, bool), r=1)
    tolerance = 1e-5 if dtype == "float32" else 0.05
    for name, expected in zip(("w", "b"), mean):
        assert models[name].dtype == dtype
        final = np.asarray(models[name][:, -1], np.float32)
        each = np.broadcast_to(expected, final.shape)
        np.testing.assert_allclose(final, each, rtol=tolerance, atol=tolerance)
    for sent, honest in zip(jax.tree.leaves(info.sent), jax.tree.leaves(info.honest)):
        assert sent.dtype == jnp.float32
        axes = tuple(a for a in range(sent.ndim) if a not in (0, 2))
        np.testing.assert_array_equal((sent != honest).any(axis=axes), masks)
