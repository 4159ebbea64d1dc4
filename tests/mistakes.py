"""What users write by mistake, and the errors that say what to write instead.

    python -m tests.generate

The code of a row is evaluated with the names of `names()`.
"""

import functools
import pathlib
from collections import OrderedDict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import byzjax
import byzjax.testing
from byzjax import attacks, order, protocols, scores, stacked, theory

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "mistakes.md"


class Mistake(NamedTuple):
    """One mistake.

    Attributes:
      code: what the user writes.
      error: the type of the error.
      words: what the message must contain, in particular what to write instead.
    """

    code: str
    error: type[Exception]
    words: tuple[str, ...]


class _Foreign:
    """Stands in for an array of a library that is not installed where tests run."""

    def __init__(self, *shape):
        self.shape, self.dtype = shape, "float32"

    def __array__(self, dtype=None, copy=None):
        return np.ones(self.shape, dtype or np.float32)


Tensor = type("Tensor", (_Foreign,), {"__module__": "torch"})
EagerTensor = type("EagerTensor", (_Foreign,), {"__module__": "tensorflow.python.framework.ops"})
DataFrame = type("DataFrame", (_Foreign,), {"__module__": "pandas.core.frame"})


class MyRule:
    """A rule that is an object: the class itself is no rule."""

    def __call__(self, updates):
        return byzjax.mean(updates)


def loss_fn(params, batch, key=None):
    del key
    return jnp.mean((batch @ params["w"] + params["b"]) ** 2)


def halved(updates):
    """A rule without `axis_name`."""
    return jax.tree.map(lambda x: x.mean(axis=0) / 2, updates)


def names():
    """The names that the codes use: 11 workers with updates `x`, or `grads` of `params`."""
    n = 11
    x = jnp.asarray(np.random.default_rng(0).normal(size=(n, 3)), jnp.float32)
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    grads = {"w": jnp.ones((n, 3, 2)), "b": jnp.ones((n, 2))}

    def update(tx, updates, params=None, **extra):
        return tx.update(updates, tx.init(params), params, **extra)

    def step(batch, key):
        server = protocols.parameter_server(
            loss_fn, rule=byzjax.aggregate(byzjax.median), server=optax.sgd(0.1)
        )
        return server.step(server.init(params, jax.random.key(0)), batch, key)

    return {
        **vars(byzjax),
        **{"n": n, "x": x, "params": params, "grads": grads, "one_gradient": params},
        **{
            "byzantine": jnp.arange(n) < 2,
            "key": jax.random.key(0),
            "update": update,
            "step": step,
        },
        **{"byzjax": byzjax, "attacks": attacks, "protocols": protocols, "order": order},
        **{"scores": scores, "stacked": stacked, "testing": byzjax.testing},
        "theory": theory,
        **{"jax": jax, "jnp": jnp, "np": np, "optax": optax, "partial": functools.partial},
        **{"Tensor": Tensor, "EagerTensor": EagerTensor, "DataFrame": DataFrame},
        **{"MyRule": MyRule, "loss_fn": loss_fn, "halved": halved, "OrderedDict": OrderedDict},
    }


