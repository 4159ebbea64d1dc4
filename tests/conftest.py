"""What all tests share. The environment is set before anything imports jax."""

import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # for the tests of jax.shard_map

import hypothesis

hypothesis.settings.register_profile(
    "byzjax",
    deadline=None,  # the first example compiles
    derandomize=True,
    database=None,
    max_examples=20,
    print_blob=False,
)
hypothesis.settings.load_profile("byzjax")


def pytest_collection_modifyitems(items):
    """Tests of one group stand side by side: they share compiled functions.

    `--dist worksteal` hands out neighbours, so that most are compiled once.
    """
    first: dict = {}
    places = []
    for i, item in enumerate(items):
        groups = tuple(mark.args[0] for mark in item.iter_markers("xdist_group"))
        module = first.setdefault(item.path, i)
        places.append((module, first.setdefault((item.path, groups), i), i))
    items[:] = [items[i] for _, _, i in sorted(places)]
