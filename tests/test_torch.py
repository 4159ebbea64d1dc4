"""`byzjax.torch`: tensors in, tensors out, beside the papers' loops and inside of ByzFL."""

import collections
import copy
import functools
import importlib
import importlib.util
import io
import pathlib
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax.facts import FACTS
from tests import oracles
from tests.rule_cases import CASES

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import byzjax.torch  # noqa: E402
from byzjax.torch import _stages, _tensors  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent
Aggregator = byzjax.torch.Aggregator
EPS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
torch.set_num_threads(1)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def agree(actual, expected, eps=2e-6):
    expected = torch.as_tensor(np.asarray(expected))
    torch.testing.assert_close(actual.double(), expected.double(), rtol=eps, atol=eps)


# --- values ---------------------------------------------------------------------------------------

RULES = {
    case.id: case
    for case in CASES
    if case.id in FACTS or case.id in ("aksel-mid", "centered_clip-far")
    if not case.data(jnp.ones((11, 6)), None)
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_its_papers_loop(name):
    case = RULES[name]
    n, f = 11, min(2, case.most(11))
    x = drawn(n, 6)
    hyper = case.hyper(n, f)
    given = {key: value for key, value in hyper.items() if key != "f"}
    aggregator = Aggregator(case.rule, f=f if FACTS[case.rule.__name__].takes_f else None, **given)
    seen = {key: value for key, value in hyper.items() if key not in case.unseen}
    expected = case.oracle(x.double().numpy(), f, **seen, **case.oracle_data(6))
    agree(aggregator(x), expected, max(case.eps, 2e-6))


def test_most_rules_are_tried():
    assert len(RULES) >= 15
    assert {case.rule for case in RULES.values()} >= {byzjax.aksel, byzjax.krum, byzjax.median}


def test_mixings_come_in_their_order_before_the_rule():
    x = drawn(11, 6)
    pre = [functools.partial(byzjax.clip_norms, max_norm=2.0), "nearest_neighbors"]
    rows = oracles.clip_norms(x.double().numpy(), 2.0)
    expected = oracles.trimmed_mean(oracles.nearest_neighbors(rows, 2), 2)
    agree(Aggregator(byzjax.trimmed_mean, f=2, pre=pre)(x), expected)


def test_data_come_with_the_call_by_position_or_name_or_once():
    x, trusted = drawn(7, 4), drawn(4, seed=1)
    expected = oracles.fl_trust(x.double().numpy(), 0, trusted.double().numpy())
    agree(Aggregator("fl_trust")(x, trusted), expected)
    agree(Aggregator("fl_trust")(list(x), trusted=trusted), expected)
    agree(Aggregator("fl_trust", trusted=trusted)(x), expected)
    trees = [{"a": row[:1], "b": row[1:].reshape(3, 1)} for row in x]
    result = Aggregator("fl_trust")(trees, {"b": trusted[1:].reshape(3, 1), "a": trusted[:1]})
    agree(torch.cat([result["a"], result["b"].reshape(-1)]), expected)


def test_a_function_of_ones_own():
    def halves(updates, *, q: float):
        return jnp.quantile(updates, q, axis=0)

    x = drawn(5, 3)
    agree(Aggregator(halves, q=0.5)(x), x.median(0).values)


# --- forms ----------------------------------------------------------------------------------------


def as_forms(x):
    """The rows of x, [n, 6], in every form, and how to flatten a result of it."""
    rows = list(x)

    def tree(row):
        return collections.OrderedDict(w=row[:4].reshape(2, 2), b=row[4:])

    def flat(u):
        return torch.cat([u["w"].reshape(-1), u["b"]])

    return {
        "stacked": (x, lambda u: u),
        "higher": (x.reshape(-1, 2, 3), lambda u: u.reshape(6)),
        "list": (rows, lambda u: u),
        "tuple of matrices": (tuple(row.reshape(2, 3) for row in rows), lambda u: u.reshape(6)),
        "generator": ((row for row in rows), lambda u: u),
        "stacked dict": ({"w": x[:, :4].reshape(-1, 2, 2), "b": x[:, 4:]}, flat),
        "state dicts": ([tree(row) for row in rows], flat),
        "nested": (
            [{"layer": tree(row)} for row in rows],
            lambda u: flat(u["layer"]),
        ),
        "parameter lists": (
            [[row[:4].reshape(2, 2), row[4:]] for row in rows],
            lambda u: torch.cat([u[0].reshape(-1), u[1]]),
        ),
        "generators of parameters": (
            [iter([row[:4].reshape(2, 2), row[4:]]) for row in rows],
            lambda u: torch.cat([u[0].reshape(-1), u[1]]),
        ),
        "orders": (
            [tree(row) if i % 2 else dict(reversed(tree(row).items())) for i, row in enumerate(x)],
            flat,
        ),
    }


@pytest.mark.parametrize("form", as_forms(drawn(1, 6)))
@pytest.mark.parametrize("rule", ["trimmed_mean", "krum"])
def test_every_form_gives_what_the_matrix_gives(rule, form):
    x = drawn(9, 6)
    updates, flat = as_forms(x)[form]
    result = Aggregator(rule, f=2)(updates)
    agree(flat(result), getattr(oracles, rule)(x.double().numpy(), 2))
    if isinstance(updates, list) and not hasattr(updates[0], "__next__"):
        assert type(result) is type(updates[0])
    if form == "state dicts":
        assert list(result) == ["w", "b"]


def test_a_state_dict_goes_back_into_its_model():
    def model(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))

    models = [model(i) for i in range(5)]
    for i, each in enumerate(models):
        for _ in range(i):
            each(drawn(8, 3))
    result = Aggregator("median")([each.state_dict() for each in models])
    assert int(result["1.num_batches_tracked"]) == 2
    assert result["1.num_batches_tracked"].dtype is torch.int64
    assert result._metadata == models[0].state_dict()._metadata
    target = model(9)
    target.load_state_dict(result)
    weights = torch.stack([each.state_dict()["0.weight"] for each in models])
    agree(target.state_dict()["0.weight"], weights.median(0).values)


