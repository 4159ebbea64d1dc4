"""Protocols by name, each trained briefly, and errors."""

import dataclasses
import inspect

import pytest

from experiments.data import datasets
from experiments.execution import store, sweep
from experiments.grid import protocols
from experiments.grid.config import Config, identity
from experiments.training import assemble

BASE = Config(
    model="softmax", attack=("sign_flip",), n=12, f=2, s=(2,), seeds=1, steps=40, batch_size=8,
    eval_every=20, momentum=0.0, rule=("median",),
)  # fmt: skip


def trained(tmp_path, protocol, **more):
    config = dataclasses.replace(BASE, protocol=protocol, **more)
    digits = datasets.load("digits")
    load = lambda config: digits  # noqa: E731
    (block,) = sweep.run(sweep.tasks([config], tmp_path, load), tmp_path, load)
    assert not list(store.failures(tmp_path))
    return block, block["runs"][0]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("protocol", "more"),
    [
        ("parameter_server(per_round=8, local_steps=2, local_rate=0.3)", {}),
        (
            "parameter_server(local_steps=4, local='adam', local_rate=0.01, keep_local_state=True)",
            {"momentum": 0.9, "momentum_at": "update", "momentum_kind": "nesterov"},
        ),
        ("redundant(r=3, s=1)", {"rule": ("mean",), "f": 1, "s": (1,)}),
        ("variance_reduced(estimator='saga')", {"batch_size": 1}),
        pytest.param("redundant(code='cyclic')", {"rule": ("mean",)}, marks=SLOW),
        pytest.param("asynchronous(buffers=6)", {"steps": 600, "eval_every": 300}, marks=SLOW),
        pytest.param(
            "asynchronous(judge='kardam')",
            {"rule": ("mean",), "steps": 600, "eval_every": 300},
            marks=SLOW,
        ),
    ],
)
def test_one_model_learns(tmp_path, protocol, more):
    block, run = trained(tmp_path, protocol, **more)
    assert block["protocol"] == protocol
    assert run["accuracy"][-1] > 0.8
    assert "spread" not in run
    assert ("excess_rounds" in run) == ("per_round" in protocol)


@pytest.mark.parametrize(
    ("protocol", "more"),
    [
        (
            "gossip(graph='random_regular', degree=6, seed=0, local_steps=2)",
            {"rule": ("nearest_to_pivot",)},
        ),
        pytest.param("replicated_servers", {"rule": ("aksel",)}, marks=SLOW),
        pytest.param("replicated_state_machine", {}, marks=SLOW),
        pytest.param(
            "gossip(graph='torus', rows=3, columns=4, per_receiver=True)",
            {"attack": ("dissensus",), "average": True},
            marks=SLOW,
        ),
    ],
)
def test_many_models_learn(tmp_path, protocol, more):
    _, run = trained(tmp_path, protocol, **more)
    mean, worst = run["accuracy"][-1], run["worst_accuracy"][-1]
    assert mean > 0.8
    assert 0.7 < worst <= mean
    assert 360 * worst == pytest.approx(round(360 * worst), abs=1e-3)  # of one model: of 360 images
    assert worst < mean or not protocol.startswith("gossip")
    assert (run["spread"][-1] == 0) == protocol.startswith("replicated_state_machine")
    assert run["spread"][-1] < 10


