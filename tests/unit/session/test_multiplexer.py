"""Streams whose connections outlive links: what ends them, and what is no start of one.

What the guides have it do message by message stands in ``tests/session``.
"""

from __future__ import annotations

import pytest

from support.session.playbook import (
    Ended,
    Ignored,
    Playbook,
    Ready,
    Requested,
    Sent,
    Waits,
    joined,
    left,
    live,
    offer,
    place,
    service_ids,
)
from tailrace.session import EndCause
from tailrace.wire import FLOW, Message, MessageType, Side, decode

STREAM_START = MessageType.STREAM_START
CONNECTION_START = MessageType.CONNECTION_START
CONNECTION_RESET = MessageType.CONNECTION_RESET


def reset_of(number: int, failure: str = "", *, stream_id: int = 1) -> Message:
    return Message(CONNECTION_RESET, stream_id, "SSH1", number, failure.encode())


def destination(*numbers: int) -> Playbook:
    """Return a destination with connections that outlive its link."""
    book = live(Side.DESTINATION)
    for number in numbers:
        kind = CONNECTION_START if book.requested else STREAM_START
        book.receive(Message(kind, 1, "SSH1", number))
        book.expect(Requested("SSH1", 1, number))
    return book


def source(count: int) -> Playbook:
    """Return a source with connections that outlive its link."""
    book = live(Side.SOURCE)
    for _ in range(count):
        book.session.open("SSH1")
    book.forget()
    return book


class TestEndsOfManyAtOnce:
    """The peer is told of each connection that outlives links."""

    @pytest.mark.parametrize(
        ("message", "cause"),
        [
            (Message(MessageType.SESSION_RESET), EndCause.SESSION_RESET),
            (Message(MessageType.STREAM_RESET, 1, "SSH1"), EndCause.STREAM_RESET),
            (Message(MessageType.STREAM_RESET, 1, "SSH1", 1), EndCause.STREAM_RESET),
        ],
    )
    @pytest.mark.parametrize("side", list(Side))
    def test_resets(self, side: Side, message: Message, cause: EndCause) -> None:
        book = source(2) if side is Side.SOURCE else destination(1, 2)
        book.receive(message)
        book.expect(
            reset_of(1, cause.value),
            reset_of(2, cause.value),
            Ended("SSH1", 1, 1, cause),
            Ended("SSH1", 1, 2, cause),
        )

    def test_a_new_stream(self) -> None:
        book = destination(1, 2)
        book.receive(Message(STREAM_START, 5, "SSH1", 3))
        cause = EndCause.STREAM_REPLACED
        book.expect(
            reset_of(1, cause.value),
            reset_of(2, cause.value),
            Ended("SSH1", 1, 1, cause),
            Ended("SSH1", 1, 2, cause),
            Requested("SSH1", 5, 3),
        )

    def test_a_destination_that_starts_streams(self) -> None:
        book = source(1)
        book.receive(Message(STREAM_START, 1, "SSH1", 9))
        cause = EndCause.PROTOCOL_ERROR
        book.expect(
            reset_of(9),
            reset_of(1, cause.value),
            Ended("SSH1", 1, 1, cause),
            Ignored(STREAM_START, "SSH1"),
        )

    def test_one_that_waits_for_its_start_is_not_told(self) -> None:
        book = destination(1, 2)
        book.lose_link()
        book.receive_more(service_ids("SSH1"), joined())
        book.receive_more(offer(place(1), place(2), nonce=2, highest=2, names=2))
        book.receive_more(Message(STREAM_START, 1, "SSH1", 1))
        book.forget()
        book.receive(Message(MessageType.STREAM_RESET, 1, "SSH1", 2))
        cause = EndCause.STREAM_RESET
        book.expect(
            reset_of(1, cause.value), Ended("SSH1", 1, 1, cause), Ended("SSH1", 1, 2, cause)
        )

    def test_a_lost_link_is_told_to_nobody(self) -> None:
        book = source(1)
        book.session.link_lost(EndCause.TUNNEL_ENDED)
        book.expect(Ended("SSH1", 1, 1, EndCause.TUNNEL_ENDED))
        assert book.session.closed
        book.session.link_lost()
        book.expect()
        assert book.session.closed


