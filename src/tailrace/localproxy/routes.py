"""Where the connections of a service go at a destination, and within which bounds."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ..common.addresses import LocalAddress
from .capped_end import Bandwidth

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Awaitable

__all__ = [
    "LocalService",
    "Network",
    "Refusal",
    "Route",
    "Routes",
    "SocketFactory",
    "StreamHandler",
    "is_within",
]

StreamHandler: TypeAlias = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]"
"""Destination: serves the connections of a service within this process."""


@dataclass(frozen=True, slots=True)
class SocketFactory:
    """Destination: makes the sockets of a service whose application is within this process."""

    connect: Callable[[], Awaitable[socket.socket]]
    """Return a connected, non-blocking socket to the application, for each connection.

    It is cancelled when the connection ends meanwhile, and raises ``OSError`` to refuse it.
    """

    def __str__(self) -> str:
        return "in process"


LocalService: TypeAlias = "LocalAddress | StreamHandler | SocketFactory"

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_within(host: str, networks: Iterable[Network] | None) -> bool:
    """Return whether a network has the IP address ``host``; ``None`` stands for all networks.

    An IPv6 address that stands for one of IPv4 (``::ffff:10.0.0.1``) is judged as that.

    Raises:
        ValueError: ``host`` is not an IP address.
    """
    if networks is None:
        return True
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in networks)


@dataclass(frozen=True, slots=True)
class Route:
    """The way of one connection to its application."""

    service: LocalService
    networks: tuple[Network, ...] | None = None
    """Where the application may be, whatever its host name resolves to; ``None``: anywhere."""
    bandwidth: Bandwidth | None = None
    ended: Callable[[], None] | None = None
    """Called once, when the connection has ended."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection gets no route: ``reason`` for this side, ``told`` for the other."""

    reason: str
    told: str


class Routes(Protocol):
    """Routes that may change while tunnels use them."""

    def local_service(self, service_id: str, /) -> LocalService | None:
        """Return where connections of a service go at present, ``None`` if it is not served."""

    def route(self, service_id: str, /) -> Route | Refusal | None:
        """Return the route of a new connection, ``None`` if its service is not served."""
