"""Protocols: who talks to whom."""

from byzjax.protocols import codes, graphs
from byzjax.protocols._protocol import Info, Protocol, Traffic
from byzjax.protocols.agreement import (
    approach_extreme,
    mid_extremes,
    safe_area_average,
    trimmed_agreement,
)
from byzjax.protocols.asynchronous import (
    asynchronous,
    constant_damping,
    exponential_damping,
    inverse_damping,
)
from byzjax.protocols.filters import (
    Arrival,
    Judge,
    frequency,
    kardam,
    lipschitz,
    zeno_plus_plus,
)
from byzjax.protocols.gossip import clipped_gossip, gossip
from byzjax.protocols.parameter_server import parameter_server
from byzjax.protocols.redundant import redundant, vote
from byzjax.protocols.replicated_servers import replicated_servers
from byzjax.protocols.replicated_state_machine import agreed, replicated_state_machine
from byzjax.protocols.spread import spread

__all__ = [
    "Arrival",
    "Info",
    "Judge",
    "Protocol",
    "Traffic",
    "agreed",
    "approach_extreme",
    "asynchronous",
    "clipped_gossip",
    "codes",
    "constant_damping",
    "exponential_damping",
    "frequency",
    "gossip",
    "graphs",
    "inverse_damping",
    "kardam",
    "lipschitz",
    "mid_extremes",
    "parameter_server",
    "redundant",
    "replicated_servers",
    "replicated_state_machine",
    "safe_area_average",
    "spread",
    "trimmed_agreement",
    "vote",
    "zeno_plus_plus",
]
