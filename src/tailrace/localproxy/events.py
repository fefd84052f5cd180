"""What happens in a local proxy, for whoever wants to know: logs, JSON, ready files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..common.addresses import LocalAddress, ServiceMap
from ..errors import LinkError
from ..wire import Side

__all__ = [
    "Connected",
    "Connecting",
    "ConnectionClosed",
    "ConnectionOpened",
    "ConnectionRefused",
    "Ended",
    "Listening",
    "ProxyEvent",
    "Reconnecting",
    "ServicesMapped",
    "Started",
    "Subscriber",
]


@dataclass(frozen=True, slots=True)
class Started:
    """The proxy runs; nothing is connected yet."""

    side: Side


@dataclass(frozen=True, slots=True)
class Connecting:
    """An attempt to set up the link begins; ``endpoint`` is ``host:port``."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The link is up."""

    endpoint: str
    channel_id: str
    backend: str


@dataclass(frozen=True, slots=True)
class ServicesMapped:
    """The service ids of the tunnel and their local addresses are settled."""

    services: ServiceMap


@dataclass(frozen=True, slots=True)
class Listening:
    """Source: clients of ``service_id`` are accepted at ``address``."""

    service_id: str
    address: LocalAddress
    assigned: bool
    """Whether the port was picked by the system."""


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """A local connection was accepted (source) or reached (destination)."""

    service_id: str
    connection_id: int
    peer: str


@dataclass(frozen=True, slots=True)
class ConnectionRefused:
    """A connection was not opened: the application or a limit refused it."""

    service_id: str
    connection_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """A local connection has ended; byte counts as seen from the local socket."""

    service_id: str
    connection_id: int
    peer: str
    bytes_in: int
    """Read from the local socket, sent into the tunnel."""
    bytes_out: int
    """Received from the tunnel."""


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The link was lost or could not be set up; another attempt follows."""

    cause: LinkError
    delay: float
    """Seconds until then."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The tunnel was closed or this proxy was told to stop."""

    code: int
    reason: str


ProxyEvent: TypeAlias = (
    Started
    | Connecting
    | Connected
    | ServicesMapped
    | Listening
    | ConnectionOpened
    | ConnectionRefused
    | ConnectionClosed
    | Reconnecting
    | Ended
)

Subscriber = Callable[[ProxyEvent], None]