def test_the_one_server_is_not_named_among_what_decides():
    """So that blocks stored before there were other protocols are recognized."""
    assert "protocol" not in identity(BASE)
    other = dataclasses.replace(BASE, protocol="gossip")
    assert identity(other)["protocol"] == "gossip"
    assert "dealt_to" not in identity(BASE)
    assert identity(dataclasses.replace(BASE, dealt_to="honest"))["dealt_to"] == "honest"
    assert not {"clip_examples", "noise_multiplier"} & set(identity(BASE))
    assert identity(dataclasses.replace(BASE, clip_examples=2.0))["clip_examples"] == 2.0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"protocol": "gosip"}, r"^unknown protocol 'gosip'; did you mean gossip\?"),
        ({"protocol": "gossip(graph='rng')"}, r"^unknown graph 'rng'; did you mean ring\?"),
        ({"protocol": "gossip(graph='torus')"}, r"^graph torus takes rows, columns; got nothing"),
        (
            {"protocol": "gossip(graph='torus', rows=3, columns=3)"},
            r"^graph torus has 9 nodes; expected n=12\.",
        ),
        (
            {"protocol": "gossip(graph='ring')", "rule": ("trimmed_mean",)},
            r"trimmed_mean needs n >= 2f \+ 1; got n=3, f=2",
        ),
        (
            {"protocol": "parameter_server(local='adamvw', local_rate=0.1)"},
            r"^unknown local optimizer 'adamvw'; did you mean adamw\?",
        ),
        (
            {"protocol": "parameter_server(local='adamw', local_steps=4)"},
            r"^local='adamw' needs local_rate, its step size; got none\.",
        ),
        (
            {"protocol": "parameter_server(local='adamw', local_rate=0.1, local_steps=3)"},
            r"^local_steps must divide the batch; got local_steps=3, batch=8\.",
        ),
        (
            {"protocol": "parameter_server(keep_local_state=True)"},
            r"^keep_local_state needs local and num_workers; got local=None",
        ),
        ({"protocol": "redundant(faults=2)"}, r"^redundant has no parameter faults; it takes s, "),
        ({"protocol": "redundant(s=2)"}, r"r.*5.*12"),
        ({"protocol": "redundant(r=3, s=2)"}, r"r >= 2s \+ 1"),
        (
            {"protocol": "asynchronous(judge='kardam')"},
            r"^asynchronous\(judge='kardam'\) has no rule; expected rule mean and mixing none, got",
        ),
        (
            {"protocol": "asynchronous(judge='kardam')", "rule": ("mean",), "f": 4},
            r"n >= 3f \+ 1; got n=12, f=4",
        ),
        ({"protocol": "asynchronous(judge='x')", "rule": ("mean",)}, r"^judge must be one of none"),
        (
            {"protocol": "replicated_servers(num_servers=4)", "rule": ("aksel",)},
            r"num_servers >= 3 f_servers \+ 2; got num_servers=4, f_servers=1",
        ),
        (
            {"protocol": "gossip", "momentum": 0.9, "momentum_at": "server"},
            r"^gossip has momentum at worker or update, if any; got momentum=0\.9 at server\.",
        ),
        (
            {"protocol": "gossip", "attack": ("strongest_alie",)},
            r"^strongest_alie tries the deployed rule; expected protocol parameter_server\.",
        ),
        (
            {"protocol": "redundant(r=6, s=2)", "attack": ("flip_labels",), "rule": ("mean",)},
            r"^flip_labels changes data that redundant nodes share",
        ),
        (
            {"protocol": "redundant(r=6, s=2)", "clip": 2.0},
            r"^redundant has no clip; got clip=2\.0",
        ),
        (
            {"protocol": "replicated_servers", "rule": ("aksel",), "weight_decay": 0.1},
            r"^replicated_servers has no weight_decay; got weight_decay=0\.1\.",
        ),
        (
            {"protocol": "variance_reduced(estimator='sag')"},
            r"^estimator must be one of marina, saga, storm; got 'sag'\. Did you mean saga\?$",
        ),
        ({"protocol": "variance_reduced(p=0)"}, r"^p must lie in \(0, 1\]; got p=0\.$"),
        ({"protocol": "variance_reduced(a=0.5)"}, r"^marina takes p; got a=0\.5\.$"),
        (
            {"protocol": "variance_reduced(estimator='saga', p=0.5)", "batch_size": 1},
            r"^saga takes neither p nor a; got p=0\.5\.$",
        ),
        (
            {"protocol": "variance_reduced(estimator='saga')"},
            r"^saga draws one sample; add --batch-size 1; got 8\.$",
        ),
        (
            {"protocol": "variance_reduced", "clip_examples": 1.0},
            r"^variance_reduced subtracts gradients at two models, whose noise would be the same; ",
        ),
        (
            {"protocol": "variance_reduced", "dealt_to": "honest"},
            r"^variance_reduced needs workers with equally many samples; expected dealt_to all, ",
        ),
        ({"protocol": "variance_reduced", "clip": 2.0}, r"^variance_reduced has no clip; got"),
        (
            {"protocol": "variance_reduced", "momentum": 0.9},
            r"^variance_reduced has momentum at update, if any; got momentum=0\.9 at worker\.",
        ),
        ({"attack": ("dissensus",)}, r"^dissensus needs peers; expected --protocol gossip\."),
    ],
)
def test_errors(more, message):
    with pytest.raises((ValueError, TypeError), match=message):
        assemble.plan(dataclasses.replace(BASE, **more))


