"""The engine without sockets and without a network, for tests that drive it step by step.

Everything but the outermost pieces is real: :class:`ScriptedEnd` stands where a socket would,
:class:`NullLink` where a WebSocket would, and the loop's time is the test's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.plugins.clock import ClockLoop
from support.tunnel.in_process import RunningProxy
from tailrace.common.addresses import UnixAddress
from tailrace.common.secret import Secret
from tailrace.errors import RemoteProtocolError, TailraceError
from tailrace.link import ClosedBy, LinkClosed
from tailrace.localproxy.clients import Client, Clients
from tailrace.localproxy.connections import ConnectionTable
from tailrace.localproxy.events import ProxyEvent
from tailrace.localproxy.inbound import Inbound
from tailrace.localproxy.link_session import LinkSession
from tailrace.localproxy.local_connection import LocalConnection
from tailrace.localproxy.log import TunnelLog
from tailrace.localproxy.outbound import Outbound
from tailrace.localproxy.routes import LocalService, Route
from tailrace.localproxy.settings import ProxySettings
from tailrace.localproxy.traffic import Traffic
from tailrace.session import Connection, ConnectionRequested, Event, Session, TunnelReady
from tailrace.wire import (
    FLOW,
    NO_CAPABILITIES,
    Capabilities,
    DataHeader,
    Message,
    MessageSplitter,
    MessageType,
    Side,
    decode,
    encode_delimited,
)

__all__ = [
    "Host",
    "NullLink",
    "Ready",
    "ScriptedEnd",
    "connections_of",
    "data_message",
    "deaf_application",
    "pass_time",
    "quiet_log",
    "service_ids",
    "settings",
    "turn",
]


def settings(side: Side = Side.SOURCE, **changes: Any) -> ProxySettings:
    """Return settings of a proxy that connects to nothing."""
    return ProxySettings(side=side, host="localhost", access_token=Secret("t0ken"), **changes)


def quiet_log(side: Side = Side.SOURCE) -> TunnelLog:
    """Return the log of a tunnel end without secrets."""
    return TunnelLog(side, "localhost:443", ())


def service_ids(*names: str) -> memoryview:
    """Return the frame with which the service announces its service ids."""
    message = Message(MessageType.SERVICE_IDS, available_service_ids=names)
    return memoryview(encode_delimited(message))


def data_message(payload: bytes, service_id: str = "SSH", connection_id: int = 1) -> memoryview:
    """Return the frame of a DATA message on stream 1."""
    return memoryview(DataHeader(1, service_id, connection_id).build(len(payload)) + payload)


@asynccontextmanager
async def deaf_application(path: Path) -> AsyncIterator[tuple[socket.socket, UnixAddress]]:
    """A listening unix socket whose clients are accepted by nobody but the test.

    Unlike TCP's, the buffers of unix sockets in the kernel do not grow.
    """
    address = UnixAddress(str(path / "deaf"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(address.path)
        listening.listen(100)
        listening.setblocking(False)
        yield listening, address


def connections_of(running: RunningProxy) -> ConnectionTable:
    """Return the local connections of a proxy's present link."""
    return running.proxy._uplink.traffics[-1].connections


def turn(loop: asyncio.AbstractEventLoop, count: int = 1) -> None:
    """Let a loop that does not run take some turns."""
    for _ in range(count):
        loop.run_until_complete(asyncio.sleep(0))


def pass_time(loop: ClockLoop, seconds: float) -> None:
    """Let time pass on a loop that does not run."""
    loop.run_until_complete(asyncio.sleep(seconds))