def test_integers_are_the_lower_median_and_truth_values_too():
    workers = [
        {
            "x": torch.ones(1),
            "i": torch.tensor([i, -i], dtype=torch.int16),
            "t": torch.tensor(i > 1),
        }
        for i in (0, 1, 2, 90)
    ]
    result = Aggregator("mean")(workers)
    assert result["i"].tolist() == [1, -2]
    assert result["i"].dtype is torch.int16
    assert result["t"].dtype is torch.bool
    assert not result["t"]


def test_one_worker_no_coordinates_and_scalars():
    assert Aggregator("median")([torch.tensor([3.0, 4.0])]).tolist() == [3.0, 4.0]
    assert Aggregator("median")(torch.ones(3, 0)).shape == (0,)
    assert Aggregator("median")([torch.tensor(v) for v in (1.0, 5.0, 2.0)]) == 2.0


def test_rows_that_are_not_finite():
    x = drawn(9, 6)
    x[:2] = torch.nan
    x[2] = torch.inf
    for rule in ("median", "krum", "geometric_median"):
        result = Aggregator(rule, f=3 if rule == "krum" else None)(x)
        assert result.isfinite().all(), rule


# --- dtypes, memory and devices -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("form", ["stacked", "list", "state dicts"])
def test_dtypes_are_kept(dtype, form):
    assert not jax.config.jax_enable_x64
    x = drawn(9, 6, dtype=dtype)
    updates, flat = as_forms(x)[form]
    result = flat(Aggregator("trimmed_mean", f=2)(updates))
    assert result.dtype is dtype
    agree(result, oracles.trimmed_mean(x.double().numpy(), 2), EPS[dtype])


