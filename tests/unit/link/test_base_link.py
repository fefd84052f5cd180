"""The life of an open link, the same over every way to carry it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aiofastnet
import pytest

from support.network.certificates import Certificates
from support.network.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    close_frame,
    frame,
)
from support.network.recorder import Recorder
from support.network.scripted_service import Peer, Script, ScriptedService, serve, until_closed
from support.plugins.clock import ClockLoop
from support.plugins.leaks import uncollected
from support.waiting import until
from tailrace.errors import LocalProtocolError, RemoteProtocolError
from tailrace.link import CloseCode, ClosedBy, Link, LinkClosed, LinkInfo, connect
from tailrace.link import base_link as module
from tailrace.link.base_link import (
    CLOSE_TIMEOUT,
    MAX_FRAME_SIZE,
    PEER_CLOSE_TIMEOUT,
    READ_BUFFER_SIZE,
    BaseLink,
)
from tailrace.link.exchange import Exchange
from tailrace.link.picows_link import PicowsLink
from tailrace.link.websockets_link import WebsocketsLink

US, PEER, NETWORK = ClosedBy.US, ClosedBy.PEER, ClosedBy.NETWORK


@asynccontextmanager
async def linked(
    certificates: Certificates, backend: str, script: Script, recorder: Recorder | None = None
) -> AsyncIterator[tuple[Link, Recorder]]:
    """Open a link to a script; close it in the end, if it is still open."""
    recorder = recorder or Recorder()
    with ScriptedService(certificates, script) as service:
        link = await connect(service.endpoint(), recorder, backend)
        yield link, recorder
        link.close(CloseCode.OK, "")
        await recorder.end()


FLOOD = 12 * 1024 * 1024
"""Bytes that no socket takes while nobody reads at the other end."""


def flood(link: Link) -> None:
    """Send frames of the size that tunnels have, without a look at the marks."""
    for _ in range(FLOOD // 65_536):
        link.send(bytes(65_536))


class Notes:
    """What a script saw, for the test to read."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.done = threading.Event()

    def next(self, peer: Peer) -> Frame:
        self.frames.append(peer.read_frame())
        return self.frames[-1]

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.done.wait, 20)


SIZES = [0, 1, 125, 126, 65_535, 65_536, 131_076, MAX_FRAME_SIZE]


async def test_frames_of_all_sizes_come_in(certificates: Certificates, backend: str) -> None:
    payloads = [random.Random(size).randbytes(size) for size in SIZES]
    script = serve(b"".join(frame(BINARY, each) for each in payloads), until_closed)
    async with linked(certificates, backend, script) as (_, recorder):
        await recorder.until(lambda: len(recorder.frames) == len(SIZES))
        assert recorder.frames == payloads


async def test_frames_byte_by_byte(certificates: Certificates, backend: str) -> None:
    data = frame(BINARY, b"hello") + frame(PING, b"1") + frame(BINARY, bytes(200))
    script = serve(lambda peer: peer.send(data, piece=1), until_closed)
    async with linked(certificates, backend, script) as (_, recorder):
        await recorder.until(lambda: len(recorder.frames) == 2)
        assert recorder.frames == [b"hello", bytes(200)]


async def test_frames_of_all_sizes_go_out(certificates: Certificates, backend: str) -> None:
    notes = Notes()

    def read(peer: Peer) -> None:
        for _ in SIZES:
            notes.next(peer)

    payloads = [random.Random(size).randbytes(size) for size in SIZES]
    async with linked(certificates, backend, serve(read, until_closed)) as (link, _):
        for number, payload in enumerate(payloads):
            kind = (bytes, bytearray, memoryview)[number % 3]
            link.send(kind(payload))
    assert notes.frames == [Frame(BINARY, each) for each in payloads]


async def test_fragments_are_one_stream(certificates: Certificates, backend: str) -> None:
    script = serve(
        frame(BINARY, b"one ", fin=False),
        frame(PING, b"between"),
        frame(CONTINUATION, b"two ", fin=False),
        frame(CONTINUATION, b"three"),
        frame(BINARY, b" four"),
        until_closed,
    )
    async with linked(certificates, backend, script) as (_, recorder):
        await recorder.until(lambda: recorder.stream == b"one two three four")


