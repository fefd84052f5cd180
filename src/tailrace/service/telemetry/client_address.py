"""Where the client is for whose connection code runs, for logs and the audit log.

What picows and TLS call back does not say which connection it is about. All that an event loop
runs for a connection runs in a copy of the context in which it was accepted, so the address
is kept there.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

from ...common.addresses import format_host_port

__all__ = ["client_address", "format_peer", "name_client", "set_client_address"]

_UNKNOWN: Final = "unknown"

_address: Final[ContextVar[str]] = ContextVar("client_address", default=_UNKNOWN)


def set_client_address(peer: Any) -> None:
    """Set the address of the client whose connection is being accepted, as the socket has it."""
    _address.set(format_peer(peer))


def name_client(host: str) -> None:
    """Set the address of the client that a proxy has made the connection for."""
    _address.set(host)


def client_address() -> str:
    """Return ``HOST:PORT`` of the client whose connection this code runs for.

    Without a port where a proxy in between names the client.
    """
    return _address.get()


def format_peer(peer: Any) -> str:
    """Format an address of the socket module; the peer may be gone already."""
    return format_host_port(peer[0], peer[1]) if peer else _UNKNOWN
