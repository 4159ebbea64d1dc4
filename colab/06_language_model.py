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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/byzjax/byzjax/blob/main/colab/06_language_model.ipynb)
#
# # Train a language model with strangers
#
# Sixteen workers on the internet train one small transformer. Messages are slow, so each worker takes ten steps of
# its own AdamW before it sends anything, and the server takes one step of Nesterov momentum: this is DiLoCo. Three of
# the workers are *liars* and send what they like. You will see the mean fail and two rules hold, and read what the
# models write.
#
# Takes 60 s on two cores of an AMD EPYC.

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
from pydoc_data import topics

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import byzjax
from byzjax import attacks, protocols

print(jax.devices())

# %% [markdown]
# ## Text, and who has it
#
# Python brings some English along: the pages of its own `help()`, almost half a million characters. Each worker has
# a sixteenth of the first nine tenths, its own pages, so the workers differ as strangers do; nobody trains on the
# last tenth. A sample is a window of characters, and the labels are the characters that follow.

# %%
n, f = 16, 3  # workers, and how many liars the defence is to tolerate
length = 32  # of a window
rounds, local_steps, windows = (8, 5, 2) if FAST else (40, 10, 4)  # windows for each local step

text = "".join(topics.topics.values()).encode("ascii", "ignore")
characters = np.unique(np.frombuffer(text, np.uint8))
tokens = np.searchsorted(characters, np.frombuffer(text, np.uint8)).astype(np.int32)
split = len(tokens) * 9 // 10
own = jnp.asarray(tokens[: split - split % n].reshape(n, -1))  # one row of text for each worker
held = tokens[split:]
held = jnp.asarray(held[: 200 * (length + 1)].reshape(200, length + 1))
print(f"{len(text):,} characters, {len(characters)} different ones, {own.shape[1]:,} a worker")

# %% [markdown]
# ## A transformer in plain JAX
#
# Two blocks of causal attention and a dense layer, each normalized and added to its input; the last layer shares its
# weights with the embedding. byzjax sees a loss and a tree of parameters, so any library will do.

# %%
width, heads, layers = 32, 2, 2


def init(key):
    """The parameters: a tree of matrices."""
    keys = iter(jax.random.split(key, 2 + 4 * layers))

    def normal(rows, columns):
        return 0.05 * jax.random.normal(next(keys), (rows, columns))

    def block():
        return {
            "qkv": normal(width, 3 * width),
            "out": normal(width, width),
            "up": normal(width, 4 * width),
            "down": normal(4 * width, width),
        }

    embeddings = {"tokens": normal(len(characters), width), "positions": normal(length, width)}
    return embeddings | {"blocks": [block() for _ in range(layers)]}


def norm(h):
    return h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6)


