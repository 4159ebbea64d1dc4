"""Protocols: who talks to whom."""

from byzjax.protocols._protocol import Info, Protocol
from byzjax.protocols.parameter_server import parameter_server

__all__ = ["Info", "Protocol", "parameter_server"]