async def test_a_message_may_be_longer_than_any_frame(
    certificates: Certificates, backend: str
) -> None:
    part = bytes(MAX_FRAME_SIZE // 2)

    def send(peer: Peer) -> None:
        peer.send_frame(BINARY, part, fin=False)
        for _ in range(3):
            peer.send_frame(CONTINUATION, part, fin=False)
        peer.send_frame(CONTINUATION, b"end")

    async with linked(certificates, backend, serve(send, until_closed)) as (_, recorder):
        await recorder.until(lambda: recorder.stream.endswith(b"end"))
        assert len(recorder.stream) == 4 * len(part) + 3


async def test_a_frame_beyond_the_limit_ends_the_link(
    certificates: Certificates, backend: str
) -> None:
    notes = Notes()

    def send(peer: Peer) -> None:
        # Only the header: the link must not wait for what it will not take.
        peer.send(frame(BINARY, b"before") + frame(BINARY, bytes(MAX_FRAME_SIZE + 1))[:10])
        notes.next(peer)

    async with linked(certificates, backend, serve(send)) as (_, recorder):
        closed = await recorder.end()
    assert (closed.by, closed.code) == (US, 1009)
    assert str(MAX_FRAME_SIZE) in closed.reason
    assert recorder.frames == [b"before"]
    assert notes.frames[0].opcode == CLOSE
    assert notes.frames[0].payload.startswith((1009).to_bytes(2, "big"))


async def test_a_ping_is_answered_with_its_payload(
    certificates: Certificates, backend: str
) -> None:
    notes = Notes()

    def ping(peer: Peer) -> None:
        for payload in (b"hey", b"", b"x" * 125):
            peer.send_frame(PING, payload)
            notes.next(peer)

    script = serve(ping, frame(BINARY, b"done"), until_closed)
    async with linked(certificates, backend, script) as (_, recorder):
        await recorder.until(lambda: recorder.stream == b"done")
    # One pong each, and no other frame.
    assert notes.frames == [Frame(PONG, each) for each in (b"hey", b"", b"x" * 125)]


async def test_pings_of_a_service_that_reads_nothing(
    certificates: Certificates, backend: str
) -> None:
    notes, count = Notes(), 10_000
    flooded, opened = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        flooded.wait(20)
        peer.send(b"".join(frame(PING, b"%125d" % each) for each in range(count)))
        peer.send_frame(BINARY, b"sent")
        opened.wait(20)
        while (received := peer.read_frame()).opcode != PONG:
            pass
        notes.frames.append(received)
        while notes.next(peer).opcode != CLOSE:
            pass
        peer.send(close_frame(1000))

    async with linked(certificates, backend, script) as (link, recorder):
        assert isinstance(link, BaseLink)
        await asyncio.sleep(0)
        flood(link)
        before = link._transport.get_write_buffer_size()
        flooded.set()
        await recorder.until(lambda: recorder.stream == b"sent")
        assert recorder.marks == ["paused"]
        assert link._transport.get_write_buffer_size() <= before
        opened.set()
        await recorder.until(lambda: recorder.marks == ["paused", "resumed"])
    # Only the latest ping is answered (RFC 6455 section 5.5.3).
    pongs = [each.payload for each in notes.frames if each.opcode == PONG]
    assert pongs == [b"%125d" % (count - 1)]


async def test_our_ping_and_its_pong(certificates: Certificates, backend: str) -> None:
    async with linked(certificates, backend, serve(until_closed)) as (link, recorder):
        before = link.last_received
        link.send_ping(b"1700000000000")
        await recorder.until(lambda: bool(recorder.pongs))
        assert recorder.pongs == [b"1700000000000"]
        assert link.last_received >= before


async def test_unsolicited_pongs_are_fine(certificates: Certificates, backend: str) -> None:
    pongs = [b"", b"abc", b"\xff" * 125]
    script = serve(*(frame(PONG, each) for each in pongs), frame(BINARY, b"on"), until_closed)
    async with linked(certificates, backend, script) as (_, recorder):
        await recorder.until(lambda: recorder.stream == b"on")
        assert recorder.pongs == pongs


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"hello"), 1003),
        (frame(0x3, b""), 1002),
        (frame(0xB, b""), 1002),
        (frame(PING, b"", fin=False), 1002),
        (frame(PING, b"x" * 126), 1002),
        (b"\x82\x85mask.....", 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (close_frame(999), 1002),
        (close_frame(1004), 1002),
        (close_frame(1005), 1002),
        (close_frame(1006), 1002),
        (close_frame(0), 1002),
        (close_frame(2000), 1002),
        (close_frame(5000), 1002),
        (frame(0x40 | BINARY, b"compressed"), 1002),
        (frame(0x20 | BINARY, b"reserved"), 1002),
        (frame(0x10 | CONTINUATION, b"reserved"), 1002),
        (frame(0x20 | PING), 1002),
        (frame(0x10 | PONG), 1002),
        (b"\xa8\x02\x03\xe8", 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ],
)
async def test_what_a_service_must_not_send(
    certificates: Certificates, backend: str, data: bytes, code: int
) -> None:
    notes = Notes()

    def send(peer: Peer) -> None:
        peer.send(data)
        notes.next(peer)
        peer.read_to_end()

    async with linked(certificates, backend, serve(send)) as (link, recorder):
        closed = await recorder.end()
        link.send(b"too late")
        link.send_ping(b"too late")
    assert (closed.by, closed.code) == (US, code)
    assert closed.reason
    assert notes.frames[0].opcode == CLOSE
    assert notes.frames[0].payload.startswith(code.to_bytes(2, "big"))


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (close_frame(1000, "tunnel closed"), 1000, "tunnel closed"),
        (close_frame(1001), 1001, ""),
        (close_frame(1011, "x" * 123), 1011, "x" * 123),
        (close_frame(4000, "größer"), 4000, "größer"),
        (close_frame(), 1005, ""),
    ],
)
@pytest.mark.parametrize("ends", [True, False])
async def test_close_frames_of_the_service(
    certificates: Certificates,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    code: int,
    reason: str,
    ends: bool,
) -> None:
    notes = Notes()
    if not ends:
        monkeypatch.setattr(module, "PEER_CLOSE_TIMEOUT", 0.05)

    def send(peer: Peer) -> None:
        peer.send(frame(BINARY, b"last words") + data)
        notes.next(peer)
        if not ends:
            peer.stay_silent()

    async with linked(certificates, backend, serve(send)) as (_, recorder):
        assert await recorder.end() == LinkClosed(PEER, code, reason)
        assert recorder.frames == [b"last words"]
    # Answered with the same payload (RFC 6455 section 5.5.1).
    assert notes.frames == [Frame(CLOSE, data[2:])]


