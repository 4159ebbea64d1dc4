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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/02_attacks_and_defences.ipynb)
#
# # Attacks and defences: see a rule break
#
# Updates have millions of coordinates; here they have two, so that they can be drawn. Blue points are the
# updates of honest workers, red crosses those of *liars*, the Byzantine workers, and each rule's aggregate has
# its own marker. The black plus is the honest mean, which the server wants to estimate. You will see that loud
# attacks break the mean only, that quiet attacks move robust rules farther than the mean, and how to find the
# quiet attack that suits a rule.
#
# Takes 37 s on two cores of an AMD EPYC.

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
colors = ("0.7", "violet", "saddlebrown", "tab:olive", "limegreen", "darkcyan")
looks = dict(zip(rules, zip("os^Dv*", colors)))


def draw(axis, sent, title=""):
    """Who sent what, and what each rule makes of it."""
    axis.scatter(*np.asarray(honest).T, color="tab:blue", s=18, label="honest")
    axis.plot(*np.asarray(honest.mean(axis=0)), "k+", ms=14, mew=2, label="honest mean")
    for name, point in aggregates(sent).items():
        marker, color = looks[name]
        axis.plot(*np.asarray(point), marker, color=color, ms=8, mec="k", alpha=0.9, label=name)
    axis.scatter(
        *np.asarray(sent[byzantine]).T, color="tab:red", marker="x", s=50, zorder=3, label="liars"
    )
    axis.set_title(title)
    axis.set_aspect("equal", adjustable="datalim")


def panels(sent):
    """A picture for each attack, with one legend."""
    size = (4.5 * len(sent) + 2, 3.6)
    figure, axes = plt.subplots(1, len(sent), figsize=size, layout="constrained")
    for axis, (title, rows) in zip(np.atleast_1d(axes), sent.items()):
        draw(axis, rows, title)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper")
    plt.show()


panels({"before they lie": updates})

# %% [markdown]
# ## Loud attacks
#
# The liars send points far away. The mean follows them. The other rules move as well, since
# a third of the updates is missing or misleading, but they stay among the honest updates: they were designed
# for this.

# %%
panels(
    {
        "reversed_gradient": attacks.reversed_gradient(updates, byzantine, kappa=3.0),
        "gaussian": attacks.gaussian(updates, byzantine, key=key, sigma=5.0),
        "non_finite": attacks.non_finite(updates, byzantine),
    }
)

# %% [markdown]
# With NaN from one worker the mean is NaN; neither the liars nor the mean can be drawn. A row that is not finite
# is ordinary input for the other rules: that worker is far away.
#
# How far do they move, as the liars get louder? The grey band reaches as far as the farthest honest update.


# %%
def away(sent):
    """The distance from each aggregate to the honest mean, by name."""
    return {k: float(jnp.linalg.norm(v - honest.mean(axis=0))) for k, v in aggregates(sent).items()}


loudness = (1.0, 3.0, 10.0, 30.0, 100.0)
moved = [away(attacks.reversed_gradient(updates, byzantine, kappa=kappa)) for kappa in loudness]
radius = float(jnp.linalg.norm(honest - honest.mean(axis=0), axis=1).max())
plt.figure(figsize=(6, 3.4), layout="constrained")
for name, (marker, color) in looks.items():
    plt.loglog(loudness, [at[name] for at in moved], marker=marker, color=color, label=name)
plt.axhspan(0, radius, color="0.9", zorder=0)
plt.xlabel("liars send -kappa times their update: kappa"), plt.ylabel("moved by")
plt.legend(fontsize=8)
plt.show()
for name in rules:
    assert (moved[-1][name] > 10 * radius) if name == "mean" else moved[-1][name] < radius, name

# %% [markdown]
# ## Quiet attacks
#
# The liars agree on one point near the honest updates: a multiple of the honest mean. It looks more typical
# than most honest updates, so rules that look for typical updates come close to it or select it.

# %%
quiet = {
    f"{factor} times the honest mean": attacks.inner_product_manipulation(
        updates, byzantine, epsilon=-factor
    )
    for factor in (0.5, -0.1, -0.5)
}
panels(quiet)

# %% [markdown]
# On the left, all robust rules are moved farther than the mean. In the middle Krum selects the liars. On the right
# they go too far for Krum, which selects an honest update again.
#
# What matters for training is the direction: an aggregate whose inner product with the honest mean is negative
# is a step uphill.

# %%
for title, sent in quiet.items():
    products = {k: float(v @ honest.mean(axis=0)) for k, v in aggregates(sent).items()}
    print(title, {k: round(v, 2) for k, v in products.items()})

