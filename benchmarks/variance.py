"""Variance reduction under attack: `python -m benchmarks.variance`, and `--write docs`.

Logistic regression with weight decay on a convex data set, of which all 16 workers hold the same
400 samples; three workers are Byzantine, and the rule is Aksel with n - f rows. The table has the
excess f(x) - f* of the loss over its minimum, computed in float64, after the same number of passes
over the data: gradients of samples that a worker has computed, over 400. The step size is 1 / (2
L) for all methods, L the smoothness of the loss of the worst sample.
"""

import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import byzjax
from benchmarks.pages import environment, markdown, write_csv, written
from byzjax import attacks, protocols
from byzjax._program import Parser
from experiments.data import convex

N, F, M, PASSES, EVERY = 16, 3, 400, 40, 5
BATCH = 8
KEY = jax.random.key(0)


class Problem(NamedTuple):
    """Labels are -1 and 1; `best` is the minimum of the loss."""

    x: np.ndarray
    y: np.ndarray
    decay: float
    rate: float
    best: float


def loss_fn(params: jax.Array, batch: dict, key: Any = None, decay: float = 0.0) -> jax.Array:
    """The logistic loss with weight decay."""
    del key
    margins = batch["y"] * (batch["x"] @ params)
    return jnp.mean(jnp.logaddexp(0.0, -margins)) + decay / 2 * jnp.sum(params**2)


def exact_loss(params: np.ndarray, x: np.ndarray, y: np.ndarray, decay: float) -> float:
    """The same in float64."""
    params = np.asarray(params, np.float64)
    return np.mean(np.logaddexp(0.0, -y * (x @ params))) + decay / 2 * params @ params


def problem(name: str) -> Problem:
    """The first samples of a shuffled data set, features scaled to [-1, 1], a column of ones."""
    from sklearn.linear_model import LogisticRegression

    data = convex.read(name)
    rows = np.random.default_rng(0).permutation(len(data["train_y"]))[:M]
    x = np.asarray(data["train_x"][rows], np.float64)
    x = np.c_[x / np.maximum(np.abs(x).max(axis=0), 1e-9), np.ones(M)]
    y = 2.0 * data["train_y"][rows] - 1
    smooth = (x**2).sum(axis=1).max() / 4
    decay = 0.01 * smooth
    solver = LogisticRegression(
        C=1 / (decay * M), fit_intercept=False, tol=1e-13, max_iter=1000, solver="newton-cholesky"
    )
    best = exact_loss(solver.fit(x, y).coef_[0], x, y, decay)
    return Problem(x, y, decay, 1 / (2 * (smooth + decay)), best)


def methods() -> dict[str, tuple[protocols.Estimator, int, float]]:
    """The estimator, gradients of samples at the first step, and on average at the others."""
    p = BATCH / M
    return {
        "SGD": (protocols.storm(1.0, batch_size=BATCH), BATCH, BATCH),
        "STORM, a = 0.1": (protocols.storm(0.1, batch_size=BATCH), 2 * BATCH, 2 * BATCH),
        "MARINA": (protocols.marina(p, batch_size=BATCH), M, p * M + (1 - p) * 2 * BATCH),
        "SAGA": (protocols.saga(M), M + 1, 1),
    }


def lies() -> dict[str, Callable | None]:
    """Attacks by name."""
    return {
        "none": None,
        "sign_flip": attacks.sign_flip,
        "inner_product_manipulation(epsilon=0.5)": functools.partial(
            attacks.inner_product_manipulation, epsilon=0.5
        ),
        "little_is_enough(z=1)": functools.partial(attacks.little_is_enough, z=1.0),
    }


def excess(given: Problem, method: tuple, attack: Callable | None) -> list[float]:
    """The excess of the loss after every `EVERY` passes."""
    estimator, first, later = method
    byzantine = jnp.arange(N) < F
    server = protocols.variance_reduced(
        functools.partial(loss_fn, decay=given.decay),
        estimator=estimator,
        rule=byzjax.aggregate(byzjax.aksel, f=F, mode="n-f"),
        server=optax.sgd(given.rate),
        attack=None if attack is None else byzjax.attack(attack, byzantine),
        num_workers=N,
    )
    one = {"x": given.x.astype(np.float32), "y": given.y.astype(np.float32)}
    batch = {"workers": {k: jnp.broadcast_to(v, (N, *v.shape)) for k, v in one.items()}}

    @functools.partial(jax.jit, donate_argnums=0)
    def steps(state: Any, begin: jax.Array, end: jax.Array) -> Any:
        def step(k: jax.Array, state: Any) -> Any:
            return server.step(state, batch, jax.random.fold_in(KEY, k))[0]

        return jax.lax.fori_loop(begin, end, step, state)

    state, done, out = server.init(jnp.zeros(given.x.shape[1]), KEY), 0, []
    for passes in range(EVERY, PASSES + 1, EVERY):
        end = 1 + math.ceil((passes * M - first) / later)
        state, done = steps(state, done, end), end
        loss = exact_loss(state.params, given.x, given.y, given.decay)
        out.append(loss - given.best)
    return out


def measure(name: str) -> list[dict[str, Any]]:
    """One row for each attack and method."""
    given, rows = problem(name), []
    for lie, attack in lies().items():
        for label, method in methods().items():
            gaps = excess(given, method, attack)
            row: dict[str, Any] = {"data": name, "attack": lie, "method": label}
            row |= {
                f"{passes} passes": f"{gap:.0e}"
                for passes, gap in zip(range(EVERY, PASSES + 1, EVERY), gaps)
                if passes in (5, 10, 20, 40)
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["mushrooms", "a9a"], help="data sets")
    parser.add_argument("--write", type=pathlib.Path, help="folder of protocols.md, for its table")
    options = parser.parse_args()
    rows = [row for name in options.data for row in measure(name)]
    table = f"{environment()}\n\n{markdown(rows)}"
    print(table)
    if options.write:
        write_csv(options.write / "benchmarks", {"variance": rows})
        page = options.write / "protocols.md"
        page.write_text(written(page.read_text(), "variance", table))


if __name__ == "__main__":
    main()
