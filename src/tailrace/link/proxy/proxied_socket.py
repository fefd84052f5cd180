"""The way through a web proxy for a program without an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import Future
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
    loop = asyncio.new_event_loop()
    opened: Future[socket.socket] = Future()
    holding = loop.create_task(_hold_open(endpoint, proxy, opened))
    thread = Thread(target=_run, args=(loop, holding), name="tailrace web proxy")
    thread.start()
    try:
        with opened.result() as sock:
            sock.setblocking(True)
            yield sock
    finally:
        with contextlib.suppress(RuntimeError):  # closed already: nothing was opened
            loop.call_soon_threadsafe(holding.cancel)
        thread.join()


def _run(loop: asyncio.AbstractEventLoop, holding: asyncio.Task[None]) -> None:
    """Run the loop and close it, in one thread: transports insist on theirs."""
    with (
        asyncio.Runner(loop_factory=lambda: loop) as runner,
        contextlib.suppress(asyncio.CancelledError),
    ):
        runner.get_loop().run_until_complete(holding)


async def _hold_open(
    endpoint: ServiceEndpoint, proxy: WebProxy, opened: Future[socket.socket]
) -> None:
    try:
        sock = await open_through_proxy(endpoint, proxy)
    except Exception as error:
        opened.set_exception(error)
        return
    opened.set_result(sock)
    await asyncio.get_running_loop().create_future()  # until this is cancelled
