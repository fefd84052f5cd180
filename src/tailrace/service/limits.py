"""Limits on what clients may use."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import Final

from ..errors import ConfigurationError

__all__ = [
    "AWS",
    "COMMON_QUOTAS",
    "DEFAULT",
    "PRESETS",
    "RANGES",
    "Limits",
    "Quotas",
    "Range",
    "check_limits",
    "network",
]

_PRIVILEGED: Final = 10


@dataclass(frozen=True, slots=True)
class Quotas:
    """What one access key may have; 0 means no limit, ``None`` what the service's limits say."""

    open_tunnels: int | None = None
    """Tunnels that are OPEN at the same time."""
    opened_per_hour: int | None = None
    """Tunnels opened in one hour of the clock."""
    stored_bytes: int | None = None
    """Bytes of tunnels and tags that can be described, closed ones included."""


COMMON_QUOTAS: Final = Quotas()
"""Those of a key without any of its own."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit of the service; 0 means no limit where the description says so.

    Example: ``tailrace.Service(limits=tailrace.Limits(bandwidth=800_000))``
    """

    services: int = 100
    """Service ids per tunnel, 1-450: the message that lists them must fit one frame."""
    open_tunnels: int = 100_000
    """Number of tunnels that are OPEN at the same time."""
    bandwidth: int = 0
    """Bytes per second of one tunnel, all directions and services together; 0: no limit."""
    connection_rate: float = 1000.0
    """New connections per second from one address, to each listener; 0: no limit."""
    connections: int = 2000
    """Connections open at one listener, but for links that were let in; 0: an eighth of the
    process' file descriptors, which is a limit in any case."""
    address_connections: int = 1000
    """As many of them from one address; 0: no limit."""
    handshake_seconds: float = 10.0
    """Seconds for TLS, and again for a request."""
    handshake_bytes: int = 4096
    """Bytes of an upgrade request, 256-16384 (guide V3, "Handshake": 4 KB)."""
    idle_seconds: float = 600.0
    """Seconds without a byte from the client, after which a link is dropped; 0: no limit."""
    request_bytes: int = 1024 * 1024
    """Bytes in the body of an API request; the largest valid one has a third of the default."""
    request_rate: float = 2000.0
    """API requests per second of one access key, and refused ones of one address; 0: no limit."""
    waiting_things: int = 10_000
    """Connections on which things wait for notifications, half as many of one access key; an
    eighth of the process' file descriptors is the limit in any case."""
    key_open_tunnels: int = 10_000
    key_opened_per_hour: int = 10_000
    key_stored_bytes: int = 64 * 1024**2
    """Quotas of each access key, see :class:`Quotas`; ten times as much for one that nothing else
    limits."""

    def quotas(self, own: Quotas, *, privileged: bool) -> Quotas:
        """Return the quotas of a key that has some of its ``own``; none of them is ``None``.

        ``privileged`` are keys that nothing else limits.
        """
        factor = _PRIVILEGED if privileged else 1
        common = {
            "open_tunnels": self.key_open_tunnels * factor,
            "opened_per_hour": self.key_opened_per_hour * factor,
            "stored_bytes": self.key_stored_bytes * factor,
        }
        missing = {name: value for name, value in common.items() if getattr(own, name) is None}
        return replace(own, **missing)


DEFAULT: Final = Limits()

AWS: Final = Limits(services=3, bandwidth=800_000, idle_seconds=60.0)
"""What AWS publishes: three services and 800 KB/s per tunnel (quotas and multiplexing pages of
the developer guide). Idle links end after about a minute."""

PRESETS: Final = {"default": DEFAULT, "aws": AWS}


@dataclass(frozen=True, slots=True)
class Range:
    """What the value of a limit may be."""

    minimum: float
    maximum: float
    can_be_off: bool = False
    """Whether 0 is allowed, too, and turns the limit off."""
    is_whole: bool = True

    def fault(self, value: float) -> str:
        """Return what is wrong with ``value``, to stand behind it, or ""."""
        fits = self.minimum <= value <= self.maximum or (self.can_be_off and value == 0)
        if fits and (not self.is_whole or value == int(value)):
            return ""
        kind = "a whole number" if self.is_whole else "a number"
        off = ", or 0 for no limit" if self.can_be_off else ""
        return f"is not {kind} from {self.minimum:g} to {self.maximum:g}{off}"


RANGES: Final = {
    "services": Range(1, 450),
    "open_tunnels": Range(1, 10**9),
    "bandwidth": Range(1000, 10**12, can_be_off=True),
    "connection_rate": Range(0.01, 10**6, can_be_off=True, is_whole=False),
    "connections": Range(1, 10**6, can_be_off=True),
    "address_connections": Range(1, 10**6, can_be_off=True),
    "handshake_seconds": Range(0.1, 600, is_whole=False),
    "handshake_bytes": Range(256, 16 * 1024),
    "idle_seconds": Range(1, 10**6, can_be_off=True, is_whole=False),
    "request_bytes": Range(1024, 64 * 1024**2),
    "request_rate": Range(0.01, 10**6, can_be_off=True, is_whole=False),
    "waiting_things": Range(1, 10**6),
    "key_open_tunnels": Range(1, 10**9, can_be_off=True),
    "key_opened_per_hour": Range(1, 10**9, can_be_off=True),
    "key_stored_bytes": Range(1000, 10**12, can_be_off=True),
}
"""Name of a limit -> its range."""


def check_limits(limits: Limits) -> None:
    """Check each limit against its range.

    Raises:
        ConfigurationError: one of them is out of it.
    """
    for name, allowed in RANGES.items():
        value: float = getattr(limits, name)
        fault = allowed.fault(value)
        if fault:
            raise ConfigurationError(f"limits: {name} {value!r} {fault}", setting="limits")


def network(host: str) -> str:
    """Return the key for limits per address: an IPv4 address, or the /64 of an IPv6 address.

    Providers give each customer a /64 at least. An IPv4 address that is mapped to IPv6 counts
    as IPv4; other texts are returned as they are.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
