"""One WebSocket to the service, kept alive: DNS, web proxy, TLS, upgrade, ping, backoff.

May import :mod:`tailrace.wire` (names and limits), :mod:`tailrace.common` and
:mod:`tailrace.errors`; knows nothing of sessions, streams or local sockets.

What needs an event loop, TLS or a WebSocket package is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .endpoint import NetworkEndpoint, ServiceEndpoint, TLSOptions
from .interface import Buffer, CloseCode, ClosedBy, Link, LinkClosed, LinkHandler, LinkInfo

if TYPE_CHECKING:
    from .backoff import Backoff
    from .connector import connect
    from .heartbeat import Heartbeat, HeartbeatAction
    from .supervisor import LinkObserver, LinkSupervisor, ReconnectPolicy, SupervisorOutcome

__all__ = [
    "Backoff",
    "Buffer",
    "CloseCode",
    "ClosedBy",
    "Heartbeat",
    "HeartbeatAction",
    "Link",
    "LinkClosed",
    "LinkHandler",
    "LinkInfo",
    "LinkObserver",
    "LinkSupervisor",
    "NetworkEndpoint",
    "ReconnectPolicy",
    "ServiceEndpoint",
    "SupervisorOutcome",
    "TLSOptions",
    "connect",
]

_HOME = {
    "Backoff": ".backoff",
    "Heartbeat": ".heartbeat",
    "HeartbeatAction": ".heartbeat",
    "SupervisorOutcome": ".supervisor",
    "LinkSupervisor": ".supervisor",
    "LinkObserver": ".supervisor",
    "ReconnectPolicy": ".supervisor",
    "connect": ".connector",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
