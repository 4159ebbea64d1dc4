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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/01_quickstart.ipynb)
#
# # Train under attack, in five minutes
#
# Twenty-five workers train a small network on images of digits. Some are *Byzantine workers*, called *liars*
# here: they may send anything. You will see the mean fail where robust rules hold, and at the end what else
# may happen.
#
# Takes 48 s on two cores of an AMD EPYC.

# %%
# Installs on Colab only. Elsewhere: as docs/start.md says, and pip install matplotlib scikit-learn
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
from sklearn.datasets import load_digits

import byzjax
from byzjax import attacks

print(jax.devices())

# %% [markdown]
# ## Data, model, workers
#
# 1,797 real images of 8 x 8 pixels. Each worker has its own share of them, drawn at random. The model is a
# perceptron with 64 hidden units, in plain JAX: byzjax works with models of any library.

# %%
n, f = 25, 5  # workers, and how many liars the defence is to tolerate
steps = 60 if FAST else 150
seeds = jnp.arange(2 if FAST else 3)
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(images))
x, y = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
test_x, test_y = x[1425:], y[1425:]
x, y = x[:1425].reshape(n, 57, 64), y[:1425].reshape(n, 57)  # 57 images a worker


def init(key):
    a, b = jax.random.split(key)
    hidden, out = jax.random.normal(a, (64, 64)) / 8, jax.random.normal(b, (64, 10)) / 8
    return {"hidden": hidden, "out": out, "bias": jnp.zeros(64)}


def logits(params, x):
    return jax.nn.relu(x @ params["hidden"] + params["bias"]) @ params["out"]


def loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


# %% [markdown]
# ## One chain
#
# The gradients of all workers are one tree whose leaves have a leading axis of length n: *stacked updates*.
# The optimizer is an optax chain, in order: each worker keeps a momentum; the liars see what
# the others are about to send and replace their own updates; the server aggregates and takes a step.


# %%
@partial(jax.jit, static_argnames=("rule", "attack"))
def train(rule, attack, s):
    """The test accuracy after each step with s liars, `[seeds, steps]`."""
    tx = optax.chain(
        byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=n),
        byzjax.attack(attack, byzantine=jnp.arange(n) < s),
        byzjax.aggregate(rule),
        optax.sgd(0.3),
    )

    def step(carry, key):
        params, state = carry
        chosen = jax.random.randint(key, (n, 16), 0, 57)  # a batch of 16 for each worker
        batch = jax.vmap(lambda x, y, i: (x[i], y[i]))(x, y, chosen)
        grads = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, *batch)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.mean(jnp.argmax(logits(params, test_x), axis=1) == test_y)

    def run(seed):
        first, later = jax.random.split(jax.random.key(seed))
        start = init(first)
        return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(later, steps))[1]

    return jax.lax.map(run, seeds)


# %% [markdown]
# ## Four rules, three attacks
#
# * `reversed_gradient`: each liar sends its honest update times -3.
# * `inner_product_manipulation`: all liars send the honest mean times -5.
# * `non_finite`: the liars send NaN, as a broken machine might.

# %%
rules = {
    "mean": byzjax.mean,
    "median": byzjax.median,
    "aksel": partial(byzjax.aksel, f=f),
    "krum": partial(byzjax.krum, f=f),
}
lies = {
    "reversed_gradient": partial(attacks.reversed_gradient, kappa=3.0),
    "inner_product_manipulation": partial(attacks.inner_product_manipulation, epsilon=5.0),
    "non_finite": attacks.non_finite,
}
if FAST:
    rules.pop("median"), rules.pop("krum"), lies.pop("non_finite")

# %% [markdown]
# ## All workers are honest
#
# Then the mean is the natural choice, and a defence should cost little. Krum, which follows a single worker,
# costs most. Here and below, numbers are the test accuracy over the last quarter of the steps, with the lowest
# and the highest of the seeds.


# %%
def final(curves):
    """The accuracy at the end, for each seed."""
    return np.asarray(curves[:, -steps // 4 :].mean(axis=1))


def show(name, values):
    print(f"{name:38s} {values.mean():.2f}  [{values.min():.2f}, {values.max():.2f}]")


honest = {name: final(train(rule, lies["reversed_gradient"], s=0)) for name, rule in rules.items()}
for name in rules:
    show(name, honest[name])

# %% [markdown]
# ## Five of twenty-five are liars
#
# Lines are averages over the seeds; the bands reach from the lowest seed to the highest.

# %%
curves = {(a, r): train(rules[r], lies[a], s=f) for a in lies for r in rules}

figure, axes = plt.subplots(1, len(lies), figsize=(13, 3.4), sharey=True, layout="constrained")
for axis, attack in zip(axes, lies):
    for rule in rules:
        seen = np.asarray(curves[attack, rule])
        axis.plot(seen.mean(axis=0), label=rule)
        axis.fill_between(range(steps), seen.min(axis=0), seen.max(axis=0), alpha=0.2)
    axis.set(title=attack, xlabel="step", ylim=(0, 1))
axes[0].set_ylabel("test accuracy")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
plt.show()

# %% [markdown]
# The mean loses under each attack: it learns slowly, nothing, or becomes NaN at the first step. Each robust rule
# stays close to what it reaches without liars. The next cell checks both, for every seed.

# %%
for attack, rule in curves:
    show(f"{attack}, {rule}", final(curves[attack, rule]))
    lost = honest[rule] - final(curves[attack, rule])
    assert lost.min() > 0.25 if rule == "mean" else lost.max() < 0.1, (attack, rule, lost)

# %% [markdown]
# ## What else may happen
#
# Eleven liars are the most that can be tolerated among twenty-five. They now whisper: all send the honest mean
# times -0.5, a point in the middle of the honest updates.

# %%
f = 11
whisper = partial(attacks.inner_product_manipulation, epsilon=0.5)
rules = {"mean": byzjax.mean, "krum": partial(byzjax.krum, f=f)}
if not FAST:
    rules["median"] = byzjax.median
whispered = {name: final(train(rule, whisper, s=f)) for name, rule in rules.items()}
for name, values in whispered.items():
    show(name, values)
assert whispered["mean"].min() > whispered["krum"].max() + 0.25

# %% [markdown]
# Such short updates hardly move the mean, which is best here. Krum selects a liar as the most typical worker and
# learns nothing; the median limits how far the liars move it. No rule wins everywhere, so try several
# attacks, several numbers of liars and several seeds before you trust one.
#
# ## Exercises
#
# * Use `attacks.sign_flip`, each liar's honest update times -1, in the first comparison: five such liars do
#   little harm to the mean, eleven (`s=11`, and `f=11` in the rules) do.
# * Use `partial(attacks.little_is_enough, f=11)` in the last one, and plot the curves.
# * Put `byzjax.mix(byzjax.nearest_neighbors, f=f)` between the attack and the rule.
# * Give `attacks.strongest` or `attacks.gradient_attack` the rule, and see what liars do who know it:
#   [the next notebook](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/02_attacks_and_defences.ipynb).
