"""Low-rank adapters, base models on disk, and runs that fine-tune."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import byzjax
from byzjax import attacks, protocols
from experiments.analysis import pretrain
from experiments.data import datasets, language
from experiments.execution import sweep
from experiments.grid.config import Config, identity, options
from experiments.models import base, zoo
from experiments.models.lora import lora, merge
from experiments.text import bases
from tests.experiments.test_language import LENGTH, VOCABULARY, Tiny, tokens

RANK = 2
# Of each block of width 8: qkv (8 x 24), out (8 x 8), up (8 x 32) and down (32 x 8).
ADAPTERS = 2 * RANK * ((8 + 24) + (8 + 8) + (8 + 32) + (32 + 8))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(zoo.MODELS, "gpt_nano", Tiny)


def gpt(seed=0):
    return Tiny((LENGTH,), VOCABULARY, rngs=nnx.Rngs(seed))


def adapters_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.LoRAParam))


@nnx.jit
def applied(model, x):
    return model(x)


def drawn(tree, seed=0):
    """The adapters with random A and B, since B starts at zero."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return structure.unflatten([jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype) for x in leaves])


def test_a_layer_is_the_papers():
    """W + (alpha / r) A B, in NumPy."""
    layer = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
    model = lora(nnx.Sequential(layer), RANK, alpha=6.0, rngs=nnx.Rngs(1))
    nnx.update(model, drawn(adapters_of(model)))
    a, b = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(adapters_of(model)))
    assert (a.shape, b.shape) == ((5, RANK), (RANK, 3))
    weights = np.asarray(layer.kernel[...], np.float64) + 6.0 / RANK * a @ b
    x = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    wanted = x @ weights + np.asarray(layer.bias[...])
    np.testing.assert_allclose(model(x), wanted, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(merge(model)(x), wanted, rtol=2e-5, atol=1e-5)


def test_adapters_start_at_the_base_and_merge_into_it():
    model, x = gpt(), tokens(3, LENGTH)
    adapted = lora(model, RANK, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(applied(adapted, x), applied(model, x))
    first = adapters_of(adapted)["block0"]["qkv"]["adapter"]
    assert np.ptp(first["lora_a"]) > 0
    nnx.update(adapted, drawn(adapters_of(adapted)))
    assert np.abs(applied(adapted, x) - applied(model, x)).max() > 1e-3
    merged = merge(adapted)
    assert jax.tree.structure(nnx.state(merged)) == jax.tree.structure(nnx.state(model))
    np.testing.assert_allclose(applied(merged, x), applied(adapted, x), rtol=1e-4, atol=1e-5)


def test_a_layer_in_two_places_has_one_adapter():
    layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    adapted = lora(nnx.Sequential(layer, jnp.tanh, layer), RANK, rngs=nnx.Rngs(1))
    assert len(jax.tree.leaves(adapters_of(adapted))) == 2


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (gpt, {"rank": 0}, r"^lora needs an integer rank >= 1; got 0\.$"),
        (gpt, {"rank": 1.5}, r"^lora needs an integer rank >= 1; got 1\.5\.$"),
        (gpt, {"rank": 9}, r"^lora needs rank <= 8 for a layer of \d+ x \d+; got 9\.$"),
        (gpt, {"rank": 1, "alpha": 0.0}, r"^lora needs a positive finite alpha; got 0\.0\.$"),
        (lambda: nnx.BatchNorm(3, rngs=nnx.Rngs(0)), {"rank": 1}, r"nnx\.Linear; got BatchNorm\.$"),
    ],
)
def test_mistakes(model, options, message):
    with pytest.raises(ValueError, match=message):
        lora(model(), **options, rngs=nnx.Rngs(0))


def test_nothing_to_merge():
    with pytest.raises(ValueError, match=r"^merge needs a model of lora; got Tiny without"):
        merge(gpt())


