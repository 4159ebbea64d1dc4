"""Protocols: who talks to whom."""

from byzjax._deprecated import renamed as _renamed
from byzjax.protocols import codes, graphs
from byzjax.protocols._protocol import Info, Protocol, Traffic
from byzjax.protocols.agreement import (
    approach_extreme,
    mid_extremes,
    safe_area_average,
    trimmed_agreement,
)
from byzjax.protocols.asynchronous import asynchronous
from byzjax.protocols.clipped_gossip import clipped_gossip
from byzjax.protocols.damping import constant_damping, exponential_damping, inverse_damping
from byzjax.protocols.diameter import diameter
from byzjax.protocols.estimators import Estimator, Gradients, marina, saga, storm
from byzjax.protocols.gossip import gossip
from byzjax.protocols.judges import Arrival, Judge, frequency, kardam, lipschitz
from byzjax.protocols.parameter_server import parameter_server
from byzjax.protocols.redundant import redundant, vote
from byzjax.protocols.reliable_broadcast import Delivery, reliable_broadcast
from byzjax.protocols.replicated_servers import replicated_servers
from byzjax.protocols.replicated_state_machine import agreed, replicated_state_machine
from byzjax.protocols.variance_reduced import variance_reduced
from byzjax.protocols.zeno_plus_plus import zeno_plus_plus

__all__ = [
    "Arrival",
    "Delivery",
    "Estimator",
    "Gradients",
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
    "diameter",
    "exponential_damping",
    "frequency",
    "gossip",
    "graphs",
    "inverse_damping",
    "kardam",
    "lipschitz",
    "marina",
    "mid_extremes",
    "parameter_server",
    "redundant",
    "reliable_broadcast",
    "replicated_servers",
    "replicated_state_machine",
    "safe_area_average",
    "saga",
    "storm",
    "trimmed_agreement",
    "variance_reduced",
    "vote",
    "zeno_plus_plus",
]

__getattr__ = _renamed(__name__, {"spread": "diameter"})
