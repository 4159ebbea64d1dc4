"""Kernels, interpreted on CPU, against `order` and NumPy loops; and their lowering."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from benchmarks.accelerator import kernels
from byzjax._numerics import order
from tests.helpers import compiled

COLUMNS = 8195  # the last block is partial on either target
SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 1.0, -1.0, 3e38, -3e38, 50.0]

pytestmark = pytest.mark.xdist_group("kernels")


def matrix(n, dtype, c=COLUMNS):
    """Half of the columns normal, half of special values with repetitions."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, c)).astype(np.float32)
    x[:, ::2] = rng.choice(np.array(SPECIAL, np.float32), size=(n, (c + 1) // 2))
    with np.errstate(over="ignore"):  # 3e38 is infinite in float16
        return x.astype(jnp.dtype(dtype))


def with_bad_rows(n, dtype):
    """Normal, except for a NaN in row 1 and an infinity in the last row."""
    x = np.random.default_rng(n).normal(size=(n, COLUMNS)).astype(np.float32)
    x[1, 5], x[-1, COLUMNS - 1] = np.nan, -np.inf
    return x.astype(jnp.dtype(dtype))


def same_bits(actual, expected):
    """Equal bit for bit, including signs of zeros; all NaN are equal."""
    assert actual.dtype == expected.dtype
    integer = f"uint{8 * actual.dtype.itemsize}"
    actual, expected = np.asarray(actual), np.asarray(expected)
    there = ~np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(~np.isnan(actual.astype(np.float32)), there)
    np.testing.assert_array_equal(actual.view(integer)[there], expected.view(integer)[there])


@pytest.mark.parametrize("target", kernels.TARGETS)
@pytest.mark.parametrize(
    ("n", "dtype"),
    [
        *((n, "float32") for n in (1, 2, 9, 12)),
        pytest.param(9, "bfloat16", marks=pytest.mark.slow),
        (12, "bfloat16"),
        (12, "float16"),
    ],
)
def test_the_median_is_that_of_order(target, n, dtype):
    x = matrix(n, dtype)
    same_bits(compiled(kernels.median, interpret=target)(x), compiled(order.median)(x))


def test_the_median_of_a_loop():
    x = np.random.default_rng(0).normal(size=(12, 3, 50)).astype(np.float32)
    expected = np.empty((3, 50), np.float32)
    for place in np.ndindex(3, 50):
        column = sorted(x[(slice(None), *place)])
        expected[place] = (column[5] + column[6]) / 2
    for target in kernels.TARGETS:
        actual = compiled(kernels.median, interpret=target)(x)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, err_msg=target)


@pytest.mark.parametrize("target", kernels.TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_trimmed_mean_is_that_of_order(target, dtype):
    x = matrix(12, dtype, 700)
    actual = compiled(kernels.trimmed_mean, f=3, interpret=target)(x)
    expected = compiled(order.trimmed_mean, f=3)(x)
    eps = 1e-6 if dtype == "float32" else 2**-8
    np.testing.assert_allclose(
        *(np.asarray(y, np.float32) for y in (actual, expected)), rtol=eps, atol=eps
    )


@pytest.mark.parametrize("target", kernels.TARGETS)
def test_the_trimmed_mean_does_not_overflow(target):
    x = jnp.full((12, 700), 3e38)
    actual = compiled(kernels.trimmed_mean, f=3, interpret=target)(x)
    np.testing.assert_allclose(np.asarray(actual) / 1e38, 3, rtol=1e-6)


@pytest.mark.parametrize("target", kernels.TARGETS)
@pytest.mark.parametrize(("n", "dtype"), [(9, "float32"), (12, "bfloat16")])
def test_squares_are_those_of_a_loop(target, n, dtype):
    x = with_bad_rows(n, dtype)
    center, squares = compiled(kernels.median_and_squares, interpret=target)(x)
    same_bits(center, compiled(order.median)(x))
    assert squares.dtype == jnp.float32
    rows, middle = np.asarray(x, np.float64), np.asarray(center, np.float64)
    expected = [sum((row - middle) ** 2) for row in rows]
    assert np.isnan(expected[1])
    assert np.isinf(expected[-1])
    np.testing.assert_allclose(squares, expected, rtol=1e-6)


@pytest.mark.parametrize("target", kernels.TARGETS)
def test_one_column(target):
    x = np.array([3.0, 5.0, 9.0], np.float32)
    center, squares = compiled(kernels.median_and_squares, interpret=target)(x)
    assert center == 5
    assert squares.tolist() == [4, 0, 16]


@pytest.mark.parametrize("target", kernels.TARGETS)
def test_side_by_side(target):
    x = np.stack([with_bad_rows(9, "float32"), with_bad_rows(9, "float32")[::-1]])
    alone = compiled(kernels.median_and_squares, interpret=target)
    centers, squares = (np.asarray(part) for part in jax.jit(jax.vmap(alone))(x))
    for i in range(2):
        center, square = alone(x[i])
        same_bits(centers[i], center)
        np.testing.assert_allclose(squares[i], square, rtol=1e-6)


def a_card():
    """From JAX 0.11, Triton kernels lower only for a GPU that is present or named."""
    if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11):
        return contextlib.nullcontext()
    from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

    return use_abstract_mesh(
        AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu"))
    )


@pytest.mark.parametrize("target", kernels.TARGETS)
@pytest.mark.parametrize("name", ["median", "median_and_squares"])
@pytest.mark.parametrize(("n", "dtype"), [(8, "float32"), (25, "bfloat16")])
def test_kernels_lower(target, name, n, dtype):
    call = {"cuda": "__gpu$xla.gpu.triton", "tpu": "tpu_custom_call"}[target]
    unchecked = [export.DisabledSafetyCheck.custom_call(call)]
    lower = export.export(
        jax.jit(getattr(kernels, name)), platforms=[target], disabled_checks=unchecked
    )
    with a_card() if target == "cuda" else contextlib.nullcontext():
        lowered = lower(jax.ShapeDtypeStruct((n, 100_003), dtype)).mlir_module()
    assert lowered.count(f"@{call}") == 1
    assert "sort" not in lowered


@pytest.mark.parametrize("n", [1, 2, 8, 25, 64, 128])
def test_a_block_is_a_power_of_two_that_fits(n):
    for target in kernels.TARGETS.values():
        block = target.block(n)
        assert block & (block - 1) == 0
        assert block % 128 == 0
        assert n * block <= 2 * target.numbers


def test_what_kernels_do_not_take():
    with pytest.raises(ValueError, match="kernels need n <= 128; got n=129"):
        kernels.median(jnp.zeros((129, 4)), interpret="cuda")
    with pytest.raises(ValueError, match=r"at least one column; got shape \(3, 0\)"):
        kernels.median(jnp.zeros((3, 0)), interpret="cuda")
    with pytest.raises(TypeError, match="float16; got int32"):
        kernels.median(jnp.zeros((3, 4), jnp.int32), interpret="cuda")
