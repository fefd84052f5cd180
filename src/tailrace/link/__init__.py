"""One WebSocket to the service, kept alive: DNS, web proxy, TLS, upgrade, ping, backoff.

May import :mod:`tailrace.wire` (names and limits) and :mod:`tailrace.errors`; knows
nothing of sessions, streams or local sockets.

What needs an event loop, TLS or a WebSocket package is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .endpoint import LinkTarget, TLSOptions
from .interface import Buffer, CloseCode, ClosedBy, Link, LinkClosed, LinkHandler, LinkInfo

if TYPE_CHECKING:
    from .backoff import Backoff
    from .connector import connect
    from .heartbeat import Keepalive, KeepaliveAction
    from .supervisor import KeeperOutcome, LinkKeeper, LinkObserver, ReconnectPolicy

__all__ = [
    "Backoff",
    "Buffer",
    "CloseCode",
    "ClosedBy",
    "Keepalive",
    "KeepaliveAction",
    "KeeperOutcome",
    "Link",
    "LinkClosed",
    "LinkHandler",
    "LinkInfo",
    "LinkKeeper",
    "LinkObserver",
    "LinkTarget",
    "ReconnectPolicy",
    "TLSOptions",
    "connect",
]

_HOME = {
    "Backoff": ".backoff",
    "Keepalive": ".heartbeat",
    "KeepaliveAction": ".heartbeat",
    "KeeperOutcome": ".supervisor",
    "LinkKeeper": ".supervisor",
    "LinkObserver": ".supervisor",
    "ReconnectPolicy": ".supervisor",
    "connect": ".connector",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