left, middle, right = (away(sent) for sent in quiet.values())
assert min(left[name] for name in rules if name != "mean") > 1.2 * left["mean"]
assert middle["krum"] > 2 * right["krum"]

# %% [markdown]
# Other draws give other pictures: of eight keys, the left one holds for all, while Krum selects the liars in the
# middle one for four, and steps uphill for three of these.
#
# Move it yourself: the liars send -`epsilon` times the honest mean, rotated by `angle`.
# (Three positions are drawn; with ipywidgets there are sliders as well.)


# %%
def turned(epsilon=0.5, angle=0.0):
    """All liars send the honest mean, rotated by an angle and scaled."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    lie = -epsilon * jnp.array([[c, -s], [s, c]]) @ honest.mean(axis=0)
    return {f"epsilon = {epsilon}, angle = {angle}": jnp.where(byzantine[:, None], lie, updates)}


panels(turned(0.5, 0.0) | turned(1.0, 60.0) | turned(2.0, 120.0))
try:
    from ipywidgets import interact
except ImportError:
    pass
else:

    @interact(epsilon=(-1.0, 3.0, 0.1), angle=(-180.0, 180.0, 10.0))
    def look(epsilon=0.5, angle=0.0):
        panels(turned(epsilon, angle))

# %% [markdown]
# ## A white-box attack
#
# Every rule here has a derivative. So a liar that knows the rule can compute in which direction its row
# moves the aggregate away from the honest mean, take a step, and repeat. The grey level is the damage, the distance
# from the aggregate to the honest mean, if all liars send that point. The red line is gradient ascent *through the
# rule* from one start. Stars are the rows that `attacks.gradient_attack` finds, which ascends from many starts
# with a separate row per liar (a star on the border lies beyond it), and the golden point is where they move the
# aggregate.


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
found = {}
for name in chosen:
    path, damages = jax.jit(partial(climb, rules[name]))(jnp.array([1.2, 1.4]))
    search = partial(attacks.gradient_attack, rule=rules[name], steps=20 if FAST else 100)
    sent = jax.jit(search)(updates, byzantine)
    found[name] = np.asarray(path), np.asarray(damages), np.asarray(sent), rules[name](sent)

worst = max(damages.max() for _, damages, _, _ in found.values())
figure, axes = plt.subplots(
    1, len(chosen), figsize=(4.5 * len(chosen), 3.8), layout="constrained", squeeze=False
)
for axis, (name, (path, damages, sent, moved_to)) in zip(axes[0], found.items()):
    image = axis.imshow(
        damages, origin="lower", extent=(-4, 6, -3, 4), cmap="Greys", vmin=0, vmax=worst
    )
    axis.scatter(*np.asarray(honest).T, color="tab:blue", s=18)
    axis.plot(*path.T, "-", color="tab:red", lw=2)
    axis.plot(*path[0], ".", color="tab:red")
    shown = sent[np.asarray(byzantine)].clip((-3.9, -2.9), (5.9, 3.9))
    axis.plot(*shown.T, "*", color="tab:red", ms=12, mec="k")
    axis.plot(*np.asarray(moved_to), "o", color="gold", mec="k", ms=9)
    axis.set(title=name, xlim=(-4, 6), ylim=(-3, 4))
figure.colorbar(image, ax=axes, label="damage if all liars send this point")
plt.show()

for name, (_, damages, _, moved_to) in found.items():
    damage = float(jnp.linalg.norm(moved_to - honest.mean(axis=0)))
    print(f"{name:17s} gradient_attack {damage:.2f}, best point of the picture {damages.max():.2f}")
    assert damage > 0.8 * damages.max()

# %% [markdown]
# At an edge in the grey, a rule that selects whole updates stops selecting the liars: one step further out
# they are discarded. The best attacks on Krum and Aksel are just inside that edge. The median and the geometric
# median have no such edge, but beyond the honest updates a longer way does no more damage to them. Where the damage
# is flat its gradient is zero, as for Krum at our start, from which no line leaves. This is why `gradient_attack`
# also takes random steps and steps outward. It finds about as much as the best point of the picture, here and for
# eight keys at least 85 % of it.
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
table = {name: away(attack(updates, byzantine)) for name, attack in listed.items()}
for rule in rules:
    print(f"{rule:18s}" + "".join(f"{table[name][rule]:18.2f}" for name in listed))

# %% [markdown]
# ## Exercises
#
# * Raise `f` to 5: Krum raises an error, since it needs n >= 2f + 3. What do the others do?
# * Apply `byzjax.nearest_neighbors(sent, f=f)` before a rule and draw it again.
# * Write a rule that survives:
#   [the next notebook](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/03_write_your_own_rule.ipynb).
