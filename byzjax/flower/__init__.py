"""Rules of byzjax as a strategy of Flower, for clients that need not be trusted.

pip install "byzjax[flower]"
"""

from typing import Any

__all__ = ["RobustStrategy"]


def __getattr__(name: str) -> Any:
    """Flower is imported with the strategy, not with the package, which is also read without it."""
    if name != "RobustStrategy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import flwr  # noqa: F401
    except ImportError as error:
        raise ImportError('byzjax.flower needs Flower: pip install "byzjax[flower]".') from error
    from byzjax.flower._strategy import RobustStrategy

    globals()[name] = RobustStrategy
    return RobustStrategy
