"""An HTTP server for one application, and limits on its connections.

uvicorn speaks HTTP. What a connection may cost before, between and after its requests is
decided here: :class:`~tailrace.service.connection_limiter.ConnectionLimiter` judges it before
TLS, and from then on one deadline runs at any time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
import ssl
import time
import weakref
from collections import Counter
from collections.abc import Callable, Collection, MutableMapping
from enum import Enum
from typing import Any, Final

import aiofastnet
import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ...common.log_floods import flood_kind
from ...errors import ListenError
from ..accept_filter import ACCEPT_AT_ONCE, AcceptFilter
from ..connection_limiter import ConnectionLimiter
from ..limits import Limits
from ..networks import Network

__all__ = ["HttpServer", "hold_open", "mark_known"]

_log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 3
"""For requests under way when the server stops."""

_ANSWER_SECONDS: Final = 30.0
"""For a request, beyond what its body may take: for the client to take earlier answers."""

_KEEP_ALIVE_SECONDS: Final = 75
"""For the next request of a known client: longer than the pools of clients keep a connection."""

_HEAD_BYTES: Final = 16 * 1024
_HEAD_LINES: Final = 200
"""More than any client sends; h11 takes microseconds for each."""

_BITE: Final = 16 * 1024
"""Bytes that h11 is given at once."""

_WAITING_BYTES: Final = 64 * 1024
"""Received and not yet given to h11: beyond that the client waits for its answers."""

_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")

_STRANGER_REQUESTS: Final = 50
"""Requests of a connection, one after the other, that anybody may send."""

_TLS_SHUTDOWN_SECONDS: Final = 5.0
_TLS_BUFFER: Final = 2 * (16 * 1024 + 64)
"""Bytes of ciphertext taken from, or given to, the system at once: 2 TLS records."""

_KNOWN: Final = "known_client"
_HOLD: Final = "hold_open"

_GONE_MS: Final = 45_000
"""Milliseconds after which a client is gone that acknowledges nothing of what it is sent."""


def mark_known(scope: MutableMapping[str, Any]) -> None:
    """Note in the scope of a request that its signature is valid: the client may come back."""
    scope["state"][_KNOWN] = True


def hold_open(scope: MutableMapping[str, Any]) -> None:
    """Let the response to a request take as long as it likes; its client is known.

    Its connection does not count among those of the listener any more: who answers bounds such
    responses, sends something every 20 s or so, and does not wait for ever to be rid of it. A
    client that has vanished meanwhile is noticed by the system, which ends the connection.
    """
    hold = scope["state"][_HOLD]()
    if hold is not None:
        hold()


class HttpServer:
    """Serves ``app``; without ``tls`` over plain HTTP. Start it once, then stop it.

    ``name`` stands in front of "connection" in the log; ``forwarders`` are networks of proxies
    that many clients share.
    """

    def __init__(
        self,
        app: Starlette,
        limits: Limits,
        tls: ssl.SSLContext | None,
        name: str,
        forwarders: Collection[Network] = (),
    ) -> None:
        self._server = _Server(app, _Shared(limits, f"{name} connection", forwarders), tls)
        self._task: asyncio.Task[None]

    async def start(self, listening: socket.socket) -> None:
        """Serve on a bound socket; return once requests are accepted.

        Raises:
            ListenError: the server ended instead.
        """
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._server.serve([listening]))
        ready = loop.create_task(self._server.ready.wait())
        try:
            await asyncio.wait([self._task, ready], return_when=asyncio.FIRST_COMPLETED)
        finally:
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

    def __init__(self, limits: Limits, kind: str, forwarders: Collection[Network]) -> None:
        self.head_seconds = limits.handshake_seconds
        self._kind = kind
        self.limiter = ConnectionLimiter(limits, kind, Counter(), time.monotonic, forwarders)
        self.left = asyncio.Event()
        """Set when a connection is gone."""

    def log_dropped(self, host: str, cause: str) -> None:
        """Log that a connection from ``host`` was dropped."""
        _log.warning(
            "%s from %s dropped: %s", self._kind, host, cause, extra=flood_kind(cause, self._kind)
        )


class _Config(uvicorn.Config):
    """uvicorn's settings. Its loggers are those of the program, which may run uvicorn, too."""

    def configure_logging(self) -> None:
        """Leave them as they are."""

    def load(self) -> None:
        """Prepare the application, without what logs whole requests where all is to be logged."""
        super().load()
        self.loaded_app = self.app


