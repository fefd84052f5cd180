"""Sockets to accept connections on."""

from __future__ import annotations

import os
import socket
from typing import Final

from .config import Address
from .errors import AddressUnusable

__all__ = ["bind"]

_BACKLOG: Final = 1024


def bind(address: Address, setting: str) -> socket.socket:
    """Return a socket that listens on ``address``, the value of ``setting``.

    Raises:
        AddressUnusable: the address cannot be bound.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, target = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address.host == "::":
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listening.bind(target)
            # An address in use is noticed by some systems only now.
            listening.listen(_BACKLOG)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise AddressUnusable(
            "cannot listen on {address} ({0}): {reason}",
            setting,
            address=address,
            reason=error.strerror or error,
        ) from error
    return listening
