"""Studies: each module here is one claim, tested.

A study's docstring says which claim it tests, the command, the hardware, the run time and the
number that should come out. `EDITIONS` holds its grids by edition: `full` is the published setting
and needs an accelerator or a cluster, `cpu` ends on two cores.
"""

import importlib
import pkgutil
from typing import NamedTuple

from experiments.grid.config import Config


class Study(NamedTuple):
    """A study that is shipped.

    Attributes:
      name: of its module.
      about: the module's docstring.
      editions: grids by edition.
    """

    name: str
    about: str
    editions: dict[str, tuple[Config, ...]]

    @property
    def title(self) -> str:
        """The first line of what it is about."""
        return self.about.partition("\n")[0]


def names() -> list[str]:
    """The studies there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Study:
    """A study by name.

    Raises:
      ValueError: there is none of this name.
    """
    if name not in names():
        raise ValueError(f"unknown study {name!r}; known: {', '.join(names())}.")
    module = importlib.import_module(f"{__name__}.{name}")
    return Study(name, (module.__doc__ or "").strip(), dict(module.EDITIONS))


def grids(name: str, edition: str) -> tuple[Config, ...]:
    """The grids of an edition.

    Raises:
      ValueError: the study or the edition does not exist.
    """
    study = load(name)
    if edition not in study.editions:
        raise ValueError(
            f"study {name} has no edition {edition!r}; it has {', '.join(study.editions)}."
        )
    return study.editions[edition]