def test_float64_is_not_computed_in_float32():
    x = 1e8 + drawn(9, 6, dtype=torch.float64)  # float32 would have no digit of the difference
    result = Aggregator("krum", f=2, pre=["nearest_neighbors"])(x)
    expected = oracles.krum(oracles.nearest_neighbors(x.numpy(), 2), 2)
    assert (result - torch.from_numpy(expected)).abs().max() < 1e-6
    memory = Aggregator("centered_clipping", radius=1.0)
    memory(x)
    assert memory.state_dict()["[0].center"].dtype is torch.float64


def test_trees_of_several_dtypes():
    x = drawn(9, 6)
    half = [[row[:4].half(), row[4:].double(), torch.tensor(1)] for row in x]
    result = Aggregator("trimmed_mean", f=2)(half)
    assert [leaf.dtype for leaf in result] == [torch.float16, torch.float64, torch.int64]
    expected = oracles.trimmed_mean(x.double().numpy(), 2)
    agree(result[0], expected[:4], 2e-3)
    agree(result[1], expected[4:])
    whole = [row[:4].half().double() for row in x], [row[4:].double() for row in x]
    rows = torch.cat([torch.stack(part) for part in whole], dim=1)
    chosen = Aggregator("krum", f=2)(half)
    agree(torch.cat([chosen[0].double(), chosen[1]]), oracles.krum(rows.numpy(), 2))


VIEWS = {
    "transposed": lambda x: x.T.contiguous().T,
    "every second": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "misaligned": lambda x: torch.cat([torch.zeros(1), x.reshape(-1)])[1:].reshape(x.shape),
    "reversed": lambda x: x.flip(0).flip(0),
    "negated": lambda x: torch._neg_view(-x),
    "requires grad": lambda x: x.clone().requires_grad_(),
    "computed": lambda x: x.clone().requires_grad_() * 1.0,
    "parameter": lambda x: torch.nn.Parameter(x.clone()),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_other_memory(view):
    x = drawn(9, 6)
    given = VIEWS[view](x)
    torch.testing.assert_close(given.detach(), x)
    expected = oracles.trimmed_mean(x.double().numpy(), 2)
    for updates in (given, list(given)):
        result = Aggregator("trimmed_mean", f=2)(updates)
        agree(result, expected)
        assert not result.requires_grad


def test_expanded_rows_and_inference_mode():
    with torch.inference_mode():
        row = drawn(6)
        agree(Aggregator("median")(row.expand(5, 6)), row)


def test_memory_is_shared_with_jax_and_not_copied():
    x = drawn(25, 64)
    array = _tensors.array_of(x)
    assert array.unsafe_buffer_pointer() == x.data_ptr()
    out = jnp.median(array, axis=0).block_until_ready()
    assert _tensors.tensor_of(out).data_ptr() == out.unsafe_buffer_pointer()


def test_the_input_may_change_as_soon_as_the_call_returns():
    x = drawn(25, 50_000)
    aggregator = Aggregator("trimmed_mean", f=5)
    expected = aggregator(x.clone())
    for _ in range(10):
        y = x.clone()
        result = aggregator(y)
        y.fill_(torch.nan)  # an optimizer's step in place
        assert torch.equal(result, expected)


def test_the_result_may_change_in_place():
    x = drawn(9, 6)
    before = x.clone()
    memory = Aggregator("centered_clipping", radius=1.0)
    undisturbed = Aggregator("centered_clipping", radius=1.0)
    for _ in range(3):
        result, expected = memory(x), undisturbed(x).clone()
        assert torch.equal(result, expected)
        result.mul_(1e6)
        assert torch.equal(x, before)


def test_arguments_that_jax_returns_are_copied():
    def given(updates, trusted):
        return trusted

    x, trusted = drawn(3, 6), drawn(6)
    result = Aggregator(given)(x, trusted)
    result.zero_()
    assert trusted.abs().min() > 0


def test_states_do_not_refer_to_the_input():
    def init(params):
        return {"last": jnp.zeros((3, *params.shape), params.dtype)}

    def update(updates, state, params=None, **extra):
        return updates, {"last": updates}

    aggregator = Aggregator("mean", pre=[optax.GradientTransformationExtraArgs(init, update)])
    x = drawn(3, 16)
    aggregator(x)
    before = x.clone()
    x.zero_()
    assert torch.equal(aggregator.state_dict()["[0]['last']"], before)


def test_devices_that_jax_does_not_have():
    with pytest.raises(ValueError, match="updates are on meta, which JAX has not here") as error:
        Aggregator("median")(torch.ones(3, 2, device="meta"))
    one_line(error)
    with pytest.raises(ValueError, match=r"on cuda:0, .* or install JAX for CUDA") as error:
        _tensors.device_of("updates", torch.device("cuda:0"))
    one_line(error)
    mixed = [torch.ones(2), torch.ones(2, device="meta")]
    with pytest.raises(ValueError, match="disagree in device: worker 0 has cpu, worker 1 meta"):
        Aggregator("median")(mixed)
    with pytest.raises(ValueError, match=r"several devices: updates\['a'\] on cpu, updates\['b'\]"):
        Aggregator("median")({"a": mixed[0], "b": mixed[1]})


# --- memory ---------------------------------------------------------------------------------------


def test_a_memory_remembers_and_forgets():
    steps = [drawn(9, 6, seed=i) for i in range(4)]
    expected = oracles.centered_clipping([x.double().numpy() for x in steps], 1.0)
    factory = Aggregator(byzjax.centered_clipping, radius=1.0)
    made = Aggregator(byzjax.centered_clipping(radius=1.0))
    for aggregator in (factory, made):
        for _ in range(2):
            for x, result in zip(steps, expected):
                agree(aggregator(x), result)
            aggregator.reset()


def momenta():
    return byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=9)