def test_workers_send_adapters_only(tiny):
    """A protocol's step: its rows are the adapters, and only they have a gradient."""
    params = zoo.build("gpt_nano", (LENGTH,), VOCABULARY, text=True).init(jax.random.key(3))
    model = zoo.build("gpt_nano", (LENGTH,), VOCABULARY, text=True, rank=RANK, base=params)
    assert zoo.size(model) == ADAPTERS
    n, x = 5, tokens(5, 2, LENGTH)
    batch = {"x": x, "y": (x + 1) % VOCABULARY}
    protocol = protocols.parameter_server(
        model.loss,
        num_workers=n,
        attack=byzjax.attack(attacks.sign_flip, jnp.arange(n) < 1),
        rule=byzjax.aggregate(byzjax.aksel, f=1),
        server=optax.sgd(0.5),
    )
    state = protocol.init(model.init(jax.random.key(0)), jax.random.key(1))
    before = jax.tree.map(lambda leaf: leaf[0], protocol.models(state))
    dense = zoo.build("gpt_nano", (LENGTH,), VOCABULARY, text=True, base=params)
    # At the base: the logits are those of the base, and so is the loss.
    np.testing.assert_array_equal(model.apply(before, x[0]), dense.apply(params, x[0]))
    step = jax.jit(protocol.step)
    state, info = step(state, {"workers": batch}, jax.random.key(2))
    rows = jax.tree.leaves(info.sent)
    assert sum(leaf.size for leaf in rows) == n * ADAPTERS
    after = jax.tree.map(lambda leaf: leaf[0], protocol.models(state))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for path, leaf in jax.tree_util.tree_leaves_with_path(info.sent):
        # B is zero, so A has no gradient in the first step.
        assert bool(jnp.any(leaf)) == ("lora_b" in jax.tree_util.keystr(path))
    for _ in range(40):
        state, info = step(state, {"workers": batch}, jax.random.key(2))
    last = jax.tree.map(lambda leaf: leaf[0], protocol.models(state))
    whole = {name: each.reshape(-1, LENGTH) for name, each in batch.items()}
    assert model.loss(last, whole) < model.loss(before, whole) - 0.1


# --- base models ----------------------------------------------------------------------------------

FACTS = {"model": "gpt_nano", "context": LENGTH, "vocabulary": "abcdefg"}


@pytest.fixture
def saved(tiny, tmp_path):
    params = zoo.build("gpt_nano", (LENGTH,), VOCABULARY, text=True).init(jax.random.key(3))
    base.save(tmp_path / "mine", params, FACTS)
    return tmp_path / "mine", params


def test_a_base_model_on_disk(saved):
    folder, params = saved
    read = base.load(folder, model="gpt_nano", context=LENGTH, vocabulary="abcdefg")
    assert read.facts["dtype"] == "bfloat16"
    for stored, leaf in zip(jax.tree.leaves(read.params), jax.tree.leaves(params), strict=True):
        assert stored.dtype == jnp.float32
        np.testing.assert_array_equal(stored, leaf.astype(jnp.bfloat16).astype(jnp.float32))
    assert base.load(folder, model="gpt_nano", context=LENGTH, vocabulary=7).facts == read.facts
    with pytest.raises(FileExistsError, match=r"weights is there already; expected a new"):
        base.save(folder, params, FACTS)
    for wrong, message in (
        ({"model": "gpt_micro"}, r"has model 'gpt_nano'; expected 'gpt_micro'\.$"),
        ({"context": 9}, r"has context 6; expected 9\.$"),
        ({"vocabulary": "abcdefh"}, r"has vocabulary 'abcdefg'; expected 'abcdefh'\.$"),
        ({"vocabulary": 8}, r"has 7 characters; expected 8\.$"),
    ):
        with pytest.raises(ValueError, match=message):
            base.load(folder, **({"model": "gpt_nano", "context": LENGTH} | wrong))


