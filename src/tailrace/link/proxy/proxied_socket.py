"""The way through a web proxy for a program without an event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from ..endpoint import ServiceEndpoint
from .settings import WebProxy
from .through_proxy import open_through_proxy

__all__ = ["proxied_socket"]


@contextmanager
def proxied_socket(endpoint: ServiceEndpoint, proxy: WebProxy) -> Iterator[socket.socket]:
    """Yield a connected, blocking socket on which TLS with the host of ``endpoint`` can begin.

    While the block runs, a thread has the event loop that a proxy with TLS of its own needs.

    Raises:
        LinkError, ConfigurationError: as :func:`open_through_proxy` does.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = Thread(target=loop.run_forever, name="tailrace web proxy")
        thread.start()
        opening = asyncio.run_coroutine_threadsafe(open_through_proxy(endpoint, proxy), loop)
        try:
            with opening.result() as sock:
                sock.setblocking(True)
                yield sock
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
