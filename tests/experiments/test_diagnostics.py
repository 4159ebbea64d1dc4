"""Diagnostics of a step, against NumPy."""

import functools
import math

import jax
import numpy as np
import pytest

import byzjax
from byzjax.protocols import Info
from experiments.training import diagnostics


def told(info, byzantine, rule):
    """The diagnostics of a step, as numbers."""

    @jax.jit
    def of_step(info, byzantine):
        measured = diagnostics.of_step(info, byzantine, rule)
        assert tuple(measured) == diagnostics.NAMES
        return measured

    return {name: float(value) for name, value in of_step(info, byzantine).items()}


@pytest.mark.smoke
def test_of_a_step():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(7, 5)) + 1
    byzantine = np.arange(7) >= 5
    sent = np.where(byzantine[:, None], 50.0, honest)
    rule = functools.partial(byzjax.trimmed_mean, f=2)
    aggregate = jax.jit(rule)(sent.astype(np.float32))
    rows = (np.asarray(a, np.float32) for a in (honest, sent, aggregate))
    info = Info(*rows, np.arange(7))
    measured = told(info, byzantine, rule)

    good = honest[:5]
    mean, out = good.mean(axis=0), np.asarray(aggregate, np.float64)
    variance = np.sum((good - mean) ** 2) / 4
    cosine = out @ mean / np.linalg.norm(out) / np.linalg.norm(mean)
    expected = {
        "honest_norm": np.linalg.norm(mean),
        "variance_to_norm": math.sqrt(variance) / np.linalg.norm(mean),
        "distance": np.linalg.norm(out - mean),
        "angle": math.degrees(math.acos(cosine)),
        "liars_influence": 0.0,
        "liars_excluded": 1.0,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(measured[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_influence_of_the_mean_and_without_attackers():
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    info = Info(x, x, jax.jit(byzjax.mean)(x), np.arange(len(x)))
    measured = told(info, np.array([True, False, False, False]), byzjax.mean)
    np.testing.assert_allclose(measured["liars_influence"], 0.25, rtol=1e-5)
    assert measured["liars_excluded"] == 0
    none = told(info, np.zeros(4, bool), byzjax.mean)
    assert none["liars_influence"] == 0
    assert math.isnan(none["liars_excluded"])
    np.testing.assert_allclose(none["distance"], 0, atol=1e-6)


def test_influence_is_unknown_without_a_rule():
    x = np.ones((4, 3), np.float32)
    measured = told(Info(x, x, x[0], np.arange(4)), np.zeros(4, bool), None)
    assert math.isnan(measured["liars_influence"])
    assert math.isnan(measured["honest_excluded"])
    assert not math.isnan(measured["distance"])
