"""Local connections that outlive links: halves that end alone, credit, and what is sent again."""

from __future__ import annotations

import asyncio
import errno

import pytest

from support.plugins.clock import ClockLoop
from support.session.books import keep, take
from support.tunnel.engine import Host, NullLink, ScriptedEnd, quiet_log, service_ids
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.inbound import Inbound
from tailrace.localproxy.local_connection import LocalConnection
from tailrace.localproxy.outbound import Outbound
from tailrace.session import (
    Connection,
    ConnectionEnded,
    ConnectionPaused,
    ConnectionRequested,
    ConnectionResumed,
    Event,
    PeerFinished,
    Session,
)
from tailrace.session.ledger import FIRST_LIMIT
from tailrace.wire import (
    MAX_PAYLOAD,
    OFFER,
    RESUME,
    SESSION_ID_SIZE,
    Capabilities,
    Message,
    MessageType,
    Side,
    encode_delimited,
    format_capabilities,
)

RESUMES: Capabilities = OFFER | RESUME
JOINED = Message(
    MessageType.PEER_JOINED, payload=format_capabilities(RESUMES).encode(), ignorable=True
)
LEFT = Message(MessageType.PEER_LEFT, ignorable=True)


class Peer:
    """The other end: a session whose connections keep what comes."""

    def __init__(self, side: Side, frames: list[bytes]) -> None:
        self.received = bytearray()
        self.finished = False
        self.ends: list[str] = []
        self.connection: Connection | None = None
        self._frames = frames
        self.session = Session(side, self, session_id=bytes([2]) * SESSION_ID_SIZE)
        self.session.capabilities = RESUMES

    def event_occurred(self, event: Event) -> None:
        match event:
            case ConnectionRequested(connection):
                self.connection = connection
                connection.sink = self
            case PeerFinished():
                self.finished = True
            case ConnectionEnded(_, _, failure):
                self.ends.append(failure)
            case _:
                pass

    def send_control(self, frame: bytes) -> None:
        self._frames.append(frame)

    def data_received(self, payload: memoryview) -> None:
        self.received += payload
        assert self.connection is not None
        counts = self.connection.counts
        counts.received += len(payload)
        if counts.received >= counts.ack_at:
            self.session.mark_reached(self.connection)

    def say(self, payload: bytes) -> None:
        """Send what is allowed at once, in as many messages as that takes."""
        assert self.connection is not None
        counts, ledger = self.connection.counts, self.connection.ledger
        assert ledger is not None
        while payload:
            part = payload[: take(counts, min(len(payload), MAX_PAYLOAD))]
            assert part, "more than is allowed"
            message = self.connection.data_header(len(part)) + part
            keep(ledger, message, len(part))
            self._frames.append(message)
            payload = payload[len(part) :]

    def finish(self) -> None:
        assert self.connection is not None
        self.session.finish(self.connection)


