"""Where a destination may connect to, whatever its map of services says. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from .settings import LocalAddress, TCPAddress, UnixAddress

__all__ = ["is_allowed"]

_DEFAULT_HOST: Final = "127.0.0.1"
"""Where an application is that is named by its port alone."""


def is_allowed(address: LocalAddress, allowed: Iterable[LocalAddress] | None) -> bool:
    """Tell whether a destination may connect to ``address``; ``None`` allows everything.

    Hosts are compared as they are written, but for case and the ways to write an IP
    address: a name is never looked up, so that whoever answers for it decides nothing.
    """
    return allowed is None or _canonical(address) in map(_canonical, allowed)


def _canonical(address: LocalAddress) -> LocalAddress:
    if isinstance(address, UnixAddress):
        return address
    host = (address.host or _DEFAULT_HOST).lower().removesuffix(".")
    try:
        return TCPAddress(str(ipaddress.ip_address(host)), address.port)
    except ValueError:
        return TCPAddress(host, address.port)