class ScriptedEnd:
    """A local end that does what a test says, and notes what was asked of it."""

    def __init__(self) -> None:
        self.readable: Callable[[], None] | None = None
        self.writable: Callable[[], None] | None = None
        self.taken = bytearray()
        self.room: int | None = None
        """Bytes that it still takes, ``None`` for any number."""
        self.failure: OSError | None = None
        """What it raises from now on."""
        self.error = 0
        self.in_flight = 0
        self.fail_to_shut = False
        self.shut = False
        self.closed = False
        self.gone = False
        """Whether it has given up both halves, as far as can be known."""
        self.was_reset = False
        self.reset_reason = ""
        self.end_is_near = False
        """Whether it knows that nothing is to come but what waits."""
        self.reads: list[int] = []
        """The limits of the reads so far."""
        self.watched = 0
        """How often reading was started."""
        self._incoming: deque[bytes] = deque()

    # -- what the test does

    def say(self, *pieces: bytes) -> None:
        """Have something to read, ``b""`` for the end of file, and tell for as long as there is."""
        self._incoming.extend(pieces)
        self.tell()

    def tell(self) -> None:
        """Call back for as long as there is something to read."""
        while self.readable is not None and (self._incoming or self.failure is not None):
            self.readable()

    def fail(self, number: int = errno.ECONNRESET) -> None:
        """Fail with everything from now on."""
        self.failure = OSError(number, os.strerror(number))
        self.tell()

    def take(self, size: int | None = None) -> None:
        """Take so many bytes more, or any number."""
        self.room = None if size is None else (self.room or 0) + size
        while self.writable is not None and self.room != 0 and not self.closed:
            self.writable()

    # -- what the connection does

    def recv_into(self, buffer: memoryview, limit: int) -> int:
        self.reads.append(limit)
        if not self._incoming:
            if self.failure is not None:
                raise self.failure
            raise BlockingIOError
        piece = self._incoming.popleft()
        if len(piece) > limit:
            self._incoming.appendleft(piece[limit:])
            piece = piece[:limit]
        buffer[: len(piece)] = piece
        return len(piece)

    def send(self, data: memoryview) -> int:
        if self.failure is not None:
            raise self.failure
        size = len(data) if self.room is None else min(self.room, len(data))
        if not size:
            raise BlockingIOError
        if self.room is not None:
            self.room -= size
        self.taken += data[:size]
        return size

    def sendmsg(self, pieces: list[memoryview]) -> int:
        return self.send(memoryview(b"".join(pieces)))

    def start_reading(self, readable: Callable[[], None]) -> None:
        assert self.readable is None, "it is read already"
        self.readable = readable
        self.watched += 1

    def stop_reading(self) -> None:
        assert self.readable is not None, "it is not read"
        self.readable = None

    def start_writing(self, writable: Callable[[], None]) -> None:
        assert self.writable is None, "it is written already"
        self.writable = writable

    def stop_writing(self) -> None:
        assert self.writable is not None, "it is not written"
        self.writable = None

    def expect_end(self) -> None:
        self.end_is_near = True

    def pending_error(self) -> int:
        return self.error

    def unacknowledged(self) -> int:
        return self.in_flight

    def shut_down(self) -> None:
        if self.failure is not None or self.fail_to_shut:
            raise self.failure or OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        self.shut = True

    def is_gone(self) -> bool:
        return self.gone or bool(self.error)

    def reset(self, reason: str = "") -> None:
        self.was_reset = True
        self.reset_reason = reason
        self.close()

    def close(self) -> None:
        assert not self.closed, "it is closed already"
        assert self.readable is self.writable is None, "it was not stopped"
        self.closed = True


class NullLink:
    """An open link to nowhere; notes what was asked of it."""

    def __init__(self, capabilities: Capabilities = NO_CAPABILITIES) -> None:
        self.info = SimpleNamespace(
            capabilities=capabilities, channel_id="channel", backend="picows"
        )
        self.sent = bytearray()
        self.messages: list[Message] = []
        self.pings: list[bytes] = []
        self.reading = True
        self.aborted = False
        self.closed: tuple[int, str] | None = None
        self._splitter = MessageSplitter()

    @property
    def data(self) -> bytes:
        """The payloads of the DATA messages sent."""
        return b"".join(m.payload for m in self.messages if m.type == MessageType.DATA)

    @property
    def control(self) -> list[tuple[int, int]]:
        """Type and connection id of the other messages sent."""
        return [(m.type, m.connection_id) for m in self.messages if m.type != MessageType.DATA]

    def send(self, message: bytes | bytearray | memoryview) -> None:
        self.sent += message
        for body in self._splitter.feed(memoryview(bytes(message))):
            self.messages.append(decode(memoryview(bytes(body))))

    def send_ping(self, payload: bytes) -> None:
        self.pings.append(payload)

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def handler_failed(self, error: Exception) -> None:
        bad = isinstance(error, RemoteProtocolError)
        self.closed = (1002, str(error)) if bad else (1011, "internal error")

    def abort(self) -> None:
        self.aborted = True


