"""`byzjax.torch` from call to call: memories, checkpoints, shared programs, and mistakes."""

import copy
import functools
import io
import pathlib
import re

import jax
import optax
import pytest

import byzjax
from tests import oracles

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import byzjax.torch  # noqa: E402
from byzjax.torch import _stages, _updates  # noqa: E402
from tests.test_torch import Aggregator, agree, drawn, one_line  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent


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


def test_long_lists_are_stacked_by_the_program(monkeypatch):
    monkeypatch.setattr(_updates, "LARGE", 0)
    x = drawn(9, 6)
    memory = Aggregator("centered_clipping", radius=1.0, pre=[momenta()])
    for rule in (Aggregator("krum", f=2), memory):
        expected = rule(x)
        rule.reset()
        result = rule(list(x))
        assert torch.equal(result, expected)
        assert torch.equal(rule(list(x)), rule(x)) == (rule is not memory)
        result.zero_()
        assert x.abs().min() > 0


# --- mistakes -------------------------------------------------------------------------------------

X = drawn(7, 3)
BUCKETS = functools.partial(byzjax.bucketing, s=2)
MISTAKES = {
    "name": (lambda: Aggregator("krumm"), "no rule 'krumm'; did you mean 'krum'?"),
    "ByzFL's name": (lambda: Aggregator("TrMean"), "did you mean 'trimmed_mean'?"),
    "paper's name": (lambda: Aggregator("cge", f=1), "did you mean 'comparative_elimination'?"),
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


@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_says_what_is_wrong(name):
    call, expected = MISTAKES[name]
    with pytest.raises((TypeError, ValueError), match=re.escape(expected)) as error:
        call()
    one_line(error)


# --- the page -------------------------------------------------------------------------------------


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
