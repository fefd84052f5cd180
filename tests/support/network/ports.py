"""Ports of the loopback interface."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket

import pytest

__all__ = ["free_port", "has_ipv6", "is_listening", "needs_ipv6"]

_FIRST, _END = 20_000, 32_000
"""Below what the system hands out, so that no connection takes one of them meanwhile."""

_ports = itertools.cycle(random.SystemRandom().sample(range(_FIRST, _END), _END - _FIRST))
"""Every process has an order of its own."""


def free_port() -> int:
    """Return a port on which nobody listens, and that this process has not been given yet."""
    for port in _ports:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("unreachable")


def is_listening(port: int) -> bool:
    """Return whether somebody listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def has_ipv6() -> bool:
    """Return whether this machine can talk to itself over IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