REMEMBERING = {
    "centered_clipping": lambda: Aggregator("centered_clipping", radius=1.0),
    "foolsgold": lambda: Aggregator("foolsgold", num_workers=9),
    "bucketing": lambda: Aggregator(
        "median", pre=[functools.partial(byzjax.bucketing, s=2)], key=3
    ),
    "momentum": lambda: Aggregator("krum", f=2, pre=[momenta(), "nearest_neighbors"]),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_checkpoint_continues_the_training(name):
    steps = [drawn(9, 6, seed=i) for i in range(4)]
    whole = REMEMBERING[name]()
    expected = [whole(x) for x in steps]
    first, second = REMEMBERING[name](), REMEMBERING[name]()
    for x in steps[:2]:
        first(x)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for x, result in zip(steps[2:], expected[2:]):
        assert torch.equal(second(x), result)
    assert not all(torch.equal(REMEMBERING[name]()(x), r) for x, r in zip(steps[2:], expected[2:]))
    copied = copy.deepcopy(first)
    assert torch.equal(copied(steps[2]), expected[2])
    assert torch.equal(first(steps[2]), expected[2])


def test_each_call_draws_anew_and_seeds_differ():
    x = drawn(9, 6)
    bucketing = functools.partial(byzjax.bucketing, s=2)
    aggregator = Aggregator("median", pre=[bucketing], key=0)
    assert not torch.equal(aggregator(x), aggregator(x))
    aggregator.reset()
    first = aggregator(x)
    assert torch.equal(Aggregator("median", pre=[bucketing], key=jax.random.key(0))(x), first)
    assert not torch.equal(Aggregator("median", pre=[bucketing], key=1)(x), first)
    bound = Aggregator("median", pre=[functools.partial(bucketing, key=jax.random.key(0))])
    assert not torch.equal(bound(x), bound(x))


def test_states_that_do_not_fit():
    aggregator = REMEMBERING["centered_clipping"]()
    assert aggregator.state_dict() == {}
    aggregator(drawn(9, 6))
    with pytest.raises(ValueError, match=r"float32\[6\], now float32\[5\]\): write aggr") as error:
        aggregator(drawn(9, 5))
    one_line(error)
    other = REMEMBERING["foolsgold"]()
    other.load_state_dict(aggregator.state_dict())
    with pytest.raises(ValueError, match="it is that of another rule or mixing"):
        other(drawn(9, 6))
    wrong = {"[0].center": torch.ones(3)}
    aggregator.load_state_dict(wrong)
    with pytest.raises(ValueError, match=r"state has shape \(3,\); expected \(6,\)"):
        aggregator(drawn(9, 6))
    without = Aggregator("median", pre=[functools.partial(byzjax.bucketing, s=2)], key=3)
    without(drawn(9, 6))
    without(drawn(7, 5))  # a key fits any shape


def test_equal_aggregators_share_a_program():
    def made(f):
        return Aggregator(
            byzjax.krum, f=f, pre=[functools.partial(byzjax.clip_norms, max_norm=2.0)]
        )

    assert made(2)._program is made(2)._program
    assert made(2)._program is not made(1)._program
    a, b = (Aggregator("foolsgold", num_workers=k) for k in (5, 9))
    assert a._program is not b._program
    assert _stages.program.cache_info().maxsize is not None


# --- mistakes -------------------------------------------------------------------------------------

X = drawn(7, 3)
BUCKETS = functools.partial(byzjax.bucketing, s=2)
MISTAKES = {
    "name": (lambda: Aggregator("krumm"), "no rule 'krumm'; did you mean 'krum'?"),
    "ByzFL's name": (lambda: Aggregator("TrMean"), "did you mean 'trimmed_mean'?"),
    "paper's name": (lambda: Aggregator("multi-krum", f=1), "did you mean 'krum'?"),
    "mixing as rule": (lambda: Aggregator(byzjax.clip_norms), "write pre=[clip_norms]"),
    "its name": (lambda: Aggregator("nearest_neighbors"), "nearest_neighbors is a mixing"),
    "rule as mixing": (lambda: Aggregator("median", pre=["krum"]), "krum is a rule"),
    "no list": (lambda: Aggregator("median", pre="krum"), "write pre=[...]"),
    "number": (lambda: Aggregator(3), "takes a rule, a function; got 3"),
    "no f": (lambda: Aggregator("krum"), "krum needs f; write Aggregator(krum, f=...)"),
    "needless f": (lambda: Aggregator("median", f=2), "median takes no f; omit it"),
    "needless key": (lambda: Aggregator("median", key=2), "median takes no key; omit it"),
    "case": (lambda: Aggregator("krum", F=2), "no parameter F; did you mean f?"),
    "float": (lambda: Aggregator("krum", f=2.0), "f must be a Python int"),
    "no key": (lambda: Aggregator("median", pre=[BUCKETS]), "give a seed: key=0"),
    "no s": (
        lambda: Aggregator("median", pre=["bucketing"], key=0),
        "bucketing needs s; write pre=",
    ),
    "mix": (lambda: Aggregator(byzjax.mix(BUCKETS, key=jax.random.key(0))), "mix(...) is no rule"),
    "few": (lambda: Aggregator("krum", f=3)(X), "krum needs n >= 2f + 3; got n=7, f=3"),
    "no data": (lambda: Aggregator("fl_trust")(X), "write aggregator(updates, trusted)"),
    "more data": (lambda: Aggregator("median")(X, X), "takes 0 tensors beside the updates; got 1"),
    "late f": (lambda: Aggregator("median")(X, f=1), "hyperparameters belong to Aggregator(...)"),
    "empty": (lambda: Aggregator("median")([]), "updates are empty"),
    "empty dict": (lambda: Aggregator("median")({}), "updates have no tensors"),
    "None": (lambda: Aggregator("median")(None), "updates is None"),
    "no gradient": (lambda: Aggregator("median")([[X[0], None]] * 3), "updates[0][1] is None"),
    "later": (lambda: Aggregator("median")([[X[0]], [None]]), "updates[1][0] is None"),
    "NumPy": (lambda: Aggregator("median")(X.numpy()), "call the rule itself"),
    "integers": (lambda: Aggregator("median")(X.int()), "is of torch.int32; expected float16"),
    "only integers": (
        lambda: Aggregator("median")([{"i": X[0].int()}] * 3),
        "['i'] is of torch.in",
    ),
    "complex": (lambda: Aggregator("median")(X.cfloat()), "torch.view_as_real"),
    "float8": (lambda: Aggregator("median")(X.to(torch.float8_e5m2)), "write .float()"),
    "sparse": (lambda: Aggregator("median")(X.to_sparse()), "write .to_dense()"),
    "scalar": (lambda: Aggregator("median")(torch.ones(())), "no worker axis"),
    "no workers": (lambda: Aggregator("median")(torch.ones(0, 3)), "no workers"),
    "shapes": (lambda: Aggregator("median")([X[0], X[0, :2]]), "worker 0 has (3,), worker 1 (2,)"),
    "dtypes": (lambda: Aggregator("median")([X[0], X[0].half()]), "worker 1 torch.float16"),
    "a key less": (lambda: Aggregator("median")([{"a": X}, {}]), "worker 1 has no ['a'], which"),
    "a key more": (
        lambda: Aggregator("median")([{"a": X}, {"a": X}, {"a": X, "b": X}]),
        "worker 2 has ['b'], which worker 0 lacks",
    ),
    "kinds": (
        lambda: Aggregator("median")([X[0], {"a": X}]),
        "worker 0 sent a torch.Tensor, worker",
    ),
    "state": (lambda: Aggregator("median").load_state_dict(3), "state must be a dict; got 3"),
    "plain rule": (lambda: byzjax.krum(X, f=1), "byzjax.torch.Aggregator(rule, ...)(updates)"),
    "plain list": (lambda: byzjax.median(list(X)), "byzjax.torch.Aggregator(rule, ...)(updates)"),
}


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) <= 200


