"""The library for code that blocks: scripts, tests, notebooks, threads.

Each name here has one of :mod:`tailrace` behind it, which runs in an event loop in a thread: the
same arguments, results and errors, without ``async`` and ``await``. Nothing is done in another way
here. Results, events and errors are those of :mod:`tailrace` itself.

All may be used from any thread, and at the same time. Ctrl-C ends each call that waits, with
``KeyboardInterrupt``, and leaves nothing behind. One thread serves all that is in use; it ends with
the last block.

Example::

    with tailrace.sync.connect("pump-7", services=["SSH"]) as tunnel:
        print(tunnel.open_connection("SSH").readline())
"""

from .client import Client
from .connector import connect
from .handlers import Application, SocketHandler
from .service import Service
from .tunnel import (
    DestinationTunnel,
    SourceTunnel,
    Tunnel,
    TunnelConnection,
    TunnelListener,
)

__all__ = [
    "Application",
    "Client",
    "DestinationTunnel",
    "Service",
    "SocketHandler",
    "SourceTunnel",
    "Tunnel",
    "TunnelConnection",
    "TunnelListener",
    "connect",
]
