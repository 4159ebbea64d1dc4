"""Means of groups on slices of coordinates, which are computed block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax.solvers import groups

DEVICES = 3
SPECIAL = {
    "finite": (),
    "not finite": ((0, np.nan), (4, np.inf)),
    "opposite in a group": ((0, 1e20), (1, -1e20)),
}


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(groups, "HELD_COLUMNS", 4)


def sliced(updates):
    """The rule on slices of the coordinates, one for each device."""
    parts = jnp.stack(jnp.split(updates, DEVICES, axis=1))

    def on_device(x):
        return byzjax.geometric_median_of_means(x, k=5, smoothing=0.1, axis_name="model")

    return jnp.concatenate(list(jax.vmap(on_device, axis_name="model")(parts)))


def whole(updates):
    """The rule on all coordinates."""
    return byzjax.geometric_median_of_means(updates, k=5, smoothing=0.1)


# 11 columns a device are two blocks and a rest, 3 are less than one.
@pytest.mark.parametrize("columns", [3, 11])
@pytest.mark.parametrize("special", SPECIAL)
def test_means_by_blocks_equal_means_as_a_whole(columns, special):
    updates = np.random.default_rng(0).normal(size=(12, DEVICES * columns)).astype(np.float32)
    for row, value in SPECIAL[special]:
        updates[row] = value
    np.testing.assert_allclose(sliced(updates), whole(updates), rtol=1e-4, atol=1e-5)
    if special == "finite" and columns == 11:
        along = np.random.default_rng(1).normal(size=updates.shape[1]).astype(np.float32)
        expected, got = (jax.grad(lambda u, f=f: f(u) @ along)(updates) for f in (whole, sliced))
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_means_are_not_held_as_a_whole(monkeypatch):
    monkeypatch.setattr(groups, "HELD_COLUMNS", 2**12)
    rows = jax.ShapeDtypeStruct((1, 12, 2**18), jnp.float32)

    def on_device(x):
        return byzjax.geometric_median_of_means(x, k=6, axis_name="model")

    program = jax.jit(jax.vmap(on_device, axis_name="model")).lower(rows).compile()
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 6 * 2**18 * 4  # less than six means