def test_a_damaged_base_model(saved):
    folder, _ = saved
    wanted = {"model": "gpt_nano", "context": LENGTH}
    facts = json.loads((folder / base.FACTS).read_text())
    (folder / base.FACTS).write_text(json.dumps(facts | {"sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"differs from the sha256 in base\.json; fetch it again"):
        base.load(folder, **wanted)
    (folder / base.WEIGHTS).rename(folder / "elsewhere")
    with pytest.raises(ValueError, match=r"weights cannot be read \(\w+\); fetch it again\.$"):
        base.load(folder, **wanted)
    for text, message in (
        ("{}", r"base\.json has no context, model, sha256, vocabulary; fetch it again\.$"),
        ("[", r"base\.json is not an object in JSON; fetch it again\.$"),
    ):
        (folder / base.FACTS).write_text(text)
        with pytest.raises(ValueError, match=message):
            base.load(folder, **wanted)
        with pytest.raises(ValueError, match=message):
            bases.digest(str(folder))
    (folder / base.FACTS).unlink()
    absent = r"^no base model in .*: expected base\.json and weights/ there; known: gpt_micro, or"
    with pytest.raises(FileNotFoundError, match=absent):
        base.load(folder, **wanted)
    with pytest.raises(FileNotFoundError, match=absent):
        bases.digest("other")


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_fine_tunes(tiny, tmp_path):
    """`--base` and `--lora` in a grid: what is trained, and the identity of its blocks."""
    text = b"to be or not to be, that is the question: " * 12
    dataset = datasets.of_text("tiny_shakespeare", language.arrays(text, text[:200], LENGTH))
    vocabulary = dataset.vocabulary
    folder = tmp_path / "mine"
    size = len(vocabulary)
    params = zoo.build("gpt_nano", (LENGTH,), size, text=True).init(jax.random.key(3))
    base.save(folder, params, FACTS | {"vocabulary": vocabulary})
    config = Config(
        dataset="tiny_shakespeare",
        model="gpt_nano",
        base=str(folder),
        lora=RANK,
        rule=("mean",),
        attack=("sign_flip",),
        **{"n": 5, "f": 1, "s": (0,), "seeds": 1, "steps": 4, "eval_every": 2, "batch_size": 2},
    )
    assert sweep.parameters(config, dataset) == ADAPTERS
    named = identity(config)
    assert named["lora"] == RANK
    assert named["weights"] == json.loads((folder / base.FACTS).read_text())["sha256"]
    assert not {"lora", "base", "weights"} & identity(Config()).keys()
    assert f"--base {folder} --lora {RANK}" in options(config)
    tasks = sweep.tasks([config], tmp_path, lambda _: dataset)
    (block,) = sweep.run(tasks, tmp_path, lambda _: dataset)
    assert block["lora"] == RANK
    # All weights, from the same base: the first evaluation after a tiny step is that of the base.
    every = dataclasses.replace(config, lora=0, learning_rate=1e-9)
    model = sweep.model_of(every, dataset)
    assert zoo.size(model) == zoo.size(zoo.build("gpt_nano", (LENGTH,), size, text=True))
    (whole,) = sweep.run(
        sweep.tasks([every], tmp_path, lambda _: dataset), tmp_path, lambda _: dataset
    )
    started = base.load(folder, model="gpt_nano", context=LENGTH).params
    loss = zoo.evaluate(model, started, dataset.test_x, dataset.test_y).loss
    np.testing.assert_allclose(whole["runs"][0]["loss"], loss, rtol=1e-4)
    assert block["runs"][0]["loss"][-1] < float(loss)


def test_adapters_need_a_base():
    config = Config(dataset="tiny_shakespeare", model="gpt_nano", lora=4)
    with pytest.raises(ValueError, match=r"^lora=4 needs trained weights; expected --base"):
        sweep.tasks([config], bases.FOLDER, lambda _: datasets.OUTLINES["tiny_shakespeare"])


def test_a_base_model_is_trained_and_kept(tiny, tmp_path, monkeypatch, capsys):
    """`experiments.analysis.pretrain` writes what `--base` reads, of the loss that it says."""
    text = b"to be or not to be, that is the question: " * 12
    dataset = datasets.of_text("shakespeare_first_six", language.arrays(text, text[:200], LENGTH))
    monkeypatch.setattr(datasets, "load", lambda name, **_: dataset)
    folder = tmp_path / "mine"
    words = f"{folder} --dataset shakespeare_first_six --model gpt_nano --n 1 --f 0 --s 0"
    words += " --rule mean --attack none --batch-size 4 --steps 4 --eval-every 2"
    pretrain.main(words.split())
    assert capsys.readouterr().out.endswith(f" bits per character, into {folder}.\n")
    known = {"model": "gpt_nano", "context": LENGTH, "vocabulary": dataset.vocabulary}
    params, facts = base.load(folder, **known)
    assert facts["command"] == f"python -m experiments.analysis.pretrain {words}"
    assert (facts["dataset"], facts["data"]) == (dataset.name, dataset.checksum)
    model = zoo.build("gpt_nano", (LENGTH,), len(dataset.vocabulary), text=True)
    loss = float(zoo.evaluate(model, params, dataset.test_x, dataset.test_y).loss)
    assert facts["loss"] == pytest.approx(loss, abs=1e-3)
    assert facts["bits_per_character"] == pytest.approx(loss / np.log(2), abs=1e-3)
    assert list(facts["steps"]) == ["2", "4"]
    # The stored numbers have 8 bits.
    assert facts["loss"] == pytest.approx(facts["steps"]["4"], rel=0.02)


def test_a_base_model_needs_text(tmp_path):
    with pytest.raises(
        ValueError, match=r"^digits is not text; expected --dataset shakespeare_fir"
    ):
        pretrain.main([str(tmp_path / "mine")])