class LastingHost(Host):
    """A source with one connection under an agreement, and the destination."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.log = quiet_log()
        self.events: list[str] = []
        self.failures: list[str] = []
        self.link = NullLink()
        self.frames: list[bytes] = []
        self.to_peer: list[bytes] = []
        self.local: LocalConnection | None = None
        self.outbound: Outbound[LocalConnection] = Outbound(loop, 64_512)
        self.session = Session(
            Side.SOURCE, self, None, None, bytes([1]) * SESSION_ID_SIZE, self.outbound.memory
        )
        self.session.capabilities = RESUMES
        self.inbound: Inbound[LocalConnection] = Inbound(
            loop, self.session, self.stall_timeout, lambda: False, lambda _: None
        )
        self.outbound.attach(lambda message: self.to_peer.append(bytes(message)))
        self.peer = Peer(Side.DESTINATION, self.frames)
        for session in (self.session, self.peer.session):
            session.receive_frame(service_ids("SSH"))
            session.receive_frame(memoryview(encode_delimited(JOINED)))
        self.carry()
        self.connection = self.session.open("SSH")

    def event_occurred(self, event: Event) -> None:
        if self.local is None:
            return
        match event:
            case ConnectionPaused():
                self.local.pause()
            case ConnectionResumed():
                self.local.resume()
            case PeerFinished():
                self.local.peer_finished()
            case ConnectionEnded(_, _, failure):
                self.events.append(f"ended{failure and ': ' + failure}")
                self.local.tunnel_ended(cut=failure)
            case _:
                pass

    def send_control(self, frame: bytes) -> None:
        self.to_peer.append(frame)

    def finished(self, connection: LocalConnection) -> None:
        self.session.finish(connection.connection)

    def local_ended(self, connection: LocalConnection, failure: str) -> None:
        self.failures.append(failure)
        self.session.reset(connection.connection, failure)

    def carry(self) -> None:
        """Carry everything that is under way, both ways."""
        while self.frames or self.to_peer:
            if self.to_peer:
                self.peer.session.receive_frame(memoryview(self.to_peer.pop(0)))
            else:
                self.session.receive_frame(memoryview(self.frames.pop(0)))

    def lose(self) -> None:
        """Lose what is under way: the peer leaves and comes back."""
        self.to_peer.clear()
        self.frames.clear()
        self.session.receive_frame(memoryview(encode_delimited(LEFT)))
        self.peer.session.link_lost()

    def meet(self) -> None:
        """Let the peer come back."""
        self.peer.session.capabilities = RESUMES
        self.peer.session.receive_frame(service_ids("SSH"))
        for session in (self.peer.session, self.session):
            session.receive_frame(memoryview(encode_delimited(JOINED)))
        self.carry()


class Rig:
    """A local connection, its local end, and the peer's connection."""

    def __init__(self, loop: ClockLoop) -> None:
        self.loop = loop
        self.host = LastingHost(loop)
        self.end = ScriptedEnd()
        self.local = self.host.local = LocalConnection(
            self.host, self.host.connection, "client", lingers=True
        )
        self.local.attach(self.end)
        self.carry()

    @property
    def peer(self) -> Peer:
        return self.host.peer

    def carry(self) -> None:
        """Carry everything both ways, and give every connection its turns."""
        for _ in range(500):
            self.host.carry()
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            self.end.tell()
            if not (self.host.frames or self.host.to_peer):
                break


@pytest.fixture
def rig(loop: ClockLoop) -> Rig:
    return Rig(loop)


def test_each_half_ends_by_itself(rig: Rig):
    rig.end.say(b"question", b"")
    rig.carry()
    assert rig.peer.received == b"question"
    assert rig.peer.finished
    assert rig.local.state is ConnectionState.HALF_CLOSED
    assert not rig.end.shut
    rig.peer.say(b"answer")
    rig.carry()
    assert rig.end.taken == b"answer"
    rig.peer.finish()
    rig.carry()
    assert rig.end.shut
    assert rig.peer.ends == [""]
    assert rig.host.events == ["ended", "delivered"]
    rig.end.say(b"")
    assert rig.end.closed
    assert not rig.end.was_reset


def test_the_peer_may_end_first(rig: Rig):
    rig.end.room = 3
    rig.peer.say(b"answer")
    rig.peer.finish()
    rig.carry()
    assert not rig.end.shut, "not before everything is written"
    rig.end.take()
    assert rig.end.shut
    assert rig.local.state is ConnectionState.OPEN
    rig.end.say(b"more", b"")
    rig.carry()
    assert rig.peer.received == b"more"
    assert rig.peer.ends == [""]


def test_one_that_cannot_be_shut_says_so_when_it_is_read(rig: Rig):
    rig.end.fail_to_shut = True
    rig.peer.finish()
    rig.carry()
    assert rig.local.state is ConnectionState.OPEN


def test_nothing_ends_by_silence(rig: Rig):
    rig.end.say(b"")
    rig.carry()
    assert not [handle for handle in rig.loop._scheduled if not handle.cancelled()]
    rig.local.end_linger()
    assert rig.local.state is ConnectionState.HALF_CLOSED


def test_a_stream_that_was_closed_has_sent_its_last(rig: Rig):
    rig.end.say(b"last")
    rig.end.fail(errno.EPIPE)
    rig.carry()
    assert rig.peer.received == b"last"
    assert rig.peer.finished
    assert rig.local.state is ConnectionState.HALF_CLOSED


