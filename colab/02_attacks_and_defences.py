# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/02_attacks_and_defences.ipynb)
#
# # Attacks and defences: see a rule break
#
# Updates have millions of coordinates; here they have two, so that they can be drawn. Blue points are the
# updates of honest workers, red crosses those of *liars*, the Byzantine workers, and each rule's aggregate has
# its own marker. The black plus is the honest mean, which the server wants to estimate.

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
from byzjax import attacks

n, f = 12, 4
byzantine = jnp.arange(n) >= n - f
key = jax.random.key(3)
updates = jnp.array([2.0, 1.0]) + jax.random.normal(key, (n, 2)) * jnp.array([1.2, 0.6])
honest = updates[~byzantine]
rules = {
    "mean": byzjax.mean,
    "median": byzjax.median,
    "trimmed_mean": partial(byzjax.trimmed_mean, f=f),
    "geometric_median": byzjax.geometric_median,
    "krum": partial(byzjax.krum, f=f),
    "aksel": partial(byzjax.aksel, f=f),
}
all_of_them = jax.jit(lambda sent: [rule(sent) for rule in rules.values()])


def aggregates(sent):
    """What each rule makes of it, by name."""
    return dict(zip(rules, all_of_them(sent)))


# %% [markdown]
# ## One picture


# %%
def draw(axis, sent, title=""):
    """Who sent what, and what each rule makes of it."""
    axis.scatter(*np.asarray(honest).T, color="tab:blue", s=18, label="honest")
    axis.scatter(*np.asarray(sent[byzantine]).T, color="tab:red", marker="x", label="liars")
    axis.plot(*np.asarray(honest.mean(axis=0)), "k+", ms=14, mew=2, label="honest mean")
    looks = zip("os^Dv*", ("white", "violet", "brown", "orange", "limegreen", "cyan"))
    for (name, point), (marker, color) in zip(aggregates(sent).items(), looks):
        axis.plot(*np.asarray(point), marker, color=color, ms=8, mec="k", alpha=0.9, label=name)
    axis.set(title=title, xlim=(-4, 6), ylim=(-3, 4), aspect="equal")


def panels(sent):
    """A picture for each attack, with one legend."""
    size = (4.5 * len(sent) + 2, 3.6)
    figure, axes = plt.subplots(1, len(sent), figsize=size, layout="constrained")
    for axis, (title, rows) in zip(np.atleast_1d(axes), sent.items()):
        draw(axis, rows, title)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper")
    plt.show()


panels({"nobody lies yet": updates})

# %% [markdown]
# ## Loud attacks
#
# A liar that sends something far away moves the mean, and no robust rule: they were designed for this.

# %%
panels(
    {
        "reversed_gradient": attacks.reversed_gradient(updates, byzantine, kappa=3.0),
        "gaussian": attacks.gaussian(updates, byzantine, key=key, sigma=20.0),
        "non_finite": attacks.non_finite(updates, byzantine),
    }
)

# %% [markdown]
# With NaN from one worker the mean is NaN, and is not drawn. A row that is not finite is ordinary input for
# the other rules: that worker is far away.
#
# ## Quiet attacks
#
# The liars agree on one point *inside* the cloud. It looks more typical than most honest updates, so rules
# that look for typical updates select it.

# %%
quiet = {
    f"inner product, epsilon = {epsilon}": attacks.inner_product_manipulation(
        updates, byzantine, epsilon=epsilon
    )
    for epsilon in (-0.5, 0.1, 0.5)
}
panels(quiet)

# %% [markdown]
# What matters for training is the direction: an aggregate whose inner product with the honest mean is negative
# is a step uphill.

# %%
for title, sent in quiet.items():
    products = {k: float(v @ honest.mean(axis=0)) for k, v in aggregates(sent).items()}
    print(title, {k: round(v, 2) for k, v in products.items()})

# %% [markdown]
# Move it yourself: the liars send -`epsilon` times the honest mean, rotated by `angle`.
# (Without widgets, three positions are drawn.)


