"""What private gradients cost: epsilon, and the noise for a given epsilon."""

import functools
from collections.abc import Callable

from byzjax import _checks
from byzjax._checks import static_int
from byzjax._compiled import taught


@taught
def epsilon(
    *,
    noise_multiplier: float,
    batch_size: int,
    samples: int,
    steps: int,
    delta: float,
    sampling: str = "without_replacement",
) -> float:
    r"""The epsilon of the differential privacy of one worker's samples.

    A worker that sends T private gradients (`private`), or what follows from them, such as momenta,
    is (epsilon, delta)-differentially private: for neighbouring sets of samples D and D', and any
    set S of all that it may send,

    $$ P(M(D) \in S) \le e^{\varepsilon} P(M(D') \in S) + \delta $$

    Whoever sees all that it sends, the server included, knows no more about one sample. The batches
    of different steps are independent, and each is drawn from the m samples in one of two ways:

    * `"without_replacement"`: b different samples, all sets equally likely. Neighbours differ in
      one sample, which is replaced by another; m is public. The sum of clipped gradients changes by
      up to 2C. The bound is that of Rényi differential privacy.
    * `"poisson"`: each sample with probability q = b / m, independently. One of two neighbours has
      one sample more. The sum changes by up to C, and is to be divided by b = q m, not by the size
      of the batch: multiply the gradient of `private` by that size over b. The bound is that of
      privacy loss distributions, tight up to rounding upwards.

    With b = m the two differ in their neighbours alone. Nothing is proved here for samples drawn
    with replacement, of which one may occur several times, nor for passes over shuffled samples.

    Requirement: noise_multiplier > 0, 1 <= b <= m. Cost: a second; for `"poisson"` and
    noise_multiplier 0.1, a minute.

    Args:
      noise_multiplier: z, that of `private`.
      batch_size: b, a Python int; for `"poisson"` the expected size.
      samples: m, the number of samples of the worker, a Python int.
      steps: T, the number of gradients of the worker, those of local steps included; a Python int.
      delta: usually below 1 / m.
      sampling: how batches are drawn.

    Returns:
      An upper bound of epsilon, a Python float.

    Raises:
      ImportError: dp-accounting is not installed.
      TypeError: a number that must be a Python int is not.
      ValueError: a number is out of range, or the sampling is unknown.

    Example:
      >>> import byzjax
      >>> byzjax.privacy.epsilon(
      ...     noise_multiplier=4.0, batch_size=10, samples=1000, steps=1000, delta=1e-5
      ... )  # doctest: +SKIP
      1.445...

    Reference: Wang, Balle and Kasiviswanathan, Subsampled Rényi Differential Privacy and Analytical
    Moments Accountant, AISTATS 2019, theorem 27 of arXiv:1808.00087; Koskela, Jälkö and Honkela,
    Computing Tight Differential Privacy Guarantees Using FFT, AISTATS 2020. Computed by Google's
    dp-accounting.
    """
    if not noise_multiplier > 0:
        raise ValueError(f"epsilon needs noise_multiplier > 0; got {noise_multiplier}.")
    return _accountant(batch_size, samples, steps, delta, sampling)(noise_multiplier)


@taught
def noise_multiplier(
    *,
    epsilon: float,
    batch_size: int,
    samples: int,
    steps: int,
    delta: float,
    sampling: str = "without_replacement",
) -> float:
    r"""The noise with which T private gradients cost epsilon: the inverse of `epsilon`.

    Requirement: epsilon > 0, 1 <= b <= m. Cost: that of some twelve calls of `epsilon`.

    Args:
      epsilon: the privacy of one worker's samples.
      batch_size: b, a Python int; for `"poisson"` the expected size.
      samples: m, the number of samples of the worker, a Python int.
      steps: T, the number of gradients of the worker, those of local steps included; a Python int.
      delta: usually below 1 / m.
      sampling: how batches are drawn, as for `epsilon`.

    Returns:
      z for `private`, a Python float: at most the given epsilon, and at most 0.1 % too large.

    Raises:
      ImportError: dp-accounting is not installed.
      TypeError: a number that must be a Python int is not.
      ValueError: a number is out of range, or the sampling is unknown.

    Example:
      >>> import byzjax
      >>> byzjax.privacy.noise_multiplier(
      ...     epsilon=1.0, batch_size=10, samples=1000, steps=1000, delta=1e-5
      ... )  # doctest: +SKIP
      5.42

    Reference: that of `epsilon`.
    """
    if not epsilon > 0:
        raise ValueError(f"noise_multiplier needs epsilon > 0; got {epsilon}.")
    account = _accountant(batch_size, samples, steps, delta, sampling)
    high = 1.0
    while account(high) > epsilon:
        high *= 2
    low = high / 2
    while account(low) <= epsilon:
        low, high = low / 2, low
    while high - low > 1e-3 * low:
        middle = (low + high) / 2
        if account(middle) <= epsilon:
            high = middle
        else:
            low = middle
    return high


def _accountant(
    batch_size: int, samples: int, steps: int, delta: float, sampling: str
) -> Callable[[float], float]:
    """Epsilon as a function of the noise multiplier."""
    b, m = static_int("batch_size", batch_size, at_least=1), static_int("samples", samples)
    count = static_int("steps", steps, at_least=1)
    if b > m:
        raise ValueError(f"batch_size must be at most samples; got batch_size={b}, samples={m}.")
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1; got {delta}.")
    _checks.one_of("sampling", sampling, ("without_replacement", "poisson"))
    try:
        import dp_accounting
        from dp_accounting import pld, rdp
    except ImportError as error:
        raise ImportError(
            'byzjax.privacy.epsilon needs dp-accounting: pip install "byzjax[privacy]".'
        ) from error
    replaced = dp_accounting.NeighboringRelation.REPLACE_ONE

    def event(z: float) -> tuple:
        """The accountant and one step; its noise in units of what one sample changes, C or 2C."""
        if sampling == "poisson":
            step = dp_accounting.GaussianDpEvent(z)
            return pld.PLDAccountant(), dp_accounting.PoissonSampledDpEvent(b / m, step)
        step = dp_accounting.GaussianDpEvent(z / 2)
        if b == m:
            return pld.PLDAccountant(), step
        step = dp_accounting.SampledWithoutReplacementDpEvent(m, b, step)
        return rdp.RdpAccountant(neighboring_relation=replaced), step

    @functools.cache
    def account(z: float) -> float:
        accountant, step = event(z)
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, count))
        return float(accountant.get_epsilon(delta))

    return account
