import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import models

SHAPES = [(8, 8, 1), (28, 28, 1), (32, 32, 3)]


def images(shape, count=4, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, *shape))


def num_parameters(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", models.MODELS)
def test_shapes_and_gradients(name, shape):
    model = models.build(name, shape, 10)
    params = jax.jit(model.init)(jax.random.key(0))
    batch = {"x": images(shape), "y": jnp.array([0, 3, 9, 3])}
    assert jax.eval_shape(model.apply, params, batch["x"]).shape == (4, 10)
    loss, grads = jax.jit(jax.value_and_grad(model.loss))(params, batch)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    for grad, param in zip(jax.tree.leaves(grads), jax.tree.leaves(params)):
        assert grad.shape == param.shape
        assert grad.dtype == param.dtype == jnp.float32
        assert jnp.isfinite(grad).all()
        assert jnp.abs(grad).max() > 0


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("softmax", (28, 28, 1), 784 * 10 + 10),
        ("mlp", (28, 28, 1), 784 * 100 + 100 + 100 * 10 + 10),
        ("cnn", (28, 28, 1), 9 * 16 + 16 + 9 * 16 * 32 + 32 + 7 * 7 * 32 * 10 + 10),
        ("cnn", (32, 32, 3), 27 * 16 + 16 + 9 * 16 * 32 + 32 + 8 * 8 * 32 * 10 + 10),
        ("cnn", (8, 8, 1), 9 * 16 + 16 + 9 * 16 * 32 + 32 + 2 * 2 * 32 * 10 + 10),
    ],
)
def test_number_of_parameters(name, shape, count):
    params = models.build(name, shape, 10).init(jax.random.key(0))
    assert num_parameters(params) == count


def test_parameters_are_a_plain_dict():
    params = models.build("cnn", (8, 8, 1), 10).init(jax.random.key(0))
    assert type(params) is dict
    assert params["conv1"]["kernel"].shape == (3, 3, 1, 16)
    assert params["conv2"]["kernel"].shape == (3, 3, 16, 32)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("num_classes", [2, 10])
def test_zero_softmax_regression(num_classes):
    model = models.build("softmax", (8, 8, 1), num_classes)
    zeros = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    batch = {"x": images((8, 8, 1)), "y": jnp.array([0, 1, 1, 0])}
    np.testing.assert_allclose(model.loss(zeros, batch), np.log(num_classes), rtol=1e-6)
    # At zero the gradient of the bias is the mean of 1 / classes - onehot.
    expected = 1 / num_classes - np.eye(num_classes)[np.array(batch["y"])].mean(0)
    grads = jax.grad(model.loss)(zeros, batch)
    np.testing.assert_allclose(grads["linear"]["bias"], expected, atol=1e-6)


def test_softmax_and_mlp_equal_numpy():
    x = images((8, 8, 1))
    flat = np.asarray(x, np.float64).reshape(4, -1)
    model = models.build("softmax", (8, 8, 1), 10)
    p = model.init(jax.random.key(0))
    expected = flat @ np.asarray(p["linear"]["kernel"]) + np.asarray(p["linear"]["bias"])
    np.testing.assert_allclose(model.apply(p, x), expected, atol=1e-4)

    model = models.build("mlp", (8, 8, 1), 10)
    p = jax.tree.map(np.asarray, model.init(jax.random.key(1)))
    hidden = np.maximum(flat @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
    expected = hidden @ p["linear"]["kernel"] + p["linear"]["bias"]
    np.testing.assert_allclose(model.apply(p, x), expected, atol=1e-4)


def test_loss_and_accuracy():
    model = models.build("softmax", (1, 2, 1), 2)
    params = {"linear": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}  # the logits are the pixels
    x = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 4.0]]).reshape(4, 1, 2, 1)
    y = jnp.array([0, 1, 1, 1])
    np.testing.assert_allclose(model.accuracy(params, x, y), 0.75)
    losses = np.log1p(np.exp([-2.0, -1.0, 2.0, -4.0]))
    np.testing.assert_allclose(model.loss(params, {"x": x, "y": y}), losses.mean(), rtol=1e-6)
    with_key = model.loss(params, {"x": x, "y": y}, jax.random.key(0))
    np.testing.assert_allclose(with_key, losses.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", models.MODELS)
def test_init_follows_the_key_and_vmaps(name):
    model = models.build(name, (8, 8, 1), 10)
    keys = jax.random.split(jax.random.key(0), 3)
    stacked, init = jax.jit(jax.vmap(model.init))(keys), jax.jit(model.init)
    for i in range(3):
        one = init(keys[i])
        for a, b in zip(jax.tree.leaves(stacked), jax.tree.leaves(one)):
            np.testing.assert_allclose(a[i], b, rtol=1e-6)
    kernel = np.asarray(stacked["linear"]["kernel"])
    assert (kernel[0] != kernel[1]).mean() > 0.99
    assert (kernel[1] != kernel[2]).mean() > 0.99
    logits = jax.jit(jax.vmap(model.apply, in_axes=(0, None)))(stacked, images((8, 8, 1)))
    assert logits.shape == (3, 4, 10)


@pytest.mark.parametrize("name", models.MODELS)
def test_per_worker_gradients(name):
    model = models.build(name, (8, 8, 1), 10)
    params = model.init(jax.random.key(0))
    y = jax.random.randint(jax.random.key(1), (3, 5), 0, 10)
    batch = {"x": images((8, 8, 1), 15).reshape(3, 5, 8, 8, 1), "y": y}
    grads = jax.jit(jax.vmap(jax.grad(model.loss), in_axes=(None, 0)))(params, batch)
    union = {"x": batch["x"].reshape(15, 8, 8, 1), "y": y.reshape(15)}
    expected = jax.jit(jax.grad(model.loss))(params, union)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected)):
        assert a.shape == (3, *b.shape)
        np.testing.assert_allclose(a.mean(0), b, atol=1e-5)


