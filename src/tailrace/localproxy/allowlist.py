"""Where a destination may connect to, whatever its map of services says. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from ..errors import ConfigurationError
from .endpoints import format_local_address, parse_local_address
from .options import shown
from .settings import LocalAddress, Mode, TCPAddress, UnixAddress
from .validation import RejectedInput

__all__ = ["format_allow_list", "is_allowed", "parse_allow_list"]

_DEFAULT_HOST: Final = "127.0.0.1"
"""Where an application is that is named by its port alone."""


def parse_allow_list(text: str) -> tuple[LocalAddress, ...]:
    """Return the addresses of ``--allow``: ``ADDRESS[,ADDRESS...]``, as in ``-d``.

    Raises:
        ConfigurationError: an item is no address, or there is none.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise ConfigurationError("--allow has no address; leave it out to allow all of the map")
    return tuple(map(_parse, items))


def _parse(item: str) -> LocalAddress:
    if "=" in item:
        raise ConfigurationError(
            f"--allow takes addresses without service ids, not '{shown(item)}'"
        )
    try:
        return parse_local_address(item, Mode.DESTINATION)
    except RejectedInput as error:
        raise RejectedInput("allow", error.reason, f"--allow: {error}") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"--allow: {error}") from None


def format_allow_list(allowed: Iterable[LocalAddress]) -> str:
    """Return the text that :func:`parse_allow_list` understands as ``allowed``."""
    return ",".join(map(format_local_address, allowed))


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