SECTIONS: dict[str, list[Mistake]] = {
    "Hyperparameters": [
        Mistake("krum(x, 4)", TypeError, ("write krum(updates, f=4).",)),
        Mistake("krum(x)", TypeError, ("krum needs f; write krum(updates, f=...).",)),
        Mistake(
            "jax.jit(krum)(x, f=4)",
            TypeError,
            ("f must be a Python int; got a traced array", 'static_argnames="f"', "partial(krum"),
        ),
        Mistake("jax.vmap(lambda f: krum(x, f=f))(jnp.arange(3))", TypeError, ("static_argnames",)),
        Mistake("krum(x, F=4)", TypeError, ("no parameter F; did you mean f?",)),
        Mistake("krum(x, num_byzantine=4)", TypeError, ("did you mean f?",)),
        Mistake("krum(x, f=2, weights=jnp.ones(n))", TypeError, ("krum takes no weights",)),
        Mistake("krum(x, f=2, neighbours=3)", TypeError, ("did you mean neighbors?",)),
        Mistake("trimmed_mean(x, beta=0.1)", TypeError, ("did you mean f?",)),
        Mistake("median(x, f=2)", TypeError, ("median has no parameter f",)),
        Mistake("krum(x, f=0.4)", TypeError, ("Python int", "write f=int(0.4 * n)")),
        Mistake("krum(x, f=2.0)", TypeError, ("Python int; got float", "write f=2")),
        Mistake("krum(x, f=True)", TypeError, ("Python int; got bool, True: write f=1",)),
        Mistake("median(x, updates=x)", TypeError, ("updates twice", "write median(updates).")),
        Mistake('krum(x, f="a")', TypeError, ("Python int; got str, 'a': write f=2.",)),
        Mistake('krum(x, f="2")', TypeError, ("Python int; got str", "write f=2")),
        Mistake("krum(x, f=None)", TypeError, ("Python int; got NoneType: write f=2",)),
        Mistake("krum(x, f=[2])", TypeError, ("Python int; got list: write f=2",)),
        Mistake("krum(x, f=np.array(2))", TypeError, ("Python int", "write f=int(f)")),
        Mistake("krum(x, f=byzantine)", TypeError, ("Python int", "write f=int(f.sum())")),
        Mistake("krum(x, f=-1)", ValueError, ("f must be at least 0; got f=-1.",)),
        Mistake("krum(x, f=5)", ValueError, ("n >= 2f + 3; got n=11, f=5.",)),
        Mistake("krum(x, f=np.int64(5))", ValueError, ("n >= 2f + 3; got n=11, f=5.",)),
        Mistake("krum(x, f=2, m=99)", ValueError, ("m <= n - f - 2 = 7; got m=99",)),
        Mistake(
            "privacy.private(loss_fn, 1.0, 2.0)",
            TypeError,
            ("write private(loss_fn, clip_norm=1.0, noise_multiplier=2.0).",),
        ),
        Mistake("weak_dp(x, max_norm=1.0, sigma=-1.0, key=key)", ValueError, ("sigma must be at",)),
        Mistake('aksel(x, f=2, mode="median")', ValueError, ("one of mid, n-f, radius; got",)),
        Mistake("clip_norms(x, 1.0)", TypeError, ("write clip_norms(updates, max_norm=1.0).",)),
        Mistake('clip_norms(x, max_norm="1")', TypeError, ("max_norm must be a number; got '1'.",)),
        Mistake("huber(x, threshold=None)", TypeError, ("must be a number; got None.",)),
        Mistake('bulyan(x, f=1, rule="krum")', TypeError, ("rule must be a function; got 'krum'",)),
        Mistake("huber(x, threshold=-1.0)", ValueError, ("threshold must be positive; got",)),
        Mistake("biweight_mean(x, c=1.0)", ValueError, ("c must be above 1; got c=1.0.",)),
        Mistake("biweight_mean(x, f=2)", TypeError, ("biweight_mean has no parameter f",)),
        Mistake("centered_clip(x, radius=1.0)", TypeError, ("centered_clip(updates, center, rad",)),
        Mistake(
            "zeno(x, x[0], 3.0, f=1, learning_rate=0.1, rho=0.1)",
            TypeError,
            ("trusted_loss must be a function; got 3.0.",),
        ),
        Mistake("safeguard(n, windows=3, thresholds=(1.0, 2.0))", TypeError, ("a pair (short, ",)),
    ],
    "Random keys": [
        Mistake("bucketing(x, s=2)", TypeError, ("write bucketing(updates, s=..., key=...).",)),
        Mistake("bucketing(x, s=2, key=0)", TypeError, ("write key=jax.random.key(0).",)),
        Mistake("sign_guard(x, key=None)", TypeError, ("write key=jax.random.key(0).",)),
        Mistake(
            "sign_guard(x, key=np.random.default_rng(0))",
            TypeError,
            ("a PRNG key; got a numpy.Generator", "write key=jax.random.key(0)."),
        ),
        Mistake(
            "bucketing(x, s=2, key=jax.random.split(key))",
            TypeError,
            ("key must be one PRNG key; got keys of shape (2,): write key=keys[0].",),
        ),
        Mistake(
            "weak_dp(x, max_norm=1.0, sigma=0.1)",
            TypeError,
            ("weak_dp needs key; write weak_dp(updates, max_norm=..., sigma=..., key=...).",),
        ),
        Mistake(
            "jax.grad(privacy.private(loss_fn, clip_norm=1.0, noise_multiplier=1.0))(params, x)",
            TypeError,
            ("needs a key for its noise; write jax.grad(loss)(params, batch, key=jax.random.key(",),
        ),
        Mistake("aggregate(sign_guard)", TypeError, ("sign_guard, key=jax.random.key(0)).",)),
        Mistake("mix(bucketing, s=2, key=0)", TypeError, ("write key=jax.random.key(0).",)),
    ],
    "Updates": [
        Mistake("krum([x[0]] * 11, f=2)", TypeError, ("write byzjax.stack([...]).",)),
        Mistake("krum([one_gradient] * 11, f=2)", ValueError, ("write byzjax.stack(updates).",)),
        Mistake("krum([jnp.ones((3, 2))] * 11, f=2)", ValueError, ("byzjax.stack(updates)",)),
        Mistake("mean([[1.0, 2.0], [3.0, 4.0]])", ValueError, ("write jnp.asarray(updates)",)),
        Mistake("krum(one_gradient, f=2)", ValueError, ("leaves disagree on n", "jax.vmap(jax.g")),
        Mistake("median(jnp.sum(x))", ValueError, ("no worker axis", "jax.vmap(jax.grad(loss)")),
        Mistake("krum(None, f=2)", ValueError, ("no leaves; got None", "shape [n, ...]")),
        Mistake("krum({}, f=2)", ValueError, ("no leaves; got an empty dict", "shape [n, ...]")),
        Mistake("krum(jnp.ones((0, 3)), f=0)", ValueError, ("no workers", "with n >= 1")),
        Mistake(
            "krum(x.astype(int), f=2)",
            TypeError,
            ("krum: updates must be real floats", 'write updates.astype("float32").'),
        ),
        Mistake(
            'krum({"w": x, "b": x.astype(int)}, f=2)',
            TypeError,
            ("krum: ", "['b'] is int32", "jax.tree.map(lambda g: g.astype(jnp.float32), updates)"),
        ),
        Mistake("median(x.astype(complex))", TypeError, ("split_real_and_imaginary",)),
        Mistake(
            "krum(Tensor(11, 3), f=2)",
            TypeError,
            (
                "write byzjax.torch.Aggregator(rule, ...)(updates)",
                "or updates.detach().cpu().numpy().",
            ),
        ),
        Mistake(
            "krum([Tensor(3)] * 11, f=2)",
            TypeError,
            ("updates[0] is a torch.Tensor", "byzjax.stack(jax.tree.map(lambda t: t.detach()"),
        ),
        Mistake(
            'median({"w": Tensor(11, 3)})',
            TypeError,
            (
                "updates['w'] is a torch.Tensor",
                "write byzjax.torch.Aggregator(rule, ...)",
                "or jax.tree",
            ),
        ),
        Mistake(
            'update(aggregate(median), OrderedDict(w=Tensor(11, 3)), {"w": x[0]})',
            TypeError,
            (
                "updates['w'] is a torch.Tensor",
                "write byzjax.torch.Aggregator(rule, ...)",
                "or jax.tree",
            ),
        ),
        Mistake("median(EagerTensor(11, 3))", TypeError, ("write updates.numpy().",)),
        Mistake("median(DataFrame(11, 3))", TypeError, ("write updates.to_numpy().",)),
        Mistake('median("updates.npy")', TypeError, ("is a str, 'updates.npy'; expected an arr",)),
        Mistake('median(np.array(["1.0"] * 3))', TypeError, ("expected floats", '.astype("float')),
        Mistake('stack(["w", "b"])', TypeError, ("a list of updates, one for each worker",)),
        Mistake("stack([])", ValueError, ("one update for each worker; got none.",)),
        Mistake('stack([{"w": x}, {"b": x}])', ValueError, ("disagree in structure",)),
        Mistake("fl_trust(x, x)", ValueError, ("has shape (11, 3)", "(3,) was expected")),
    ],
    "`byzjax.aggregate`, `mix` and `per_worker`": [
        Mistake('aggregate("krum")', TypeError, ("write aggregate(byzjax.krum, ...).",)),
        Mistake(
            "aggregate(aksel(x, f=4))",
            TypeError,
            ("takes a rule, a function; got an array", "write aggregate(byzjax.krum, ...), not"),
        ),
        Mistake("aggregate(aksel(f=4))", TypeError, ("write functools.partial(aksel, f=...)",)),
        Mistake("aggregate(aksel)", TypeError, ("write aggregate(aksel, f=...).",)),
        Mistake("aggregate(aksel, 4)", TypeError, ("write aggregate(rule, f=4).",)),
        Mistake("aggregate(aksel, f=0.4)", TypeError, ("Python int", "write f=int(0.4 * n)")),
        Mistake("aggregate(aksel, f=-1)", ValueError, ("f must be at least 0; got f=-1.",)),
        Mistake("aggregate(huber, threshold=-1.0)", ValueError, ("threshold must be positive",)),
        Mistake("aggregate(krum, F=4)", TypeError, ("did you mean f?",)),
        Mistake("aggregate(rule=MyRule)", TypeError, ("write aggregate(MyRule(...), ...).",)),
        Mistake("aggregate(nearest_neighbors, f=2)", TypeError, ("write byzjax.mix(nearest_",)),
        Mistake("mix(krum, f=2)", TypeError, ("krum is a rule; write byzjax.aggregate(krum",)),
        Mistake("aggregate(attacks.sign_flip)", TypeError, ("write byzjax.attack(sign_flip",)),
        Mistake(
            "aggregate(foolsgold, num_workers=n)", TypeError, ("write foolsgold(...) instead",)
        ),
        Mistake("aggregate(foolsgold(n))", TypeError, ("write optax.chain(transformation).",)),
        Mistake("aggregate(aggregate(krum, f=2))", TypeError, ("write aggregate only once.",)),
        Mistake(
            "aggregate(mix(nearest_neighbors, f=2))",
            TypeError,
            ("write optax.chain(mix(...), aggregate(rule, ...)).",),
        ),
        Mistake(
            "update(aggregate(lambda updates: updates), grads, params)",
            ValueError,
            ("returned shape (11, 2)", "expected (2,); a mixing goes to byzjax.mix."),
        ),
        Mistake(
            "update(mix(lambda updates: median(updates)), grads, params)",
            ValueError,
            ("returned shape (2,)", "a rule goes to byzjax.aggregate."),
        ),
        Mistake(
            "update(aggregate(krum, f=2), one_gradient, params)",
            ValueError,
            ("expected (n, 2), one row per worker: jax.vmap(jax.grad(loss), in_axes=(None, 0))",),
        ),
        Mistake(
            "update(aggregate(krum, f=2), [one_gradient] * 11, params)",
            TypeError,
            ("a list of 11 updates is not stacked; write byzjax.stack(updates).",),
        ),
        Mistake(
            "update(aggregate(krum, f=2), one_gradient, grads)",
            ValueError,
            ("the worker axis belongs to the updates; write tx.update(stacked_updates",),
        ),
        Mistake(
            "update(aggregate(fl_trust), grads, params)",
            TypeError,
            ("fl_trust needs trusted", "tx.update(updates, state, params, trusted=...)."),
        ),
        Mistake("per_worker(optax.sgd(0.1))", TypeError, ("num_workers=...).",)),
        Mistake("per_worker(optax.sgd, n)", TypeError, ("got the function sgd: write per_worker",)),
        Mistake("per_worker(optax.sgd(0.1), 2.0)", TypeError, ("write num_workers=2.",)),
        Mistake(
            "update(per_worker(aggregate(krum, f=2), n), grads, params)",
            TypeError,
            ("write optax.chain(per_worker(...), aggregate(...)).",),
        ),
        Mistake(
            "update(per_worker(optax.sgd(0.1), 5), grads, params)",
            ValueError,
            ("made for 5 workers; got updates of 11.",),
        ),
        Mistake(
            "update(per_worker(optax.sgd(0.1), 20), grads, params)",
            ValueError,
            ("got updates of 11: name them, update(..., senders=who).",),
        ),
        Mistake(
            "update(optax.chain(aggregate(median), per_worker(optax.ema(0.9), n)), grads, params)",
            ValueError,
            ("in a chain, per_worker comes before aggregate.",),
        ),
        Mistake(
            "update(optax.chain(aggregate(krum, f=2), mix(adaptive_clipping, f=2)), grads, params)",
            ValueError,
            ("in a chain, mix comes before aggregate.",),
        ),
    ],
    "Attacks": [
        Mistake("attacks.sign_flip(x)", TypeError, ("write sign_flip(updates, byzantine).",)),
        Mistake("attacks.sign_flip(x, 2)", ValueError, ("write jnp.arange(n) < k.",)),
        Mistake("attacks.sign_flip(x, [0, 1])", ValueError, ("for indices write jnp.isin(jnp.",)),
        Mistake(
            "attacks.sign_flip(x, byzantine.astype(int))",
            ValueError,
            ("bool[n] with n=11; got int32[11]", "write byzantine.astype(bool)."),
        ),
        Mistake(
            "attacks.sign_flip(x, byzantine[:5])",
            ValueError,
            ("bool[n] with n=11; got bool[5]", "one entry per row of the updates"),
        ),
        Mistake("attacks.sign_flip(x, None)", ValueError, ("bool[n]", "jnp.arange(n) < 2")),
        Mistake('attacks.sign_flip(x, byzantine, of="mine")', ValueError, ("one of own, mean",)),
        Mistake("attacks.gaussian(x, byzantine)", TypeError, ("byzantine, key=...).",)),
        Mistake(
            "attacks.inner_product_manipulation(x, byzantine, eps=0.1)",
            TypeError,
            ("did you mean epsilon?",),
        ),
        Mistake("attack(attacks.sign_flip)", TypeError, ("write attack(function, byzantine).",)),
        Mistake('attack("sign_flip", byzantine)', TypeError, ("attack(byzjax.attacks.sign_flip",)),
        Mistake(
            "attack(byzantine, attacks.sign_flip)", TypeError, ("attack(attacks.sign_flip, byz",)
        ),
        Mistake("attack(attacks.sign_flip, [0, 1])", ValueError, ("for indices write jnp.isin(",)),
        Mistake("attack(attacks.gaussian, byzantine)", TypeError, ("key=jax.random.key(0)).",)),
        Mistake("attack(attacks.mimic, byzantine)", TypeError, ("write mimic(...) instead of",)),
        Mistake("attack(krum, byzantine)", TypeError, ("write byzjax.aggregate(krum, ...).",)),
        Mistake(
            "update(optax.chain(aggregate(mean), attack(attacks.zero, byzantine)), grads, params)",
            ValueError,
            ("in a chain, attack comes before aggregate.",),
        ),
    ],
    "Several devices": [
        Mistake(
            'all_aggregate(krum, x, "workers", f=2)',
            NameError,
            (
                "no mapped axis 'workers' here",
                "jax.shard_map",
                "jax.vmap(..., axis_name='workers')",
            ),
        ),
        Mistake(
            'jax.vmap(lambda g: all_aggregate(krum, g, "worker", f=2), axis_name="workers")(x)',
            NameError,
            ("no mapped axis 'worker' here",),
        ),
        Mistake('krum(x, f=2, axis_name="model")', NameError, ("krum: no mapped axis 'model'",)),
        Mistake(
            "all_aggregate(krum, x, f=2)",
            TypeError,
            ("write all_aggregate(rule, updates, axis_name).",),
        ),
        Mistake(
            'all_aggregate(krum, x, "workers")',
            TypeError,
            ("write all_aggregate(krum, updates, axis_name, f=...).",),
        ),
        Mistake(
            'all_aggregate(halved, x, "workers")',
            TypeError,
            ("halved has no parameter axis_name", "add one"),
        ),
        Mistake(
            'across_devices(krum, "workers", f=2)',
            TypeError,
            ("write across_devices(functools.partial(byzjax.aggregate, krum), axis_name, ...).",),
        ),
        Mistake(
            'across_devices(aggregate(krum, f=2), "workers")',
            TypeError,
            ("write across_devices(functools.partial(byzjax.aggregate, byzjax.krum, f=f)",),
        ),
        Mistake(
            "sharded(krum, params)", TypeError, ("write jax.tree.map(lambda leaf: leaf.shard",)
        ),
        Mistake("sharded(krum)", TypeError, ("write sharded(rule, shardings).",)),
    ],
    "Protocols": [
        Mistake(
            "protocols.parameter_server(loss_fn, rule=krum, server=optax.sgd(0.1))",
            TypeError,
            ("got the function krum: write rule=byzjax.aggregate(byzjax.krum, f=f).",),
        ),
        Mistake(
            "protocols.parameter_server(loss_fn, rule=aggregate(median), server=0.1)",
            TypeError,
            ("got 0.1: write server=optax.sgd(0.1).",),
        ),
        Mistake(
            "protocols.parameter_server(loss_fn, rule=aggregate(median))",
            TypeError,
            ("write parameter_server(loss_fn, rule=..., server=...).",),
        ),
        Mistake(
            "protocols.parameter_server(params, rule=aggregate(median), server=optax.sgd(0.1))",
            TypeError,
            ("loss_fn must be a function, loss_fn(params, batch, key=None); got a dict.",),
        ),
        Mistake(
            "protocols.parameter_server(loss_fn, rule=mix(nearest_neighbors, f=2), "
            "server=optax.sgd(0.1))",
            TypeError,
            ("rule must remove the worker axis", "write rule=byzjax.aggregate("),
        ),
        Mistake(
            "protocols.parameter_server(loss_fn, rule=aggregate(median), server=optax.sgd(0.1), "
            "attack=attacks.sign_flip)",
            TypeError,
            ("write attack=byzjax.attack(attacks.sign_flip, byzantine).",),
        ),
        Mistake(
            "protocols.gossip(loss_fn, rule=aggregate(median))",
            TypeError,
            ("write gossip(loss_fn, graph=..., rule=..., optimizer=...).",),
        ),
        Mistake(
            "protocols.parameter_server(lambda params, batch: 0.0, rule=aggregate(median), "
            "server=optax.sgd(0.1))",
            TypeError,
            ("must take key, used or not: write def loss_fn(params, batch, key=None).",),
        ),
        Mistake('step({"worker": x}, key)', TypeError, ('needs batch={"workers": ...}', "got the")),
        Mistake('step({"workers": x}, 0)', TypeError, ("write key=jax.random.key(0).",)),
        Mistake(
            'protocols.gossip(loss_fn, graph="ring", rule=aggregate(median), optimizer=None)',
            TypeError,
            ("a graph is a matrix, bool[n, n]; got 'ring': write protocols.graphs.ring(n)",),
        ),
        Mistake(
            "protocols.asynchronous(loss_fn, num_workers=5, server=optax.sgd(0.1), "
            "judge=protocols.kardam)",
            TypeError,
            ("got the function kardam: write judge=protocols.kardam(f=f).",),
        ),
        Mistake(
            "protocols.asynchronous(loss_fn, num_workers=2.5, server=optax.sgd(0.1))",
            TypeError,
            ("num_workers must be a Python int; got float, 2.5.",),
        ),
    ],
    "Building blocks": [
        Mistake(
            "faults_among(100, 20, 120)",
            ValueError,
            ("drawn must be at most n; got drawn=120, n=100.",),
        ),
        Mistake("stacked.mean_selected(x, [0, 1])", ValueError, ("11 workers need shape (11,)",)),
        Mistake("stacked.weighted_mean(x, [1, 2])", TypeError, ("write jnp.asarray(weights).",)),
        Mistake("stacked.squared_distances(x, x)", ValueError, ("so (3,) was expected.",)),
        Mistake(
            "stacked.coordinatewise(x, jnp.max)", TypeError, ("fn must be a function; got an",)
        ),
        Mistake(
            "stacked.coordinatewise(lambda m: m, x)", ValueError, ("a function [n, c] -> [c]",)
        ),
        Mistake("order.median([1.0, 2.0])", TypeError, ("write jnp.asarray(x).",)),
        Mistake("order.kth(x, 99)", ValueError, ("kth needs k <= n; got k=99, n=11.",)),
        Mistake("order.kth(x)", TypeError, ("write kth(x, k).",)),
        Mistake("scores.lowest(x[:, 0], 99)", ValueError, ("need k <= n; got k=99, n=11.",)),
        Mistake("scores.lowest([3.0, 1.0], 1)", TypeError, ("write jnp.asarray(values).",)),
        Mistake("scores.ranks(x)", ValueError, ("one value per worker, [n]; got shape (11, 3).",)),
        Mistake("influence(krum, x, f=0.4)", TypeError, ("write f=int(0.4 * n).",)),
        Mistake("stacked.sample(x, 2.0, key)", TypeError, ("count must be", "write count=2.")),
        Mistake('influence("krum", x)', TypeError, ("write influence(byzjax.krum, updates, ...)",)),
        Mistake("influence(krum(x, f=2), x)", TypeError, ("not influence(byzjax.krum(updates",)),
        Mistake("influence(krum, x, 2)", TypeError, ("write krum(updates, f=2).",)),
        Mistake('enough_workers("my_rule", x, 2)', ValueError, ("needs=(2, 1)).",)),
        Mistake("testing.check_rule(median)", TypeError, ("write check_rule(rule, facts).",)),
        Mistake(
            'testing.check_rule(median, "median")',
            TypeError,
            ('write check_rule(median, Facts("rule"',),
        ),
    ],
    "Names": [
        Mistake("byzjax.MultiKrum", AttributeError, ("did you mean byzjax.multi_krum?",)),
        Mistake("byzjax.Krum", AttributeError, ("did you mean byzjax.krum?",)),
        Mistake("byzjax.trimmedmean", AttributeError, ("did you mean byzjax.trimmed_mean?",)),
        Mistake("byzjax.geomed", AttributeError, ("did you mean byzjax.geometric_median?",)),
        Mistake("byzjax.average", AttributeError, ("did you mean byzjax.mean?",)),
        Mistake("byzjax.nnm", AttributeError, ("did you mean byzjax.nearest_neighbors?",)),
        Mistake("byzjax.sign_flip", AttributeError, ("did you mean byzjax.attacks.sign_flip?",)),
        Mistake("byzjax.gossip", AttributeError, ("did you mean byzjax.protocols.gossip?",)),
        Mistake("byzjax.rules.Median", AttributeError, ("did you mean byzjax.rules.median?",)),
        Mistake("attacks.alie", AttributeError, ("did you mean byzjax.attacks.little_is_enough?",)),
        Mistake("attacks.LittleIsEnough", AttributeError, ("byzjax.attacks.little_is_enough?",)),
        Mistake("attacks.HSA", AttributeError, ("did you mean byzjax.attacks.hybrid_sparse?",)),
        Mistake("protocols.ring", AttributeError, ("did you mean byzjax.protocols.graphs.ring?",)),
        Mistake("stacked.krum", AttributeError, ("did you mean byzjax.krum?",)),
        Mistake('theory.proved("kappa", "Krum", 11, 2)', ValueError, ("did you mean 'krum'?",)),
        Mistake("order.trimmedmean", AttributeError, ("did you mean byzjax.order.trimmed_mean?",)),
    ],
}
MISTAKES = {row.code: row for rows in SECTIONS.values() for row in rows}


