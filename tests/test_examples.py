"""The examples in docstrings print the output shown."""

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import byzjax

WITHOUT_FLOWER = importlib.util.find_spec("flwr") is None
FINDER = doctest.DocTestFinder(exclude_empty=True)
MODULES = [
    module.name
    for module in pkgutil.walk_packages(byzjax.__path__, "byzjax.")
    if not module.name.endswith("__main__")
    and not (WITHOUT_FLOWER and module.name == "byzjax.flower._strategy")
]
EXAMPLES = {
    example.name: example
    for name in ("byzjax", *MODULES)
    for example in FINDER.find(importlib.import_module(name), name)
    if example.examples
}


def test_there_are_examples():
    public = {f"{f.__module__}.{f.__name__}" for f in map(vars(byzjax).get, byzjax.rules.__all__)}
    assert public <= set(EXAMPLES)


@pytest.mark.smoke
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    if name.startswith("byzjax.torch."):
        pytest.importorskip("torch", reason="PyTorch is not installed")
    said: list[str] = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(EXAMPLES[name], out=said.append)
    assert not failed, "".join(said)