class Host:
    """What one local connection needs around it: a session, a link and the ways between."""

    linger = 5.0
    stall_timeout = 30.0

    def __init__(self, loop: asyncio.AbstractEventLoop, side: Side = Side.SOURCE) -> None:
        self.loop = loop
        self.log = quiet_log(side)
        self.events: list[str] = []
        """What the connection told its host."""
        self.failures: list[str] = []
        """Why its local end did, empty texts for ends in order."""
        self.link = NullLink()
        self.session = Session(side, self)
        self.outbound: Outbound[LocalConnection] = Outbound(loop, 64_512)
        self.inbound: Inbound[LocalConnection] = Inbound(
            loop, self.session, self.stall_timeout, lambda: False, lambda _: None
        )
        self.outbound.attach(self.link.send)
        self.connection: Connection
        self.session.receive_frame(service_ids("SSH"))
        if side is Side.SOURCE:
            self.connection = self.session.open("SSH")
        else:
            start = Message(MessageType.STREAM_START, 1, "SSH", 1)
            self.session.receive_frame(memoryview(encode_delimited(start)))

    # -- session handler

    def event_occurred(self, event: Event) -> None:
        match event:
            case ConnectionRequested(connection):
                self.connection = connection
            case TunnelReady():
                pass
            case _:
                raise AssertionError(event)

    def send_control(self, frame: bytes) -> None:
        self.link.send(frame)

    # -- connection host

    def half_closed(self, connection: LocalConnection) -> None:
        self.events.append("half closed")

    def local_ended(self, connection: LocalConnection, failure: str) -> None:
        self.events.append("local ended")
        self.failures.append(failure)
        self.session.reset(connection.connection)

    def delivered(self, connection: LocalConnection) -> None:
        assert connection.waiting == 0
        self.events.append("delivered")

    def closed(self, connection: LocalConnection) -> None:
        self.events.append("closed")


class Ready:
    """One end of a tunnel over a link to nowhere, whose service ids are known."""

    def __init__(
        self,
        loop: ClockLoop,
        wanted: ProxySettings,
        ids: tuple[str, ...] = ("SSH",),
        services: Mapping[str, LocalService] | None = None,
        *,
        flow_messages: bool = False,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.events: list[ProxyEvent] = []
        self.failures: list[TailraceError] = []
        self.on_event: Callable[[ProxyEvent], object] = lambda _: None
        routes = {name: Route(service) for name, service in (services or {}).items()}
        self._find_route = routes.__getitem__
        log = quiet_log(wanted.side)
        self.clients = Clients("127.0.0.1", self._emit, log)
        self.traffic = Traffic(loop, wanted, self.clients, self._ready, self._emit, log)
        self.table = self.traffic.connections
        self._loop = loop
        self._ids = ids
        self._capabilities = capabilities or (FLOW if flow_messages else NO_CAPABILITIES)
        self.open_link()

    def open_link(self) -> None:
        """Have another link to nowhere, and be told the service ids."""
        self.link = NullLink(self._capabilities)
        self.link_session = LinkSession(self._loop, self.traffic, self.failures.append)
        self.link_session.link_opened(self.link)
        self.link_session.frame_received(service_ids(*self._ids))

    def _emit(self, event: ProxyEvent) -> None:
        self.events.append(event)
        self.on_event(event)

    def _ready(self, traffic: Traffic, ids: tuple[str, ...]) -> None:
        traffic.find_route = self._find_route
        self.clients.tunnel_ready(ids, traffic.connections.serve)

    def come(self, peer: str = "client", service_id: str = "SSH") -> ScriptedEnd:
        """Have a client come to a source; return its local end."""
        end = ScriptedEnd()
        self.clients._add(Client(service_id, peer, end))
        return end

    def answer_pings(self) -> None:
        """Let everything that was sent be read by the other end."""
        while self.link.pings:
            pings, self.link.pings = self.link.pings, []
            for ping in pings:
                self.link_session.pong_received(ping)

    def lose_link(self) -> None:
        self.link_session.link_closed(LinkClosed(ClosedBy.NETWORK, 1006, "connection lost"))

    def close(self) -> None:
        """End everything at once."""
        tasks = self.traffic.applications.tasks
        self.table.abort()
        for task in tasks:
            task.cancel()
        turn(self._loop, 2)
