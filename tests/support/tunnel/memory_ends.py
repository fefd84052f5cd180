"""One end of a tunnel on a link without a network: real local sockets, and real picows.

Two runs of the same play give the same bytes, so that the ways of the data can be compared: with
the compiled extension, and by Python alone.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from unittest import mock

from support.network.frames import BINARY, CONTINUATION, PING, PONG, Frame, frame, receive_frame
from support.service.memory_links import MemoryTransport, ToldLoop
from support.tunnel.engine import quiet_log, settings
from tailrace.common.secret import Secret
from tailrace.errors import TailraceError
from tailrace.flow import send_window, window_driver
from tailrace.link import ClosedBy, LinkClosed, picows_link
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.interface import LinkInfo
from tailrace.localproxy import local_connection
from tailrace.localproxy.clients import Client, Clients
from tailrace.localproxy.events import ProxyEvent
from tailrace.localproxy.link_session import LinkSession
from tailrace.localproxy.sockets import SocketEnd
from tailrace.localproxy.traffic import Traffic
from tailrace.wire import (
    FLOW,
    NO_CAPABILITIES,
    SUBPROTOCOL_V3,
    DataHeader,
    Message,
    MessageType,
    Side,
    encode_delimited,
)

__all__ = ["EndOutcome", "play"]

_KEY: Final = "AAAAAAAAAAAAAAAAAAAAAA=="
_WINDOWS: Final = (4096, 1 << 20)
"""Bytes that may be on their way at first: turns are an eighth of that."""
_SIZES: Final = (1, 2, 40, 127, 128, 3000, 16_384, 40_000, 64_512)


@dataclass
class EndOutcome:
    """All that came of a play."""

    frames: list[Frame] = field(default_factory=list)
    """What was sent on the link."""
    marks: list[str] = field(default_factory=list)
    """What else was done with it, in between."""
    delivered: list[bytes] = field(default_factory=list)
    """What each program got."""
    ended: list[bool] = field(default_factory=list)
    """Whether each program has seen the end."""
    events: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seen: int = field(default=0, compare=False)
    """Frames, and rests of frames, that Python was given."""


class _Program:
    """A client of the source, at the other end of a socket."""

    def __init__(self, number: int) -> None:
        self.number = number
        ours, self.sock = socket.socketpair()
        for each in (ours, self.sock):
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.ours = ours
        self.got = bytearray()
        self.ended = False

    def write(self, data: bytes) -> None:
        with suppress(OSError):
            self.sock.send(data)

    def take(self, size: int) -> None:
        with suppress(OSError):
            while size and (data := self.sock.recv(size)):
                self.got += data
                size -= len(data)
            self.ended = self.ended or bool(size)


class _End:
    def __init__(self, loop: ToldLoop, random: Random) -> None:
        self._loop, self._random = loop, random
        self.outcome = EndOutcome()
        self.programs: list[_Program] = []
        self.clients = Clients("127.0.0.1", self._emit, quiet_log())
        wanted = settings(Side.SOURCE, stall_timeout=5.0)
        self.traffic = Traffic(loop, wanted, self.clients, self._ready, self._emit, quiet_log())
        self._sent: list[bytes | str] = []
        self.transport = MemoryTransport(loop, self._sent)
        capabilities = random.choice((NO_CAPABILITIES, FLOW))
        self.session = LinkSession(loop, self.traffic, self._failed)
        endpoint = ServiceEndpoint(host="localhost", side=Side.SOURCE, access_token=Secret("t"))
        protocol = picows_link._make_protocol(endpoint, lambda *_: self.listener())
        protocol.connection_made(self.transport)
        self._key = protocol.transport.request.headers["Sec-WebSocket-Key"]
        info = LinkInfo(SUBPROTOCOL_V3, "channel", "picows", capabilities)
        self.link = picows_link.PicowsLink(self.transport, info, self.session, protocol)
        picows_link._accept(protocol, self._key)
        self._sent.clear()
        self.transport.set_protocol(self.link._protocol())
        self.session.link_opened(self.link)

    def listener(self) -> Any:
        return self.link.gate or picows_link._Listener(self.link)

    def _emit(self, event: ProxyEvent) -> None:
        self.outcome.events.append(repr(event))

    def _failed(self, error: TailraceError) -> None:
        self.outcome.failures.append(str(error))

    def _ready(self, traffic: Traffic, ids: tuple[str, ...]) -> None:
        self.clients.tunnel_ready(ids, traffic.connections.serve)

    # -- steps

    def come(self) -> None:
        if len(self.programs) < 3:
            program = _Program(len(self.programs) + 1)
            self.programs.append(program)
            end = SocketEnd(self._loop, program.ours)
            self.clients._add(Client("SSH", f"client {program.number}", end))

    def arrive(self, data: bytes) -> None:
        """Let bytes of the service come in, as long as the link is read."""
        self._unread = getattr(self, "_unread", b"") + data
        while self._unread and self.transport.is_read and not self.transport.is_closed:
            protocol = self.transport.get_protocol()
            memory = protocol.get_buffer(-1)
            size = min(len(memory), len(self._unread), self._random.choice((5, 1000, 1 << 20)))
            memory[:size] = self._unread[:size]
            self._unread = self._unread[size:]
            protocol.buffer_updated(size)

    def answer_pings(self) -> None:
        pings = [each for each in self._parsed() if each.opcode == PING]
        for ping in pings[self._answered :]:
            self._answered += 1
            self.arrive(frame(PONG, ping.payload))

    _answered = 0

    def _parsed(self) -> list[Frame]:
        """Return the frames that were sent: each was written at once."""
        frames = []
        for piece in self._sent:
            if isinstance(piece, bytes):
                rest = bytearray(piece)

                def take(size: int, rest: bytearray = rest) -> bytes:
                    data = bytes(rest[:size])
                    del rest[:size]
                    return data

                frames.append(receive_frame(take))
        return frames

    def turn(self, count: int) -> None:
        for _ in range(count):
            self._loop.run_until_complete(asyncio.sleep(0))
            self.arrive(b"")

    def end(self) -> EndOutcome:
        for program in self.programs:
            program.take(1 << 30)
        self.turn(20)
        self.session.link_closed(LinkClosed(ClosedBy.NETWORK, 1006, "gone"))
        self.link.gate = None if self.link.gate is None else self.link.gate.end()
        self.turn(3)
        outcome = self.outcome
        for program in self.programs:
            program.take(1 << 30)
            outcome.delivered.append(bytes(program.got))
            outcome.ended.append(program.ended)
        self.traffic.abort()
        self.turn(3)
        outcome.frames = self._parsed()
        # Connections that end together are told in the order of a set.
        outcome.events.sort()
        outcome.marks = [each for each in self._sent if isinstance(each, str)]
        for program in self.programs:
            program.sock.close()
            program.ours.close()
        return outcome


def _data(random: Random, connection: int) -> bytes:
    size = random.choice(_SIZES)
    payload = random.randbytes(size)
    routing = (1, "SSH", connection)
    if connection == 1 and random.random() < 0.1:
        routing = (1, "SSH", 0)
    if connection == 1:
        return DataHeader(*routing).build(size) + payload
    return encode_delimited(Message(MessageType.DATA, *routing, payload))


def _traffic(random: Random) -> bytes:
    """Return frames of the service: data of a connection, mostly."""
    connection = random.choice((1, 1, 1, 1, 2, 3))
    messages = [_data(random, connection) for _ in range(random.randrange(1, 5))]
    match random.randrange(12):
        case 0:
            kind = random.choice((MessageType.CONNECTION_RESET, MessageType.CONNECTION_PAUSE))
            ids = (1, "SSH", connection)
            ignorable = kind > MessageType.CONNECTION_RESET
            messages.insert(1, encode_delimited(Message(kind, *ids, ignorable=ignorable)))
        case 1:
            kind = MessageType.CONNECTION_RESUME
            messages.append(encode_delimited(Message(kind, 1, "SSH", connection, ignorable=True)))
        case 2:
            return frame(PING, b"?") + frame(BINARY, messages[0])
        case 3 if random.random() < 0.2:
            return frame(BINARY, random.randbytes(random.randrange(30)))
        case 3 if random.random() < 0.1:
            message = Message(MessageType.STREAM_RESET, 1, "SSH")
            return frame(BINARY, encode_delimited(message))
    if random.random() < 0.8:
        return b"".join(frame(BINARY, each) for each in messages)
    stream = b"".join(messages)
    at = random.choice((len(messages[0]), random.randrange(len(stream))))
    kind, fin = (CONTINUATION, False) if random.random() < 0.5 else (BINARY, True)
    return frame(BINARY, stream[:at], fin) + frame(kind, stream[at:])


@contextmanager
def _set_up(compiled: bool, window: int) -> Iterator[ToldLoop]:
    loop = ToldLoop()
    with ExitStack() as stack:
        stack.callback(loop.close)
        stack.enter_context(mock.patch.object(window_driver, "_now", loop.time))
        stack.enter_context(mock.patch.object(send_window, "_START", window))
        if not compiled:
            for module in (picows_link, local_connection):
                stack.enter_context(mock.patch.object(module, "load", return_value=None))
        asyncio.set_event_loop(loop)
        yield loop
        asyncio.set_event_loop(None)


def play(seed: int, *, compiled: bool) -> EndOutcome:
    """Play what one number stands for; return what came of it, and count what Python saw."""
    random = Random(seed)
    with _set_up(compiled, random.choice(_WINDOWS)) as loop:
        end = loop.run_until_complete(_made(loop, random))
        seen = 0
        arrived = picows_link.PicowsLink.bytes_arrived

        def bytes_arrived(link: Any, payload: memoryview) -> None:
            nonlocal seen
            seen += 1
            arrived(link, payload)

        with mock.patch.object(picows_link.PicowsLink, "bytes_arrived", bytes_arrived):
            _steps(end, random)
            outcome = end.end()
        outcome.seen = seen
        return outcome


async def _made(loop: ToldLoop, random: Random) -> _End:
    return _End(loop, random)


def _steps(end: _End, random: Random) -> None:
    loop = end._loop
    ids = Message(MessageType.SERVICE_IDS, available_service_ids=("SSH",))
    end.arrive(frame(BINARY, encode_delimited(ids)))
    end.come()
    for _ in range(random.randrange(60)):
        end.turn(random.randrange(3))
        program = random.choice(end.programs)
        match random.randrange(14):
            case 0:
                end.come()
            case 1 | 2 | 3:
                program.write(random.randbytes(random.choice(_SIZES)))
            case 4 | 5:
                program.take(random.choice((10, 5000, 1 << 20)))
            case 6 if random.random() < 0.3:
                with suppress(OSError):
                    program.sock.shutdown(socket.SHUT_WR)
            case 6 if random.random() < 0.3:
                program.sock.close()
            case 7:
                end.answer_pings()
            case 8:
                protocol = end.transport.get_protocol()
                random.choice((protocol.pause_writing, protocol.resume_writing))()
            case 9:
                loop.now += random.choice((0.001, 0.05, 1.0, 6.0))
            case _:
                end.arrive(_traffic(random))
    end.answer_pings()
