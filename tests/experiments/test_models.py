"""Models: shapes, parameters, gradients, random numbers and evaluation."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util

from experiments.models import initial, zoo

SHAPES = [(16, 16, 1), (28, 28, 1), (32, 32, 3)]
ON_FEATURES = ["softmax", "logistic", "mlp"]
# All but language models, which test_language.py tests.
MODELS = [name for name in zoo.MODELS if name not in zoo.LANGUAGE]
DROPOUTS = {"cnn_mnist": 2, "cnn_cifar": 3}
DEEP = ["cnn_cifar", "resnet20"]  # each takes seconds to compile


def slow_for(*names):
    """All models, with the given ones as slow tests."""
    return [pytest.param(n, marks=pytest.mark.slow if n in names else ()) for n in MODELS]


SLOW_IF_DEEP = slow_for(*DEEP)
# cnn_5x5 and lenet differ only in sizes from cnn (convolutions) and cnn_mnist (hidden layer).
SLOW_IF_LIKE_ANOTHER = slow_for(*DEEP, "cnn_5x5", "lenet")


@functools.cache
def build(name, shape):
    """The model with the number of classes that most tests use."""
    return zoo.build(name, shape, num_classes(name))


@functools.cache
def shapes(name, shape):
    """The shapes of a model's parameters."""
    return jax.eval_shape(build(name, shape).init, jax.random.key(0))


def small(name):
    """Small images, which are quick to process."""
    return (16, 16, 1) if name == "cnn_5x5" else (8, 8, 1)


def num_classes(name):
    return 2 if name == "logistic" else 10


def labels(name, *shape):
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape) % num_classes(name)


@functools.cache
def parameters(name):
    """The parameters of the model for small images."""
    return jax.jit(build(name, small(name)).init)(jax.random.key(0))


@functools.cache
def per_worker(name):
    """Three workers' gradients, compiled once; each worker has its batch and its key."""
    grads = jax.vmap(jax.grad(build(name, small(name)).loss), in_axes=(None, 0, 0))
    return jax.jit(grads)


def batches(name):
    x = images(small(name), 15).reshape(3, 5, *small(name))
    return {"x": x, "y": labels(name, 3, 5)}


