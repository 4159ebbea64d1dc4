# ---
# jupyter:
#   jupytext:
#     notebook_metadata_filter: kernelspec
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/03_write_your_own_rule.ipynb)
#
# # Write your own rule
#
# A rule is a function from *stacked updates* to one update. You will write one in six lines, test its
# contract, see it fail, fix it, train with it, and find its worst case. *Liars* are Byzantine workers: they
# may send anything.
#
# Takes 26 s on two cores of an AMD EPYC.

# %%
# Installs on Colab only. Elsewhere: as docs/start.md says, and pip install matplotlib
import os
import subprocess
import sys

REPOSITORY = "https://github.com/byzjax/byzjax"
if "google.colab" in sys.modules:
    command = [sys.executable, "-m", "pip", "install", "-q", f"byzjax @ git+{REPOSITORY}"]
    subprocess.check_call(command)
FAST = bool(os.environ.get("BYZJAX_FAST"))  # a short form, for tests

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import byzjax
from byzjax import attacks, scores, stacked
from byzjax.facts import Facts
from byzjax.testing import check_rule

# %% [markdown]
# ## Stacked updates
#
# The updates of n workers are one tree, whose every leaf has a leading axis of length n. `byzjax.stacked` treats
# row i of all leaves together as one vector, without concatenating them.

# %%
updates = {"w": jax.random.normal(jax.random.key(0), (7, 3, 2)), "b": jnp.zeros((7, 2))}
print(stacked.num_workers(updates), stacked.squared_norms(updates).round(1))

# %% [markdown]
# ## A first try
#
# Average the updates nearest to the mean of all.


# %%
def first_try(updates, *, f, axis_name=None):
    """The mean of the n - f updates nearest to the mean."""
    n, f = byzjax.enough_workers("first_try", updates, f, needs=(2, 1))
    center = byzjax.mean(updates)
    distances = stacked.squared_distances(updates, center, axis_name=axis_name)
    return stacked.mean_selected(updates, scores.lowest(distances, n - f))


# %% [markdown]
# We claim that it needs n >= 2f + 1 workers, costs O(nd), and that f liars cannot move it farther
# from the honest mean than a constant times the honest diameter. `check_rule` tests this, and what holds
# for every rule: order, shift, scale, trees, dtypes, `jit`, `vmap`, derivatives, platforms, errors.


# %%
def bound(n, f):
    return 1 + 2 * (n - f) ** 0.5


facts = Facts("rule", (2, 1), "nd", "n > 2f", True, "bounded", "")
try:
    check_rule(first_try, facts, bound=bound)
except AssertionError as error:
    print(error)
else:
    raise RuntimeError("the first try was expected to fail")

# %% [markdown]
# The mean is not robust: one NaN makes it NaN, then all distances are infinite, and the first n - f updates
# are selected, including the liar's.
#
# ## Fixed: start from a robust centre


# %%
def nearest(updates, *, f, axis_name=None):
    """The mean of the n - f updates nearest to the trimmed mean."""
    n, f = byzjax.enough_workers("nearest", updates, f, needs=(2, 1))
    center = byzjax.trimmed_mean(updates, f=f)
    distances = stacked.squared_distances(updates, center, axis_name=axis_name)
    return stacked.mean_selected(updates, scores.lowest(distances, n - f))


sizes = [(12, 5)] if FAST else None  # None: the fewest workers as well
for clause in check_rule(nearest, facts, bound=bound, sizes=sizes):
    print("held:", clause)

# %% [markdown]
# The trimmed mean of each coordinate lies within the honest range, so it is at most sqrt(n - f) honest
# diameters from the honest mean, and the averaged updates are no farther from it than the honest ones are.
# That is the constant above. What is claimed is what is tested.
#
# ## Train with it
#
# Linear regression with eleven workers, three of them liars. Under `reversed_gradient` they send -3 times their
# gradient. `distract` is written for your first try: one liar shouts, so that the other liars are nearest to
# the mean.

# %%
n, f = 11, 3
byzantine = jnp.arange(n) < f
truth = jnp.arange(1.0, 21.0) / 10
x = jax.random.normal(jax.random.key(1), (n, 40, 20))
y = x @ truth + jax.random.normal(jax.random.key(2), (n, 40))


def loss(params, x, y):
    return jnp.mean((x @ params - y) ** 2)


