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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/05_angular_error.ipynb)
#
# # The angular error of Aksel
#
# A descent step must make an angle of less than 90 degrees with the true gradient g. The error of a rule F is
# the vector F - g, and the theory of Byzantine-robust SGD bounds its length: if its expectation is
# shorter than g, the step stays in a cone around g. The abstract of the AKSEL paper says how the error of
# its rule grows with the number of coordinates d and of workers n. Here it is measured. These are our
# own experiments, not results of the paper. *Liars* are Byzantine workers.
#
# Takes 50 s on two cores of an AMD EPYC.

# %%
# Installs on Colab only. Elsewhere: as docs/start.md says, and pip install matplotlib ipywidgets
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

import byzjax
from byzjax import attacks, theory

trials = 10 if FAST else 100

# %% [markdown]
# ## The angle
#
# In two dimensions: honest gradients (blue) around the true one (the arrow), four liars (crosses) of the same
# draw, and the aggregates of two rules for 500 draws. The legend has the widest angle with g.

# %%
g = jnp.array([3.0, 1.0])
n, f = 11, 4
byzantine = jnp.arange(n) >= n - f
shown = {"mean": byzjax.mean, "aksel": partial(byzjax.aksel, f=f)}


def draw(epsilon=0.8):
    """The updates and the aggregates of 500 draws, with liars that send -epsilon times the honest mean."""
    lie = partial(attacks.inner_product_manipulation, epsilon=epsilon)
    x = g + jax.random.normal(jax.random.key(0), (500, n, 2))
    sent = jax.vmap(lambda x: lie(x, byzantine))(x)
    return sent, {name: np.asarray(jax.vmap(rule)(sent)) for name, rule in shown.items()}


def widest(out):
    """The widest angle with g, in degrees."""
    cosines = out @ np.asarray(g) / np.linalg.norm(out, axis=1) / np.linalg.norm(g)
    return np.degrees(np.arccos(cosines.clip(-1, 1).min()))


def panels(drawn):
    """A picture for each epsilon."""
    size = (4.2 * len(drawn), 4)
    _, axes = plt.subplots(1, len(drawn), figsize=size, layout="constrained", squeeze=False)
    for axis, (epsilon, (sent, aggregates)) in zip(axes[0], drawn.items()):
        axis.scatter(*np.asarray(sent[0][~byzantine]).T, s=12, color="tab:blue", label="honest")
        axis.plot(*np.asarray(sent[0][byzantine]).T, "kx", label="liars")
        for color, (name, out) in zip(("tab:orange", "tab:green"), aggregates.items()):
            label = f"{name}, widest angle {widest(out):.0f} degrees"
            axis.scatter(*out.T, s=8, color=color, alpha=0.4, label=label)
        axis.annotate("", np.asarray(g), (0, 0), arrowprops={"arrowstyle": "->", "lw": 2})
        axis.set(title=f"epsilon = {epsilon}")
        axis.set_aspect("equal", adjustable="datalim")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=8)
    plt.show()


drawn = {epsilon: draw(epsilon) for epsilon in (0.1, 0.8, 3.0)}
panels(drawn)
quiet, _, loud = (out for _, out in drawn.values())
assert widest(quiet["aksel"]) > 60 > 40 > widest(loud["aksel"])
assert widest(quiet["mean"]) < 40 < 150 < widest(loud["mean"])

try:
    from ipywidgets import interact
except ImportError:
    pass
else:

    @interact(epsilon=(-1.0, 5.0, 0.1))
    def look(epsilon=0.8):
        panels({epsilon: draw(epsilon)})


# %% [markdown]
# A small malicious update, which hides among the honest ones, turns Aksel farther than a large one, which Aksel
# discards: with eight keys, by 63 to 163 degrees at epsilon = 0.1, and by 23 to 34 at 3. The mean is only
# shortened, until epsilon exceeds (n - f) / f = 1.75; then it points the other way.
#
# ## It grows as the square root of d
#
# `theory.angular_error` draws honest gradients with independent coordinates of standard deviation sigma, applies
# an attack, and reports the mean length of F - g in units of sqrt(d) sigma, with a confidence interval. If the
# error grows as sqrt(d), that number does not depend on d.


# %%
def largest(updates, byzantine):
    """All liars send the largest honest value of every coordinate."""
    top = jnp.max(jnp.where(byzantine[:, None], -jnp.inf, updates), axis=0)
    return jnp.where(byzantine[:, None], top, updates)


def errors(rule, sizes, liars):
    """The error for each (n, d), with the ends of its interval."""
    found = []
    for n, d in sizes:
        f = liars(n)
        at = partial(rule, f=f) if rule is not byzjax.median else rule
        error = theory.angular_error(at, n=n, d=d, s=f, attack=largest, trials=trials).error
        found.append((error.value, error.low, error.high))
    return np.array(found).T


