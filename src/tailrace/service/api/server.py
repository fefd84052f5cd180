"""An HTTP server for one application, and limits on its connections before there is a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from ...common.log_floods import flood_kind
from ...errors import ListenError
from ...flow.token_bucket import Buckets
from ..limits import Limits, network

__all__ = ["HttpServer"]

_log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 3
"""For requests under way when the server stops."""

_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
"""What SDKs take for "try again"."""


class HttpServer:
    """Serves ``app``; without ``tls`` over plain HTTP. Start it once, then stop it."""

    def __init__(self, app: Starlette, limits: Limits, tls: ssl.SSLContext | None) -> None:
        guard = _ConnectionGuard(limits)
        self._server = _Server(
            uvicorn.Config(
                app,
                # uvicorn makes the protocols itself, from a class.
                http=type("_Connection", (_Connection,), {"guard": guard}),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_STOP_SECONDS,
                ssl_context_factory=None if tls is None else lambda _config, _default: tls,
            )
        )
        self._task: asyncio.Task[None]

    async def start(self, listening: socket.socket) -> None:
        """Serve on a bound socket; return once requests are accepted.

        Raises:
            ListenError: the server ended instead.
        """
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._server.serve([listening]))
        ready = loop.create_task(self._server.ready.wait())
        await asyncio.wait([self._task, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            self._task.result()
            raise ListenError("the HTTP server could not be started")

    async def stop(self) -> None:
        """Finish requests under way, then close all connections."""
        self._server.should_exit = True
        await self.ended()

    async def ended(self) -> None:
        """Return when the server has ended, by itself or because it was stopped."""
        await asyncio.wait([self._task])


class _Server(uvicorn.Server):
    """uvicorn without signal handlers, and with a way to wait until it accepts requests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _ConnectionGuard:
    """What the connections of one listener share."""

    def __init__(self, limits: Limits) -> None:
        self.head_seconds = limits.handshake_seconds
        self._rate = limits.connection_rate
        self._connections = Buckets(self._rate, self._rate)

    def admits(self, host: str) -> bool:
        """Return whether one more connection from ``host`` is within the limit."""
        if self._connections.try_take(network(host), time.monotonic()):
            return True
        _log.warning(
            "API connection from %s refused: more than %g in a second",
            host,
            self._rate,
            extra=flood_kind("API connections per second"),
        )
        return False

    def log_silent(self, host: str) -> None:
        """Log that ``host`` sent no request in time."""
        _log.warning(
            "API connection from %s dropped: no request in time",
            host,
            extra=flood_kind("no API request in time"),
        )


class _Connection(H11Protocol):
    """One HTTP connection; it is dropped when no request is answered and none comes in time.

    Subclasses, one for each listener, have the ``guard`` of all its connections.
    """

    guard: ClassVar[_ConnectionGuard]
    _watchdog: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.guard.admits(self._host):
            self._watch()
        else:
            transport.write(_BUSY)
            transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def shutdown(self) -> None:
        super().shutdown()
        if self._is_idle:
            # Kept alive by the client, which would not answer the end of TLS.
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    @property
    def _host(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        self._stop_watching()
        self._watchdog = self.loop.call_later(self.guard.head_seconds, self._drop_idle)

    def _stop_watching(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _drop_idle(self) -> None:
        """Called when a request should have come since the connection was last busy."""
        if self._is_idle:
            self.guard.log_silent(self._host)
            self.transport.abort()
