"""Whether the local applications answer that a tunnel leads to."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

from ..common.addresses import DEFAULT_APPLICATION_HOST, LocalAddress, UnixAddress
from ..common.network_errors import network_error_text
from ..errors import ConnectFailed, NameResolutionFailed
from ..link.tcp import open_socket
from .findings import Finding, failed, ok

__all__ = ["check_target"]

_PATIENCE: Final = 5.0
"""Seconds for name resolution, and as many to connect."""
_FIXES: Final = {
    errno.ENOENT: "start the application, or correct the path",
    errno.ECONNREFUSED: "start the application",
    errno.EACCES: "let the user of the agent connect: SupplementaryGroups= in its unit",
}
"""Error of a unix socket -> what to do."""


async def check_target(address: LocalAddress, allow: Sequence[str] | None = None) -> Finding:
    """Connect to an application, say nothing, and leave.

    ``allow`` are networks of which its address has to be, ``None``: any.
    """
    if isinstance(address, UnixAddress):
        return _check_socket(address)
    try:
        sock = await open_socket(address.host or DEFAULT_APPLICATION_HOST, address.port, _PATIENCE)
    except NameResolutionFailed as error:
        return failed(str(error), "correct the host of the target")
    except ConnectFailed as error:
        return failed(str(error), "start the application, or correct the target")
    with sock:
        host = str(sock.getpeername()[0]).partition("%")[0]
    if allow is not None and not _is_within(host, allow):
        return failed(
            f"{address} is at {host}, where the rule does not allow it to be",
            f"correct allow, or the target; it has {', '.join(allow)}",
        )
    return ok(f"{address} accepts connections" + ("" if host in str(address) else f" ({host})"))


def _check_socket(address: UnixAddress) -> Finding:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_PATIENCE)  # the system answers at once, unless the queue is full
        try:
            sock.connect(address.path)
        except OSError as error:
            fix = _FIXES.get(error.errno or 0, "look at the application")
            return failed(f"{address}: {network_error_text(error)}", fix)
    return ok(f"{address} accepts connections")


def _is_within(host: str, allow: Sequence[str]) -> bool:
    address = ipaddress.ip_address(host)
    return any(address in ipaddress.ip_network(each) for each in allow)
