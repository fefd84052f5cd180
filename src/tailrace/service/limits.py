"""How much of everything clients may have."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

__all__ = ["AWS", "DEFAULT", "PRESETS", "Limits", "network"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit of the service; 0 means none, where that is said."""

    services: int = 100
    """Service ids per tunnel, 1-450: the message that names them must fit one frame."""
    open_tunnels: int = 100_000
    """Tunnels that are OPEN at the same time."""
    bandwidth: int = 0
    """Bytes per second of one tunnel, both directions and all services together; 0: none."""
    connection_rate: float = 1000.0
    """New connections per second from one address, to each listener; 0: none."""
    handshake_seconds: float = 10.0
    """For TLS, and again for the upgrade request."""
    handshake_bytes: int = 4096
    """Of an upgrade request, 256-16384 (guide V3, "Handshake": 4 KB)."""
    idle_seconds: float = 600.0
    """After which a link on which the client sent nothing, not even a ping, is dropped; 0: none."""
    request_bytes: int = 1024 * 1024
    """Of the body of an API request; the largest legal one has a third of the default."""
    request_rate: float = 2000.0
    """API requests per second of one access key, and refused ones of one address; 0: none."""


DEFAULT: Final = Limits()

AWS: Final = Limits(services=3, bandwidth=800_000, idle_seconds=60.0)
"""What AWS publishes: three services and 800 KB/s per tunnel (quotas and multiplexing
pages of the developer guide); idle links end after about a minute."""

PRESETS: Final = {"default": DEFAULT, "aws": AWS}


def network(host: str) -> str:
    """Return what limits per address go by: the address, of IPv6 its first 64 bits.

    One customer is given at least that many addresses, and an IPv4 address may come
    in IPv6 clothes.
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
