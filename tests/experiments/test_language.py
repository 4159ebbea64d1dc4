"""Language models: text as samples, GPTs, what they write, and their runs."""

import functools
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.data import batches, datasets, histograms, language
from experiments.execution import sweep
from experiments.grid import specs
from experiments.grid.config import Config
from experiments.models import language as models
from experiments.models import zoo
from experiments.report import tables
from experiments.training import assemble, poisoning, texts
from tests.experiments.test_models import drawn

LENGTH, VOCABULARY = 6, 7


class Tiny(models.GPT):
    """A GPT that compiles in no time."""

    layers, width, heads = 2, 8, 2


@pytest.fixture
def tiny(monkeypatch):
    """The model gpt_nano is a tiny one."""
    monkeypatch.setitem(zoo.MODELS, "gpt_nano", Tiny)


def build(**options):
    return zoo.build("gpt_nano", (LENGTH,), VOCABULARY, text=True, **options)


def random_parameters(model):
    return drawn(jax.eval_shape(model.init, jax.random.key(0)))


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape).astype(np.int32)


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "byzjax"


# --- text as samples ------------------------------------------------------------------------------


def test_windows_follow_the_text():
    x, y = language.windows(b"to be or not to be", 5)
    assert [bytes(row) for row in x] == [b"to be", b" or n", b"ot to"]
    assert [bytes(row) for row in y] == [b"o be ", b"or no", b"t to "]
    x, _ = language.windows(b"abcdef", 5)
    assert len(x) == 1
    message = r"^a window of 5 characters and the next one need 6; got 5\.$"
    with pytest.raises(ValueError, match=message):
        language.windows(b"abcde", 5)


def test_a_text_as_a_data_set():
    train, test = b"banana bread, and more of it", b"a zoo, a cab"
    dataset = datasets.of_text("cab", language.arrays(train, test, 4))
    assert dataset.vocabulary == " ,abdefmnorz"  # the z is only tested
    assert dataset.num_classes == len(dataset.vocabulary)
    assert dataset.shape == (4,)
    assert dataset.sizes == (6, 2)
    assert language.decode(dataset.train_x, dataset.vocabulary) == "banana bread, and more o"
    assert language.decode(dataset.test_y, dataset.vocabulary) == " zoo, a "
    assert dataset.train_x.dtype == dataset.train_y.dtype == np.int32
    other = datasets.of_text("cab", language.arrays(train, b"a zoo, a cup", 4))
    assert other.checksum == dataset.checksum  # what does not fill a window is left out
    other = datasets.of_text("cab", language.arrays(train, b"a zoo. a cab", 4))
    assert other.checksum != dataset.checksum


def test_text_of_the_workers():
    dataset = datasets.of_text(
        "cab", language.arrays(b"banana bread, and more", b"a cab, a zoo", 4)
    )
    text = histograms.describe(dataset, [np.arange(3), np.arange(3, 5)])
    assert text.splitlines() == [
        "cab: 5 + 2 windows of 4 characters, 11 of them different",
        "worker  characters  first ones",
        "     0          12  bana",
        "     1           8  , an",
        "   all          20",
    ]
    counts = histograms.label_histogram(dataset.train_y, [np.arange(5)], dataset.num_classes)
    assert counts.tolist()[0] == [
        "anana bread, and mor".count(character) for character in dataset.vocabulary
    ]


def prepare_text(data_dir, **parts):
    """Prepares a text as TFDS does, without TensorFlow."""
    pytest.importorskip("array_record")
    tfds = pytest.importorskip("tensorflow_datasets")

    class Text(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "tiny_shakespeare"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(text) for split, text in parts.items()}

        def _generate_examples(self, text):
            yield 0, {"text": text}

    config = tfds.download.DownloadConfig(try_download_gcs=False)
    Text(data_dir=str(data_dir)).download_and_prepare(
        file_format="array_record", download_config=config
    )


def test_a_prepared_text(tmp_path, cache_home):
    prepare_text(tmp_path, train="ab" * 40, validation="c" * 50, test="d" * 50)
    fresh = datasets.load("tiny_shakespeare", data_dir=tmp_path)
    cached = datasets.load("tiny_shakespeare", data_dir=tmp_path)
    assert list(cache_home.rglob("tiny_shakespeare-*.npz"))
    for dataset in (fresh, cached):
        assert dataset.vocabulary == "abcd"
        assert dataset.sizes == (1, 1)
        assert language.decode(dataset.train_y, "abcd") == "ba" * 32
        assert language.decode(dataset.test_x, "abcd") == "c" * 50 + "d" * 14


