"""Networks of load balancers, which are trusted to name the clients behind them."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from typing import Final, TypeAlias

from ..errors import ConfigurationError

__all__ = ["Network", "contains", "forwarded_client", "parse_network"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_MOST_HOPS: Final = 16
"""Addresses of a list that are looked at; a client may write a long one."""


def parse_network(text: str, option: str) -> Network:
    """Parse ``ADDRESS`` or ``ADDRESS/PREFIX``.

    Raises:
        ConfigurationError: it is neither; ``option`` is named.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{option}: {error}; give addresses as 192.0.2.7 or 10.0.0.0/8"
        ) from None


def contains(networks: Iterable[Network], host: str) -> bool:
    """Return whether an address is in one of the networks; one that is mapped to IPv6 is IPv4."""
    address = _parse(host)
    return address is not None and any(address in network for network in networks)


def forwarded_client(fields: Sequence[str], peer: str, trusted: Collection[Network]) -> str:
    """Return the client of a request that came from ``peer`` with these ``X-Forwarded-For``.

    Each proxy adds the address that it was called from at the end. So the list is read from
    there, and the first address that is not of a trusted proxy is the client's: what stands
    before it may have been written by anybody. What is no address ends the list, too.
    """
    client = peer
    hops = ",".join(fields).rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]
    while hops and contains(trusted, client):
        address = _parse(_without_port(hops.pop().strip(" \t")))
        if address is None:
            break
        client = str(address)
    return client


def _parse(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _without_port(text: str) -> str:
    """Return the address of ``ADDRESS``, ``IPV4:PORT``, ``[IPV6]`` or ``[IPV6]:PORT``."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
