"""A language model beside PyTorch: `python -m benchmarks.language_model`, and `--write docs`.

Steps per second of one training loop: 16 workers with a batch of 8 windows of 64 characters each,
`gpt_nano`, worker momentum of 0.9, a trimmed mean with f = 3, SGD; batches are drawn in each step,
nobody attacks. Ours is the laboratory's compiled scan over five steps. PyTorch has the same model
as a function of its parameters, in four forms: the gradients of one worker after another or of all
under `torch.func.vmap`, eager or by `torch.compile`. Before anything is timed, all forms must give
the gradients of ours. Compilation is not counted.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import peers, timing, training
from benchmarks.pages import environment, markdown, write_csv, written
from benchmarks.rules import claim
from byzjax._program import Parser
from experiments.data import datasets, language
from experiments.execution import sweep
from experiments.grid.config import Config
from experiments.models.language import MODELS

N, F, WINDOWS, STEPS = 16, 3, 8, 5
RATE, MOMENTUM = 0.1, 0.9
GOAL = 2.0
MODEL = "gpt_nano"
torch = peers.torch


def config() -> Config:
    """Our run."""
    return Config(
        dataset="tiny_shakespeare",
        model=MODEL,
        rule=("trimmed_mean",),
        attack=("none",),
        n=N,
        f=F,
        s=(0,),
        seeds=1,
        steps=10_000,
        eval_every=STEPS,
        batch_size=WINDOWS,
        learning_rate=RATE,
        momentum=MOMENTUM,
    )


def made_up() -> datasets.Dataset:
    """Random characters, as many different ones as tiny_shakespeare has."""
    characters = np.frombuffer(datasets.OUTLINES["tiny_shakespeare"].vocabulary.encode(), np.uint8)
    text = np.random.default_rng(0).permutation(np.resize(characters, 100_001)).tobytes()
    return datasets.of_text("tiny_shakespeare", language.arrays(text, text[:10_001]))


def named(params: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree of parameters by their paths, `block0.qkv.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {".".join(str(key.key) for key in path): np.array(leaf) for path, leaf in leaves}


def fused(q: Any, k: Any, v: Any) -> Any:
    """Causal attention by PyTorch's own kernel."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def by_products(q: Any, k: Any, v: Any) -> Any:
    """Causal attention by two products: under vmap the kernel takes one worker at a time."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    past = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return scores.masked_fill(~past, -torch.inf).softmax(-1) @ v


def loss(p: dict[str, Any], x: Any, y: Any, attention: Callable = fused) -> Any:
    """The model's mean cross entropy in PyTorch; `p` has the names of `named`."""
    f, shape = torch.nn.functional, MODELS[MODEL]
    width, heads = shape.width, shape.heads

    def norm(h: Any, name: str) -> Any:
        return f.rms_norm(h, (width,), p[f"{name}.scale"], eps=1e-6)

    h = p["tokens"][x] + p["positions"]
    b, length, _ = h.shape
    for i in range(shape.layers):
        block = f"block{i}"
        qkv = norm(h, f"{block}.norm1") @ p[f"{block}.qkv.kernel"]
        qkv = qkv.reshape(b, length, 3, heads, width // heads)
        q, k, v = (qkv[:, :, j].transpose(1, 2) for j in range(3))
        mixed = attention(q, k, v).transpose(1, 2).reshape(b, length, width)
        h = h + mixed @ p[f"{block}.out.kernel"]
        up = f.gelu(norm(h, f"{block}.norm2") @ p[f"{block}.up.kernel"], approximate="tanh")
        h = h + up @ p[f"{block}.down.kernel"]
    logits = norm(h, "norm") @ p["tokens"].T
    return f.cross_entropy(logits.reshape(b * length, -1), y.reshape(-1))


def one_by_one(function: Callable) -> Callable:
    """The stacked gradients `[n, d]` of one worker after another."""

    def gradients(p: dict[str, Any], x: Any, y: Any) -> Any:
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in p.items()}
        rows = []
        for mine, labels in zip(x, y):
            grads = torch.autograd.grad(function(leaves, mine, labels), list(leaves.values()))
            rows.append(torch.cat([g.reshape(-1) for g in grads]))
        return torch.stack(rows)

    return gradients


def all_at_once(function: Callable) -> Callable:
    """The stacked gradients `[n, d]` under vmap."""
    mapped = torch.func.vmap(torch.func.grad(function), in_dims=(None, 0, 0))

    def gradients(p: dict[str, Any], x: Any, y: Any) -> Any:
        grads = mapped(p, x, y)
        return torch.cat([g.reshape(len(x), -1) for g in grads.values()], dim=1)

    return gradients


