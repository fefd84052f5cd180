"""What is special about the link on picows."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from support.network.certificates import Certificates
from support.network.frames import BINARY, PING, Frame, close_frame, frame
from support.network.recorder import Recorder
from support.network.scripted_service import Peer, ScriptedService, until_closed
from tailrace.link import ClosedBy, Link, LinkClosed, connect
from tailrace.link.base_link import READ_BUFFER_SIZE
from tailrace.link.connector import _load
from tailrace.link.picows_link import open_link


def test_it_is_what_the_name_stands_for() -> None:
    assert _load("picows") is open_link


async def test_the_package_itself_says_nothing(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    # picows would log requests or payloads, and complain of what the link reports itself.
    caplog.set_level(1)
    for name in ("picows", "tailrace.link.picows_link"):
        caplog.set_level(1, name)

    def script(peer: Peer) -> None:
        peer.upgrade(frame(BINARY, b"a payload") + frame(PING, b"a ping"))
        peer.read_frame()
        peer.send(frame(0x3, b"nonsense"))
        peer.read_to_end()

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder, "picows")
        link.send(b"a payload")
        assert (await recorder.end()).code == 1002
        link.send(b"too late")
    assert recorder.frames == [b"a payload"]
    assert [r for r in caplog.records if "picows" in r.name or r.levelno > logging.DEBUG] == []


async def test_a_message_is_not_touched(certificates: Certificates) -> None:
    seen: list[Frame] = []

    def script(peer: Peer) -> None:
        peer.upgrade()
        seen.extend(peer.read_frame() for _ in range(3))
        peer.send(close_frame(1000))
        peer.read_to_end()

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder, "picows")
        # Masking in place would be a copy less, but the memory is the caller's.
        message = bytearray(b"0123456789" * 100)
        for start in range(3):
            link.send(memoryview(message)[start:])
        assert message == b"0123456789" * 100
        assert await recorder.end() == LinkClosed(ClosedBy.PEER, 1000, "")
    assert [each.payload for each in seen] == [bytes(message[start:]) for start in range(3)]


async def test_thousands_of_frames_in_one_go(certificates: Certificates) -> None:
    count = 20_000

    def script(peer: Peer) -> None:
        peer.upgrade(b"".join(frame(BINARY, b"%d" % number) for number in range(count)))
        peer.send(close_frame(1000))
        peer.read_to_end()

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        await connect(service.endpoint(), recorder, "picows")
        await recorder.end()
        await asyncio.sleep(0)
    assert recorder.frames == [b"%d" % number for number in range(count)]


class Pausing(Recorder):
    """A handler that has enough after the first frame."""

    link: Link

    def frame_received(self, payload: memoryview) -> None:
        super().frame_received(payload)
        if len(self.frames) == 1:
            self.link.pause_reading()


async def test_what_does_not_fit_the_read_buffer_is_not_forgotten(
    certificates: Certificates,
) -> None:
    # A frame that nearly fills the buffer, and the rest of it with more behind than fits: when
    # the first frame makes the handler pause, some bytes are decrypted but not yet read.
    large = READ_BUFFER_SIZE - 20_000
    first, rest = large - 15_000, [b"a" * 20_000, b"b" * 9_000, b"c"]
    data = b"".join(frame(BINARY, each) for each in (bytes(large), *rest))
    halfway, sent = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(data[:first])
        halfway.wait(20)
        peer.send(data[first:])
        sent.set()
        until_closed(peer)

    handler = Pausing()
    with ScriptedService(certificates, script) as service:
        handler.link = await connect(service.endpoint(), handler, "picows")
        before = -1.0
        while before != handler.link.last_received:
            before = handler.link.last_received
            await asyncio.sleep(0.1)
        halfway.set()
        # The loop stands still, so that it will find all of it in one read.
        assert sent.wait(20)
        await handler.until(lambda: bool(handler.frames))
        await asyncio.sleep(0.05)
        handler.link.resume_reading()
        await handler.until(lambda: len(handler.frames) == 4)
        handler.link.close(1000, "")
        await handler.end()
    assert handler.frames[1:] == rest
