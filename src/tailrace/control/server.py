"""The control socket of a process: a request is one line, and so is the answer, in JSON.

::

    $ echo status | nc -U /run/user/1000/tailrace/4711-localproxy.sock
    {"format": 1, "kind": "localproxy", "pid": 4711, ...

Only this user and root can connect, and even they cannot make a process work much or keep much:
few clients at a time, for a few seconds each, and the same document for those who ask at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

from ..errors import ConfigurationError
from .documents import process_document
from .places import HAS_SOCKETS, control_directory, listening_socket
from .summary import summary_lines

__all__ = ["REQUEST", "told"]

REQUEST: Final = b"status\n"

_MOST_CLIENTS: Final = 16
_PATIENCE: Final = 5.0
"""Seconds that a client may take."""
_FRESH: Final = 0.1
"""Seconds for which a document is told again instead of another one."""
_LONGEST_REQUEST: Final = 64

_log = logging.getLogger("tailrace.control")


@asynccontextmanager
async def told(
    kind: str,
    details: Callable[[], Mapping[str, Any]],
    environment: Mapping[str, str],
    *,
    at_socket: bool = True,
) -> AsyncIterator[None]:
    """Tell what this process does for the body: at its control socket, and in the log on SIGUSR1.

    It goes without a socket where none can be made, which is a line in the log for debugging.

    Args:
        kind: the command, as ``localproxy``: letters only.
        details: returns what only this command has to tell. Must not wait.
        environment: says where the socket belongs.
        at_socket: ``False``: there is to be no socket.
    """
    since = time.time()
    documents = _Documents(lambda: process_document(kind, since, details()))
    async with AsyncExitStack() as stack:
        stack.enter_context(_logged_on_signal(documents))
        if at_socket and HAS_SOCKETS:
            try:
                directory = control_directory(environment)
                await stack.enter_async_context(_served(directory, kind, documents))
            except (OSError, ConfigurationError, NotImplementedError) as error:
                _log.debug("no control socket: %s", error)
        yield


class _Documents:
    """The latest document, made anew when somebody asks."""

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._make = make
        self._made_at = -_FRESH
        self._line = b""

    def log(self) -> None:
        """Write the log what the document says."""
        for line in summary_lines(self._make()):
            _log.info("%s", line)

    def line(self) -> bytes:
        """Return the document on one line."""
        now = time.monotonic()
        if now - self._made_at >= _FRESH:
            self._line = json.dumps(self._make(), separators=(",", ":")).encode() + b"\n"
            self._made_at = now
        return self._line


@contextmanager
def _logged_on_signal(documents: _Documents) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    number: signal.Signals | None = getattr(signal, "SIGUSR1", None)
    try:
        if number is None:
            raise NotImplementedError
        loop.add_signal_handler(number, documents.log)
    except (NotImplementedError, RuntimeError, ValueError):  # as outside of the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(number)


@asynccontextmanager
async def _served(directory: Path, kind: str, documents: _Documents) -> AsyncIterator[None]:
    clients: set[_Client] = set()
    with listening_socket(directory, kind) as sock:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Client(documents, clients), sock=sock)
        try:
            yield
        finally:
            server.close()
            for client in list(clients):
                client.abort()
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await server.wait_closed()


class _Client(asyncio.Protocol):
    """One who asks."""

    def __init__(self, documents: _Documents, clients: set[_Client]) -> None:
        self._documents = documents
        self._clients = clients
        self._received = b""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let one in if there is room."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._clients) >= _MOST_CLIENTS:
            self.abort()
            return
        self._clients.add(self)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_PATIENCE, self.abort)

    def data_received(self, data: bytes) -> None:
        """Answer once there is a whole line, and end the connection."""
        self._received += data[: _LONGEST_REQUEST + 1]
        if b"\n" not in self._received and len(self._received) <= _LONGEST_REQUEST:
            return
        self._transport.pause_reading()
        if self._received.startswith(REQUEST):
            self._transport.write(self._documents.line())
        else:
            self._transport.write(b'{"error":"not a request; there is: status"}\n')
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for others."""
        self._clients.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()
