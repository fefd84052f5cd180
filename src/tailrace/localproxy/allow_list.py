"""Where a destination may connect to, independent of its map of services. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ..common.addresses import DEFAULT_APPLICATION_HOST, LocalAddress, TCPAddress, UnixAddress

__all__ = ["is_allowed"]


def is_allowed(address: LocalAddress, allowed: Iterable[LocalAddress] | None) -> bool:
    """Return whether a destination may connect to ``address``; ``None`` allows everything.

    Hosts are compared as they are written, but for case and the ways to write an IP
    address. A name is never looked up, or its DNS server would decide.
    """
    return allowed is None or _canonical(address) in map(_canonical, allowed)


def _canonical(address: LocalAddress) -> LocalAddress:
    if isinstance(address, UnixAddress):
        return address
    host = (address.host or DEFAULT_APPLICATION_HOST).lower().removesuffix(".")
    try:
        return TCPAddress(str(ipaddress.ip_address(host)), address.port)
    except ValueError:
        return TCPAddress(host, address.port)
