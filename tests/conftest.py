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