dims = (100, 1000) if FAST else (100, 1000, 10_000, 100_000)
for name, rule in {"aksel": byzjax.aksel, "median": byzjax.median}.items():
    value, low, high = errors(rule, [(11, d) for d in dims], lambda n: (n - 1) // 2)
    for d, v, a, b in zip(dims, value, low, high):
        print(f"{name:7s} n = 11, f = 5, d = {d:6d}: {v:.3f} [{a:.3f}, {b:.3f}]")
    assert max(value) < 1.1 * min(value)

# %% [markdown]
# ## With n: like sqrt(log n) at most, for Gaussian values
#
# At f = (n - 1) / 2, the largest possible number of liars, their point is the median, and the largest of m
# Gaussian values is about sqrt(2 ln m). With f = 0.2 n the honest workers have a large majority, and the error
# does not grow. Attackers who go beyond the median, as far as Aksel still selects them (`attacks.pushed`), double
# Aksel's error, but not its order.

# %%
found = {}
counts = (11,) if FAST else (5, 11, 25, 51, 101, 201)
d = 200 if FAST else 2000
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained", sharey=True)
titles = {"f = (n - 1) / 2": lambda n: (n - 1) // 2, "f = 0.2 n": lambda n: max(1, n // 5)}
for axis, (title, liars) in zip(axes, titles.items()):
    for name, rule in {"aksel": byzjax.aksel, "median": byzjax.median}.items():
        value, low, high = errors(rule, [(n, d) for n in counts], liars)
        found[title, name] = value
        color = {"aksel": "tab:green", "median": "tab:purple"}[name]
        interval = value - low, high - value
        axis.errorbar(counts, value, interval, marker="o", color=color, label=name)
    if liars(11) == 5:
        m = np.array([n - liars(n) for n in counts])
        axis.plot(counts, np.sqrt(2 * np.log(m)), "k:", label="sqrt(2 ln m), m = n - f")
    axis.set(title=title, xlabel="n", xscale="log", ylim=(0, None))
    axis.legend()
axes[0].set_ylabel("error in units of sqrt(d) sigma")
plt.show()
for (title, name), value in found.items():
    most = np.sqrt(2 * np.log(m)) if "/" in title else 1.1 * value[0]
    assert (value < most).all(), (title, name)

# %% [markdown]
# ## The cost when all workers are honest
#
# The squared error relative to that of the mean, on Gaussian and on skewed coordinates. On Gaussian noise Aksel's
# default form costs more than the median, and its form with the n - f nearest costs less; on skewed coordinates both
# cost less. Following one update, as Krum does, always costs most.

# %%
n, f = 25, 5
compared = {
    "aksel": partial(byzjax.aksel, f=f),
    "aksel, n-f": partial(byzjax.aksel, f=f, mode="n-f"),
    "median": byzjax.median,
    "krum": partial(byzjax.krum, f=f),
}
if FAST:
    compared.pop("krum")
cost = {}
for title in ("gaussian", "exponential"):
    for name, rule in compared.items():
        ratio = theory.efficiency(
            rule, n=n, d=500, distribution=getattr(theory, title), trials=trials
        )
        cost[title, name] = ratio.value
        print(f"{title:12s} {name:12s} {ratio.value:6.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
assert 1.1 * cost["gaussian", "median"] < cost["gaussian", "aksel"]
if not FAST:
    for title in ("gaussian", "exponential"):
        others = [cost[title, name] for name in compared if name != "krum"]
        assert cost[title, "krum"] > 2 * max(others)
for title, name in (
    ("gaussian", "aksel, n-f"),
    ("exponential", "aksel"),
    ("exponential", "aksel, n-f"),
):
    assert cost[title, name] < 0.9 * cost[title, "median"]

# %% [markdown]
# ## Proofs and searches
#
# A rule is (f, kappa)-robust if its squared error is at most kappa times the variance, for *any* rows. A gradient
# search through the rule looks for the worst rows: its result is a lower bound.

# %%
for n, f in ((5, 1),) if FAST else ((5, 1), (7, 2), (7, 3)):
    rule = partial(byzjax.aksel, f=f, mode="n-f")
    restarts, steps = (4, 100) if FAST else (50, 1000)
    found = theory.kappa_search(rule, n=n, f=f, restarts=restarts, steps=steps).kappa
    bound = theory.proved("kappa", "aksel", n, f, mode="n-f")
    least = theory.lower_bound("kappa", n, f)
    print(f"n = {n}, f = {f}: no rule below {least:.2f}; found {found:.2f}, proved {bound:.2f}")
    assert found <= bound * (1 + 1e-9)

# %% [markdown]
# ## Exercises
#
# * Replace `largest` with an attack of `byzjax.attacks`. Which one, besides `pushed`, does more to Aksel?
# * `theory.sparse` and `theory.heavy_tailed` are other distributions of coordinates.
# * All rules, all pairs of n and d: `python -m experiments theory` in the laboratory.
