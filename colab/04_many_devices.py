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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/04_many_devices.ipynb)
#
# # Many devices: a robust mean in the place of `pmean`
#
# Data-parallel training averages gradients over devices with `jax.lax.pmean`. One device that computes garbage
# ruins that average. `byzjax.all_aggregate` replaces it and takes a rule. This notebook runs
# on the eight cores of a TPU, on one or several GPUs, and on a CPU that is split into eight devices.
#
# Takes 7 s on two cores of an AMD EPYC.

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
if "JAX_NUM_CPU_DEVICES" not in os.environ:  # before JAX starts; only a CPU looks at it
    os.environ["JAX_NUM_CPU_DEVICES"] = "8"

# %%
import time
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import byzjax

devices = jax.devices()
mesh = jax.make_mesh((len(devices),), ("workers",), axis_types=(AxisType.Auto,))
per_device = -(-8 // len(devices))  # at least eight workers, whatever there is
n = per_device * len(devices)
f = (n - 1) // 3
print(f"{len(devices)} x {devices[0].device_kind}: {n} workers, {per_device} on each; f = {f}")

# %% [markdown]
# ## A standard training step
#
# Each worker has its own batch and computes its own gradient; `pmean` averages them, and every device takes
# the same step. Here the first f workers are broken: they send -3 times their gradient.

# %%
truth = jnp.linspace(-1.0, 1.0, 16)
x = jax.random.normal(jax.random.key(0), (n, 64, 16))
y = x @ truth + 0.1 * jax.random.normal(jax.random.key(1), (n, 64))


def loss(params, x, y):
    return jnp.mean((x @ params - y) ** 2)


def gradients(params, x, y):
    """What the workers of this device send: leaves `[per_device, ...]`."""
    sent = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, x, y)
    worker = jax.lax.axis_index("workers") * per_device + jnp.arange(per_device)
    return jnp.where((worker < f)[:, None], -3.0 * sent, sent)


def step_with_pmean(params, x, y):
    update = jax.lax.pmean(gradients(params, x, y).mean(axis=0), "workers")
    return params - 0.1 * update


# %% [markdown]
# ## The same with a robust mean
#
# One line changes. `stacked=True` says that a device has several workers; with one worker per device leave it
# out, and pass the gradient itself.


# %%
def step_with_rule(params, x, y):
    sent = gradients(params, x, y)
    update = byzjax.all_aggregate(byzjax.trimmed_mean, sent, "workers", f=f, stacked=True)
    return params - 0.1 * update


def spread(step):
    """A step on all devices: parameters everywhere, data by worker."""
    return jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(P(), P("workers"), P("workers")),
            out_specs=P(),
            check_vma=False,  # all devices compute the same update, which JAX cannot know
        )
    )


def train(step, steps=20 if FAST else 60):
    params, distances = jnp.zeros(16), []
    for _ in range(steps):
        params = step(params, x, y)
        distances.append(float(jnp.linalg.norm(params - truth)))
    return distances


curves = {"pmean": train(spread(step_with_pmean)), "trimmed mean": train(spread(step_with_rule))}
for name, distances in curves.items():
    plt.semilogy(distances, label=name)
    print(f"{name:13s} {distances[-1]:.3f} from the truth")
plt.xlabel("step"), plt.ylabel("distance to the truth"), plt.legend()
plt.show()
assert curves["pmean"][-1] > 5 > 1 > curves["trimmed mean"][-1]

# %% [markdown]
# With `pmean`, the f broken workers are enough: the average of the gradients is about zero or points uphill, and the
# distance grows.
# The trimmed mean comes as near to the truth as the noise in y allows.

# %% [markdown]
# ## Coming from `pmap`
#
# `jax.pmap` still works with the same function inside: only the leading axis of devices is explicit.

# %%
by_device = [a.reshape(len(devices), per_device, *a.shape[1:]) for a in (x, y)]
with_pmap = jax.pmap(step_with_rule, axis_name="workers", in_axes=(None, 0, 0))
from_pmap = with_pmap(jnp.zeros(16), *by_device)[0]
from_shard_map = spread(step_with_rule)(jnp.zeros(16), x, y)
print("largest difference:", float(jnp.max(jnp.abs(from_pmap - from_shard_map))))
np.testing.assert_allclose(from_pmap, from_shard_map, rtol=1e-5, atol=1e-6)

# %% [markdown]
# ## The same rule, distributed
#
# Devices exchange slices of coordinates, each computes the rule on its slice for all workers, and the results
# are gathered: no device ever holds all updates. The result is that of the rule on one device.

# %%
updates = jax.random.normal(jax.random.key(2), (n, 1000))
spread_out = jax.jit(
    jax.shard_map(
        partial(byzjax.all_aggregate, byzjax.aksel, axis_name="workers", f=f, stacked=True),
        mesh=mesh,
        in_specs=P("workers"),
        out_specs=P(),
        check_vma=False,
    )
)(updates)
print("largest difference:", float(jnp.max(jnp.abs(spread_out - byzjax.aksel(updates, f=f)))))
np.testing.assert_allclose(spread_out, byzjax.aksel(updates, f=f), rtol=1e-5, atol=1e-5)

# %% [markdown]
# ## What it costs
#
# Compared with `pmean` on this machine. The devices of one CPU share its cores, so CPU times say little about a pod.

# %%
d = 10_000 if FAST else 1_000_000
updates = jax.random.normal(jax.random.key(3), (n, d))
rules = {"pmean": None, "trimmed_mean": byzjax.trimmed_mean}
if not FAST:
    rules |= {"aksel": byzjax.aksel, "krum": partial(byzjax.krum, m=1)}
for name, rule in rules.items():

    def exchange(rows, rule=rule):
        if rule is None:
            return jax.lax.pmean(rows.mean(axis=0), "workers")
        return byzjax.all_aggregate(rule, rows, "workers", f=1, stacked=True)

    call = jax.jit(
        jax.shard_map(exchange, mesh=mesh, in_specs=P("workers"), out_specs=P(), check_vma=False)
    )
    call(updates).block_until_ready()  # compiles
    begin = time.perf_counter()
    for _ in range(5):
        call(updates).block_until_ready()
    print(f"{name:13s} {1000 * (time.perf_counter() - begin) / 5:8.2f} ms")

# %% [markdown]
# ## What this does not do
#
# JAX collectives assume that processes are honest and do not crash: a Byzantine worker is only a row of numbers.
# Use this against broken devices, poisoned data and bad shards, and to study attacks at scale. If the processes
# themselves cannot be trusted, send the rows over a network and run the rule where they arrive.
