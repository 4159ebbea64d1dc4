"""Epsilon against closed forms, bounds, and published numbers."""

import importlib.util
import math
import statistics
import sys

import pytest

from byzjax import privacy

needs_accountant = pytest.mark.skipif(
    importlib.util.find_spec("dp_accounting") is None, reason="needs dp-accounting"
)


def gaussian_delta(epsilon, sigma):
    """Of one Gaussian mechanism of sensitivity 1: Balle and Wang, ICML 2018, theorem 8."""
    cdf = statistics.NormalDist().cdf
    near, far = 1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma
    return cdf(near) - math.exp(epsilon) * cdf(far)


def gaussian_epsilon(delta, sigma):
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, sigma) > delta else (low, middle)
    return high


WHOLE = {"batch_size": 9, "samples": 9, "delta": 1e-5}
SAMPLED = {"batch_size": 10, "samples": 1000, "steps": 1000, "delta": 1e-5}


@needs_accountant
@pytest.mark.parametrize(("z", "steps"), [(1.0, 1), (4.0, 1), (10.0, 25)])
def test_epsilon_of_whole_batches_is_that_of_one_gaussian(z, steps):
    """T Gaussians of noise z are one of z / sqrt(T); replacing a sample moves the sum by 2C."""
    given = WHOLE | {"noise_multiplier": z, "steps": steps}
    one = gaussian_epsilon(1e-5, z / math.sqrt(steps))
    two = gaussian_epsilon(1e-5, z / (2 * math.sqrt(steps)))
    assert privacy.epsilon(**given, sampling="poisson") == pytest.approx(one, rel=1e-3)
    assert privacy.epsilon(**given) == pytest.approx(two, rel=1e-3)


@needs_accountant
def test_epsilon_of_the_first_paper():
    """Abadi et al. 2016, section 3.2: q = 0.01, sigma = 4, T = 10000 cost 1.26 and delta 1e-5."""
    given = {"noise_multiplier": 4.0, "batch_size": 600, "samples": 60_000, "steps": 10_000}
    mine = privacy.epsilon(**given, delta=1e-5, sampling="poisson")
    assert 0.9 < mine < 1.26  # theirs is an upper bound, of moments
    assert mine == pytest.approx(0.947, abs=1e-3)  # tight


def renyi_epsilon(z, batch_size, samples, steps, delta):
    """Wang et al. 2019, theorem 9, which holds for any mechanism, in a loop over integer orders."""
    q, best = batch_size / samples, math.inf
    for alpha in range(2, 60):
        of_order = [j * 2 / z**2 for j in range(alpha + 1)]  # Gaussian of sensitivity 2
        total = 1 + q**2 * math.comb(alpha, 2) * min(
            4 * math.expm1(of_order[2]), 2 * math.exp(of_order[2])
        )
        for j in range(3, alpha + 1):
            total += 2 * q**j * math.comb(alpha, j) * math.exp((j - 1) * of_order[j])
        cost = steps * math.log(total) / (alpha - 1)
        best = min(best, cost + math.log1p(-1 / alpha) - math.log(delta * alpha) / (alpha - 1))
    return best


@needs_accountant
@pytest.mark.parametrize("z", [4.0, 10.0])
def test_epsilon_without_replacement_lies_between_bounds(z):
    """Below the bound for any mechanism, above what an attack on one sample can see."""
    import dp_accounting as dp

    mine = privacy.epsilon(noise_multiplier=z, **SAMPLED)
    assert mine <= renyi_epsilon(z, **SAMPLED)
    # If all other gradients are 0, what is drawn of them does not matter.
    relation = dp.NeighboringRelation.REPLACE_ONE
    event = dp.PoissonSampledDpEvent(0.01, dp.GaussianDpEvent(z))
    exact = dp.pld.PLDAccountant(relation).compose(event, SAMPLED["steps"]).get_epsilon(1e-5)
    assert exact < mine < 8 * exact


@needs_accountant
@pytest.mark.parametrize("sampling", ["poisson", "without_replacement"])
def test_the_noise_for_an_epsilon(sampling):
    given = SAMPLED | {"sampling": sampling}
    z = privacy.noise_multiplier(epsilon=0.5, **given)
    assert privacy.epsilon(noise_multiplier=z, **given) <= 0.5
    assert privacy.epsilon(noise_multiplier=0.997 * z, **given) > 0.5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"noise_multiplier": 0.0},
            ValueError,
            r"^epsilon needs noise_multiplier > 0; got 0\.0\.$",
        ),
        (
            {"batch_size": 9, "samples": 8},
            ValueError,
            r"^batch_size must be at most samples; got batch_size=9, samples=8\.$",
        ),
        ({"delta": 1.0}, ValueError, r"^delta must lie between 0 and 1; got 1\.0\.$"),
        ({"steps": 2.5}, TypeError, r"^steps must be a Python int; got float"),
        ({"sampling": "poison"}, ValueError, r"sampling must be one of .* Did you mean poisson\?$"),
    ],
)
def test_mistakes_about_epsilon(changes, error, message):
    with pytest.raises(error, match=message):
        privacy.epsilon(**{"noise_multiplier": 1.0} | SAMPLED | changes)


def test_without_the_accountant(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    words = r'^byzjax.privacy.epsilon needs dp-accounting: pip install "byzjax\[privacy\]"\.$'
    with pytest.raises(ImportError, match=words):
        privacy.epsilon(noise_multiplier=1.0, **SAMPLED)
    with pytest.raises(ValueError, match=r"^noise_multiplier needs epsilon > 0; got -1\.$"):
        privacy.noise_multiplier(epsilon=-1, **SAMPLED)