@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_says_what_is_wrong(name):
    call, expected = MISTAKES[name]
    with pytest.raises((TypeError, ValueError), match=re.escape(expected)) as error:
        call()
    one_line(error)


# --- the page, and ByzFL --------------------------------------------------------------------------


def test_the_page_runs_block_by_block(capsys):
    names = {"__name__": "page"}
    text = (ROOT / "docs" / "pytorch.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(code) >= 5
    for block in code:
        if "byzfl" in block:
            continue  # below
        capsys.readouterr()
        exec(block, names)
        said = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == said, block


@pytest.fixture(scope="module")
def byzfl():
    """The package. It imports torchvision, whose package for CUDA lacks its operators on CPU.

    Two are declared here, so that the import goes through; ByzFL uses none of them.
    """
    for name in ("byzfl", "torchvision"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("ByzFL is not installed")
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DECLARED.append(library)
    return importlib.import_module("byzfl")


DECLARED = []  # as long as this process lives


def write_idx(folder, images, labels):
    """Made-up digits in the files of MNIST that torchvision reads."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (raw / f"{name}-{kind}-ubyte").write_bytes(head + array.tobytes())
            (raw / f"{name}-{kind}-ubyte.gz").write_bytes(b"")  # of which only the name is read


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 600).astype(np.uint8)
    shapes = rng.integers(0, 256, (10, 28, 28))
    images = np.clip(shapes[labels] + rng.normal(0, 40, (600, 28, 28)), 0, 255).astype(np.uint8)
    write_idx(folder, images, labels)
    return folder


def byzfl_training(data, folder, aggregator, pre, attack, algorithm=None):
    """The accuracies that ByzFL's own loop stores."""
    train = importlib.import_module("byzfl.benchmark.train")
    algorithm = algorithm or {"name": "DSGD", "parameters": {}}
    train.start_training(
        {
            "benchmark_config": {
                "device": "cpu",
                "training_seed": 0,
                "nb_workers": 7,
                "nb_honest_clients": 5,
                "f": 2,
                "tolerated_f": 2,
                "size_train_set": 0.9,
                "data_distribution_seed": 0,
                "data_distribution": {"name": "iid", "distribution_parameter": None},
                "training_algorithm": algorithm,
                "nb_steps": 12,
            },
            "model": {
                "name": "fc_mnist",
                "dataset_name": "mnist",
                "nb_labels": 10,
                "loss": "NLLLoss",
                "learning_rate": 0.1,
                "learning_rate_decay": 1.0,
                "milestones": [],
            },
            "aggregator": aggregator,
            "pre_aggregators": pre,
            "honest_clients": {"momentum": 0.9, "weight_decay": 1e-4, "batch_size": 25},
            "attack": {"name": attack, "parameters": {}},
            "evaluation_and_results": {
                "evaluation_delta": 4,
                "batch_size_evaluation": 60,
                "evaluate_on_test": True,
                "store_per_client_metrics": False,
                "store_models": False,
                "data_folder": str(data),
                "results_directory": str(folder),
            },
        }
    )
    (losses,) = folder.rglob("train_loss_tr_seed*.txt")
    (accuracies,) = folder.rglob("test_accuracy_tr_seed*.txt")
    return np.loadtxt(losses, delimiter=","), np.loadtxt(accuracies, delimiter=",")


# Attacks of ByzFL: of a fixed strength, searched through the deployed aggregator, on labels.
ATTACKS = ["SignFlipping", "Optimal_InnerProductManipulation", "LabelFlipping"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_byzfl_trains_with_it_as_with_its_own(byzfl, digits, tmp_path, monkeypatch, attack):
    module = importlib.import_module("byzfl.aggregators.aggregators")
    monkeypatch.setattr(module, "Byzjax", Aggregator, raising=False)
    ours = {
        "name": "Byzjax",
        "parameters": {"rule": "trimmed_mean", "f": 2, "pre": ["nearest_neighbors"]},
    }
    theirs = {"name": "TrMean", "parameters": {"f": 2}}
    mixing = [{"name": "NNM", "parameters": {"f": 2}}]
    losses, accuracies = byzfl_training(digits, tmp_path / "a", ours, [], attack)
    expected = byzfl_training(digits, tmp_path / "b", theirs, mixing, attack)
    np.testing.assert_allclose(losses, expected[0], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(accuracies, expected[1], atol=0.02)
    assert losses[-1] < losses[0]


def test_byzfl_averages_models_with_it(byzfl, digits, tmp_path, monkeypatch):
    module = importlib.import_module("byzfl.aggregators.aggregators")
    monkeypatch.setattr(module, "Byzjax", Aggregator, raising=False)
    parameters = {"proportion_selected_clients": 1.0, "local_steps_per_client": 2}
    algorithm = {"name": "FedAvg", "parameters": parameters}
    ours = {"name": "Byzjax", "parameters": {"rule": "median"}}
    losses, _ = byzfl_training(digits, tmp_path / "a", ours, [], "SignFlipping", algorithm)
    theirs = {"name": "Median", "parameters": {}}
    expected, _ = byzfl_training(digits, tmp_path / "b", theirs, [], "SignFlipping", algorithm)
    np.testing.assert_allclose(losses, expected, rtol=2e-3, atol=2e-3)


def test_an_instance_stands_where_byzfls_does(byzfl):
    """`server.robust_aggregator`, and a plain call."""
    x = drawn(7, 5)
    ours = Aggregator("trimmed_mean", f=2)
    info = {"name": "TrMean", "parameters": {"f": 2}}
    for updates in (x, list(x)):
        agree(ours(updates), byzfl.TrMean(f=2)(updates))
        theirs = byzfl.RobustAggregator(info)
        agree(ours.aggregate_vectors(updates), theirs.aggregate_vectors(updates))
