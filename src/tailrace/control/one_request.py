"""Clients of whom each sends one request and gets one answer, bounded in number, size and time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias, cast

__all__ = ["Answer", "Fresh", "OneRequest", "ending"]

Answer: TypeAlias = "Callable[[bytes, bool], bytes | None]"
"""Returns the answer to what has come so far, ``None`` if more is needed; the second argument says
that no more will be taken."""

_MOST_CLIENTS: Final = 16
_PATIENCE: Final = 5.0
"""Seconds that a client may take."""
_FRESH: Final = 0.1
"""Seconds for which an answer is given again instead of another one."""


@asynccontextmanager
async def ending(server: asyncio.AbstractServer, clients: set[OneRequest]) -> AsyncIterator[None]:
    """End a server, and the connections of its clients, after the body."""
    try:
        yield
    finally:
        server.close()
        for client in list(clients):
            client.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await server.wait_closed()


class Fresh:
    """The latest answer, made anew when somebody asks, but not for each of many at once."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._made_at = -_FRESH
        self._answer = b""

    def __call__(self) -> bytes:
        """Return the answer."""
        now = time.monotonic()
        if now - self._made_at >= _FRESH:
            self._answer = self._make()
            self._made_at = now
        return self._answer


class OneRequest(asyncio.Protocol):
    """One client.

    Args:
        answer: gives the answer.
        longest: bytes of a request.
        clients: those of the same server; no more than 16 are let in.
    """

    def __init__(self, answer: Answer, longest: int, clients: set[OneRequest]) -> None:
        self._answer = answer
        self._longest = longest
        self._clients = clients
        self._received = b""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the client in if there is room."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._clients) >= _MOST_CLIENTS:
            self.abort()
            return
        self._clients.add(self)
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self.abort)

    def data_received(self, data: bytes) -> None:
        """Answer once there is a whole request, and end the connection."""
        self._received += data[: self._longest]
        answer = self._answer(self._received, len(self._received) >= self._longest)
        if answer is not None:
            self._transport.pause_reading()
            self._transport.write(answer)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for others."""
        self._clients.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()
