"""Sockets to accept connections on."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from .config import Address
from .errors import AddressUnusable

__all__ = ["bind"]

_BACKLOG: Final = 1024
_HINTS: Final = {
    errno.EADDRINUSE: "; stop what listens there, or choose another port with {0}",
    errno.EACCES: "; ports below 1024 take privileges, choose another with {0}",
    errno.EADDRNOTAVAIL: "; choose an address of this machine with {0}, or 0.0.0.0 for all of them",
}


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
            "cannot listen on {address} ({0}): {reason}" + _HINTS.get(error.errno or 0, ""),
            setting,
            address=address,
            reason=error.strerror or error,
        ) from error
    return listening
