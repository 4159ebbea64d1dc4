# ---
# jupyter:
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
# here: they may send anything. You will see the mean fail, robust rules hold, and an attack that looks
# harmless do the most harm to robust rules.

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
n, f = 25, 11  # workers, and how many liars the defence is to tolerate
steps = 60 if FAST else 300
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
    """The test accuracy after each step, with s liars."""
    byzantine = jnp.arange(n) < s
    tx = optax.chain(
        byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=n),
        byzjax.attack(attack, byzantine),
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

    start = init(jax.random.key(0))
    return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(jax.random.key(1), steps))[
        1
    ]


# %% [markdown]
# ## Four rules, three attacks
#
# * `sign_flip`: each liar sends the negative of its honest update.
# * `little_is_enough`: all liars send the honest mean minus a small multiple of the honest standard deviation,
#   small enough to look like the other updates.
# * `inner_product_manipulation`: all liars send the honest mean, negated and scaled down, and so sit in the
#   middle of the honest updates.

# %%
rules = {
    "mean": byzjax.mean,
    "median": byzjax.median,
    "aksel": partial(byzjax.aksel, f=f),
    "krum": partial(byzjax.krum, f=f),
}
lies = {
    "sign_flip": attacks.sign_flip,
    "inner_product_manipulation": partial(attacks.inner_product_manipulation, epsilon=0.5),
    "little_is_enough": partial(attacks.little_is_enough, f=f),
}
if FAST:
    rules.pop("krum")
    lies.pop("little_is_enough")

# %% [markdown]
# ## All workers are honest
#
# Then the mean is the best choice, and a defence should cost little.

# %%
for name, rule in rules.items():
    print(f"{name:7s} {train(rule, attacks.sign_flip, s=0)[-1]:.3f}")

# %% [markdown]
# ## Eleven of twenty-five are liars

# %%
curves = {(a, r): train(rules[r], lies[a], s=f) for a in lies for r in rules}

figure, axes = plt.subplots(1, len(lies), figsize=(13, 3.4), sharey=True, layout="constrained")
for axis, attack in zip(axes, lies):
    for rule in rules:
        axis.plot(curves[attack, rule], label=rule)
    axis.set(title=attack, xlabel="step", ylim=(0, 1))
axes[0].set_ylabel("test accuracy")
axes[-1].legend()
plt.show()

# %%
print(f"{'':8s}" + "".join(f"{attack:>30s}" for attack in lies))
for rule in rules:
    print(f"{rule:8s}" + "".join(f"{curves[attack, rule][-1]:30.3f}" for attack in lies))

# %% [markdown]
# No rule wins everywhere. Rules that select whole updates, such as Krum and Aksel, discard flipped gradients
# but select liars in the middle as the most typical workers; the median limits how far such liars move it.
#
# ## Exercises
#
# * Use only 3 liars, `s=3`, and see which differences remain.
# * Put `byzjax.mix(byzjax.nearest_neighbors, f=f)` between the attack and the rule.
# * Give `attacks.strongest` or `attacks.gradient_attack` the rule, and see what liars do who know it:
#   [the next notebook](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/02_attacks_and_defences.ipynb).
