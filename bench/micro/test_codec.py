"""Micro benchmarks of single functions: ``pytest bench/micro``."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.session import ConnectionRequested, Event, Session
from tailrace.wire import (
    MAX_PAYLOAD,
    DataHeader,
    Message,
    MessageSplitter,
    MessageType,
    Side,
    decode,
    encode,
    encode_delimited,
)

SIZES = (1, 64, 1024, MAX_PAYLOAD)

MESSAGES = {
    "data": Message(MessageType.DATA, 1, "SSH", 7, bytes(64)),
    "stream-start": Message(MessageType.STREAM_START, 1, "SSH", 1),
    "connection-reset": Message(MessageType.CONNECTION_RESET, 1, "SSH", 9),
    "service-ids": Message(MessageType.SERVICE_IDS, available_service_ids=("SSH", "HTTP", "VNC")),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
def test_encode(benchmark: Any, message: Message) -> None:
    assert decode(memoryview(benchmark(encode, message)))[:4] == message[:4]


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
def test_decode(benchmark: Any, message: Message) -> None:
    body = memoryview(encode(message))
    assert benchmark(decode, body)[:4] == message[:4]


@pytest.mark.parametrize("size", SIZES)
def test_decode_data(benchmark: Any, size: int) -> None:
    body = memoryview(encode(Message(MessageType.DATA, 1, "SSH", 7, bytes(size))))
    assert len(benchmark(decode, body).payload) == size


@pytest.mark.parametrize("changes", [False, True], ids=["same-size", "changing-size"])
def test_data_header(benchmark: Any, changes: bool) -> None:
    header = DataHeader(1, "SSH", 7)
    sizes = (100, 200 if changes else 100)

    def build() -> int:
        return sum(len(header.build(size)) for size in sizes)

    assert benchmark(build) > 0


@pytest.mark.parametrize("pieces", [1, 2, 7], ids=["whole", "halves", "sevenths"])
def test_split(benchmark: Any, pieces: int) -> None:
    """Frames that hold whole messages, and frames that cut them."""
    run = encode_delimited(Message(MessageType.DATA, 1, "SSH", 7, bytes(MAX_PAYLOAD)))
    step = -(-len(run) // pieces)
    frames = [memoryview(run)[at : at + step] for at in range(0, len(run), step)]
    splitter = MessageSplitter()

    def feed() -> int:
        return sum(len(body) for frame in frames for body in splitter.feed(frame))

    assert benchmark(feed) == len(run) - 2


def test_open_and_close_connections(benchmark: Any) -> None:
    """A destination is asked for a connection, which the source then closes."""
    session = Session(Side.DESTINATION, _Handler(), ("SSH",))
    ids = Message(MessageType.SERVICE_IDS, available_service_ids=("SSH",))
    session.receive_frame(memoryview(encode_delimited(ids)))
    session.receive_frame(
        memoryview(encode_delimited(Message(MessageType.STREAM_START, 1, "SSH", 1)))
    )
    pair = memoryview(
        encode_delimited(Message(MessageType.CONNECTION_START, 1, "SSH", 2))
        + encode_delimited(Message(MessageType.CONNECTION_RESET, 1, "SSH", 2))
    )
    benchmark(session.receive_frame, pair)
    assert session.count("SSH") == 1


class _Handler:
    """The room above a session, for connections that carry nothing."""

    def event_occurred(self, event: Event) -> None:
        if isinstance(event, ConnectionRequested):
            event.connection.sink = None

    def send_control(self, frame: bytes) -> None:
        raise AssertionError("nothing is to be sent here")
