"""One end of a tunnel on a link without a network: real local sockets, and real picows.

Two runs of the same play give the same bytes, so that the ways of the data can be compared: with
the compiled extension, and by Python alone. In some plays the peer can go on over lost links, and
the link is lost now and then.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from unittest import mock

from support.network.frames import BINARY, CONTINUATION, PING, PONG, Frame, frame, receive_frame
from support.service.memory_links import MemoryTransport, ToldLoop
from support.session.books import keep, take
from support.tunnel.engine import quiet_log, settings
from tailrace.common.secret import Secret
from tailrace.errors import ProtocolError, TailraceError
from tailrace.flow import send_window, window_driver
from tailrace.link import ClosedBy, LinkClosed, picows_link
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.interface import LinkInfo
from tailrace.localproxy import local_pump
from tailrace.localproxy.clients import Client, Clients
from tailrace.localproxy.events import ProxyEvent
from tailrace.localproxy.link_session import LinkSession
from tailrace.localproxy.sockets import SocketEnd
from tailrace.localproxy.traffic import Traffic
from tailrace.session import Connection, ConnectionRequested, Event, Ledger, Session
from tailrace.wire import (
    FLOW,
    NO_CAPABILITIES,
    RESUME,
    SUBPROTOCOL_V3,
    Capability,
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
_GREETING: Final = (
    Message(MessageType.SERVICE_IDS, available_service_ids=("SSH",)),
    Message(MessageType.PEER_JOINED, payload=b"flow, resume", ignorable=True),
)
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
    books: list[tuple[object, ...]] = field(default_factory=list)
    """What was counted and kept for each connection, whenever a link was lost."""
    peer_got: list[bytes] = field(default_factory=list)
    """What the peer got for each connection, if it was one that goes on."""
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


class _Books:
    """A connection at the peer, whose program takes everything at once."""

    def __init__(self, session: Session, connection: Connection) -> None:
        self._session = session
        self.connection = connection
        self.got = bytearray()
        connection.sink = self

    def data_received(self, payload: memoryview) -> None:
        counts = self.connection.counts
        counts.received += len(payload)
        self.got += payload
        if counts.received >= counts.ack_at:
            self._session.mark_reached(self.connection)


class _Peer:
    """The destination, where it can go on over lost links; the service passes all on."""

    def __init__(self) -> None:
        self.session = Session(Side.DESTINATION, self, ("SSH",), None, b"2" * 16)
        self.books: list[_Books] = []
        self.sent: list[bytes] = []
        """What is on its way to the end."""
        self._is_lost = True

    def link_up(self) -> None:
        self.session.capabilities = FLOW | RESUME
        self._is_lost = False
        for message in _GREETING:
            self.take(encode_delimited(message))

    def link_lost(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.sent.clear()
            self.session.link_lost()

    def take(self, data: bytes) -> None:
        """Take what the end has sent; made-up data of the play may have broken the books."""
        try:
            if not self._is_lost:
                self.session.receive_frame(memoryview(data))
        except ProtocolError:
            self.link_lost()

    def send_control(self, frame: bytes) -> None:
        self.sent.append(frame)

    def event_occurred(self, event: Event) -> None:
        if isinstance(event, ConnectionRequested):
            self.books.append(_Books(self.session, event.connection))

    # -- what its programs do

    def _ledgers(self) -> Iterator[tuple[Connection, Ledger]]:
        for books in self.books:
            ledger = books.connection.ledger
            if books.connection.is_open and ledger is not None and ledger.is_open:
                yield books.connection, ledger

    def send_again(self) -> None:
        for connection, ledger in self._ledgers():
            while ledger.unsent and not connection.is_paused:
                self.sent.append(bytes(ledger.next_unsent(100_000)))

    def write(self, random: Random) -> None:
        """Send one message for each connection that may."""
        for connection, ledger in self._ledgers():
            if not (ledger.unsent or connection.is_paused):
                data = random.randbytes(random.choice(_SIZES))
                size = take(ledger, len(data))
                if size:
                    message = bytes(connection.data_header(size)) + data[:size]
                    self.sent.append(message)
                    keep(ledger, message, size)

    def acknowledge(self) -> None:
        self.session.acknowledge([connection for connection, _ in self._ledgers()])

    def finish(self) -> None:
        for connection, ledger in self._ledgers():
            if not ledger.unsent:
                self.session.finish(connection)


class _End:
    def __init__(self, loop: ToldLoop, random: Random) -> None:
        self._loop, self._random = loop, random
        self.outcome = EndOutcome()
        self.programs: list[_Program] = []
        self.clients = Clients("127.0.0.1", self._emit, quiet_log())
        wanted = settings(Side.SOURCE, stall_timeout=5.0)
        self.traffic = Traffic(loop, wanted, self.clients, self._ready, self._emit, quiet_log())
        self._capabilities = random.choice((NO_CAPABILITIES, FLOW, FLOW | RESUME))
        self.peer = _Peer() if Capability.RESUME in self._capabilities else None
        self._unread = b""

    async def connect(self) -> None:
        """Have an open link, on which nothing has come yet; picows wants a running loop."""
        loop = self._loop
        self._sent: list[bytes | str] = []
        self._frames: list[Frame] = []
        self._looked_at = 0
        self._answered = self._passed = 0
        self.transport = MemoryTransport(loop, self._sent)
        self.session = LinkSession(loop, self.traffic, self._failed)
        endpoint = ServiceEndpoint(host="localhost", side=Side.SOURCE, access_token=Secret("t"))
        protocol = picows_link._make_protocol(endpoint, lambda *_: self.listener())
        protocol.connection_made(self.transport)
        self._key = protocol.transport.request.headers["Sec-WebSocket-Key"]
        info = LinkInfo(SUBPROTOCOL_V3, "channel", "picows", self._capabilities)
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
        self._unread += data
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

    def greet(self) -> None:
        """Let the service say what comes first on a link; the peer is always there."""
        greeting = _GREETING if self.peer is not None else _GREETING[:1]
        for message in greeting:
            self.arrive(frame(BINARY, encode_delimited(message)))
        if self.peer is not None:
            self.peer.link_up()

    def exchange(self) -> None:
        """Let the peer have what was sent, and the end what that has sent."""
        if self.peer is None:
            return
        data = [each.payload for each in self._parsed() if each.opcode in (BINARY, CONTINUATION)]
        for payload in data[self._passed :]:
            self.peer.take(payload)
        self._passed = len(data)
        self.peer.send_again()
        sent, self.peer.sent = self.peer.sent, []
        self.arrive(b"".join(frame(BINARY, each) for each in sent))

    def lose(self) -> None:
        """Lose the link, with what is under way, and note what was counted and kept."""
        self.outcome.frames += self._parsed()
        self.outcome.marks += [each for each in self._sent if isinstance(each, str)]
        self._sent.clear()
        self._frames = []
        self._looked_at = 0
        self._unread = b""
        self._note_books()
        if self.peer is not None:
            self.peer.link_lost()
        self.session.link_closed(LinkClosed(ClosedBy.NETWORK, 1006, "gone"))
        self.link.gate = None if self.link.gate is None else self.link.gate.end()

    def _note_books(self) -> None:
        session = self.traffic.session
        for connection in sorted(session.connections, key=lambda each: each.connection_id):
            counts, ledger = connection.counts, connection.ledger
            books: list[object] = [counts.sent, counts.received, counts.waiting]
            if ledger is not None:
                kept = b"".join([*(view for view, *_ in ledger.replay.pieces), ledger.replay.tail])
                books += [counts.room, counts.limit, counts.small_room, counts.ack_at, ledger.half]
                books += [ledger.replay.base, ledger.unsent, kept, ledger.progress]
            self.outcome.books.append(tuple(books))
        memory = self.traffic.connections.outbound.memory
        self.outcome.books.append((memory.size, memory.promised, memory.owing))

    def _parsed(self) -> list[Frame]:
        """Return the frames that were sent: each was written at once."""
        for piece in self._sent[self._looked_at :]:
            if isinstance(piece, bytes):
                rest = bytearray(piece)

                def take(size: int, rest: bytearray = rest) -> bytes:
                    data = bytes(rest[:size])
                    del rest[:size]
                    return data

                self._frames.append(receive_frame(take))
        self._looked_at = len(self._sent)
        return self._frames

    def turn(self, count: int) -> None:
        for _ in range(count):
            self._loop.run_until_complete(asyncio.sleep(0))
            self.arrive(b"")

    def end(self) -> EndOutcome:
        for program in self.programs:
            program.take(1 << 30)
        self.turn(20)
        self.exchange()
        self.lose()
        self.turn(3)
        outcome = self.outcome
        for program in self.programs:
            program.take(1 << 30)
            outcome.delivered.append(bytes(program.got))
            outcome.ended.append(program.ended)
        self.traffic.abort()
        self.turn(3)
        outcome.peer_got = [bytes(books.got) for books in self.peer.books] if self.peer else []
        # Connections that end together are told in the order of a set.
        outcome.events.sort()
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
        stack.enter_context(mock.patch.object(os, "urandom", lambda size: b"1" * size))
        if not compiled:
            for module in (picows_link, local_pump):
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
    end = _End(loop, random)
    await end.connect()
    return end


def _steps(end: _End, random: Random) -> None:
    loop = end._loop
    end.greet()
    end.exchange()
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
            case _ if end.peer is None or random.random() < 0.01:
                end.arrive(_traffic(random))
            case 10 if random.random() < 0.3:
                end.lose()
                end.turn(random.randrange(3))
                loop.run_until_complete(end.connect())
                end.greet()
            case 11:
                random.choice((end.peer.acknowledge, end.peer.acknowledge, end.peer.finish))()
            case _:
                end.peer.write(random)
                if random.random() < 0.8:
                    end.exchange()
    end.answer_pings()
