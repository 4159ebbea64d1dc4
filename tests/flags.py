"""Flags of XLA under which tests compile quickly."""

from importlib import metadata

# Nearly all of the time is compilation. Without LLVM's optimisation it takes a third less, and with
# the older fusion emitter and one module per program a quarter of that. Fusion itself, which
# decides what is computed how often, stays on.
# jaxlib 0.12 no longer knows the last flag, and an unknown flag aborts the process.
QUICKLY = (
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false"
    * (tuple(map(int, metadata.version("jaxlib").split(".")[:2])) <= (0, 10))
)
