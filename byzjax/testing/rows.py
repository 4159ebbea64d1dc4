"""Honest and malicious rows for tests, and a check of an aggregate's promise."""

import math
from collections.abc import Iterator

import numpy as np

DIM = 6
LARGEST = float(np.finfo(np.float32).max)
_CONSTANT_LIES = (
    math.nan,
    -math.nan,
    math.inf,
    -math.inf,
    LARGEST,
    -LARGEST,
    1e30,
    1e12,
    1e3,
    -1e3,
)


def lies(rng: np.random.Generator, good: np.ndarray, f: int) -> Iterator[np.ndarray]:
    """Malicious rows that depend on the honest ones: NaN, infinities, overflow, ties, edges.

    Args:
      rng: source of randomness.
      good: the honest rows, `[n - f, d]`.
      f: number of attackers.

    Returns:
      An iterator of matrices `[f, d]`, in float64.

    Example:
      >>> import numpy as np
      >>> sent = list(lies(np.random.default_rng(0), np.ones((3, 2)), f=1))
      >>> len(sent), sent[2]
      (20, array([[inf, inf]]))
    """
    shape = (f, good.shape[1])
    for value in _CONSTANT_LIES:
        yield np.full(shape, value)
    signs = rng.choice([-1.0, 1.0], size=shape)
    yield signs * math.inf
    yield signs * LARGEST
    yield signs * 7e18 / 10.0 ** np.arange(f)[:, None]  # squares just below overflow and far below
    for value in (math.nan, -math.nan, -math.inf):  # one bad coordinate in an otherwise good row
        almost = good[rng.integers(len(good), size=f)] + 1 / 1024
        almost[np.arange(f), rng.integers(shape[1], size=f)] = value
        yield almost
    yield np.repeat(good[:1], f, axis=0)  # ties
    yield np.repeat(good.max(axis=0)[None], f, axis=0)
    yield np.repeat(np.median(good, axis=0)[None] + 1 / 1024, f, axis=0)
    yield good.mean(axis=0) + 4 * rng.normal(size=shape)


def attacked(
    rng: np.random.Generator, n: int, f: int, *, trusted: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Honest rows combined with all of `lies`: attackers first, last and scattered.

    Args:
      rng: source of randomness.
      n: number of workers.
      f: number of attackers.
      trusted: number of leading rows that are never Byzantine.

    Returns:
      An iterator of (`[n, d]`, `bool[n]`): the rows and the mask of Byzantine workers.

    Example:
      >>> import numpy as np
      >>> x, byzantine = next(attacked(np.random.default_rng(0), 3, 1))
      >>> x.shape, byzantine
      ((3, 6), array([ True, False, False]))
    """
    good = grid(rng, n - f)
    for bad in lies(rng, good, f):
        scattered = trusted + rng.choice(n - trusted, f, replace=False)
        for places in (range(trusted, trusted + f), range(n - f, n), scattered):
            byzantine = np.isin(np.arange(n), np.array(places, int))
            x = np.empty((n, good.shape[1]))
            x[byzantine], x[~byzantine] = bad, good
            yield x, byzantine


def grid(rng: np.random.Generator, n: int, d: int = DIM) -> np.ndarray:
    """Normal values in multiples of 1/1024, with standard deviation 2 and a random common mean.

    Args:
      rng: source of randomness.
      n: number of rows.
      d: number of coordinates.

    Returns:
      `[n, d]`, in float64.

    Example:
      >>> import numpy as np
      >>> x = grid(np.random.default_rng(0), 3)
      >>> x.shape, bool((1024 * x == np.round(1024 * x)).all())
      ((3, 6), True)
    """
    return np.round((2 * rng.normal(size=(n, d)) + rng.normal(size=d)) * 1024) / 1024


def broken_promise(
    promise: str,
    x: np.ndarray,
    byzantine: np.ndarray,
    out: np.ndarray,
    *,
    bound: float | None = None,
    kappa: float | None = None,
    rounding: float = 2e-6,
) -> str:
    """Checks a result against the promise, or a bound, of its rule.

    Args:
      promise: a key of `byzjax.facts.PROMISES`.
      x: the rows sent, `[n, d]`.
      byzantine: `bool[n]`, mask of the f Byzantine workers.
      out: the aggregate, `[d]`.
      bound: its largest distance to the honest mean, in honest diameters.
      kappa: its largest squared distance to the honest mean, in units of the honest variance.
      rounding: tolerance, as a fraction of the largest honest value.

    Returns:
      A description of the violation, or an empty string.

    Raises:
      ValueError: `"bounded"` without a bound and without a kappa.

    Example:
      >>> import numpy as np
      >>> x, byzantine = np.array([[0.0], [1.0], [9.0]]), np.array([False, False, True])
      >>> broken_promise("range", x, byzantine, np.array([1.0]))
      ''
      >>> broken_promise("range", x, byzantine, np.array([2.0]))
      'it is not within the honest range'
    """
    if promise == "bounded" and bound is None and kappa is None:
        raise ValueError("the promise bounded needs a bound or a kappa.")
    if promise == "none":
        return ""
    if not np.isfinite(out).all():
        return "it is not finite"
    good = np.asarray(x, np.float32)[~byzantine].astype(np.float64)
    slack = rounding * np.abs(good).max()
    inside = (out >= good.min(axis=0) - slack) & (out <= good.max(axis=0) + slack)
    if promise == "range" and not inside.all():
        return "it is not within the honest range"
    distance = np.linalg.norm(out - good.mean(axis=0))
    diameter = np.linalg.norm(good[:, None] - good[None], axis=2).max()
    if bound is not None and distance > bound * diameter + slack:
        return (
            f"it is {distance:.4g} from the honest mean, more than {bound:.4g} honest diameters of "
            f"{diameter:.4g}"
        )
    variance = np.mean(np.sum((good - good.mean(axis=0)) ** 2, axis=1))
    if kappa is not None and distance > math.sqrt(kappa * variance) + slack:
        return (
            f"its squared distance to the honest mean is {distance**2:.4g}, more than {kappa:.4g} "
            f"times their variance {variance:.4g}"
        )
    return ""
