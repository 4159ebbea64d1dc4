"""The command line: `python -m experiments`, and `python -m experiments worst-case`."""

import os
import pathlib
import platform
import sys
import time

import jax
import tyro

from experiments import config as configs
from experiments import data, models, sweep


def _keep_compiled_programs() -> None:
    """A second start finds its programs compiled; each host has its own, for its own processor."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache / "byzjax" / "xla" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(folder))


def main() -> int:
    """Runs a study; returns the exit status."""
    if sys.argv[1:2] == ["worst-case"]:
        from experiments import worst_case  # only here: matplotlib takes a second to import

        _keep_compiled_programs()
        return worst_case.main(sys.argv[2:])
    config = tyro.cli(configs.Config, prog="python -m experiments")
    begin = time.perf_counter()
    try:
        blocks = configs.plan(config)
        dataset = data.load(config.dataset, data_dir=config.data_dir, download=config.download)
        models.build(config.model, dataset.train_x.shape[1:], dataset.num_classes)
        data.partition(dataset.train_y, config.n, config.partition, seed=0)
    except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs = sum(len(block.s) for block in blocks) * config.seeds
    print(
        f"{config.dataset} ({len(dataset.train_y)} + {len(dataset.test_y)} images), "
        f"{config.model}, n = {config.n}, f = {config.f}: {len(blocks)} blocks, {runs} runs of "
        f"{config.steps} steps."
    )
    _keep_compiled_programs()
    try:
        finished = sweep.run(config, blocks, dataset)
    except KeyboardInterrupt:
        print("\nStopped. Finished blocks are on disk; the same command continues.")
        return 130
    from experiments import report  # only here: matplotlib takes a second to import

    results = report.write(config, finished)
    print(f"\n{report.text(results)}\n")
    folder = pathlib.Path(config.results) / config.study
    print(
        f"{folder}: table.csv, table.md, curves.csv, config.json, blocks/, figures as PNG and SVG."
    )
    print(f"{time.perf_counter() - begin:.0f} seconds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