async def test_a_close_frame_in_the_middle_of_a_message(
    certificates: Certificates, backend: str
) -> None:
    script = serve(frame(BINARY, b"part", fin=False), close_frame(1000, "closed"))
    async with linked(certificates, backend, script) as (_, recorder):
        assert await recorder.end() == LinkClosed(PEER, 1000, "closed")


async def test_nothing_is_delivered_behind_a_close_frame(
    certificates: Certificates, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PEER_CLOSE_TIMEOUT", 0.05)
    data = close_frame(1011) + frame(BINARY, b"ghost") + frame(PONG, b"ghost") + close_frame(1000)
    async with linked(certificates, backend, serve(data, Peer.stay_silent)) as (_, recorder):
        assert await recorder.end() == LinkClosed(PEER, 1011, "")
    assert recorder.frames == recorder.pongs == []


async def test_our_close_is_orderly(certificates: Certificates, backend: str) -> None:
    notes = Notes()

    def script(peer: Peer) -> None:
        peer.upgrade()
        while notes.next(peer).opcode != CLOSE:
            pass
        peer.send(frame(BINARY, b"crossing") + close_frame(1000))

    reason = "é" * 200
    async with linked(certificates, backend, script) as (link, recorder):
        link.send(b"last words")
        link.close(4001, reason)
        link.send(b"ghost")
        link.send_ping(b"ghost")
        link.close(1000, "again")
        assert await recorder.end() == LinkClosed(US, 4001, reason)
    # What the other side sent meanwhile is dropped; what the frame cannot hold is cut.
    assert recorder.frames == []
    data, close = notes.frames
    assert data == Frame(BINARY, b"last words")
    assert close.payload == (4001).to_bytes(2, "big") + ("é" * 61).encode()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 5000])
async def test_codes_that_cannot_be_sent(
    certificates: Certificates, backend: str, code: int
) -> None:
    async with linked(certificates, backend, serve(until_closed)) as (link, recorder):
        with pytest.raises(LocalProtocolError, match=str(code)):
            link.close(code, "")
        assert not recorder.closed.done()


@pytest.mark.parametrize("reads", [True, False])
async def test_a_close_nobody_answers_is_bounded(
    certificates: Certificates, backend: str, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.1)

    def ignore(peer: Peer) -> None:
        if reads:
            peer.read_frame()
        peer.stay_silent()

    async with linked(certificates, backend, serve(ignore)) as (link, recorder):
        if not reads:
            flood(link)
        link.close(1000, "bye")
        assert await recorder.end() == LinkClosed(US, 1000, "bye")


async def test_close_before_the_link_begins(certificates: Certificates, backend: str) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade(frame(BINARY, b"early"))
        until_closed(peer)

    recorder = Recorder()
    with ScriptedService(certificates, script) as service:
        link = await connect(service.endpoint(), recorder, backend)
        link.close(1000, "at once")
        assert await recorder.end() == LinkClosed(US, 1000, "at once")
    assert recorder.frames == []


@pytest.mark.parametrize("early", [True, False])
async def test_abort(certificates: Certificates, backend: str, early: bool) -> None:
    async with linked(certificates, backend, serve(Peer.read_to_end)) as (link, recorder):
        if not early:
            await asyncio.sleep(0)
        link.abort()
        assert not recorder.closed.done()
        closed = await recorder.end()
        assert (closed.by, closed.code) == (US, 1006)
        link.abort()


async def test_abort_cuts_a_close_short(certificates: Certificates, backend: str) -> None:
    async with linked(certificates, backend, serve(Peer.stay_silent)) as (link, recorder):
        link.close(1000, "bye")
        link.abort()
        assert await recorder.end() == LinkClosed(US, 1000, "bye")


@pytest.mark.parametrize("written", [0, 5])
async def test_a_dropped_connection(certificates: Certificates, backend: str, written: int) -> None:
    script = serve(frame(BINARY, b"12345"), frame(BINARY, b"12345")[:written])
    async with linked(certificates, backend, script) as (_, recorder):
        closed = await recorder.end()
    assert (closed.by, closed.code) == (NETWORK, 1006)
    assert closed.reason == "the connection was closed without a close frame"
    assert recorder.frames == [b"12345"]