def logits(params, x):
    """Characters `[b, length]` to the logits of those that follow, `[b, length, characters]`."""
    h = params["tokens"][x] + params["positions"]
    for block in params["blocks"]:
        parts = (norm(h) @ block["qkv"]).reshape(*x.shape, 3, heads, width // heads)
        q, k, v = jnp.moveaxis(parts, 2, 0)
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        h = h + mixed.reshape(h.shape) @ block["out"]
        h = h + jax.nn.gelu(norm(h) @ block["up"]) @ block["down"]
    return norm(h) @ params["tokens"].T


def loss_fn(params, batch, key=None):
    """The mean cross entropy in nats of windows `[b, length + 1]`."""
    x, y = batch[:, :-1], batch[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


# %% [markdown]
# ## DiLoCo, with liars and a rule
#
# A round: every worker starts from the server's model, takes `local_steps` steps of AdamW, and sends the difference
# between its start and its end. The liars see all differences and replace their own. The rule makes one update of
# sixteen, and the server takes a step of Nesterov momentum with it. Each worker keeps the state of its AdamW.


# %%
@partial(jax.jit, static_argnames=("rule", "attack"))
def train(rule, attack, s):
    """The model, and the loss on held text after each round, with s liars."""
    strangers = protocols.parameter_server(
        loss_fn,
        num_workers=n,
        local_steps=local_steps,
        local=optax.adamw(0.005),
        keep_local_state=True,
        attack=byzjax.attack(attack, byzantine=jnp.arange(n) < s),
        rule=byzjax.aggregate(rule),
        server=optax.sgd(0.7, momentum=0.9, nesterov=True),
        # On CPU the gradients of one transformer after another take less time than all at once.
        workers_at_once=1 if jax.default_backend() == "cpu" else None,
    )

    def one_round(state, key):
        starts = jax.random.randint(key, (n, local_steps * windows), 0, own.shape[1] - length)
        batch = jax.vmap(lambda row, i: row[i[:, None] + jnp.arange(length + 1)])(own, starts)
        state, _ = strangers.step(state, {"workers": batch}, key)
        return state, loss_fn(model_of(state), held)

    def model_of(state):
        return jax.tree.map(lambda leaf: leaf[0], strangers.models(state))

    start = strangers.init(init(jax.random.key(0)), jax.random.key(1))
    state, losses = jax.lax.scan(one_round, start, jax.random.split(jax.random.key(2), rounds))
    return model_of(state), losses


# %% [markdown]
# ## Three of sixteen lie
#
# All liars send the honest mean times -5. Then the mean of all sixteen points away from what the honest workers have
# learned, (13 - 15) / 16 = -1/8 of it. Two rules: the trimmed mean drops the three largest and the three smallest
# values of each coordinate; Aksel averages the 13 updates nearest to the median.

# %%
opposite = partial(attacks.inner_product_manipulation, epsilon=5.0)
rules = {
    "mean": byzjax.mean,
    "trimmed mean": partial(byzjax.trimmed_mean, f=f),
    "aksel": partial(byzjax.aksel, f=f, mode="n-f"),
}
if FAST:
    rules.pop("trimmed mean")
trained = {"mean, no liars": train(byzjax.mean, opposite, s=0)}
trained |= {f"{name}, {f} liars": train(rule, opposite, s=f) for name, rule in rules.items()}

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for name, (_, losses) in trained.items():
    axis.plot(np.arange(1, rounds + 1), losses, label=name)
guessing = float(np.log(len(characters)))
axis.axhline(guessing, color="black", linestyle=":", label="guessing")
axis.set(xlabel="messages of each worker", ylabel="loss on held text, in nats", ylim=(None, 6))
axis.legend()
plt.show()

# %% [markdown]
# Compare the ends. What a robust rule costs is the distance of its line to that of the mean without liars.

# %%
final = {name: float(losses[-1]) for name, (_, losses) in trained.items()}
for name, value in final.items():
    print(f"{name:24s} {value:6.2f} nats, {value / np.log(2):6.2f} bits per character")
honest = final.pop("mean, no liars")
lost = final.pop(f"mean, {f} liars")
assert honest < guessing - 0.5
assert not lost < guessing - 0.1  # which is also true of NaN
assert max(final.values()) < honest + 0.3

# %% [markdown]
# ## What they write
#
# Each model continues the same line, character by character.


# %%
@jax.jit
def write(params, key):
    """Draws 200 characters one after another; the model sees the last `length` of them."""

    def one(window, key):
        drawn = jax.random.categorical(key, logits(params, window[None])[0, -1] / 0.8)
        return jnp.append(window[1:], drawn.astype(window.dtype)), drawn

    return jax.lax.scan(one, held[0, :length], jax.random.split(key, 200))[1]


for name, (params, _) in trained.items():
    print(f"--- {name}")
    if all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
        print("".join(map(chr, characters[np.asarray(write(params, jax.random.key(0)))])))

# %% [markdown]
# After so little training the words are not real ones, but their lengths, spaces and line breaks are those of the text,
# unless the liars have won.
#
# ## Exercises
#
# * `local_steps=1` and ten times as many rounds is the same text with ten times as many messages. What does it gain?
# * Whisper: `epsilon=0.5` in `opposite`. Which rule is best now?
# * Compress the messages: `send=byzjax.per_worker(compress.error_feedback(compress.sign()), n)`, with
#   `from byzjax import compress`; then try `compress.top_k(0.01)` with the trimmed mean.
# * Shakespeare, larger models, more attacks: `python -m experiments study diloco` in the laboratory.
