"""The code of the pages: what a block needs, and the page of training loops, block by block."""

import builtins
import functools
import pathlib
import re
import symtable

import jax
import jax.numpy as jnp
import optax
import pandas as pd
import pytest
from flax import nnx

import byzjax

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LOOP = (DOCS / "training-loop.md").read_text()
TITLES = re.findall(r"^## (.*)$", LOOP, re.MULTILINE)


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def shown(code):
    """What the comments behind `print(...)` say."""
    return re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)


def agree(said, printed):
    """Numbers within 0.03: training amplifies rounding, which differs between machines."""
    words = said.split(), printed.split()
    if len(words[0]) != len(words[1]):
        return False
    try:
        return all(abs(float(a) - float(b)) <= 0.03 for a, b in zip(*words))
    except ValueError:
        return said == printed


def run(block, names, capsys):
    """Runs a block, which prints what its comments say."""
    capsys.readouterr()
    exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(shown(block)), block
    for said, line in zip(shown(block), printed):
        assert agree(said, line), (said, line)


# --- all pages ------------------------------------------------------------------------------------

# What a page says whose blocks do not run alone.
CONTINUES = re.compile(r"blocks .*continue one another|continues the first block|is a sketch")


def unbound(code):
    """Names that a block uses but does not define."""
    tables, used = [symtable.symtable(code, "block", "exec")], set()
    defined = {s.get_name() for s in tables[0].get_symbols() if s.is_assigned() or s.is_imported()}
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
    return used - defined - set(vars(builtins))


def test_names_that_a_block_does_not_define():
    assert unbound("def f(x):\n    return [y + len(x) + z for y in x]\nw = f(z)") == {"z"}
    assert not unbound("import jax\nclass C:\n    a = jax\nfor i in range(3):\n    C.a = i")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_block_runs_alone_or_the_page_says_what_it_continues(path):
    text = path.read_text()
    said = CONTINUES.search(" ".join(text.split()))
    for code in blocks(text):
        assert said or not unbound(code), (code, unbound(code))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_times_are_numbers(path):
    vague = r"in a few seconds|half a minute|\(a minute|takes long\b|in no time"
    assert not re.findall(vague, " ".join(path.read_text().split()))


def test_times_of_studies_are_those_of_their_blocks():
    page = " ".join((DOCS / "studies" / "README.md").read_text().split())
    named = re.findall(
        r"`python -m experiments study (\w+)`((?:(?! study ).)*?) (\d+) minutes on", page
    )
    assert len(named) == len(re.findall(r"\d+ minutes on", page)) > 4
    for name, _, minutes in named:
        blocks = pd.read_csv(DOCS / "studies" / f"{name}-cpu" / "blocks.csv", usecols=["seconds"])
        assert round(blocks.seconds.sum() / 60) == int(minutes), name


@pytest.mark.slow  # the page of training loops has the same in short
def test_the_page_of_flax_trains(capsys):
    """Word for word, in this process: the page has no commands and saves no files."""
    names = {"__name__": "page"}
    code = blocks((DOCS / "flax.md").read_text())
    assert sum(len(shown(block)) for block in code) == 3
    for block in code:
        run(block, names, capsys)


def test_the_page_of_the_laboratory_compares_pairs(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (block,) = blocks((DOCS / "laboratory.md").read_text())
    exec(block, {})
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[-5:] == ["mean", "low", "high", "seeds", "better"]
    assert len(lines) == 3


def test_across_devices_says_how_to_get_them(monkeypatch):
    first, *_ = blocks((DOCS / "collective.md").read_text())
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    with pytest.raises(SystemExit) as stop:
        exec(first, {})
    assert "JAX_NUM_CPU_DEVICES=8" in str(stop.value)
    assert len(str(stop.value)) <= 200


# --- the page of training loops -------------------------------------------------------------------


def section(title):
    """The blocks of a section."""
    return blocks(LOOP.split(f"\n## {title}\n")[1].split("\n## ")[0])


@functools.cache
def beginning():
    """The names of the first block, which every section continues."""
    names = {"__name__": "page"}
    exec(section(TITLES[0])[0], names)
    return names


def test_the_first_section_shows_its_accuracies():
    assert len(TITLES) >= 12
    assert len(section(TITLES[0])) == 2
    assert min(map(float, shown(section(TITLES[0])[1]))) > 0.9
    assert sum(len(shown(code)) for code in blocks(LOOP)) >= 20


@pytest.mark.parametrize("title", TITLES)
def test_a_section_continues_the_first_block_and_prints_what_it_says(title, capsys):
    code = section(title)
    assert code
    names = dict(beginning())
    for block in code[title == TITLES[0] :]:
        run(block, names, capsys)


def test_what_the_page_says_is_not_possible():
    """In the order of the page; by tracing one step, without compiling it."""
    page = dict(beginning())
    n, f, params = page["n"], page["f"], page["init"]()
    rows = jax.tree.map(lambda leaf: jnp.ones((n, *leaf.shape)), params)
    chain = optax.chain(page["momentum"], page["aggregate"], optax.sgd(0.5))

    def updated(tx):
        return jax.eval_shape(tx.update, rows, tx.init(params), params)[0]

    def shapes(tree):
        return jax.tree.map(jnp.shape, tree)

    assert shapes(updated(chain)) == shapes(params)
    with pytest.raises(ValueError, match="worker"):
        updated(optax.MultiSteps(chain, 4).gradient_transformation())
    with pytest.raises(TypeError, match="output types"):
        updated(optax.apply_if_finite(chain, 10))
    masked = updated(optax.masked(chain, {"hidden": True, "out": False}))
    assert shapes(masked) == {"hidden": shapes(params["hidden"]), "out": shapes(rows["out"])}
    bare = {"train": chain, "freeze": optax.set_to_zero()}
    labels = {"hidden": "train", "out": "freeze"}
    assert shapes(updated(optax.multi_transform(bare, labels))["out"]) == shapes(rows["out"])

    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(64, rngs=rngs)

        def __call__(self, x):
            return self.norm(x)

    batch = next(page["batches"](1))
    grad = nnx.grad(lambda model, batch: model(batch["x"]).sum())
    with pytest.raises(ValueError, match="vmap out_axes"):
        nnx.vmap(grad, in_axes=(None, 0))(Normed(nnx.Rngs(0)), batch)

    statistics = jnp.ones((n, 32)).at[0].set(jnp.nan)
    assert jnp.isnan(byzjax.mean(statistics)).all()
    assert jnp.isfinite(byzjax.trimmed_mean(statistics, f=f)).all()


@pytest.mark.slow
def test_what_the_page_says_of_the_mean_and_of_two_momenta():
    page = dict(beginning())
    steps = 1
    mean = page["train"](optax.chain(byzjax.aggregate(byzjax.mean), optax.sgd(0.5)), steps)
    assert mean == round(float((page["test_y"] == 0).mean()), 2)  # NaN in all logits: class 0
    both = page["train"](optax.chain(page["momentum"], page["aggregate"], optax.adam(1e-2)))
    one = page["train"](optax.chain(page["momentum"], page["aggregate"], optax.adam(1e-2, b1=0)))
    print(both)
    assert both < one - 0.05