@pytest.mark.parametrize("name", models.MODELS)
def test_sgd_in_scan_fits_a_batch(name):
    model = models.build(name, (8, 8, 1), 10)
    batch = {"x": images((8, 8, 1), 20), "y": jnp.arange(20) % 10}
    tx = optax.sgd(0.1, momentum=0.9)

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(model.loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    params = model.init(jax.random.key(0))
    (params, _), losses = jax.jit(
        lambda params: jax.lax.scan(step, (params, tx.init(params)), None, length=60)
    )(params)
    assert losses[-1] < 0.2 * losses[0]
    np.testing.assert_allclose(model.accuracy(params, batch["x"], batch["y"]), 1.0)


@pytest.mark.parametrize("shape", [*SHAPES, (5, 7, 2)], ids=str)
def test_convolution_equals_flax_and_lax(shape):
    ours = models.Conv3x3(shape[-1], 6, rngs=nnx.Rngs(0))
    flax = nnx.Conv(shape[-1], 6, (3, 3), rngs=nnx.Rngs(1))
    bias = jnp.arange(6.0)
    params = {"kernel": ours.kernel[...], "bias": bias}
    x = images(shape)

    def run(module, params):
        return nnx.merge(nnx.graphdef(module), params)(x)

    expected = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(run(ours, params), expected + bias, atol=1e-5)
    np.testing.assert_allclose(run(ours, params), run(flax, params), atol=1e-5)

    def scalar(params, module):
        return jnp.sin(run(module, params)).sum()

    grads = jax.grad(scalar)(params, ours), jax.grad(scalar)(params, flax)
    for a, b in zip(jax.tree.leaves(grads[0]), jax.tree.leaves(grads[1])):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_convolution_starts_like_flax():
    ours = models.Conv3x3(8, 500, rngs=nnx.Rngs(0)).kernel[...]
    flax = nnx.Conv(8, 500, (3, 3), rngs=nnx.Rngs(1)).kernel[...]
    np.testing.assert_allclose(ours.std(), flax.std(), rtol=0.02)
    np.testing.assert_allclose(ours.std(), np.sqrt(1 / 72), rtol=0.02)


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 9, 3)], ids=str)
def test_max_pool_equals_flax(shape):
    x = images(shape)
    expected = nnx.max_pool(x, (2, 2), strides=(2, 2))
    np.testing.assert_array_equal(models.max_pool(x), expected)


def test_cnn_equals_the_same_network_in_lax():
    model = models.build("cnn", (8, 8, 1), 10)
    params = model.init(jax.random.key(0))
    x = h = images((8, 8, 1))
    for name in ("conv1", "conv2"):
        h = jax.lax.conv_general_dilated(
            h, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = nnx.max_pool(jax.nn.relu(h + params[name]["bias"]), (2, 2), strides=(2, 2))
    expected = h.reshape(4, -1) @ params["linear"]["kernel"] + params["linear"]["bias"]
    np.testing.assert_allclose(model.apply(params, x), expected, atol=1e-5)


def test_strict_promotion():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for name in models.MODELS:
            model = models.build(name, (8, 8, 1), 10)
            batch = {"x": images((8, 8, 1)), "y": jnp.array([0, 1, 2, 3], jnp.int32)}
            params = jax.eval_shape(model.init, jax.random.key(0))
            grads = jax.eval_shape(jax.grad(model.loss), params, batch)  # tracing is enough
            assert num_parameters(grads) > 0


def test_unknown_model():
    with pytest.raises(ValueError, match=r"^unknown model 'resnet'; known: softmax, mlp, cnn\.$"):
        models.build("resnet", (8, 8, 1), 10)
