"""Compression in the laboratory: what is sent, how many bits it takes, and errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import compress
from experiments.grid import compressors, specs
from experiments.grid.config import Config, identity
from experiments.report import bits, figures, tables
from experiments.training import assemble
from tests.experiments.test_protocols import trained
from tests.experiments.test_report import blocks_of

BASE = Config(n=6, f=2, s=(2,), rule=("mean",), attack=("sign_flip",), seeds=1, momentum=0.0)
D = 40
LIARS = np.arange(6) < 2
LIE = "inner_product_manipulation(epsilon=0.5)"


def changed(compressor, **more):
    return dataclasses.replace(BASE, compressor=compressor, **more)


def sent(compressor, steps=1, **more):
    """What the workers send in each step `[steps, n, D]`; their gradients are their batches."""
    config = changed(compressor, **more)

    def loss(params, batch, key=None):
        del key
        return jnp.mean(batch @ params)

    def attack(byzantine, place, rule, n):
        return specs.transformation(
            specs.parse("attack", LIE, f=2), byzantine=byzantine, key=jax.random.key(place)
        )

    rule, mixing = specs.parse("rule", "mean", f=2), specs.parse("mixing", "none", f=2)
    key = jax.random.key(3)
    parts = assemble.Parts(config, loss, rule, mixing, attack, jnp.asarray(LIARS), key, None)
    protocol = assemble.build(parts)
    state, out = protocol.init(jnp.zeros(D), key), []
    for k in range(steps):
        batch = {"workers": jnp.stack([rows()] * 2, axis=1)}
        state, info = protocol.step(state, batch, jax.random.fold_in(key, k))
        out.append(np.asarray(info.sent))
    return np.stack(out)


def rows():
    return jnp.asarray(np.random.default_rng(0).normal(size=(6, D)), jnp.float32)


def largest(x, k):
    out = np.zeros_like(x)
    places = np.argsort(-np.abs(x), axis=-1)[..., :k]
    np.put_along_axis(out, places, np.take_along_axis(x, places, -1), -1)
    return out


@pytest.mark.parametrize("byzantine", [False, True])
def test_what_is_sent_is_what_the_papers_loop_sends(byzantine):
    (got,) = sent(f"top_k(k=4, byzantine={byzantine})")
    honest = largest(np.asarray(rows()), 4)
    lie = -0.5 * honest[~LIARS].mean(axis=0)
    expected = np.where(LIARS[:, None], largest(lie, 4) if byzantine else lie, honest)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    # The mean of four sparse rows has more than four coordinates: the lie breaks the format.
    assert ((got[LIARS] != 0).sum(axis=1) > 4).all() == (not byzantine)


def test_error_feedback_sends_later_what_was_left_out():
    got = sent("top_k(k=4, feedback='error_feedback')", steps=3)[:, ~LIARS]
    error, x = np.zeros((4, D), np.float32), np.asarray(rows())[~LIARS]
    for k in range(3):
        message = largest(x + error, 4)
        np.testing.assert_allclose(got[k], message, rtol=1e-6)
        error = x + error - message


def test_malicious_updates_obey_the_format_without_a_memory():
    """Error feedback is a habit of honest workers; the state of EF21 is the receiver's."""
    text = "top_k(k=4, feedback='{}', byzantine=True)"
    plain, ef21 = (sent(text.format(name), steps=3) for name in ("error_feedback", "ef21"))
    for message in plain:
        lie = np.tile(-0.5 * message[~LIARS].mean(axis=0), (2, 1))
        np.testing.assert_allclose(message[LIARS], largest(lie, 4), rtol=1e-5)
    estimate = np.zeros((2, D), np.float32)
    for read, mean in zip(ef21[:, LIARS], ef21[:, ~LIARS].mean(axis=1)):
        estimate = estimate + largest(-0.5 * mean - estimate, 4)
        np.testing.assert_allclose(read, estimate, rtol=1e-5, atol=1e-6)


def test_shared_coordinates_are_those_of_liars_too():
    got = sent("rand_k(k=0.2, shared=True, byzantine=True)", steps=2)
    where = got != 0
    assert (where == where[:, :1]).all()
    assert (where.sum(axis=2) == 8).all()
    assert (where[0] != where[1]).any()
    own = sent("rand_k(k=0.2)")[0][~LIARS] != 0
    assert (own != own[:1]).any()


def test_all_coordinates_are_no_compression(tmp_path):
    more = {"steps": 10, "eval_every": 5, "momentum": 0.9}
    _, plain = trained(tmp_path, "parameter_server", **more)
    block, whole = trained(tmp_path, "parameter_server", compressor="top_k(k=1.0)", **more)
    assert block["compressor"] == "top_k(k=1.0)"
    assert whole["accuracy"] == plain["accuracy"]
    assert "compressor" not in identity(BASE)