@pytest.mark.parametrize("half_closed", [False, True])
def test_one_that_fails_is_reset_in_whatever_state(rig: Rig, half_closed: bool):
    if half_closed:
        rig.end.say(b"")
        rig.carry()
    rig.end.failure = OSError(errno.ECONNRESET, "reset")
    rig.peer.say(b"too late")
    if not half_closed:
        rig.end.tell()
    rig.carry()
    assert rig.host.failures == ["the client reset the connection"]
    assert rig.peer.ends == ["the client reset the connection"]


def test_no_more_is_read_than_the_peer_allows(rig: Rig):
    peer = rig.peer.connection
    assert peer is not None
    peer.counts.ack_at = 1 << 62  # acknowledges nothing
    rig.end.say(*[bytes(64_512)] * 6)
    rig.carry()
    assert rig.local.bytes_in == FIRST_LIMIT
    assert rig.local.state is ConnectionState.PAUSED
    rig.peer.session.mark_reached(peer)
    rig.carry()
    assert rig.local.bytes_in == 6 * 64_512
    assert len(rig.peer.received) == 6 * 64_512


@pytest.mark.parametrize("size", [1, 100, 40_000, 64_512])
def test_what_was_lost_is_sent_again_and_once(rig: Rig, size: int):
    sent = b"".join(bytes([65 + n]) * size for n in range(4))
    rig.end.say(sent[:size])
    rig.carry()
    rig.end.say(sent[size : 2 * size], sent[2 * size : 3 * size])
    rig.host.lose()
    assert rig.local.state is ConnectionState.PAUSED
    rig.end.say(sent[3 * size :], b"")
    rig.host.meet()
    rig.carry()
    assert bytes(rig.peer.received) == sent
    assert rig.peer.finished
    assert rig.local.state is ConnectionState.HALF_CLOSED


def test_a_message_that_came_in_part_goes_on_where_it_stopped(rig: Rig):
    """No link of ours delivers a part, but a peer may say so, and then it has to fit."""
    rig.end.say(bytes(20_000), b"small", bytes(range(256)) * 160)
    rig.carry()
    everything = bytes(rig.peer.received)
    assert len(everything) == 20_005 + 40_960
    ledger = rig.host.connection.ledger
    assert ledger is not None
    assert ledger.replay.pieces[-1][2] is not None, "the last one stays in its block"
    rig.host.lose()
    peer = rig.peer.connection
    assert peer is not None
    peer.counts.received = 40_000
    del rig.peer.received[40_000:]
    rig.host.meet()
    rig.carry()
    assert bytes(rig.peer.received) == everything


def test_an_end_that_was_lost_is_told_again(rig: Rig):
    rig.end.say(b"last words", b"")
    rig.host.lose()
    assert rig.local.state is ConnectionState.HALF_CLOSED
    rig.host.meet()
    rig.carry()
    assert rig.peer.received == b"last words"
    assert rig.peer.finished
    # Once more while it is being sent again.
    rig.host.lose()
    rig.host.meet()
    rig.carry()
    assert rig.peer.received == b"last words"
    assert rig.peer.ends == []


def test_one_that_fails_while_nobody_is_there_has_ended_for_the_peer(rig: Rig):
    rig.host.lose()
    rig.local.abort()
    rig.host.session.reset(rig.host.connection)
    rig.host.meet()
    rig.carry()
    assert rig.peer.ends
    assert rig.peer.ends[0]


def test_what_waits_is_part_of_the_window(rig: Rig):
    rig.end.room = 0
    peer = rig.peer.connection
    assert peer is not None
    for _ in range(4):
        rig.peer.say(bytes(64_512))
    rig.carry()
    assert rig.local.waiting == 4 * 64_512
    assert peer.ledger is not None
    assert peer.ledger.limit == FIRST_LIMIT
    rig.end.take()
    rig.carry()
    assert peer.ledger.limit > FIRST_LIMIT


def test_a_peer_that_sends_more_is_reset(rig: Rig):
    rig.end.room = 0
    peer = rig.peer.connection
    assert peer is not None
    assert peer.ledger is not None
    peer.ledger.limit += 1
    peer.ledger.room += 1
    rig.peer.say(bytes(FIRST_LIMIT + 1))
    rig.carry()
    assert rig.host.events == ["ended: the peer broke the protocol"]
    assert rig.peer.ends == ["the peer broke the protocol"]