class TestStartsOfThePast:
    """Nothing is opened twice."""

    @pytest.mark.parametrize("kind", [STREAM_START, CONNECTION_START])
    @pytest.mark.parametrize("stream_id", [1, 2])
    def test_one_that_has_ended_here(self, kind: MessageType, stream_id: int) -> None:
        book = destination(1, 2)
        book.session.reset(book.requested[0])
        book.forget()
        book.receive(Message(kind, stream_id, "SSH1", 1))
        book.expect(reset_of(1, stream_id=stream_id), Ignored(kind, "SSH1"))
        assert book.session.count("SSH1") == 1

    @pytest.mark.parametrize("kind", [STREAM_START, CONNECTION_START])
    def test_one_that_is_here_in_another_stream(self, kind: MessageType) -> None:
        book = destination(1, 2)
        book.receive(Message(kind, 2, "SSH1", 2))
        book.expect(reset_of(2, stream_id=2), Ignored(kind, "SSH1"))
        assert book.session.count("SSH1") == 2

    @pytest.mark.parametrize("kind", [STREAM_START, CONNECTION_START])
    def test_one_without_an_id(self, kind: MessageType) -> None:
        book = destination(1)
        book.receive(Message(kind, 1, "SSH1"))
        book.expect(reset_of(0), Ignored(kind, "SSH1"))
        assert book.session.count("SSH1") == 1

    def test_one_that_is_open_is_broken(self) -> None:
        book = destination(1, 2)
        book.receive(Message(CONNECTION_START, 1, "SSH1", 2))
        book.expect(
            reset_of(2),
            Ended("SSH1", 1, 2, EndCause.PROTOCOL_ERROR),
            Ignored(CONNECTION_START, "SSH1"),
        )

    def test_a_refused_application_ends_one_connection(self) -> None:
        book = destination(1)
        book.refuse(book.requested[0], "no route")
        book.expect(reset_of(1, "no route"))
        book.receive(Message(CONNECTION_START, 1, "SSH1", 2))
        book.expect(Requested("SSH1", 1, 2))


class TestStreams:
    """What a new link, or a new peer, has forgotten."""

    def test_a_stream_without_connections_is_started_anew(self) -> None:
        book = source(1)
        book.session.reset_all()
        book.forget()
        book.lose_link()
        book.receive_more(service_ids("SSH1"), joined())
        book.receive_more(offer(nonce=2, highest=1, names=2))
        book.forget()
        book.open()
        book.expect(Message(STREAM_START, 2, "SSH1", 2))

    def test_a_peer_that_cannot_resume_gets_a_new_stream(self) -> None:
        book = source(1)
        book.receive_more(left(), joined(FLOW))
        book.forget()
        connection = book.open()
        resume = Message(MessageType.CONNECTION_RESUME, 2, "SSH1", 2, ignorable=True)
        book.expect(Message(STREAM_START, 2, "SSH1", 2), resume)
        assert connection.ledger is None

    def test_so_does_nobody(self) -> None:
        book = source(1)
        book.receive_more(left())
        book.session.give_up()
        book.forget()
        book.session.open("SSH1")
        (start, _resume) = book.steps
        assert isinstance(start, Sent)
        assert decode(start.frame[2:])[:4] == (STREAM_START, 2, "SSH1", 2)

    def test_ids_count_on_for_a_service_that_comes_back(self) -> None:
        book = source(3)
        book.lose_link()
        book.receive_more(service_ids("WEB"))
        book.forget()
        book.lose_link()
        book.receive_more(service_ids("SSH1", "WEB"), joined())
        book.receive_more(offer(nonce=2, highest=3, names=3))
        book.forget()
        assert book.open().connection_id == 4
        book.expect(Message(STREAM_START, 1, "SSH1", 4))

    def test_a_link_with_other_services_cannot_resume(self) -> None:
        book = source(1)
        book.lose_link()
        book.forget()
        book.receive(service_ids("WEB"))
        assert book.steps[0] == Ended("SSH1", 1, 1, EndCause.PEER_CANNOT_RESUME)
        assert book.steps[-1] == Ready(("WEB",))
        assert book.session.connections == []


def test_data_is_recognised_again_on_each_link() -> None:
    book = destination(1)
    (connection,) = book.requested
    message = Message(MessageType.DATA, 1, "SSH1", 1, b"x")
    book.receive(message)
    key = connection.data_key
    assert key is not None
    book.forget()
    book.lose_link()
    assert connection.data_key is None
    book.receive_more(service_ids("SSH1"), joined())
    book.forget()
    book.receive(message)
    book.expect(Ignored(MessageType.DATA, "SSH1"))
    book.receive_more(offer(place(1), nonce=2, highest=1, names=2))
    book.receive_more(Message(STREAM_START, 1, "SSH1", 1))
    book.receive_more(message)
    assert connection.data_key == key


def test_waiting_is_told_when_the_link_is_lost() -> None:
    book = source(2)
    book.lose_link()
    assert book.steps[-1] == Waits(2)
