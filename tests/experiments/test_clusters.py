"""The cluster of FLAME is that of scikit-learn's HDBSCAN."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import HDBSCAN
from sklearn.metrics.pairwise import cosine_distances

from tests import oracles

majority = jax.jit(importlib.import_module("byzjax.rules.flame")._majority)


def rows_of(kind, n, rng):
    x = rng.normal(size=(n, 4))
    if kind == "two clusters":
        x[: n // 3] += 4
        x[n // 3 :] -= 4 * rng.normal(size=4)
    if kind == "ties":
        x = rng.integers(-2, 3, size=(n, 4)).astype(float)
    if kind == "equal":
        x[: n // 2] = x[0]
    return x


@pytest.mark.parametrize("n", [3, 4, 9, 16, 25])
@pytest.mark.parametrize("kind", ["one", "two clusters", "ties", "equal"])
def test_the_cluster_is_that_of_hdbscan(kind, n):
    rng, sizes = np.random.default_rng(n), set()
    model = HDBSCAN(
        metric="precomputed",
        min_cluster_size=n // 2 + 1,
        min_samples=1,
        allow_single_cluster=True,
        copy=True,
    )
    for _ in range(20):
        apart = np.asarray(cosine_distances(rows_of(kind, n, rng)), np.float32).astype(float)
        labels = model.fit_predict(apart)
        assert set(labels) <= {-1, 0}
        chosen = np.flatnonzero(labels == 0).tolist()
        assert chosen == oracles.majority_cluster(apart)
        assert chosen == np.flatnonzero(majority(jnp.asarray(apart, jnp.float32))).tolist()
        sizes.add(len(chosen))
    assert min(sizes) > n / 2
    assert kind == "ties" or n < 9 or len(sizes) > 1