def distract(updates, byzantine):
    """Liar 0 sends -1000 times the honest mean, the other liars -10 times."""
    size = jnp.where(jnp.arange(n) == 0, 1000.0, 10.0)[:, None]
    mean = jnp.mean(updates, axis=0, where=~byzantine[:, None])
    return jnp.where(byzantine[:, None], -size * mean, updates)


@partial(jax.jit, static_argnames=("rule", "attack"))
def train(rule, attack):
    """The distance to the truth after each step."""
    tx = optax.chain(byzjax.attack(attack, byzantine), byzjax.aggregate(rule), optax.sgd(0.05))

    def step(carry, _):
        params, state = carry
        grads = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, x, y)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.linalg.norm(params - truth)

    start = jnp.zeros(20)
    return jax.lax.scan(step, (start, tx.init(start)), length=100)[1]


rules = {
    "mean": byzjax.mean,
    "first try": partial(first_try, f=f),
    "trimmed mean": partial(byzjax.trimmed_mean, f=f),
    "nearest (yours)": partial(nearest, f=f),
}
lies = {
    "reversed_gradient": partial(attacks.reversed_gradient, kappa=3.0),
    "distract": distract,
}
if FAST:
    lies.pop("reversed_gradient")
curves = {(a, r): np.asarray(train(rules[r], lies[a])) for a in lies for r in rules}
figure, axes = plt.subplots(
    1, len(lies), figsize=(5.5 * len(lies), 3.4), layout="constrained", squeeze=False
)
for axis, attack in zip(axes[0], lies):
    for rule, style in zip(rules, ("-", "-", "-", "--")):
        axis.semilogy(curves[attack, rule], style, label=rule, lw=2)
    axis.set(title=attack, xlabel="step", ylabel="distance to the truth", ylim=(0.1, 1e3))
axes[0, -1].legend()
plt.show()

for (attack, rule), distances in curves.items():
    print(f"{attack:18s} {rule:16s} {distances[-1]:.2g}")
    broken = rule == "mean" or (attack == "distract" and rule == "first try")
    assert not distances[-1] < 10 if broken else distances[-1] < 1
for attack in lies:
    assert curves[attack, "nearest (yours)"][-1] < 0.9 * curves[attack, "trimmed mean"][-1]

# %% [markdown]
# The mean diverges under both. The first try drops the reversed gradients, and its line lies under yours; distracted,
# it follows the liars. Your rule converges under both, and here, as for each of eight keys, ends nearest to the truth.
#
# What else may happen: try `partial(attacks.inner_product_manipulation, epsilon=1.0)`. With such quiet liars every
# rule converges, and the mean comes closest to the truth.
#
# ## Its worst case
#
# `attacks.gradient_attack` takes the rule and ascends the damage by its gradient through the rule: your rule
# has a derivative, so nothing else is needed. The unit is the error of the honest mean itself. The attack cannot
# exceed what we claimed, `bound` honest diameters.

# %%
updates = 0.3 + jax.random.normal(jax.random.key(4), (n, 100))
honest = np.asarray(updates[~byzantine], np.float64)
error = np.sqrt(np.sum((honest - honest.mean(axis=0)) ** 2) / (len(honest) * (len(honest) - 1)))
diameter = max(np.linalg.norm(a - b) for a in honest for b in honest)
worst = {}
for name in ("trimmed mean", "nearest (yours)"):
    search = partial(attacks.gradient_attack, rule=rules[name], steps=10 if FAST else 100)
    sent = jax.jit(search)(updates, byzantine)
    worst[name] = np.linalg.norm(np.asarray(rules[name](sent), np.float64) - honest.mean(axis=0))
    print(f"{name:16s} moved by {worst[name] / error:.1f} errors of the honest mean")
    assert worst[name] < bound(n, f) * diameter
assert worst["nearest (yours)"] > 1.05 * worst["trimmed mean"]

# %% [markdown]
# In training your rule was closer to the truth than the trimmed mean, while its worst case is farther away: it selects
# whole updates, and an attacker who knows it sends the farthest ones that are still selected.
#
# ## Exercises
#
# * Replace `byzjax.trimmed_mean` with `byzjax.geometric_median`. Does the contract still hold? What is its worst
#   case?
# * Average only half of the updates, `scores.lowest(distances, (n + 1) // 2)`: with the median as centre this
#   is Aksel.
# * Save your rule as `my_rules.py`, clone the repository, and get its tables, curves and report:
#   `python -m experiments --rule median my_rules:nearest`.
