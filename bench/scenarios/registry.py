"""The scenarios in the order they are run."""

from __future__ import annotations

from .base import Scenario
from .bulk import Bulk, Streams
from .connections import Concurrency, Connects
from .footprint import Footprint
from .latency import Latency, Messages
from .service import BusyTunnels, IdleLinks
from .slow import Network, SlowLink
from .stalled import Stalled
from .tools import Tools

__all__ = ["all_scenarios"]


def all_scenarios() -> list[Scenario]:
    """Return every scenario."""
    return [
        Bulk(),
        Streams(),
        Latency(),
        Messages(),
        Connects(),
        Concurrency(),
        Stalled(),
        SlowLink(),
        Network(),
        Tools(),
        Footprint(),
        IdleLinks(),
        BusyTunnels(),
    ]