class _Server(uvicorn.Server):
    """uvicorn on a listener of our own, without signal handlers; ``ready`` once it accepts."""

    def __init__(self, app: Starlette, shared: _Shared, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            _Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                server_header=False,
                proxy_headers=False,
            )
        )
        self._shared = shared
        self._tls = tls
        self._listener: Any = None
        self.ready = asyncio.Event()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to exit, or cancelled."""
        self.config.load()
        try:
            await self.startup(sockets)
            await self.main_loop()
        finally:
            await self.shutdown(sockets)

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
            self._listener = await aiofastnet.create_server(
                loop,
                lambda: _Connection(self._shared, self.config, self.server_state),
                sock=filtered,
                backlog=ACCEPT_AT_ONCE,
                # Or a cancellation would come between the server and who has to close it.
                start_serving=False,
                **tls,
            )
            await self._listener.start_serving()
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, finish requests under way for some seconds, and drop what is left."""
        if self._listener is None:
            return
        self._listener.close()
        state = self.server_state
        for connection in tuple(state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                while state.connections:
                    self._shared.left.clear()
                    await self._shared.left.wait()
        except TimeoutError:
            _log.error("requests that took more than %d s were dropped", _STOP_SECONDS)
        finally:
            for task in state.tasks:
                task.cancel()
            # Also those that have not got past TLS, of which uvicorn does not know.
            self._listener.abort_clients()
        await self._listener.wait_closed()
        if state.tasks:
            await asyncio.wait(state.tasks)


class _Http(h11.Connection):
    """HTTP/1.1 that counts the lines of a head first, and stops behind it.

    A body is parsed when :attr:`is_body_held` is cleared, and not before: in small chunks it
    costs many times what it takes to send it. What h11 does not ask for is :attr:`waiting`.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, _HEAD_BYTES)
        self.is_body_held = False
        self.waiting = bytearray()

    def receive_data(self, data: bytes) -> None:
        self.waiting += data

    def next_event(self) -> Any:
        while not self.is_body_held:
            event = self._parse()
            if isinstance(event, h11.Request):
                self.is_body_held = self.their_state is h11.SEND_BODY and _has_body(event)
            if event is not h11.NEED_DATA or not self.waiting:
                return event
            super().receive_data(bytes(self.waiting[:_BITE]))
            del self.waiting[:_BITE]
        return h11.NEED_DATA

    def _parse(self) -> Any:
        if self.their_state is h11.IDLE:
            self._check_lines()
        try:
            return super().next_event()
        except h11.RemoteProtocolError as error:
            # Its frames refer to it, which would keep the whole connection.
            raise error.with_traceback(None) from None

    def _check_lines(self) -> None:
        received, _ = self.trailing_data
        end = _END_OF_HEAD.search(received)
        if received.count(b"\n", 0, end.end() if end else len(received)) > _HEAD_LINES:
            raise h11.RemoteProtocolError("too many header fields", error_status_hint=431)


def _has_body(request: h11.Request) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and int(value))
        for name, value in request.headers
    )


class _Flow(FlowControl):
    """Asks ``wanted`` whether to read on; ``None`` when the connection is lost."""

    def __init__(self, transport: asyncio.Transport, wanted: Callable[[], bool]) -> None:
        super().__init__(transport)
        self.wanted: Callable[[], bool] | None = wanted

    def resume_reading(self) -> None:
        if self.wanted is not None and self.wanted():
            super().resume_reading()


class _Phase(Enum):
    """What a connection is doing."""

    IDLE = "idle"
    """Nothing of the next request has come."""
    HEAD = "head"
    """Some of it has come."""
    REQUEST = "request"
    """Its head has come; it is read, carried out and answered."""
    STREAM = "stream"
    """It is answered for as long as the application likes."""


class _Connection(H11Protocol):
    """One HTTP connection. In each phase it has a deadline, at which it is dropped."""

    def __init__(self, shared: _Shared, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {_HOLD: weakref.WeakMethod(self._hold)})
        self._shared = shared
        self.logger = _log
        self.access_log = False
        self.conn = self._http = _Http()
        self._phase = _Phase.IDLE
        self._deadline: asyncio.TimerHandle | None = None
        self._stranger_seconds = math.ceil(shared.head_seconds)
        self._stranger_requests = 0
        """Requests since the last one with a valid signature."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = self._flow = _Flow(transport, self._data_wanted)
        self._enter(_Phase.IDLE, self._shared.head_seconds)

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.IDLE:
            self._enter(_Phase.HEAD, self._shared.head_seconds)
        super().data_received(data)
        if self._is_full:
            # In the next turn: by then the application may have asked for it, or have answered,
            # after which the end of TLS throws away what comes.
            self.loop.call_soon(self._pause_if_full)

    @property
    def _is_full(self) -> bool:
        return len(self._http.waiting) > _WAITING_BYTES

    def _pause_if_full(self) -> None:
        if self._is_full and not self.transport.is_closing():
            self.flow.pause_reading()

    def handle_events(self) -> None:
        cycle = self.cycle
        super().handle_events()
        if self.cycle is not cycle:
            self._request_began()
        if self.cycle is not None and not self.cycle.response_started:
            # A client that is answered before its body was read may be sending it still.
            is_last = self.cycle.more_body or self._stranger_requests >= _STRANGER_REQUESTS
            headers = self.server_state.default_headers
            self.cycle.default_headers = [*headers, CLOSE_HEADER] if is_last else headers

    def _request_began(self) -> None:
        """Called when the head of a request has come, before the application looks at it."""
        self._enter(_Phase.REQUEST, self._shared.head_seconds + _ANSWER_SECONDS)
        self._stranger_requests += 1

    def _hold(self) -> None:
        self._phase = _Phase.STREAM
        if self._deadline is not None:
            self._deadline.cancel()
        connection = self.transport.get_extra_info("socket")
        self._shared.limiter.release(connection.fileno())
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_MS)

    def _data_wanted(self) -> bool:
        """Called when more of a body or a next request may be read; return whether it is."""
        if self._phase is _Phase.REQUEST and self._http.is_body_held:
            self._http.is_body_held = False
            self.handle_events()
        return not self._is_full

    def on_response_complete(self) -> None:
        is_known = _KNOWN in self.scope["state"]
        if is_known:
            self._stranger_requests = 0
            self._shared.limiter.know(self.transport.get_extra_info("socket").fileno())
        if self._http.is_body_held:
            # The connection ends; its client may take its time.
            self._http.waiting.clear()
        self.timeout_keep_alive = _KEEP_ALIVE_SECONDS if is_known else self._stranger_seconds
        # uvicorn closes it then; a client that leaves an answer or the end of TLS unread
        # gets some time more.
        self._enter(_Phase.IDLE, self.timeout_keep_alive + self._shared.head_seconds)
        super().on_response_complete()

    def shutdown(self) -> None:
        super().shutdown()
        if self._phase not in (_Phase.REQUEST, _Phase.STREAM):
            # Kept alive by the client, which would not answer the end of TLS.
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)
        self._shared.left.set()
        # Freed at once, with its buffers of TLS, and not by the garbage collector.
        self._flow.wanted = None

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
