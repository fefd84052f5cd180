"""What is special about the link on websockets."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.network.certificates import Certificates
from support.network.frames import BINARY, PING, Frame, close_frame, frame
from support.network.recorder import Recorder
from support.network.scripted_service import Peer, ScriptedService
from tailrace.link import ClosedBy, LinkClosed, connect
from tailrace.link.connector import _load
from tailrace.link.websockets_link import open_link


def test_it_is_what_the_name_stands_for() -> None:
    assert _load("websockets") is open_link


async def test_the_package_itself_says_nothing(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    # websockets would log requests or payloads, and complain of what the link reports itself.
    caplog.set_level(1)
    for name in ("websockets", "tailrace.link.websockets_link"):
        caplog.set_level(1, name)

    def script(peer: Peer) -> None:
        peer.upgrade(frame(BINARY, b"a payload") + frame(PING, b"a ping"))
        peer.read_frame()
        peer.send(frame(0x3, b"nonsense"))
        peer.read_to_end()

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder, "websockets")
        link.send(b"a payload")
        assert (await recorder.end()).code == 1002
        link.send(b"too late")
    assert recorder.frames == [b"a payload"]
    assert [r for r in caplog.records if "websockets" in r.name or r.levelno > logging.DEBUG] == []


async def test_a_message_is_not_touched(certificates: Certificates) -> None:
    seen: list[Frame] = []

    def script(peer: Peer) -> None:
        peer.upgrade()
        seen.extend(peer.read_frame() for _ in range(3))
        peer.send(close_frame(1000))
        peer.read_to_end()

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder, "websockets")
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
        await connect(service.endpoint(), recorder, "websockets")
        await recorder.end()
        await asyncio.sleep(0)
    assert recorder.frames == [b"%d" % number for number in range(count)]