def test_the_real_text(cache_home):
    root = os.environ.get("TFDS_DATA_DIR")
    name = "tiny_shakespeare"
    if not root or not list(Path(root).expanduser().glob(f"{name}/*/dataset_info.json")):
        pytest.skip(f"no prepared {name}: TFDS_DATA_DIR is {root or 'not set'}")
    dataset = datasets.load(name)
    assert dataset.outline == datasets.OUTLINES[name]
    train, test = (
        language.decode(x, dataset.vocabulary) for x in (dataset.train_x, dataset.test_x)
    )
    assert train.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
    assert test.startswith("?\n\nGREMIO:\nGood morrow, neighbour Baptista.\n")


# --- the models -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"), [("gpt_nano", 205_440), ("gpt_micro", 804_096), ("gpt_mini", 10_671_360)]
)
def test_parameters(name, count):
    build = functools.partial(zoo.build, name, (64,), 65, text=True)
    width = zoo.MODELS[name].width
    for more, tied in ((0, True), (65 * width, False)):
        shapes = jax.eval_shape(build(tied=tied).init, jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count + more
    assert f"{count:,} parameters" in zoo.MODELS[name].__doc__


def test_the_first_loss_is_that_of_guessing():
    model = zoo.build("gpt_nano", (16,), 65, text=True)
    params = jax.jit(model.init)(jax.random.key(0))
    x, y = (np.random.default_rng(i).integers(0, 65, (4, 16)) for i in (0, 1))
    loss = float(jax.jit(model.loss)(params, {"x": x, "y": y}))
    assert loss == pytest.approx(math.log(65), rel=0.02)


def norm(x, scale):
    return x / np.sqrt((x**2).mean() + 1e-6) * scale


def logits_by_hand(params, window, tied):
    """Logits `[T, V]` of one window, position by position and head by head, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    h = [p["tokens"][token] + p["positions"][t] for t, token in enumerate(window)]
    for i in range(Tiny.layers):
        block, size = p[f"block{i}"], Tiny.width // Tiny.heads
        qkv = [norm(row, block["norm1"]["scale"]) @ block["qkv"]["kernel"] for row in h]
        for t in range(len(window)):
            mixed = []
            for head in range(Tiny.heads):
                q, k, v = (
                    [row[Tiny.width * part + size * head :][:size] for row in qkv]
                    for part in range(3)
                )
                scores = np.array([q[t] @ k[u] / math.sqrt(size) for u in range(t + 1)])
                weights = np.exp(scores - scores.max())
                mixed.append(sum(w * v[u] for u, w in enumerate(weights / weights.sum())))
            h[t] = h[t] + np.concatenate(mixed) @ block["out"]["kernel"]
        for t in range(len(window)):
            a = norm(h[t], block["norm2"]["scale"]) @ block["up"]["kernel"]
            gelu = a / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)))
            h[t] = h[t] + gelu @ block["down"]["kernel"]
    last = p["tokens"].T if tied else p["head"]["kernel"]
    return np.stack([norm(row, p["norm"]["scale"]) @ last for row in h])


@pytest.mark.parametrize("tied", [True, False])
def test_equals_a_loop(tiny, tied):
    model = build(tied=tied)
    params, x, y = random_parameters(model), tokens(3, LENGTH), tokens(3, LENGTH, seed=1)
    logits = np.stack([logits_by_hand(params, window, tied) for window in x])
    run = jax.jit(lambda *a: (model.apply(a[0], a[1]), zoo.evaluate(model, *a, chunk=2)))
    apart, metrics = run(params, x, y)
    np.testing.assert_allclose(apart, logits, rtol=1e-4, atol=1e-4)
    right = logits.argmax(-1) == y
    of_label = np.take_along_axis(logits, y[..., None], -1)[..., 0]
    loss = (np.log(np.exp(logits).sum(-1)) - of_label).mean()
    both = jax.jit(lambda p, x, y: (model.loss(p, {"x": x, "y": y}), model.accuracy(p, x, y)))
    for values in (both(params, x, y), (metrics.loss, metrics.accuracy)):
        np.testing.assert_allclose(values, (loss, right.mean()), rtol=1e-5)
    with np.errstate(invalid="ignore"):
        per_character = [right[y == c].sum() / (y == c).sum() for c in range(VOCABULARY)]
    np.testing.assert_allclose(metrics.per_class, per_character, rtol=1e-6)


@pytest.mark.parametrize("place", [0, 3, LENGTH - 1])
def test_logits_are_causal(tiny, place):
    model = build()
    params, x = random_parameters(model), tokens(2, LENGTH)
    changed = x.copy()
    changed[0, place] = (changed[0, place] + 1) % VOCABULARY
    apply = jax.jit(model.apply)
    before, after = (np.asarray(apply(params, each)) for each in (x, changed))
    np.testing.assert_array_equal(before[0, :place], after[0, :place])
    assert (np.abs(before - after)[0, place:].max(axis=-1) > 0).all()
    np.testing.assert_array_equal(before[1], after[1])


def test_strict_promotion(tiny):
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        model, x = build(), tokens(2, LENGTH)
        params = jax.eval_shape(model.init, jax.random.key(0))
        grads = jax.eval_shape(jax.grad(model.loss), params, {"x": x, "y": x})
        assert jax.tree.structure(grads) == jax.tree.structure(params)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mlp", True, "mlp needs images or features; for text use gpt_nano, gpt_micro or gpt_mini"),
        ("gpt_nano", False, r"gpt_nano needs text, such as tiny_shakespeare; got samples of shape"),
    ],
)
def test_models_and_their_data(name, text, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        zoo.build(name, (64,), 65, text=text)


def test_a_repetitive_text_is_learned(tiny):
    text = (b"abcde" * 40)[:-1]
    dataset = datasets.of_text("abc", language.arrays(text, text, LENGTH))
    model = zoo.build("gpt_nano", (LENGTH,), 5, text=True)
    batch = {"x": dataset.train_x, "y": dataset.train_y}
    tx = optax.adam(0.02)

    @jax.jit
    def trained(params):
        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(model.loss)(params, batch)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), loss

        (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), None, length=60)
        return losses, texts.write(model, params, jax.random.key(0), LENGTH, first=2)

    losses, written = trained(model.init(jax.random.key(0)))
    assert float(losses[0]) == pytest.approx(math.log(5), rel=0.05)
    assert float(losses[-1]) < 0.05
    right = np.diff(np.concatenate([[2], written])) % 5 == 1
    assert right.mean() > 0.95  # d after c, and so on; not always, as characters are drawn


def test_what_a_model_writes(tiny, monkeypatch):
    """Each character is drawn from the model's logits on the last ones, however many there are."""
    monkeypatch.setattr(texts, "CHARACTERS", 10)
    model = build()
    params, key = random_parameters(model), jax.random.key(3)
    apply, text = jax.jit(model.apply), [4]
    for place in range(1, 11):
        window = np.array(text[-LENGTH:])
        logits = apply(params, window[None])[0, -1] / texts.TEMPERATURE
        noise = jax.random.gumbel(jax.random.fold_in(key, place), logits.shape)
        text.append(int(jnp.argmax(logits + noise)))
    written = jax.jit(lambda *a: texts.write(model, *a, LENGTH, 4))(params, key)
    assert written.tolist() == text[1:]
    assert len(set(text)) > 2


# --- runs -----------------------------------------------------------------------------------------

PROTOCOLS = [
    "parameter_server",
    "parameter_server(local_steps=2, local='adamw', local_rate=0.01, keep_local_state=True)",
    "parameter_server(per_round=6)",
    "replicated_servers",
    "replicated_state_machine",
    "gossip(graph='ring')",
    "asynchronous",
    "redundant(r=3, s=1)",
    "variance_reduced",
]


def test_every_protocol_is_tried():
    assert {text.partition("(")[0] for text in PROTOCOLS} == set(assemble.PROTOCOLS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_works_in_every_protocol(tiny, protocol):
    """One step, from the models' shapes alone."""
    n, key, model = 12, jax.random.key(0), build()
    config = Config(n=n, f=2, s=(2,), momentum=0.0, protocol=protocol, batch_size=4)
    rule, mixing, attack = (
        specs.parse(*words, f=2)
        for words in (("rule", "mean"), ("mixing", "none"), ("attack", "sign_flip"))
    )

    def attacked(byzantine, place, rule, count):
        del place
        return specs.transformation(attack, byzantine=byzantine, key=key, rule=rule, n=count)

    def step(x):
        parts = assemble.Parts(
            config, model.loss, rule, mixing, attacked, jnp.arange(n) < 2, key, at_once=1
        )
        protocol = assemble.build(parts)
        state = protocol.init(model.init(key), key)
        after, _ = protocol.step(state, {"workers": {"x": x, "y": x}}, key)
        return state, after, protocol.models(after)

    before, after, honest = jax.eval_shape(step, jnp.zeros((n, 4, LENGTH), jnp.int32))
    assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)
    params = jax.eval_shape(model.init, key)
    assert jax.tree.map(lambda leaf: leaf.shape[1:], honest) == jax.tree.map(jnp.shape, params)


def test_wrong_labels():
    batch = {"x": tokens(4, 3, LENGTH), "y": tokens(4, 3, LENGTH, seed=1)}
    byzantine = np.array([True, False, False, True])
    names = ("none", "flip_labels", "shift_tokens", "shift_tokens(by=3)", "sign_flip")
    choices = [specs.parse("attack", name, f=2) for name in names]
    expected = [
        lambda y: y,
        lambda y: VOCABULARY - 1 - y,
        *(lambda y, k=k: (y + k) % VOCABULARY for k in (1, 3)),
        lambda y: y,
    ]
    run = jax.jit(lambda b, k: poisoning.labels(b, byzantine, choices, k, VOCABULARY))
    for place, wrong in enumerate(expected):
        out = run(batch, place)
        right = np.where(byzantine[:, None, None], wrong(batch["y"]), batch["y"])
        np.testing.assert_array_equal(out["y"], right)
        np.testing.assert_array_equal(out["x"], batch["x"])


def test_a_batch_is_windows_with_their_labels():
    dataset = datasets.of_text("digits", language.arrays(b"0123456789" * 9, b"0123456789", 4))
    indices, sizes = batches.pad_partition([np.arange(3), np.arange(3, 22)])
    batch = batches.sample_batch(
        jax.random.key(0), indices, sizes, dataset.train_x, dataset.train_y, 5
    )
    assert batch["x"].shape == batch["y"].shape == (2, 5, 4)
    np.testing.assert_array_equal((batch["x"] + 1) % 10, batch["y"])


def test_a_study_of_text(tiny, tmp_path):
    """Bits per character of every run, what the models of seed 0 write, and the report of both."""
    text = b"to be or not to be, that is the question: " * 12
    dataset = datasets.of_text("tiny_shakespeare", language.arrays(text, text[:200], LENGTH))
    config = Config(
        dataset="tiny_shakespeare",
        model="gpt_nano",
        partition="contiguous",
        rule=("mean",),
        attack=("shift_tokens",),
        **{"n": 5, "f": 1, "s": (0, 1), "seeds": 2, "steps": 4, "eval_every": 2, "batch_size": 2},
    )
    tasks = sweep.tasks([config], tmp_path, lambda _: dataset)
    blocks = sweep.run(tasks, tmp_path, lambda _: dataset)
    runs = [run for block in blocks for run in block["runs"]]
    assert [(run["seed"], run["s"]) for run in runs] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    for run in runs:
        np.testing.assert_allclose(
            run["bits_per_character"], np.divide(run["loss"], np.log(2)), 1e-5
        )
        assert ("sample" in run) == (run["seed"] == 0)
    samples = [run["sample"] for run in runs if run["seed"] == 0]
    for sample in samples:
        assert len(sample) == 200
        assert len(set(sample)) > 5
        assert set(sample) <= set(dataset.vocabulary)
    assert runs[0]["loss"][-1] < runs[2]["loss"][-1]  # the attack does harm
    about = tables.About("Text", "A claim.", "a command")
    results = tables.write(tmp_path / "report", blocks, [config], about)
    last = [np.mean([run["loss"][-1] for run in runs[i : i + 2]]) for i in (0, 2)]
    np.testing.assert_allclose(results["loss"], last, rtol=1e-6)
    np.testing.assert_allclose(results["bits_per_character"], last / np.log(2), rtol=1e-5)
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<pre>") == 2 + page.count("<pre><code>")
    assert "What the models write" in page
    assert "Validation loss, on text that no worker holds" in page
    assert (tmp_path / "report" / "bits_per_character.svg").exists()
    assert f"{last[0]:.3f} nats" in (tmp_path / "report" / "table.md").read_text()