def caught(code, given):
    """The error that a code raises."""
    try:
        eval(code, dict(given))
    except Exception as error:
        return error
    raise AssertionError(f"{code} raises nothing")


HEAD = """\
# Mistakes and what byzjax says

Common mistakes, grouped by subject, with the message of the error. It says what to write instead,
and is the same whether the function is called directly or inside `jax.jit`.

Here `x` holds the updates of 11 workers, `[11, 3]`; `grads` is a tree of stacked updates for
`params`, and `one_gradient` lacks the worker axis; `byzantine` is `bool[11]`. `Tensor`,
`EagerTensor` and `DataFrame` belong to PyTorch, TensorFlow and pandas, and
`update(tx, updates, params)` is `tx.update(updates, tx.init(params), params)`; `step(batch, key)`
is a step of `protocols.parameter_server`.

Only one of them is a warning, which is given once: NumPy's default `float64` becomes `float32` in
JAX unless `jax.config.update("jax_enable_x64", True)` was called before. To convert it yourself,
write `updates.astype("float32")`.
"""


def page():
    """`docs/mistakes.md`."""
    given = names()
    lines = [HEAD]
    for section, rows in SECTIONS.items():
        lines += [f"## {section}", "", "| code | message |", "| --- | --- |"]
        for row in rows:
            error = caught(row.code, given)
            cells = [f"`{row.code}`", f"{type(error).__name__}: `{error}`"]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)
