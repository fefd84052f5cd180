"""The control messages that a session sends, byte by byte."""

from __future__ import annotations

import pytest

from tailrace.session.ledger import Counts, Ledger
from tailrace.session.outgoing import Outgoing
from tailrace.session.replay import ReplayMemory
from tailrace.session.streams import Connection, Stream
from tailrace.wire import FLOW, NO_CAPABILITIES, Capabilities, Message, MessageType, decode


class Wire:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.outgoing = Outgoing(self.frames.append)

    def take(self) -> Message:
        (frame,) = self.frames
        self.frames.clear()
        assert int.from_bytes(frame[:2], "big") == len(frame) - 2
        return decode(frame[2:])


def connection(peer: Capabilities = FLOW, *, has_connection_id: bool = True) -> Connection:
    stream = Stream("SSH1", "SSH1")
    stream.begin(3, peer)
    return stream.add(7, has_connection_id, Counts())


def test_a_message_about_a_connection() -> None:
    wire = Wire()
    wire.outgoing.send(MessageType.CONNECTION_START, connection())
    assert wire.take() == Message(MessageType.CONNECTION_START, 3, "SSH1", 7)
    wire.outgoing.send(MessageType.CONNECTION_RESET, connection(has_connection_id=False))
    assert wire.take() == Message(MessageType.CONNECTION_RESET, 3, "SSH1", 0)


@pytest.mark.parametrize(
    ("peer", "payload"), [(FLOW, b"it broke " + b"x" * 191), (NO_CAPABILITIES, b"")]
)
def test_a_reset_says_why_to_those_who_understand(peer: Capabilities, payload: bytes) -> None:
    wire, why = Wire(), "it broke " + "x" * 1000
    wire.outgoing.send(MessageType.CONNECTION_RESET, connection(peer), failure=why)
    assert wire.take() == Message(MessageType.CONNECTION_RESET, 3, "SSH1", 7, payload)
    wire.outgoing.reset_stream(connection(peer).stream, why)
    assert wire.take() == Message(MessageType.STREAM_RESET, 3, "SSH1", 0, payload)


def test_messages_of_this_project_are_ignorable() -> None:
    wire = Wire()
    wire.outgoing.send_ours(MessageType.CONNECTION_ACK, connection(), b"payload")
    expected = Message(MessageType.CONNECTION_ACK, 3, "SSH1", 7, b"payload", ignorable=True)
    assert wire.take() == expected
    wire.outgoing.offer(b"payload")
    assert wire.take() == Message(MessageType.SESSION_OFFER, payload=b"payload", ignorable=True)


@pytest.mark.parametrize(
    ("whole_stream", "expected"),
    [
        (True, Message(MessageType.STREAM_RESET, 3, "SSH1", 0)),
        (False, Message(MessageType.CONNECTION_RESET, 3, "SSH1", 7)),
    ],
)
def test_a_start_is_answered_under_its_ids(whole_stream: bool, expected: Message) -> None:
    wire = Wire()
    start = Message(MessageType.STREAM_START, 3, "SSH1", 7)
    wire.outgoing.answer_reset(start, whole_stream=whole_stream)
    assert wire.take() == expected


def test_what_an_agreement_asks_for_is_sent_under_the_ids_of_the_books() -> None:
    wire = Wire()
    wire.outgoing.of_ledger(MessageType.STREAM_START, Ledger("SSH1", 3, 7, ReplayMemory()))
    assert wire.take() == Message(MessageType.STREAM_START, 3, "SSH1", 7)


@pytest.mark.parametrize(("many", "frames"), [(0, 0), (1, 1), (400, 1), (2000, 3)])
def test_many_of_this_project_go_together(many: int, frames: int) -> None:
    wire = Wire()
    each = connection()
    payloads = [b"%d" % number for number in range(many)]
    wire.outgoing.send_all(MessageType.CONNECTION_ACK, [(each, payload) for payload in payloads])
    sent = list(wire.frames)
    assert len(sent) == frames
    assert all(len(frame) <= 16 * 1024 for frame in sent)
    wire.frames.clear()
    for payload in payloads:
        wire.outgoing.send_ours(MessageType.CONNECTION_ACK, each, payload)
    assert b"".join(sent) == b"".join(wire.frames)