@pytest.mark.parametrize(
    "protocol",
    [
        "replicated_servers",
        "replicated_state_machine",
        "parameter_server(local_steps=2, local_rate=0.1)",
    ],
)
def test_other_protocols_compress(protocol):
    more = {"protocol": protocol, "rule": ("median",), "f": 1, "s": (1,)}
    assert assemble.plan(changed("sign(byzantine=True)", **more), D)
    honest = sent("top_k(k=3)", **more)[0][..., ~LIARS, :]
    assert ((honest != 0).sum(axis=-1) == 3).all()


def test_bits_of_a_message():
    expected = {
        "none": 32 * D,
        "top_k(k=4)": 4 * (32 + 6),  # an index of 40 has 6 bits
        "rand_k(k=4)": 4 * 32 + 64,
        "rand_k(k=4, shared=True)": 4 * 32,
        "quantize(bits=4)": 4 * D + 32,
        "sign(feedback='ef21')": compress.sign().bits(jnp.zeros(D)),
    }
    for text, count in expected.items():
        assert compressors.message_bits(changed(text), D) == count
    assert compressors.step_bits(changed("top_k(k=4)"), D) == 6 * expected["top_k(k=4)"]
    drawn = changed("top_k(k=4)", protocol="parameter_server(per_round=3)")
    assert compressors.step_bits(drawn, D) == 3 * expected["top_k(k=4)"]


@pytest.fixture(scope="module")
def curves():
    few = {"attack": ("none", "sign_flip"), "s": (0, 2), "steps": 40, "eval_every": 10, "seeds": 2}
    grids = [changed(text, model="softmax", **few) for text in ("none", "top_k(k=0.1)")]
    blocks = [block for grid in grids for block in blocks_of(grid)]
    return grids, tables.curves(blocks)


def test_bits_so_far_are_a_column(curves):
    grids, data = curves
    d = 65 * 10  # digits, softmax
    each = {"none": 32 * d, "top_k(k=0.1)": 65 * (32 + 10)}
    expected = [6 * each[name] * step for name, step in zip(data["compressor"], data["step"])]
    assert data["bits"].tolist() == expected
    table = tables.table(data)
    assert set(table["bits"]) == {6 * 40 * count for count in each.values()}
    assert "bits" not in tables.curves(blocks_of(grids[0]))
    assert "bits" in tables.curves(blocks_of(grids[1]))  # one compressor, in all blocks


def test_the_figure_has_a_panel_for_each_rule_and_attack_and_a_line_for_each_compressor(curves):
    grids, data = curves
    (drawing,) = bits.figures(data, grids)
    titles = [ax.get_title() for ax in drawing.figure.axes]
    assert titles == ["mean, none", "mean, sign_flip"]
    assert all(ax.get_xscale() == "log" for ax in drawing.figure.axes)
    (legend,) = drawing.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["none", "top_k(k=0.1)"]
    for ax in drawing.figure.axes:
        whole, compressed = (line.get_xdata() for line in ax.lines[::2])
        np.testing.assert_allclose(whole / compressed, 32 * 650 / (65 * 42))
        markers = ax.lines[1].get_xdata()  # evenly spaced on the logarithmic axis
        np.testing.assert_allclose(np.diff(np.log(markers)), np.log(markers[1] / markers[0]))
    assert "accuracy_against_bits" in figures.make(data, grids)
    one = data[data["compressor"] == "none"].drop(columns="compressor")
    assert not list(bits.figures(one, grids))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"compressor": "topk(k=3)"}, r"^unknown compressor 'topk'; did you mean top_k\?"),
        ({"compressor": "top_k"}, r"^top_k needs k; write top_k\(k=\.\.\.\)\.$"),
        ({"compressor": "top_k(3)"}, r"such as \"top_k\" or \"top_k\(k=0\.01\)\"\.$"),
        ({"compressor": "sign(k=3)"}, r"^sign has no parameter k; it takes feedback, byzantine\."),
        ({"compressor": "top_k(k=2.0)"}, r"k"),
        ({"compressor": "quantize(bits=1)"}, r"bits"),
        (
            {"compressor": "sign(feedback='ef12')"},
            r"^feedback must be error_feedback or ef21; got 'ef12'\. Did you mean ef21\?",
        ),
        ({"compressor": "sign(byzantine=1)"}, r"^byzantine must be True or False; got 1\.$"),
        (
            {"compressor": "sign", "protocol": "gossip"},
            r"^gossip has no compressor; got sign\. Expected --protocol parameter_server, ",
        ),
        (
            {
                "compressor": "rand_k(k=0.1, shared=True)",
                "protocol": "parameter_server(per_round=4)",
            },
            r"^shared coordinates need all workers in every step; got rand_k\(",
        ),
        ({"compressor": "top_k(k=41)"}, r"41.*40|40.*41"),
    ],
)
def test_errors(more, message):
    with pytest.raises((ValueError, TypeError), match=message):
        assemble.plan(dataclasses.replace(BASE, **more), D)
