"""Local training: steps of gradient descent, by the library that the node is configured for."""

from collections.abc import Callable

import numpy as np

Arrays = dict[str, np.ndarray]
STEPS, RATE = 20, 0.5


def with_jax(arrays: Arrays, x: np.ndarray, y: np.ndarray) -> Arrays:
    import jax
    import optax

    def loss(params):
        logits = x @ params["w"] + params["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(_, params):
        return jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(loss)(params))

    trained = jax.jit(lambda params: jax.lax.fori_loop(0, STEPS, step, params))(arrays)
    return {name: np.asarray(leaf) for name, leaf in trained.items()}


def with_torch(arrays: Arrays, x: np.ndarray, y: np.ndarray) -> Arrays:
    import torch

    params = {name: torch.tensor(leaf, requires_grad=True) for name, leaf in arrays.items()}
    optimizer = torch.optim.SGD(params.values(), lr=RATE)
    data, labels = torch.tensor(x), torch.tensor(y, dtype=torch.long)
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits = data @ params["w"] + params["b"]
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    return {name: leaf.detach().numpy() for name, leaf in params.items()}


def with_numpy(arrays: Arrays, x: np.ndarray, y: np.ndarray) -> Arrays:
    """The same without either, for tests with many processes."""
    w, b = arrays["w"], arrays["b"]
    for _ in range(STEPS):
        logits = x @ w + b
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        shares[np.arange(len(y)), y] -= 1
        w = w - RATE * (x.T @ shares / len(y)).astype(np.float32)
        b = b - RATE * shares.mean(0).astype(np.float32)
    return {"w": w, "b": b}


LIBRARIES: dict[str, Callable[[Arrays, np.ndarray, np.ndarray], Arrays]] = {
    "jax": with_jax,
    "torch": with_torch,
    "numpy": with_numpy,
}
