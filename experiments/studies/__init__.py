"""Studies: each module tests one claim.

A study's docstring states the claim, the command, the hardware, the run time and the expected
number. `EDITIONS` holds its grids by edition: `full` is the published setting and needs an
accelerator or a cluster, `cpu` finishes on two cores.
"""

import importlib
import pkgutil
from typing import NamedTuple

from experiments.grid.config import Config
from experiments.text import names as texts


class Study(NamedTuple):
    """A predefined study.

    Attributes:
      name: name of its module.
      about: the module's docstring.
      editions: grids by edition.
    """

    name: str
    about: str
    editions: dict[str, tuple[Config, ...]]

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return self.about.partition("\n")[0]


def names() -> list[str]:
    """The names of all studies."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Study:
    """A study by name.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in names():
        raise ValueError(texts.unknown("study", name, names()))
    module = importlib.import_module(f"{__name__}.{name}")
    return Study(name, (module.__doc__ or "").strip(), dict(module.EDITIONS))


def grids(name: str, edition: str) -> tuple[Config, ...]:
    """The grids of an edition.

    Raises:
      ValueError: the study or the edition does not exist.
    """
    study = load(name)
    if edition not in study.editions:
        near = texts.nearest(edition, study.editions)
        more = f" Did you mean {near}?" if near else ""
        raise ValueError(
            f"study {name} has no edition {edition!r}; it has {', '.join(study.editions)}.{more}"
        )
    return study.editions[edition]