def test_batches_of_a_step():
    """Of 40 samples of each worker; batches have 8."""
    for protocol, expected in (
        ("gossip", 1),
        ("variance_reduced(p=0.25)", 0.25 * 40 / 8 + 0.75 * 2),
        ("variance_reduced(estimator='storm')", 2),
        ("variance_reduced(estimator='saga')", 1),
    ):
        config = dataclasses.replace(BASE, protocol=protocol)
        assert protocols.batches(config, 40) == pytest.approx(expected)


def test_a_run_with_a_gradient_for_each_sample_trains_alone():
    some = {"seeds": 2, "batch_size": 1}
    for name, runs in (("saga", 1), ("storm", 2)):
        protocol = f"variance_reduced(estimator='{name}')"
        blocks = assemble.plan(dataclasses.replace(BASE, protocol=protocol, **some))
        assert {len(block.runs) for block in blocks} == {runs}


def test_gradients_of_a_step():
    for protocol, count in (
        ("gossip", 12),
        ("asynchronous", 1),
        ("parameter_server(per_round=5)", 5),
    ):
        assert protocols.gradients(dataclasses.replace(BASE, protocol=protocol)) == count


def test_what_is_known_of_a_protocol_is_what_it_takes():
    assert set(assemble.PROTOCOLS) == set(protocols.PROTOCOLS)
    for name, build in assemble.PROTOCOLS.items():
        assert build.__doc__, name
        _, *parameters = inspect.signature(build).parameters.values()
        written = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        assert written == protocols.PROTOCOLS[name].parameters
        any_other = any(p.kind is p.VAR_KEYWORD for p in parameters)
        assert any_other == protocols.PROTOCOLS[name].open_ended


@pytest.mark.slow
def test_kardam_trains_as_well_as_without_liars(tmp_path):
    """Just under a third of the workers send updates that are far too long."""
    digits = datasets.load("digits")
    config = Config(
        n=10, f=3, s=(0, 3), seeds=1, steps=4_000, eval_every=4_000, batch_size=16,
        momentum=0.0, learning_rate=0.1, rule=("mean",),
        attack=("gaussian(sigma=200)", "reversed_gradient(kappa=100)"),
    )  # fmt: skip
    accuracy = {}
    for judge in ("kardam", "none"):
        protocol = f"asynchronous(judge='{judge}', damping='none')"
        asked = dataclasses.replace(config, protocol=protocol)
        tasks = sweep.tasks([asked], tmp_path, lambda config: digits)
        for block in sweep.run(tasks, tmp_path, lambda config: digits):
            last = [run["accuracy"][-1] for run in block["runs"]]
            accuracy[judge, block["attack"]] = sum(last) / len(last)
    alone = accuracy["none", "none"]
    assert alone > 0.95
    for attack in config.attack:
        assert accuracy["kardam", attack] > alone - 0.02, accuracy
        assert accuracy["none", attack] < accuracy["kardam", attack], accuracy
    assert accuracy["none", "reversed_gradient(kappa=100)"] < 0.2, accuracy
