"""Layers and networks against flax and lax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.models import layers, resnet
from tests.experiments.test_models import build, drawn, graphdef, images, shapes


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.3])
def test_dropout(rate):
    x = np.ones((999, 1001), np.float32)
    draw = jax.jit(lambda place: layers.dropout(x, rate, jax.random.key(0), place))
    out, other = (np.asarray(draw(place)) for place in (0, 1))
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    dropped = round(256 * rate) / 256
    kept = np.float32(1 / (1 - dropped))
    np.testing.assert_allclose(np.unique(out), [0, kept], rtol=1e-6)
    deviation = np.sqrt(dropped / (1 - dropped) / x.size)  # of the mean
    assert abs(out.mean() - 1) < 4 * deviation
    for axis in (0, 1):  # no row and no column is favoured
        assert np.abs(out.mean(axis) - 1).max() < 6 * deviation * np.sqrt(x.shape[1 - axis])
    # Neighbours, which may share a random word, and two dropouts of a network are independent.
    zero = out == 0
    both = [zero[:, i:-4] & zero[:, i + j : -4 + j or None] for i in range(2) for j in range(1, 4)]
    both.append(zero & (other == 0))
    for pairs in both:
        np.testing.assert_allclose(pairs.mean(), dropped**2, atol=3e-3)


def test_dropout_is_linear_in_its_input_and_off_without_a_key():
    x = images((3, 5), 2)
    assert layers.dropout(x, 0.5, None, 0) is x
    draw = jax.jit(lambda x: layers.dropout(x, 0.5, jax.random.key(3), 0))
    mask = np.asarray(draw(np.ones_like(x)))
    np.testing.assert_array_equal(draw(x), x * mask)
    infinite = draw(np.full_like(x, np.inf))
    np.testing.assert_array_equal(infinite, np.where(mask == 0, 0.0, np.inf))


@pytest.mark.parametrize(
    ("size", "stride", "padding", "use_bias"),
    [
        *((3, 1, 1, True), (3, 1, 1, False), (3, 1, 0, True), (3, 2, 1, False), (3, 2, 0, True)),
        *((5, 1, 0, True), (5, 1, 2, True), (1, 2, 0, False)),
    ],
)
@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 7, 2)], ids=str)
def test_convolution_equals_flax(shape, size, stride, padding, use_bias):
    channels = shape[-1]
    ours = functools.partial(
        *(layers.Conv, channels, 6),
        **{"size": size, "stride": stride, "padding": padding, "use_bias": use_bias},
    )
    names = [padding]
    if stride == 1 and padding in (0, size // 2):
        names.append("SAME" if padding else "VALID")
    theirs = [
        functools.partial(
            *(nnx.Conv, channels, 6, (size, size), stride), padding=name, use_bias=use_bias
        )
        for name in names
    ]
    kernel = jax.ShapeDtypeStruct((size, size, channels, 6), jnp.float32)
    params = drawn({"kernel": kernel})
    if use_bias:
        params["bias"] = np.arange(6, dtype=np.float32)
    x = images(shape)

    def grad(params, make):
        def scalar(params):
            out = nnx.merge(graphdef(lambda rngs: make(rngs=rngs)), params)(x)
            return jnp.sin(out).sum(), out

        return jax.grad(scalar, has_aux=True)(params)

    (grads, out), *others = jax.jit(lambda p: [grad(p, make) for make in (ours, *theirs)])(params)
    for expected_grads, expected in others:
        np.testing.assert_allclose(out, expected, atol=1e-5)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads)):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_convolution_starts_like_flax():
    @jax.jit
    def kernels():
        ours = layers.Conv(8, 500, rngs=nnx.Rngs(0))
        return ours.kernel[...], nnx.Conv(8, 500, (3, 3), rngs=nnx.Rngs(1)).kernel[...]

    ours, flax = map(np.asarray, kernels())
    np.testing.assert_allclose(ours.std(), flax.std(), rtol=0.02)
    np.testing.assert_allclose(ours.std(), np.sqrt(1 / 72), rtol=0.02)


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 9, 3)], ids=str)
def test_max_pool_equals_flax(shape):
    pooled, expected = jax.jit(lambda x: (layers.max_pool(x), pool(x)))(images(shape))
    np.testing.assert_array_equal(pooled, expected)


def test_group_norm_by_hand():
    x = images((3, 5, 16)) * 2 + 1000
    norm = graphdef(lambda rngs: layers.group_norm(16, rngs=rngs))
    scale, bias = np.arange(1, 17, dtype=np.float32), np.arange(16, dtype=np.float32)
    out = jax.jit(lambda p: nnx.merge(norm, p)(x))({"scale": scale, "bias": bias})
    groups = np.asarray(x, np.float64).reshape(4, 15, 8, 2)  # two neighbouring channels each
    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
    np.testing.assert_allclose(out, expected * scale + bias, rtol=1e-3, atol=1e-2)


def conv(x, params, padding="SAME", stride=1):
    out = jax.lax.conv_general_dilated(
        x, params["kernel"], (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out + params["bias"] if "bias" in params else out


def pool(x):
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def norm(x, params):
    layer = graphdef(lambda rngs: nnx.GroupNorm(x.shape[-1], num_groups=8, rngs=rngs))
    return nnx.merge(layer, params)(x)


def dense(x, params):
    return x.reshape(len(x), -1) @ params["kernel"] + params["bias"]


def cnn(p, x):
    for name in ("conv1", "conv2"):
        x = pool(jax.nn.relu(conv(x, p[name])))
    return dense(x, p["linear"])


def cnn_mnist(p, x):
    x = jax.nn.relu(conv(x, p["conv1"], "VALID"))
    x = pool(jax.nn.relu(conv(x, p["conv2"], "VALID")))
    return dense(jax.nn.relu(dense(x, p["hidden"])), p["linear"])


def cnn_cifar(p, x):
    for i in (1, 2, 3, 4):
        x = norm(jax.nn.relu(conv(x, p[f"conv{i}"])), p[f"norm{i}"])
        x = pool(x) if i % 2 == 0 else x
    return dense(jax.nn.relu(dense(x, p["hidden"])), p["linear"])


def residual(p, x, stride):
    y = jax.nn.relu(norm(conv(x, p["conv1"], [(1, 1), (1, 1)], stride), p["norm1"]))
    y = norm(conv(y, p["conv2"]), p["norm2"])
    if stride == 2:
        x = jnp.concatenate([x[:, ::2, ::2], jnp.zeros_like(x[:, ::2, ::2])], -1)
    return jax.nn.relu(x + y)


def resnet20(p, x):
    x = jax.nn.relu(norm(conv(x, p["conv"]), p["norm"]))
    for i in range(9):
        x = residual(p[f"block{i}"], x, 2 if i in (3, 6) else 1)
    return dense(x.mean((1, 2)), p["linear"])


@pytest.mark.parametrize(
    "network", [cnn, cnn_mnist, cnn_cifar, pytest.param(resnet20, marks=pytest.mark.slow)]
)
def test_networks_equal_the_same_in_lax(network):
    model = build(network.__name__, (9, 8, 3))
    params, x = drawn(shapes(network.__name__, (9, 8, 3))), images((9, 8, 3))
    logits, expected = jax.jit(lambda *a: (model.apply(*a), network(*a)))(params, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_residual_block_equals_the_same_in_lax(stride):
    block, state = nnx.split(
        nnx.eval_shape(lambda: resnet.ResidualBlock(16, 16 * stride, stride, rngs=nnx.Rngs(0)))
    )
    params, x = drawn(nnx.to_pure_dict(state)), images((5, 4, 16))
    out, expected = jax.jit(lambda p: (nnx.merge(block, p)(x), residual(p, x, stride)))(params)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
