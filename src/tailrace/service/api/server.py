"""An HTTP server for one application, and limits on its connections.

uvicorn speaks HTTP. What a connection may cost before, between and after its requests is
decided here: :class:`~tailrace.service.connection_limiter.ConnectionLimiter` judges it before
TLS, and from then on one deadline runs at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator, MutableMapping
from enum import Enum
from typing import Any, Final

import aiofastnet
import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ...errors import ListenError
from ..accept_filter import ACCEPT_AT_ONCE, AcceptFilter
from ..connection_limiter import ConnectionLimiter
from ..limits import Limits
from ..telemetry.throttled_log import ThrottledLog

__all__ = ["HttpServer", "mark_known"]

_log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 3
"""For requests under way when the server stops."""

_ANSWER_SECONDS: Final = 30.0
"""For a request, beyond what its body may take: for the client to take earlier answers."""

_KEEP_ALIVE_SECONDS: Final = 75
"""For the next request of a known client: longer than the pools of clients keep a connection."""

_STRANGER_REQUESTS: Final = 50
"""Requests of a connection, one after the other, that anybody may send."""

_TLS_SHUTDOWN_SECONDS: Final = 5.0
_TLS_BUFFER: Final = 2 * (16 * 1024 + 64)
"""Bytes of ciphertext taken from, or given to, the system at once: 2 TLS records."""

_LOG_SECONDS: Final = 10
"""Between counts of refusals in the log."""

_KNOWN: Final = "known_client"


def mark_known(scope: MutableMapping[str, Any]) -> None:
    """Note in the scope of a request that its signature is valid: the client may come back."""
    scope["state"][_KNOWN] = True


class HttpServer:
    """Serves ``app``; without ``tls`` over plain HTTP. Start it once, then stop it.

    ``name`` stands in front of "connection" in the log.
    """

    def __init__(
        self, app: Starlette, limits: Limits, tls: ssl.SSLContext | None, name: str
    ) -> None:
        self._server = _Server(app, _Shared(limits, f"{name} connection"), tls)
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


class _Shared:
    """What the connections of one listener share."""

    def __init__(self, limits: Limits, kind: str) -> None:
        self.head_seconds = limits.handshake_seconds
        self.request_bytes = limits.request_bytes
        self._kind = kind
        self._throttled_log = ThrottledLog(_log, time.monotonic)
        self.limiter = ConnectionLimiter(
            limits, kind, self._throttled_log, Counter(), time.monotonic
        )

    def log_dropped(self, host: str, cause: str) -> None:
        """Log that a connection from ``host`` was dropped."""
        self._throttled_log.add(
            f"{self._kind} dropped: {cause}", "%s from %s dropped: %s", self._kind, host, cause
        )

    async def flush(self) -> None:
        """Log how many refusals had no line of their own."""
        self._throttled_log.flush()


class _Server(uvicorn.Server):
    """uvicorn on a listener of our own, without signal handlers; ``ready`` once it accepts."""

    def __init__(self, app: Starlette, shared: _Shared, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_STOP_SECONDS,
                callback_notify=shared.flush,
                timeout_notify=_LOG_SECONDS,
            )
        )
        self._shared = shared
        self._tls = tls
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as the data listener does: connections are judged before TLS, on any loop."""
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {
                "ssl": self._tls,
                "ssl_handshake_timeout": self._shared.head_seconds,
                "ssl_shutdown_timeout": _TLS_SHUTDOWN_SECONDS,
                "ssl_incoming_bio_size": _TLS_BUFFER,
                "ssl_outgoing_bio_size": _TLS_BUFFER,
            }
        loop = asyncio.get_running_loop()
        for listening in sockets or ():
            filtered: Any = AcceptFilter(listening, self._shared.limiter)
            server: Any = await aiofastnet.create_server(
                loop,
                lambda: _Connection(self._shared, self.config, self.server_state),
                sock=filtered,
                backlog=ACCEPT_AT_ONCE,
                **tls,
            )
            # As far as uvicorn knows it.
            listener: Any = _Listener(server)
            self.servers = [listener]
        self.started = True
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Listener:
    """A listener as uvicorn stops it: closed first, and waited for when all requests are done."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def close(self) -> None:
        self._server.close()

    async def wait_closed(self) -> None:
        # What is left has not got past TLS.
        self._server.abort_clients()
        await self._server.wait_closed()


class _Phase(Enum):
    """What a connection is doing."""

    IDLE = "idle"
    """Nothing of the next request has come."""
    HEAD = "head"
    """Some of it has come."""
    REQUEST = "request"
    """Its head has come; it is read, carried out and answered."""


class _Connection(H11Protocol):
    """One HTTP connection. In each phase it has a deadline, at which it is dropped."""

    def __init__(self, shared: _Shared, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self._shared = shared
        self._phase = _Phase.IDLE
        self._deadline: asyncio.TimerHandle | None = None
        self._stranger_seconds = math.ceil(shared.head_seconds)
        self._stranger_requests = 0
        """Requests since the last one with a valid signature."""
        self._discarded = 0
        """Bytes that came of a body whose request was answered before."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._enter(_Phase.IDLE, self._shared.head_seconds)

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.IDLE:
            self._enter(_Phase.HEAD, self._shared.head_seconds)
        if self._phase is _Phase.HEAD and self.conn.their_state is h11.SEND_BODY:
            self._discarded += len(data)
            if self._discarded > self._shared.request_bytes:
                self._drop("it goes on with a request that was answered")
                return
        super().data_received(data)

    def handle_events(self) -> None:
        cycle = self.cycle
        super().handle_events()
        if self.cycle is not cycle:
            self._request_began()

    def _request_began(self) -> None:
        """Called when the head of a request has come, before the application looks at it."""
        self._enter(_Phase.REQUEST, self._shared.head_seconds + _ANSWER_SECONDS)
        self._discarded = 0
        self._stranger_requests += 1
        if self._stranger_requests >= _STRANGER_REQUESTS:
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]
        if self.cycle.more_body:
            # Until the application asks for it.
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        is_known = _KNOWN in self.scope["state"]
        if is_known:
            self._stranger_requests = 0
        self.timeout_keep_alive = _KEEP_ALIVE_SECONDS if is_known else self._stranger_seconds
        # uvicorn closes it then; a client that leaves an answer or the end of TLS unread
        # gets some time more.
        self._enter(_Phase.IDLE, self.timeout_keep_alive + self._shared.head_seconds)
        super().on_response_complete()

    def shutdown(self) -> None:
        super().shutdown()
        if self._phase is not _Phase.REQUEST:
            # Kept alive by the client, which would not answer the end of TLS.
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _enter(self, phase: _Phase, seconds: float) -> None:
        self._phase = phase
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        if self.transport.is_closing():
            self.transport.abort()
        elif self._phase is _Phase.REQUEST:
            self._drop("its answers are not taken")
        else:
            self._drop("no request in time")

    def _drop(self, cause: str) -> None:
        self._shared.log_dropped(self.client[0] if self.client else "unknown", cause)
        self.transport.abort()
