"""Names that a module does not have, and deprecated ones, which warn for one version."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

from byzjax._mistakes import no_attribute


def renamed(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose public names changed.

    Args:
      module: its `__name__`.
      names: the new name of each old one.
    """

    def getattr_of_module(name: str) -> Any:
        if name not in names:
            raise no_attribute(module, name)
        message = (
            f"{module}.{name} is now {module}.{names[name]}; the old name is removed in byzjax 0.3."
        )
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(module), names[name])

    return getattr_of_module