@pytest.mark.parametrize("data", [b"", frame(BINARY, b"12345")])
async def test_a_reset_connection(certificates: Certificates, backend: str, data: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.read_frame()
        # With unread bytes before it, and right behind it.
        peer.send(data)
        peer.reset()

    async with linked(certificates, backend, script) as (link, recorder):
        link.send(b"go")
        closed = await recorder.end()
    assert closed == LinkClosed(NETWORK, 1006, "Connection reset by peer")


@pytest.mark.parametrize("data", [b"", frame(BINARY, b"12345")])
async def test_a_reset_that_overtakes_the_loop(
    certificates: Certificates, backend: str, data: bytes
) -> None:
    notes = Notes()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.read_frame()
        peer.send(data)
        peer.reset()
        notes.done.set()

    async with linked(certificates, backend, script) as (link, recorder):
        await asyncio.sleep(0)
        link.send(b"go")
        # The loop is busy meanwhile, so that it finds the bytes and the reset together.
        assert notes.done.wait(20)
        closed = await recorder.end()
    assert (closed.by, closed.code) == (NETWORK, 1006)


class Replying(Recorder):
    """A handler that sends and closes from within its own calls."""

    link: Link

    def frame_received(self, payload: memoryview) -> None:
        super().frame_received(payload)
        self.link.send(payload)

    def pong_received(self, payload: bytes) -> None:
        super().pong_received(payload)
        self.link.close(1000, "enough")
        self.link.send(b"ghost")


class Stumbling(Recorder):
    """A handler that raises in one of its methods."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__()
        self.where, self.error = where, error

    def stumble(self, where: str) -> None:
        if where == self.where:
            raise self.error

    def frame_received(self, payload: memoryview) -> None:
        super().frame_received(payload)
        self.stumble("frame")

    def pong_received(self, payload: bytes) -> None:
        super().pong_received(payload)
        self.stumble("pong")

    def writing_paused(self) -> None:
        super().writing_paused()
        self.stumble("paused")

    def writing_resumed(self) -> None:
        super().writing_resumed()
        self.stumble("resumed")

    def link_closed(self, closed: LinkClosed) -> None:
        super().link_closed(closed)
        self.stumble("closed")


async def test_a_frame_the_handler_refuses(
    certificates: Certificates, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()

    def script(peer: Peer) -> None:
        peer.upgrade(frame(BINARY, b"bad") + frame(BINARY, b"more"))
        notes.next(peer)
        peer.send(close_frame(1002))

    handler = Stumbling("frame", RemoteProtocolError("length 0"))
    async with linked(certificates, backend, script, handler) as (_, recorder):
        assert await recorder.end() == LinkClosed(US, 1002, "length 0")
    assert recorder.frames == [b"bad"]
    assert notes.frames == [Frame(CLOSE, (1002).to_bytes(2, "big") + b"length 0")]
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("where", ["frame", "pong", "paused"])
async def test_a_handler_with_a_bug(
    certificates: Certificates, backend: str, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(frame(BINARY, b"x") if where == "frame" else frame(PONG, b"x"))
        until_closed(peer)

    handler = Stumbling(where, ZeroDivisionError("a bug"))
    async with linked(certificates, backend, script, handler) as (link, recorder):
        if where == "paused":
            await asyncio.sleep(0)
            flood(link)
        closed = await recorder.end()
    assert closed == LinkClosed(US, 1011, "internal error")
    (record,) = (r for r in caplog.records if r.levelno >= logging.WARNING)
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError


async def test_a_handler_that_closes_and_then_stumbles(
    certificates: Certificates, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Both(Replying):
        def frame_received(self, payload: memoryview) -> None:
            self.link.close(1000, "enough")
            raise ZeroDivisionError("a bug")

    handler = Both()
    with ScriptedService(certificates, serve(frame(BINARY, b"x"), until_closed)) as service:
        handler.link = await connect(service.endpoint(), handler, backend)
        assert await handler.end() == LinkClosed(US, 1000, "enough")
    assert "a link's handler failed" in caplog.text


async def test_a_handler_that_stumbles_at_the_end(
    certificates: Certificates, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Stumbling("closed", ZeroDivisionError("a bug"))
    async with linked(certificates, backend, serve(close_frame(1000)), handler) as (_, recorder):
        assert (await recorder.end()).code == 1000
    assert "a link's handler failed" in caplog.text


class Gate:
    """Lets a script read only when told to, and sums up what it read."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.digest = hashlib.sha256()
        self.size = 0

    def __call__(self, peer: Peer) -> None:
        peer.upgrade()
        self.opened.wait(20)
        while (received := peer.read_frame()).opcode != CLOSE:
            self.digest.update(received.payload)
            self.size += len(received.payload)
        peer.send_frame(CLOSE, received.payload)
        peer.read_to_end()


async def fill(link: Link, recorder: Recorder, piece: Callable[[int], bytes]) -> int:
    """Send pieces until writing pauses; overwrite each right after. Return their number."""
    buffer = bytearray(64 * 1024 + 512)
    sent = 0
    await asyncio.sleep(0)
    while "paused" not in recorder.marks[-1:]:
        payload = piece(sent)
        buffer[: len(payload)] = payload
        with memoryview(buffer) as view:
            link.send(view[: len(payload)])
        # A link promises that the memory is the caller's again.
        buffer[:] = b"\xee" * len(buffer)
        sent += 1
        assert sent < 5000, "writing never paused"
        await asyncio.sleep(0)
    return sent


async def test_back_pressure_and_every_byte(certificates: Certificates, backend: str) -> None:
    gate = Gate()
    expected = hashlib.sha256()
    dice = random.Random(7)
    size = 0

    def piece(number: int) -> bytes:
        nonlocal size
        data = dice.randbytes(dice.choice([1, 100, 5_000, 64 * 1024 + 512]))
        expected.update(data)
        size += len(data)
        return data

    async with linked(certificates, backend, gate) as (link, recorder):
        await fill(link, recorder, piece)
        # More than the mark is still taken: a link never refuses.
        for _ in range(20):
            link.send(piece(0))
        assert recorder.marks == ["paused"]
        gate.opened.set()
        await recorder.until(lambda: recorder.marks == ["paused", "resumed"])
        await fill(link, recorder, piece)
    assert gate.size == size
    assert gate.digest.digest() == expected.digest()


async def test_a_full_buffer_before_the_link_begins(
    certificates: Certificates, backend: str
) -> None:
    gate = Gate()
    recorder = Recorder()
    with ScriptedService(certificates, gate) as service:
        link = await connect(service.endpoint(), recorder, backend)
        flood(link)
        assert recorder.marks == []
        await recorder.until(lambda: recorder.marks == ["paused"])
        gate.opened.set()
        await recorder.until(lambda: recorder.marks == ["paused", "resumed"])
        link.close(1000, "")
        await recorder.end()
    assert gate.size == FLOOD


ONE_TURN = 12 * 1024 * 1024
"""More bytes than a loop delivers before a pause takes effect.

libuv reads up to 32 times before anybody else has a turn, uvloop 256 KiB each time.
"""


class Pausing(Recorder):
    """A handler that has enough after the first frame."""

    link: Link

    def frame_received(self, payload: memoryview) -> None:
        super().frame_received(payload)
        if len(self.frames) == 1:
            self.link.pause_reading()


@pytest.mark.parametrize("size", [1_000, 16_000, 65_000])
async def test_pause_reading_stops_delivery(
    certificates: Certificates, backend: str, size: int
) -> None:
    count = 3 * FLOOD // 100 // size + 1
    block, total = frame(BINARY, bytes(size)) * count, 100 * count * size
    sent = 0

    def flood(peer: Peer) -> None:
        nonlocal sent
        peer.upgrade()
        for _ in range(100):
            peer.send(block)
            sent += 1
        until_closed(peer)

    handler = Pausing()
    with ScriptedService(certificates, flood) as service:
        handler.link = await connect(service.endpoint(), handler, backend)
        await handler.until(lambda: bool(handler.frames))
        # The service gets stuck, as nobody takes its bytes. Wait until that is so.
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert before < 100
        assert handler.size < ONE_TURN
        handler.link.resume_reading()
        await handler.until(lambda: handler.size == total)
        handler.link.close(1000, "")
        await handler.end()


@pytest.mark.parametrize("count", [2, 5, 6, 9, 20])
async def test_resuming_delivers_what_had_come(
    certificates: Certificates, backend: str, count: int
) -> None:
    # All of it lies in one read when reading pauses, and nothing follows that could help.
    script = serve(frame(BINARY, bytes(16_000)) * count, until_closed)
    handler = Pausing()
    with ScriptedService(certificates, script) as service:
        handler.link = await connect(service.endpoint(), handler, backend)
        await handler.until(lambda: bool(handler.frames))
        await asyncio.sleep(0.05)
        handler.link.resume_reading()
        await handler.until(lambda: len(handler.frames) == count)
        handler.link.close(1000, "")
        await handler.end()


async def test_pausing_twice_and_resuming_at_once(certificates: Certificates, backend: str) -> None:
    released = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        released.wait(20)
        peer.send_frame(BINARY, b"hello")
        until_closed(peer)

    async with linked(certificates, backend, script) as (link, recorder):
        await asyncio.sleep(0)
        link.pause_reading()
        link.pause_reading()
        link.resume_reading()
        link.pause_reading()
        await asyncio.sleep(0)
        # Silence one has asked for says nothing about the other side.
        first = link.last_received
        await asyncio.sleep(0.02)
        assert link.last_received > first
        released.set()
        await asyncio.sleep(0.05)
        assert recorder.frames == []
        link.resume_reading()
        link.resume_reading()
        await recorder.until(lambda: recorder.frames == [b"hello"])
        assert link.last_received == link.last_received


async def test_a_paused_link_still_closes_orderly(certificates: Certificates, backend: str) -> None:
    notes = Notes()

    def script(peer: Peer) -> None:
        peer.upgrade()
        notes.next(peer)
        peer.send(frame(BINARY, b"ghost") + close_frame(1000))
        peer.read_to_end()
        notes.done.set()

    async with linked(certificates, backend, script) as (link, recorder):
        await asyncio.sleep(0)
        link.pause_reading()
        await asyncio.sleep(0.02)
        link.close(1000, "bye")
        link.pause_reading()
        assert await recorder.end() == LinkClosed(US, 1000, "bye")
        link.pause_reading()
        link.resume_reading()
        await notes.wait()
    assert recorder.frames == []


async def test_a_link_that_ends_while_paused(certificates: Certificates, backend: str) -> None:
    async with linked(certificates, backend, serve(Peer.read_to_end)) as (link, recorder):
        await asyncio.sleep(0)
        link.pause_reading()
        link.abort()
        closed = await recorder.end()
        await asyncio.sleep(0)
    assert (closed.by, closed.code) == (US, 1006)


async def test_sending_from_within_the_handler(certificates: Certificates, backend: str) -> None:
    notes = Notes()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(frame(BINARY, b"echo me") + frame(PONG) + frame(BINARY, b"ghost"))
        while notes.next(peer).opcode != CLOSE:
            pass
        peer.send(close_frame(1000))

    handler = Replying()
    with ScriptedService(certificates, script) as service:
        handler.link = await connect(service.endpoint(), handler, backend)
        assert await handler.end() == LinkClosed(US, 1000, "enough")
    assert handler.frames == [b"echo me"]
    assert [each.payload for each in notes.frames] == [b"echo me", b"\x03\xe8enough"]


@pytest.mark.parametrize(
    "data",
    [frame(BINARY, b"echo me") + frame(0x3), frame(BINARY, b"echo me") + close_frame(1011)],
)
async def test_sending_while_the_end_is_being_parsed(
    certificates: Certificates, backend: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    script = serve(data, Peer.read_to_end)
    handler = Replying()
    with ScriptedService(certificates, script) as service:
        handler.link = await connect(service.endpoint(), handler, backend)
        assert (await handler.end()).code in (1002, 1011)
    assert handler.frames == [b"echo me"]
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


# The loops' own TLS is in cycles of its own.
@pytest.mark.parametrize("backend", ["picows", "websockets"])
@pytest.mark.parametrize("ending", ["ours", "theirs", "lost", "faulty"])
async def test_what_a_link_held_is_freed_at_once(
    certificates: Certificates, backend: str, ending: str
) -> None:
    script = {
        "ours": serve(until_closed),
        "theirs": serve(close_frame(1000, "done"), Peer.read_to_end),
        "lost": serve(Peer.reset),
        "faulty": serve(frame(0x3), Peer.read_to_end),
    }[ending]
    handler = Replying()
    kinds = (PicowsLink, WebsocketsLink, aiofastnet.Transport)
    with ScriptedService(certificates, script) as service, uncollected(*kinds) as living:
        handler.link = await connect(service.endpoint(), handler, backend)
        if ending == "ours":
            handler.link.close(CloseCode.OK, "")
        await handler.end()
        del handler
        await until(lambda: not living(), ending)


# -- states and timers, on a clock of its own -------------------------------------------------


class FakeTransport(asyncio.Transport):
    """Notes what it is told, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[float, str]] = []

    def __getattribute__(self, name: str) -> Any:
        if name in {"pause_reading", "resume_reading", "close", "abort"}:
            return lambda: self.calls.append((asyncio.get_running_loop().time(), name))
        return super().__getattribute__(name)

    def is_closing(self) -> bool:
        return any(name in {"close", "abort"} for _, name in self.calls)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class BareLink(BaseLink):
    """A link without framing: notes the close frames it is to send and the bytes it is fed."""

    def __init__(self, transport: asyncio.Transport, handler: Recorder) -> None:
        super().__init__(transport, LinkInfo("", "", "bare"), handler)
        self.sent: list[tuple[int, str]] = []
        self.fed: list[bytes] = []
        self.answers: list[bytes] = []

    def send(self, message: object) -> None: ...

    def send_ping(self, payload: bytes) -> None: ...

    def _protocol(self) -> asyncio.BaseProtocol:
        return asyncio.Protocol()

    def _feed(self, data: bytes) -> None:
        self.fed.append(data)

    def _send_pong(self, pong: bytes) -> None:
        self.answers.append(pong)

    def _send_close(self, code: int, reason: str) -> None:
        self.sent.append((code, reason))


Bare: TypeAlias = tuple[BareLink, FakeTransport, Recorder]


def on_a_clock(play: Callable[[BareLink, FakeTransport, Recorder], Awaitable[None]]) -> Bare:
    """Play a scene with a bare link, and on until no timer is left."""

    async def run() -> Bare:
        transport, recorder = FakeTransport(), Recorder()
        link = BareLink(transport, recorder)
        await play(link, transport, recorder)
        await asyncio.sleep(3600)
        return link, transport, recorder

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        return runner.run(run())


CLOSES: dict[str, tuple[Callable[[BareLink], None], list[tuple[float, str]]]] = {
    "ours": (lambda link: link.close(4000, "bye"), [(12.0, "abort")]),
    "theirs": (lambda link: link.close_received(4001, "done"), [(10.0, "close"), (10.5, "abort")]),
    "fault": (lambda link: link.fail(4002, "bad"), [(10.0, "close"), (12.0, "abort")]),
    "parser": (lambda link: link.framing_failed(4003, "bad"), [(10.0, "close"), (12.0, "abort")]),
    "abort": (lambda link: link.abort(), [(10.0, "abort")]),
}
OUTCOMES = {
    "ours": LinkClosed(US, 4000, "bye"),
    "theirs": LinkClosed(PEER, 4001, "done"),
    "fault": LinkClosed(US, 4002, "bad"),
    "parser": LinkClosed(US, 4003, "bad"),
    "abort": LinkClosed(US, 1006, "dropped"),
}
SENT = {"ours": [(4000, "bye")], "fault": [(4002, "bad")]}


@pytest.mark.parametrize("kind", CLOSES)
def test_an_end_is_bounded(kind: str) -> None:
    end, calls = CLOSES[kind]

    async def play(link: BareLink, transport: FakeTransport, _: Recorder) -> None:
        await asyncio.sleep(10)
        end(link)

    link, transport, recorder = on_a_clock(play)
    assert transport.calls == calls
    assert link.sent == SENT.get(kind, [])
    assert not recorder.closed.done(), "only the transport's end is the link's"


@pytest.mark.parametrize("kind", CLOSES)
def test_the_end_of_the_transport_is_that_of_the_link(kind: str) -> None:
    end, calls = CLOSES[kind]

    async def play(link: BareLink, transport: FakeTransport, recorder: Recorder) -> None:
        await asyncio.sleep(10)
        end(link)
        link.connection_lost(ConnectionResetError())
        assert recorder.closed.result() == OUTCOMES[kind]
        link.close(1000, "too late")
        link.abort()
        link.fail(1002, "too late")
        link.pause_reading()
        link.pong_received(b"too late")

    link, transport, recorder = on_a_clock(play)
    # Nothing is left to abort, and nothing that leads back to the handler.
    assert transport.calls == [call for call in calls if call[0] == 10.0]
    assert link.sent == SENT.get(kind, [])
    assert recorder.pongs == []
    link.writing_paused()
    link._frame_received(memoryview(b""))
    assert (recorder.marks, recorder.frames) == ([], [])


@pytest.mark.parametrize("first", CLOSES)
@pytest.mark.parametrize("second", CLOSES)
def test_the_first_cause_counts_and_the_latest_timer(first: str, second: str) -> None:
    async def play(link: BareLink, transport: FakeTransport, recorder: Recorder) -> None:
        CLOSES[first][0](link)
        await asyncio.sleep(0.25)
        CLOSES[second][0](link)
        await asyncio.sleep(3600)
        link.connection_lost(None)
        assert recorder.closed.result() == OUTCOMES[first]

    link, transport, _ = on_a_clock(play)
    assert link.sent == SENT.get(first, [])
    patience = {"ours": 2.0, "fault": 2.0, "parser": 2.0, "theirs": 0.5}
    if second == "abort":
        expected = [0.25] if first != "abort" else [0, 0.25]
    elif second in {"ours", "fault"}:  # these do nothing on a link that is closing
        expected = [patience.get(first, 0)]
    else:
        expected = [*([0] if first == "abort" else []), 0.25 + patience[second]]
    assert [at for at, name in transport.calls if name == "abort"] == expected
    assert [name for _, name in transport.calls].count("close") <= 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, "the connection was closed without a close frame"),
        (ConnectionResetError(), "Connection reset by peer"),
    ],
)
def test_a_loss_is_told_in_words(error: Exception | None, text: str) -> None:
    async def play(link: BareLink, _: FakeTransport, recorder: Recorder) -> None:
        link.connection_lost(error)
        assert recorder.closed.result() == LinkClosed(NETWORK, 1006, text)

    on_a_clock(play)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 4999])
@pytest.mark.parametrize(
    ("reason", "sent"), [("x" * 124, "x" * 123), ("é" * 62, "é" * 61), ("x" + "é" * 61, None)]
)
def test_what_a_close_frame_holds(code: int, reason: str, sent: str | None) -> None:
    async def play(link: BareLink, _: FakeTransport, recorder: Recorder) -> None:
        link.close(code, reason)
        link.connection_lost(None)
        assert recorder.closed.result() == LinkClosed(US, code, reason)

    link, _, _ = on_a_clock(play)
    assert link.sent == [(code, sent or reason)]


def test_reading_pauses_and_resumes_in_another_turn() -> None:
    async def play(link: BareLink, transport: FakeTransport, _: Recorder) -> None:
        for wanted, calls in (
            ([False], ["pause_reading"]),
            ([False, False], []),
            ([True, False], []),
            ([True], ["resume_reading"]),
            ([True], []),
            ([False, True, False], ["pause_reading"]),
            ([True, True], ["resume_reading"]),
        ):
            transport.calls.clear()
            for each in wanted:
                (link.resume_reading if each else link.pause_reading)()
            assert transport.calls == []
            await asyncio.sleep(1)
            assert [name for _, name in transport.calls] == calls

    on_a_clock(play)


def test_silence_that_was_asked_for_does_not_count() -> None:
    async def play(link: BareLink, _: FakeTransport, __: Recorder) -> None:
        await asyncio.sleep(5)
        assert link.last_received == 0
        link.pause_reading()
        assert link.last_received == 0
        await asyncio.sleep(5)
        assert link.last_received == 10
        link.resume_reading()
        await asyncio.sleep(5)
        assert link.last_received == 10

    on_a_clock(play)


@pytest.mark.parametrize("kind", CLOSES)
def test_a_paused_link_that_closes_reads_on(kind: str) -> None:
    async def play(link: BareLink, transport: FakeTransport, _: Recorder) -> None:
        link.pause_reading()
        await asyncio.sleep(1)
        CLOSES[kind][0](link)
        link.pause_reading()

    _, transport, _ = on_a_clock(play)
    names = [name for _, name in transport.calls]
    assert names[0] == "pause_reading"
    assert ("resume_reading" in names) is (kind != "abort")
    assert names.count("pause_reading") == 1


def test_a_link_that_is_gone_is_not_read() -> None:
    async def play(link: BareLink, transport: FakeTransport, _: Recorder) -> None:
        link.pause_reading()
        link.connection_lost(None)

    assert on_a_clock(play)[1].calls == []


@pytest.mark.parametrize("kind", CLOSES)
def test_no_pong_owed_behind_the_end(kind: str) -> None:
    async def play(link: BareLink, _: FakeTransport, recorder: Recorder) -> None:
        link.answer_ping(b"1")
        link.writing_paused()
        link.answer_ping(b"2")
        link.answer_ping(b"3")
        assert link.answers == [b"1"]
        link.writing_resumed()
        assert link.answers == [b"1", b"3"]
        link.writing_paused()
        link.answer_ping(b"4")
        CLOSES[kind][0](link)
        link.writing_resumed()
        assert link.answers == [b"1", b"3"]

    on_a_clock(play)


@pytest.mark.parametrize("kind", CLOSES)
def test_no_pong_behind_the_end(kind: str) -> None:
    async def play(link: BareLink, _: FakeTransport, recorder: Recorder) -> None:
        link.pong_received(b"1")
        CLOSES[kind][0](link)
        link.pong_received(b"2")
        assert recorder.pongs == [b"1"]

    on_a_clock(play)


@pytest.mark.parametrize("where", ["pong", "paused", "resumed", "closed"])
@pytest.mark.parametrize(
    ("error", "sent"),
    [(RemoteProtocolError("bad"), (1002, "bad")), (ZeroDivisionError(), (1011, "internal error"))],
)
def test_what_a_handler_raises(
    where: str, error: Exception, sent: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        handler = Stumbling(where, error)
        link = BareLink(FakeTransport(), handler)
        report: dict[str, Callable[[], None]] = {
            "pong": lambda: link.pong_received(b""),
            "paused": link.writing_paused,
            "resumed": link.writing_resumed,
            "closed": lambda: link.connection_lost(None),
        }
        report[where]()
        assert link.sent == ([] if where == "closed" else [sent])
        is_logged = where == "closed" or isinstance(error, ZeroDivisionError)
        assert [record.levelname for record in caplog.records] == ["ERROR"] * is_logged
        # What it raises when the link is closing already is logged only.
        report["paused"]()
        assert len(link.sent) == (where != "closed")
        expected = is_logged + (where == "paused")
        assert len(caplog.records) == expected

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(run())


def test_the_limits_of_a_link() -> None:
    assert (MAX_FRAME_SIZE, READ_BUFFER_SIZE) == (1_048_576, 262_144)
    assert (CLOSE_TIMEOUT, PEER_CLOSE_TIMEOUT) == (2.0, 0.5)


def test_a_link_says_what_it_is() -> None:
    async def play(link: BareLink, _: FakeTransport, __: Recorder) -> None:
        assert link.info == LinkInfo("", "", "bare")

    on_a_clock(play)


@pytest.mark.parametrize("lost", [False, True])
def test_a_link_begins_with_what_it_has_missed(lost: bool) -> None:
    async def play(link: BareLink, transport: FakeTransport, recorder: Recorder) -> None:
        exchange = Exchange()
        exchange.connection_made(transport)
        exchange.pause_writing()
        exchange.data_received(b"early")
        if lost:
            exchange.connection_lost(ConnectionResetError())
        link.begin(exchange)
        assert recorder.marks == ["paused"]
        assert link.fed == [b"early"]
        assert recorder.closed.done() is lost
        assert hasattr(transport, "protocol") is not lost

    on_a_clock(play)


def test_a_link_that_has_missed_nothing_begins_quietly() -> None:
    async def play(link: BareLink, transport: FakeTransport, recorder: Recorder) -> None:
        exchange = Exchange()
        exchange.connection_made(transport)
        link.begin(exchange)
        assert (recorder.marks, link.fed, recorder.closed.done()) == ([], [], False)

    on_a_clock(play)
