"""`byzjax.torch`: tensors in, tensors out, beside the papers' loops."""

import collections
import functools

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
from byzjax.torch import _tensors  # noqa: E402

Aggregator = byzjax.torch.Aggregator
EPS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
torch.set_num_threads(1)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def agree(actual, expected, eps=2e-6):
    expected = torch.as_tensor(np.asarray(expected))
    torch.testing.assert_close(actual.double(), expected.double(), rtol=eps, atol=eps)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) <= 200


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
