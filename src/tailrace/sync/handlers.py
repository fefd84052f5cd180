"""Handlers of a destination that block: each connection has a socket and a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

from ..errors import ConfigurationError
from ..localproxy.routes import SocketFactory
from ..localproxy.socket_pair import socket_pair

__all__ = ["Application", "Handlers", "SocketHandler"]

SocketHandler: TypeAlias = "Callable[[socket.socket], None]"
"""``def handler(sock)``, which is called in a thread with a connected, blocking TCP socket.

Example: ``def handler(sock): sock.sendall(sock.recv(1024))``
"""

Application: TypeAlias = "str | int | SocketHandler"
"""What serves the connections of a service at a destination.

``"HOST:PORT"``, ``"[IPV6]:PORT"`` or ``"unix:PATH"``; a port of this machine, 1 to 65535; or
``def handler(sock)``.

Example: ``{"SSH": 22, "HTTP": "camera.local:80", "CMD": handler}``
"""

_LOG = logging.getLogger("tailrace")
_GRACE: Final = 5.0
"""Seconds that handlers have to end when their connections have ended."""
_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which closing resets."""


class Handlers:
    """The handlers of one destination that run, not more than a number of them at a time."""

    def __init__(self, at_once: int) -> None:
        if at_once < 1:
            raise ConfigurationError(f"max_threads={at_once} is less than 1")
        self._free = asyncio.Semaphore(at_once)
        self._threads: set[threading.Thread] = set()

    def application(self, service_id: str, application: Application) -> str | int | SocketFactory:
        """Return what serves connections for a loop that must not be blocked."""
        if isinstance(application, str | int):
            return application
        if inspect.iscoroutinefunction(application):
            raise ConfigurationError(
                f"the handler of {service_id} is a coroutine function; "
                "here it is called with a socket, in a thread: write def handler(sock)"
            )
        return SocketFactory(partial(self._connect, service_id, application))

    def join(self) -> None:
        """Wait until all have ended, but not long: no thread can be made to end."""
        deadline = time.monotonic() + _GRACE
        for thread in self._threads - {threading.current_thread()}:
            thread.join(max(0.0, deadline - time.monotonic()))
        if left := [each for each in self._threads if each is not threading.current_thread()]:
            _LOG.warning("%d handlers still run, although their connections have ended", len(left))

    async def _connect(self, service_id: str, handler: SocketHandler) -> socket.socket:
        """Return a socket whose other end has a handler; wait until there may be one more."""
        await self._free.acquire()
        try:
            near, far = await socket_pair()
        except BaseException:
            self._free.release()
            raise
        near.setblocking(True)
        thread = threading.Thread(
            target=self._serve,
            args=(service_id, handler, near, asyncio.get_running_loop()),
            name=f"tailrace {service_id}",
            daemon=True,
        )
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # this process can have no more threads
            self._threads.discard(thread)
            self._free.release()
            near.close()
            far.close()
            raise OSError(str(error)) from None
        return far

    def _serve(
        self,
        service_id: str,
        handler: SocketHandler,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        try:
            handler(sock)
        except ConnectionError as error:
            _LOG.debug("The handler of service '%s' ended: %s", service_id, error)
        except Exception as error:
            _LOG.error("The handler of service '%s' failed", service_id, exc_info=error)
            with suppress(OSError):  # it may have closed its socket
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        finally:
            sock.close()
            self._threads.discard(threading.current_thread())
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._free.release)
