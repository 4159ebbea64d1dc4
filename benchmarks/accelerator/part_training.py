"""Training loops of the laboratory, alone and many at once."""

import dataclasses
from collections.abc import Iterator

from benchmarks import training
from benchmarks.accelerator.budget import NO_TIME, Clock, Record, guarded, missing, row
from benchmarks.accelerator.parts import Sizes


def records(clock: Clock, sizes: Sizes, platform: str) -> Iterator[Record]:
    """A row for each network and number of runs."""
    del platform
    dataset, alone = training.made_up(), {}

    def line(model: str, runs: int) -> Iterator[Record]:
        config = dataclasses.replace(training.one(model, runs), eval_every=sizes.steps[model])
        rate = training.our_steps(config, dataset, sizes.rounds)
        if runs == 1:
            alone[model] = rate
        over = rate / alone[model] if model in alone else None
        values = {"runs at once": runs, "steps/s of all": rate, "over one": over}
        yield row("training", network=model, **values)

    for model, runs in sizes.training:
        what = f"{model}, {runs} at once"
        if clock.allows():
            yield from guarded(what, line(model, runs))
        else:
            yield missing(what, NO_TIME)