def forms() -> dict[str, Callable]:
    """The gradients in PyTorch, by name."""
    mapped = all_at_once(functools.partial(loss, attention=by_products))
    return {
        "PyTorch": one_by_one(loss),
        "PyTorch, torch.compile": one_by_one(torch.compile(loss)),
        "PyTorch, vmap": mapped,
        "PyTorch, vmap and torch.compile": torch.compile(mapped),
    }


class Loop:
    """The training loop in PyTorch, which continues with each call.

    Args:
      start: the initial parameters, by name.
      gradients: `gradients(p, x, y) -> [n, d]`.
      dataset: the windows, which all workers share.
    """

    def __init__(self, start: dict[str, np.ndarray], gradients: Callable, dataset: Any):
        flat = np.concatenate([leaf.ravel() for leaf in start.values()])
        self.theta, self.gradients = torch.from_numpy(flat), gradients
        self.params, place = {}, 0
        for name, leaf in start.items():  # views of the one vector
            self.params[name] = self.theta[place : place + leaf.size].view(leaf.shape)
            place += leaf.size
        self.momenta = torch.zeros(N, place)
        self.x, self.y = (torch.from_numpy(a).long() for a in (dataset.train_x, dataset.train_y))
        trimmed = peers.trimmed_means({"[n, d]": (self.momenta, 0)}, F)
        self.trimmed = min(trimmed.values(), key=timing.once)

    def __call__(self) -> Any:
        """As many steps as our scan."""
        for _ in range(STEPS):
            chosen = torch.randint(len(self.x), (N, WINDOWS))
            gradients = self.gradients(self.params, self.x[chosen], self.y[chosen])
            self.momenta.mul_(MOMENTUM).add_(gradients, alpha=1 - MOMENTUM)
            self.theta.add_(self.trimmed(), alpha=-RATE)
        return self.theta


def check(start: Any, model: Any, dataset: datasets.Dataset, ways: dict[str, Callable]) -> None:
    """Raises unless all forms give our gradients, to a ten-thousandth of their norm."""
    x, y = (a[: 2 * WINDOWS].reshape(2, WINDOWS, -1) for a in (dataset.train_x, dataset.train_y))
    rows = []
    for mine, labels in zip(x, y):
        grads = named(jax.grad(model.loss)(start, {"x": mine, "y": labels}))
        rows.append(np.concatenate([leaf.ravel() for leaf in grads.values()]))
    expected = np.stack(rows)
    tensors = {name: torch.from_numpy(leaf) for name, leaf in named(start).items()}
    for name, gradients in ways.items():
        out = gradients(tensors, *(torch.from_numpy(a).long() for a in (x, y))).numpy()
        error = np.linalg.norm(out - expected) / np.linalg.norm(expected)
        if not error < 1e-4:
            raise RuntimeError(f"{name} has other gradients than the laboratory: {error:.1e}.")


def measure(rounds: int) -> list[dict[str, Any]]:
    """Steps per second of each form."""
    dataset, mine = made_up(), config()
    model = sweep.model_of(mine, dataset)
    start, ways = model.init(jax.random.key(0)), forms()
    check(start, model, dataset, ways)
    calls: dict[str, Callable] = {"byzjax": training.advancing(mine, dataset)}
    calls |= {name: Loop(named(start), form, dataset) for name, form in ways.items()}
    seconds = timing.take_turns(calls, rounds)
    return [
        {
            "loop": name,
            "ms a step": 1e3 * taken / STEPS,
            "steps/s": STEPS / taken,
            "times as fast as it": taken / seconds["byzjax"],
        }
        for name, taken in seconds.items()
    ]


def goals(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether the goal is reached, against the fastest form of PyTorch."""
    best = min(row["times as fast as it"] for row in table[1:])
    what = f"{MODEL}, {N} workers: steps of byzjax over those of the fastest form of PyTorch"
    return [claim(what, best, f">= {GOAL}", best >= GOAL)]


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default 9)")
    parser.add_argument("--write", type=pathlib.Path, help="folder of throughput.md")
    options = parser.parse_args()
    if torch is None:
        parser.error("PyTorch is not installed: pip install 'byzjax[benchmarks]'.")
    before = os.getloadavg()[0]
    table = measure(options.rounds)
    tables = f"{markdown(table)}\n\n{markdown(goals(table))}"
    text = f"{environment()}; load before {before:.1f}\n\n{tables}"
    print(text)
    if options.write:
        write_csv(options.write / "benchmarks", {"language_model": table})
        page = options.write / "throughput.md"
        page.write_text(written(page.read_text(), "language model", text))


if __name__ == "__main__":
    main()