# %%
def turned(epsilon=0.5, angle=0.0):
    """All liars send the honest mean, rotated by an angle and scaled."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    lie = -epsilon * jnp.array([[c, -s], [s, c]]) @ honest.mean(axis=0)
    panels({f"epsilon = {epsilon}, angle = {angle}": jnp.where(byzantine[:, None], lie, updates)})


try:
    from ipywidgets import interact
except ImportError:
    for epsilon, angle in ((0.5, 0.0), (1.0, 60.0), (2.0, 120.0)):
        turned(epsilon, angle)
else:
    interact(turned, epsilon=(-1.0, 3.0, 0.1), angle=(-180.0, 180.0, 10.0))

# %% [markdown]
# ## A white-box attack
#
# Every rule here has a derivative. So a liar that knows the rule can compute in which direction its row
# moves the aggregate away from the honest mean, take a step, and repeat. The grey level is the damage if all
# liars send that point; the red line is gradient ascent *through the rule*; the
# star is the result of `attacks.gradient_attack`, which ascends from many starts, with a separate row per liar.


# %%
def together(point):
    """All liars send one point."""
    return jnp.where(byzantine[:, None], point, updates)


def climb(rule, start, steps=40, length=0.15):
    """Points along the gradient of the damage, and the damage at points of a grid."""

    def damage(point):
        return jnp.linalg.norm(rule(together(point)) - honest.mean(axis=0))

    def step(point, _):
        slope = jax.grad(damage)(point)
        slope = slope / jnp.maximum(jnp.linalg.norm(slope), 1e-9)
        return point + length * slope, point

    grid = jnp.stack(jnp.meshgrid(jnp.linspace(-4, 6, 61), jnp.linspace(-3, 4, 43)), axis=-1)
    return jax.lax.scan(step, start, length=steps)[1], jax.lax.map(jax.vmap(damage), grid)


chosen = ("aksel",) if FAST else ("median", "geometric_median", "krum", "aksel")
figure, axes = plt.subplots(
    1, len(chosen), figsize=(4.5 * len(chosen), 3.8), layout="constrained", squeeze=False
)
for axis, name in zip(axes[0], chosen):
    path, values = jax.jit(partial(climb, rules[name]))(jnp.array([1.2, 1.4]))
    sent = jax.jit(partial(attacks.gradient_attack, rule=rules[name], steps=20 if FAST else 100))(
        updates, byzantine
    )
    image = axis.imshow(values, origin="lower", extent=(-4, 6, -3, 4), cmap="Greys", aspect="equal")
    axis.scatter(*np.asarray(honest).T, color="tab:blue", s=18)
    axis.plot(*np.asarray(path).T, "-", color="tab:red", lw=2)
    axis.plot(*np.asarray(sent[byzantine]).T, "*", color="tab:red", ms=12, mec="k")
    axis.plot(*np.asarray(rules[name](sent)), "o", color="gold", mec="k", ms=9)
    axis.set(title=name, xlim=(-4, 6), ylim=(-3, 4))
figure.colorbar(image, ax=axes, label="damage if all liars send this point")
plt.show()

# %% [markdown]
# At an edge in the grey, a rule that selects whole updates stops selecting the liars: one step further out
# they are discarded. The best attack is just inside that edge. Where the damage is flat its gradient is zero,
# which is why `gradient_attack` also takes random steps and steps outward.
#
# ## Attacks and rules compared
#
# The distance of each aggregate to the honest mean, for each attack. Each row is a rule; its largest entry is
# its worst case among these attacks.

# %%
listed = {
    "sign_flip": attacks.sign_flip,
    "little_is_enough": partial(attacks.little_is_enough, f=f),
    "inner_product": attacks.inner_product_manipulation,
    "min_max": attacks.min_max,
}
print(f"{'':18s}" + "".join(f"{name:>18s}" for name in listed))
table = {name: aggregates(attack(updates, byzantine)) for name, attack in listed.items()}
for rule in rules:
    away = [float(jnp.linalg.norm(table[name][rule] - honest.mean(axis=0))) for name in listed]
    print(f"{rule:18s}" + "".join(f"{value:18.2f}" for value in away))

# %% [markdown]
# ## Exercises
#
# * Raise `f` to 5: Krum raises an error, since it needs n >= 2f + 3. What do the others do?
# * Apply `byzjax.nearest_neighbors(sent, f=f)` before a rule and draw it again.
# * Write a rule that survives:
#   [the next notebook](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/03_write_your_own_rule.ipynb).