def images(shape, count=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def drawn(shapes, seed=0):
    """Parameters of these shapes: kernels that preserve their input's scale, the rest around 1."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        center, fan_in = (1.0, 100) if leaf.ndim == 1 else (0.0, np.prod(leaf.shape[:-1]))
        return rng.normal(center, fan_in**-0.5, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


def graphdef(make):
    """The graph of the module that `make(rngs)` returns; no parameter is drawn."""
    return nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))


def num_parameters(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=pytest.mark.slow if is_slow else ())
        for name in MODELS
        for shape in SHAPES
        for is_slow in [name in DEEP and shape != SHAPES[-1]]
    ],
    ids=str,
)
def test_shapes(name, shape):
    model, params = build(name, shape), shapes(name, shape)
    batch = {"x": images(shape), "y": labels(name, 4)}
    logits = jax.eval_shape(model.apply, params, batch["x"])
    assert logits.shape == (4, num_classes(name))
    loss, grads = jax.eval_shape(jax.value_and_grad(model.loss), params, batch)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    for grad, param in zip(jax.tree.leaves(grads), jax.tree.leaves(params)):
        assert grad.shape == param.shape
        assert grad.dtype == param.dtype == jnp.float32


@pytest.mark.parametrize("name", SLOW_IF_DEEP)
def test_every_parameter_has_a_gradient(name):
    keys = jax.random.split(jax.random.key(0), 3)
    grads = per_worker(name)(parameters(name), batches(name), keys)
    for grad, param in zip(jax.tree.leaves(grads), jax.tree.leaves(parameters(name))):
        assert grad.shape == (3, *param.shape)
        assert np.isfinite(grad).all()
        assert np.abs(grad).max() > 0


# Kernels and biases of four convolutions, scales and shifts of four normalizations.
CIFAR = 27 * 64 + 576 * 64 + 576 * 128 + 1152 * 128 + (1 + 2) * (64 + 64 + 128 + 128)
# A first convolution, three stages of six, without biases; their normalizations; the rest.
RESNET = (
    (9 * 3 * 16 + 9 * 16 * (6 * 16) + 9 * 32 * (16 + 5 * 32) + 9 * 64 * (32 + 5 * 64))
    + 2 * (7 * 16 + 6 * 32 + 6 * 64)
    + (64 * 10 + 10)
)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "count"),
    [
        ("softmax", (28, 28, 1), 10, 784 * 10 + 10),
        ("softmax", (68,), 2, 68 * 2 + 2),
        ("logistic", (68,), 2, 69),
        ("logistic", (28, 28, 1), 2, 785),
        ("mlp", (28, 28, 1), 10, 784 * 100 + 100 + 100 * 10 + 10),
        ("mlp", (68,), 3, 68 * 100 + 100 + 100 * 3 + 3),
        ("cnn", (28, 28, 1), 10, 9 * 16 + 16 + 9 * 16 * 32 + 32 + 7 * 7 * 32 * 10 + 10),
        ("cnn", (32, 32, 3), 10, 27 * 16 + 16 + 9 * 16 * 32 + 32 + 8 * 8 * 32 * 10 + 10),
        ("cnn", (8, 8, 1), 10, 9 * 16 + 16 + 9 * 16 * 32 + 32 + 2 * 2 * 32 * 10 + 10),
        ("cnn_5x5", (28, 28, 1), 10, 431_080),
        ("lenet", (28, 28, 1), 10, 61_706),
        ("lenet", (32, 32, 3), 10, 62_006),
        ("cnn_mnist", (28, 28, 1), 10, 1_199_882),
        ("cnn_mnist", (6, 7, 1), 10, 320 + 288 * 64 + 64 + 64 * 128 + 128 + 128 * 10 + 10),
        ("cnn_cifar", (32, 32, 3), 10, CIFAR + 8192 * 128 + 128 + 128 * 10 + 10),
        ("cnn_cifar", (32, 32, 3), 100, CIFAR + 8192 * 256 + 256 + 256 * 100 + 100),
        ("resnet20", (32, 32, 3), 10, RESNET),
        ("resnet20", (32, 32, 3), 10, 269_722),
    ],
)
def test_number_of_parameters(name, shape, classes, count):
    params = jax.eval_shape(zoo.build(name, shape, classes).init, jax.random.key(0))
    assert num_parameters(params) == count


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_a_plain_dict(name):

    def check(tree):
        if isinstance(tree, jax.ShapeDtypeStruct):
            assert tree.dtype == jnp.float32
            return
        assert type(tree) is dict
        for key, value in tree.items():
            assert type(key) is str
            check(value)

    check(shapes(name, small(name)))


@pytest.mark.smoke
def test_parameters_of_the_cnn():
    params = parameters("cnn")
    assert params["conv1"]["kernel"].shape == (3, 3, 1, 16)
    assert params["conv2"]["kernel"].shape == (3, 3, 16, 32)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("num_classes", [2, 10])
def test_zero_softmax_regression(num_classes):
    model = zoo.build("softmax", (8, 8, 1), num_classes)
    params = jax.eval_shape(model.init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    batch = {"x": images((8, 8, 1)), "y": np.array([0, 1, 1, 0])}
    loss, grads = jax.jit(jax.value_and_grad(model.loss))(zeros, batch)
    np.testing.assert_allclose(loss, np.log(num_classes), rtol=1e-6)
    # At zero the gradient of the bias is the mean of 1 / classes - onehot.
    expected = 1 / num_classes - np.eye(num_classes)[batch["y"]].mean(0)
    np.testing.assert_allclose(grads["linear"]["bias"], expected, atol=1e-6)


def test_softmax_and_mlp_equal_numpy():
    x = images((8, 8, 1))
    flat = np.asarray(x, np.float64).reshape(4, -1)
    p = drawn(shapes("softmax", (8, 8, 1)))
    expected = flat @ p["linear"]["kernel"] + p["linear"]["bias"]
    logits = jax.jit(build("softmax", (8, 8, 1)).apply)(p, x)
    np.testing.assert_allclose(logits, expected, atol=1e-4)

    p = drawn(shapes("mlp", (8, 8, 1)), seed=1)
    hidden = np.maximum(flat @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
    expected = hidden @ p["linear"]["kernel"] + p["linear"]["bias"]
    logits = jax.jit(build("mlp", (8, 8, 1)).apply)(p, x)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("name", ON_FEATURES)
def test_features_are_images_in_one_row(name):
    on_features, params, x = build(name, (64,)), parameters(name), images((8, 8, 1))
    jax.tree.map(
        np.testing.assert_array_equal, params, jax.jit(on_features.init)(jax.random.key(0))
    )
    logits = jax.jit(on_features.apply)(params, x.reshape(4, 64))
    assert logits.shape == (4, num_classes(name))
    np.testing.assert_array_equal(logits, jax.jit(build(name, (8, 8, 1)).apply)(params, x))


@pytest.mark.smoke
def test_logistic_regression_by_hand():
    model = zoo.build("logistic", (2,), 2)
    params = {"linear": {"kernel": np.float32([[1.0], [-2.0]]), "bias": np.float32([0.5])}}
    x, y = np.float32([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]), np.array([1, 0, 1])
    z = np.array([1.5, -1.5, -1.5])

    @jax.jit
    def everything(params, x, y):
        loss_and_gradient = jax.value_and_grad(model.loss)(params, {"x": x, "y": y})
        return model.apply(params, x), model.accuracy(params, x, y), *loss_and_gradient

    logits, accuracy, loss, grads = everything(params, x, y)
    np.testing.assert_allclose(logits, np.stack([0 * z, z], 1), rtol=1e-6)
    np.testing.assert_allclose(accuracy, 2 / 3, rtol=1e-6)
    losses = np.log1p(np.exp(-z * np.array([1, -1, 1])))  # log(1 + exp(-z)) of labels -1 and 1
    np.testing.assert_allclose(loss, losses.mean(), rtol=1e-6)
    residual = 1 / (1 + np.exp(-z)) - y
    np.testing.assert_allclose(grads["linear"]["bias"][0], residual.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        grads["linear"]["kernel"][:, 0], (residual[:, None] * x).mean(0), rtol=1e-5
    )


def test_loss_and_accuracy():
    model = zoo.build("softmax", (1, 2, 1), 2)
    identity = np.eye(2, dtype=np.float32)  # the logits are the pixels
    params = {"linear": {"kernel": identity, "bias": np.zeros(2, np.float32)}}
    x = np.float32([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 4.0]]).reshape(4, 1, 2, 1)
    y = np.array([0, 1, 1, 1])
    np.testing.assert_allclose(jax.jit(model.accuracy)(params, x, y), 0.75)
    losses, loss = np.log1p(np.exp([-2.0, -1.0, 2.0, -4.0])), jax.jit(model.loss)
    np.testing.assert_allclose(loss(params, {"x": x, "y": y}), losses.mean(), rtol=1e-6)
    with_key = loss(params, {"x": x, "y": y}, jax.random.key(0))
    np.testing.assert_allclose(with_key, losses.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", SLOW_IF_LIKE_ANOTHER)
def test_init_follows_the_key_and_vmaps(name):
    model = build(name, small(name))
    keys = jax.vmap(jax.random.key)(np.array([1, 0, 2]))
    stacked = jax.device_get(jax.jit(jax.vmap(model.init))(keys))
    for a, b in zip(jax.tree.leaves(stacked), jax.tree.leaves(parameters(name))):
        np.testing.assert_allclose(a[1], b, rtol=1e-6)
    kernel = stacked["linear"]["kernel"]
    assert (kernel[0] != kernel[1]).mean() > 0.99
    assert (kernel[1] != kernel[2]).mean() > 0.99
    vmapped = jax.vmap(model.apply, in_axes=(0, None))
    logits = jax.eval_shape(vmapped, stacked, images(small(name)))
    assert logits.shape == (3, 4, num_classes(name))


@pytest.mark.parametrize("name", SLOW_IF_LIKE_ANOTHER)
def test_per_worker_gradients(name):
    model, params, batch = build(name, small(name)), parameters(name), batches(name)
    if name in DROPOUTS:
        grads = jax.jit(jax.vmap(jax.grad(model.loss), in_axes=(None, 0)))(params, batch)
    else:
        grads = per_worker(name)(params, batch, jax.random.split(jax.random.key(0), 3))
    union = {"x": batch["x"].reshape(15, *small(name)), "y": batch["y"].reshape(15)}
    expected = jax.jit(jax.grad(model.loss))(params, union)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected)):
        assert a.shape == (3, *b.shape)
        np.testing.assert_allclose(np.asarray(a).mean(0), b, atol=1e-5)


@pytest.mark.parametrize("name", SLOW_IF_LIKE_ANOTHER)
def test_sgd_in_scan_fits_a_batch(name):
    model = build(name, small(name))
    batch = {"x": images(small(name), 20), "y": labels(name, 20)}
    tx = optax.sgd(0.1 if name in ["cnn", *ON_FEATURES] else 0.02, momentum=0.9)

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(model.loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    @jax.jit
    def trained(params):
        (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), None, length=60)
        return losses, model.accuracy(params, batch["x"], batch["y"])

    losses, accuracy = trained(parameters(name))
    assert float(losses[-1]) < 0.2 * float(losses[0])
    np.testing.assert_allclose(accuracy, 1.0)


@pytest.mark.parametrize("name", MODELS)
def test_only_the_loss_with_a_key_draws(name):
    model, x, y = build(name, small(name)), images(small(name)), labels(name, 4)
    params, key = shapes(name, small(name)), jax.random.key(0)

    def draws(function, *args):
        return str(jax.make_jaxpr(function)(*args)).count("random_bits[")

    assert draws(model.loss, params, {"x": x, "y": y}, key) == DROPOUTS.get(name, 0)
    assert draws(model.loss, params, {"x": x, "y": y}) == 0
    assert draws(model.apply, params, x) == 0
    assert draws(model.accuracy, params, x, y) == 0


def test_the_loss_follows_its_key():
    name = "cnn_mnist"
    model, params = build(name, small(name)), parameters(name)
    batch = {"x": images(small(name)), "y": labels(name, 4)}
    loss = jax.jit(model.loss)
    keys = jax.random.split(jax.random.key(0), 2)
    plain, first, second = (float(loss(params, batch, key)) for key in (None, *keys))
    assert len({plain, first, second}) == 3
    assert first == float(loss(params, batch, keys[0]))
    logits = np.asarray(jax.jit(model.apply)(params, batch["x"]), np.float64)
    of_label = np.take_along_axis(logits, batch["y"][:, None], axis=1)[:, 0]
    entropies = np.log(np.exp(logits).sum(axis=1)) - of_label
    np.testing.assert_allclose(plain, entropies.mean(), rtol=1e-5)


@pytest.mark.parametrize("name", ["cnn_mnist", pytest.param("cnn_cifar", marks=pytest.mark.slow)])
def test_workers_draw_their_own_dropout(name):
    assert name in DROPOUTS
    same = jax.tree.map(lambda a: np.stack([a[0]] * 3), batches(name))
    keys = jax.vmap(jax.random.key)(np.array([0, 1, 0]))
    grads = per_worker(name)(parameters(name), same, keys)
    for leaf in map(np.asarray, jax.tree.leaves(grads)):
        assert (leaf[0] != leaf[1]).any()
        np.testing.assert_allclose(leaf[0], leaf[2], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [
        ("softmax", (6,), 24),
        ("softmax", (6,), 27),
        ("softmax", (6,), 5),
        ("cnn", (4, 4, 1), 27),
    ],
)
def test_evaluation_in_chunks_equals_that_at_once(name, shape, size):
    model = build(name, shape)
    params = jax.tree.map(lambda *a: np.stack(a), *(drawn(shapes(name, shape), i) for i in (0, 1)))
    x, y = images(shape, size), labels(name, size)

    def whole(params):
        right = model.apply(params, x).argmax(-1) == y
        return model.accuracy(params, x, y), model.loss(params, {"x": x, "y": y}), right

    def chunked(params):
        return zoo.evaluate(model, params, x, y, chunk=8)

    both = jax.jit(jax.vmap(lambda params: (chunked(params), whole(params))))(params)
    result, (accuracy, loss, right) = jax.tree.map(np.asarray, both)
    np.testing.assert_allclose(result.accuracy, accuracy, rtol=1e-6)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-5)
    with np.errstate(invalid="ignore"):  # five samples leave classes empty: 0 / 0
        expected = [[each[y == c].sum() / (y == c).sum() for c in range(10)] for each in right]
    np.testing.assert_allclose(result.per_class, expected, rtol=1e-6)
    assert result.accuracy.dtype == result.loss.dtype == result.per_class.dtype == jnp.float32


def test_evaluation_keeps_one_chunk_in_memory():
    model = zoo.build("cnn_mnist", (28, 28, 1), 10)
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((10_000, 28, 28, 1), jnp.float32)
    y = jax.ShapeDtypeStruct((10_000,), jnp.int32)
    program = jax.jit(lambda *a: zoo.evaluate(model, *a)).lower(params, x, y).compile()
    assert program.memory_analysis().temp_size_in_bytes < 300e6


def test_strict_promotion():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for name in MODELS:
            model = build(name, small(name))
            batch = {"x": images(small(name)), "y": labels(name, 4)}
            params = shapes(name, small(name))
            grad = jax.grad(model.loss)
            grads = jax.eval_shape(grad, params, batch, jax.random.key(0))  # tracing suffices
            assert num_parameters(grads) > 0
            if name == "softmax":  # `evaluate` is the same for all; the networks are traced above
                jax.eval_shape(
                    lambda *a, m=model: zoo.evaluate(m, *a, chunk=3), params, *batch.values()
                )


def test_descriptions():
    assert list(zoo.DESCRIPTIONS) == list(zoo.MODELS)
    assert zoo.DESCRIPTIONS["softmax"] == "Softmax regression."
    for line in zoo.DESCRIPTIONS.values():
        assert line.endswith(".")
        assert len(line) < 100


def test_unknown_model():
    known = "softmax, logistic, mlp, cnn, cnn_5x5, lenet, cnn_mnist, cnn_cifar, "
    known += "resnet20, ... (`python -m experiments list` shows all 12)."
    with pytest.raises(ValueError, match=f"^unknown model 'vgg'; known: {re.escape(known)}$"):
        zoo.build("vgg", (8, 8, 1), 10)
    with pytest.raises(ValueError, match=r"^unknown model 'resnet'; did you mean resnet20\?$"):
        zoo.build("resnet", (8, 8, 1), 10)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "message"),
    [
        ("logistic", (5,), 3, "logistic needs num_classes = 2; got 3."),
        (
            "cnn",
            (30,),
            10,
            "cnn needs images [h, w, channels] of at least 4 x 4 pixels; got shape (30,).",
        ),
        (
            "cnn_mnist",
            (28, 5, 1),
            10,
            "cnn_mnist needs images [h, w, channels] of at least 6 x 6 pixels; "
            "got shape (28, 5, 1).",
        ),
        (
            "cnn_cifar",
            (32, 32),
            10,
            "cnn_cifar needs images [h, w, channels] of at least 4 x 4 pixels; got shape (32, 32).",
        ),
        (
            "resnet20",
            (3, 3, 3),
            10,
            "resnet20 needs images [h, w, channels] of at least 4 x 4 pixels; got shape (3, 3, 3).",
        ),
    ],
)
def test_data_that_a_model_cannot_take(name, shape, classes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        zoo.build(name, shape, classes)


@pytest.mark.parametrize(
    ("name", "smallest"), [("cnn", 4), ("cnn_mnist", 6), ("cnn_cifar", 4), ("resnet20", 4)]
)
def test_the_smallest_image(name, smallest):
    model, params = build(name, (smallest, smallest, 2)), shapes(name, (smallest, smallest, 2))
    assert all(0 not in leaf.shape for leaf in jax.tree.leaves(params))
    logits = jax.eval_shape(model.apply, params, images((smallest, smallest, 2)))
    assert logits.shape == (4, 10)


# --- distributions of initial weights ------------------------------------------------------------


def test_initial_weights_like_torch():
    names, keys = ("mlp", "lenet", "cnn_cifar"), [jax.random.key(seed) for seed in (0, 1)]
    before = {name: drawn(shapes(name, small(name))) for name in names}
    draw = jax.jit(initial.like_torch)
    after = [draw(before, key) for key in keys]
    before, flat, others = map(traverse_util.flatten_dict, (before, *after))
    layers = {path[:-1] for path in flat if path[-1] == "kernel"}
    for path, leaf in flat.items():
        if path[:-1] not in layers:  # of a normalization
            np.testing.assert_array_equal(leaf, before[path])
            continue
        inputs = np.prod(flat[*path[:-1], "kernel"].shape[:-1])
        bound, error = inputs**-0.5, 5 / np.sqrt(leaf.size)
        assert leaf.dtype == jnp.float32
        assert np.abs(leaf).max() <= bound
        assert abs(leaf.mean()) < error * bound
        assert abs((leaf**2).mean() - bound**2 / 3) < error * bound**2 / 3
        assert not np.any(leaf == others[path])
    first = [np.ravel(leaf)[:6] for path, leaf in flat.items() if path[:-1] in layers]
    scaled = {tuple(np.round(leaf / np.abs(leaf).max(), 4)) for leaf in first}
    assert len(scaled) == len(first)  # no two are drawn with one key


def test_a_model_starts_like_torch():
    model, key = zoo.build("softmax", (8, 8, 1), 10, init_as="torch"), jax.random.key(3)
    params = jax.jit(model.init)(key)["linear"]
    assert np.abs(params["kernel"]).max() <= 1 / 8
    assert np.abs(params["bias"]).max() > 0


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("mlp", (8, 8, 1), {"init_as": "pytorch"}, "unknown init 'pytorch'; did you mean torch?"),
        ("gpt_nano", (4,), {"init_as": "torch", "text": True}, "init torch is for models of image"),
    ],
)
def test_an_init_that_cannot_be(name, shape, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        zoo.build(name, shape, 10, **options)


def test_lenet_resizes_its_images():
    """Bilinearly, by the centres of pixels; those at the border are repeated."""
    small_images = x = images((28, 24, 1))
    for axis, side in ((1, 28), (2, 24)):
        places = np.clip((np.arange(32) + 0.5) * side / 32 - 0.5, 0, side - 1)
        low = np.minimum(places.astype(int), side - 2)
        share = np.expand_dims(places - low, [a for a in range(4) if a != axis])
        x = (1 - share) * np.take(x, low, axis) + share * np.take(x, low + 1, axis)
    resizing, whole = (zoo.build("lenet", shape, 10) for shape in ((28, 24, 1), (32, 32, 1)))
    params = jax.jit(whole.init)(jax.random.key(0))
    expected = jax.jit(whole.apply)(params, np.float32(x))
    out = jax.jit(resizing.apply)(params, small_images)
    np.testing.assert_allclose(out, expected, atol=1e-5)
