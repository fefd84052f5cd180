"""Pausing and resuming single connections: docs/internals/sessions.md, message by message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.session.playbook import (
    Data,
    Ended,
    Ignored,
    Paused,
    Playbook,
    Ready,
    Requested,
    Resumed,
    ready,
    service_ids,
)
from tailrace.errors import RemoteProtocolError
from tailrace.session import V1, V2, Connection, Dialect, EndCause
from tailrace.wire import Message, MessageType, Side

START = "000c 0802 1001 2a04 53534831 3801"
START_2 = "000c 0802 1002 2a04 53534831 3802"
CONNECTION_START_2 = "000c 0806 1001 2a04 53534831 3802"
CONNECTION_RESET = "000c 0807 1001 2a04 53534831 3801"
HELLO = "0013 0801 1001 2205 68656c6c6f 2a04 53534831 3801"
PAUSE = "000f 08e907 1001 1801 2a04 53534831 3801"
PAUSE_2 = "000f 08e907 1001 1801 2a04 53534831 3802"
RESUME = "000f 08ea07 1001 1801 2a04 53534831 3801"
RESUME_2 = "000f 08ea07 1001 1801 2a04 53534831 3802"

PAUSED = Paused("SSH1", 1, 1)
RESUMED = Resumed("SSH1", 1, 1)
IGNORED_PAUSE = Ignored(MessageType.CONNECTION_PAUSE, "SSH1")
IGNORED_RESUME = Ignored(MessageType.CONNECTION_RESUME, "SSH1")
BOTH = pytest.mark.parametrize("side", list(Side))


def opened(side: Side, *, listens: bool = True) -> tuple[Playbook, Connection]:
    """Return a session with one open connection whose peer has said hello, or has not."""
    book = ready(side, "SSH1", may_pause=True)
    if side is Side.SOURCE:
        connection = book.open()
        book.expect(START, RESUME)
    else:
        book.receive(START)
        book.expect(Requested("SSH1", 1, 1), RESUME)
        (connection,) = book.requested
    if listens:
        book.receive(RESUME)
        book.expect(IGNORED_RESUME)
    return book, connection


class TestHello:
    """A resume at the beginning of each stream tells that its sender understands."""

    @BOTH
    def test_a_peer_that_says_nothing_is_never_paused(self, side: Side) -> None:
        book, connection = opened(side, listens=False)
        assert not connection.can_pause
        book.pause(connection)
        book.resume(connection)
        book.expect()

    @BOTH
    def test_without_the_service_nothing_is_said_whatever_the_peer_says(self, side: Side) -> None:
        book = ready(side, "SSH1")
        if side is Side.SOURCE:
            connection = book.open()
            book.expect(START)
        else:
            book.receive(START)
            book.expect(Requested("SSH1", 1, 1))
            (connection,) = book.requested
        book.receive(RESUME, PAUSE)
        book.expect(IGNORED_RESUME, PAUSED)
        assert not connection.can_pause
        book.pause(connection)
        book.expect()

    def test_only_the_first_connection_of_a_stream_brings_one(self) -> None:
        book, _ = opened(Side.SOURCE)
        second = book.open()
        book.expect(CONNECTION_START_2)
        assert second.can_pause
        book, _ = opened(Side.DESTINATION)
        book.receive(CONNECTION_START_2)
        book.expect(Requested("SSH1", 1, 2))
        assert book.requested[1].can_pause

    def test_one_that_names_a_connection_which_has_ended_counts_for_the_stream(self) -> None:
        book, first = opened(Side.SOURCE, listens=False)
        second = book.open()
        book.expect(CONNECTION_START_2)
        book.reset(first)
        book.expect(CONNECTION_RESET)
        book.receive(RESUME)
        book.expect(IGNORED_RESUME)
        assert second.can_pause

    def test_one_of_another_stream_does_not_count(self) -> None:
        book, connection = opened(Side.SOURCE, listens=False)
        book.receive(Message(MessageType.CONNECTION_RESUME, 2, "SSH1", 1, ignorable=True))
        book.expect(IGNORED_RESUME)
        assert not connection.can_pause

    def test_each_stream_has_to_bring_its_own(self) -> None:
        book, _ = opened(Side.DESTINATION)
        book.receive(START_2)
        book.expect(
            Ended("SSH1", 1, 1, EndCause.STREAM_REPLACED),
            Requested("SSH1", 2, 2),
            "000f 08ea07 1002 1801 2a04 53534831 3802",
        )
        assert not book.requested[1].can_pause

    def test_a_connection_that_is_refused_at_once_brings_none(self) -> None:
        book = ready(Side.DESTINATION, "SSH1", may_pause=True)
        book.react = lambda _: book.session.refuse(book.requested[0])
        book.receive(START)
        book.expect(Requested("SSH1", 1, 1), "000a 0803 1001 2a04 53534831")

    def test_a_connection_start_that_opens_a_stream_brings_one(self) -> None:
        book = ready(Side.DESTINATION, "SSH1", may_pause=True)
        book.receive(CONNECTION_START_2)
        book.expect(Requested("SSH1", 1, 2), RESUME_2)


class TestPausing:
    """What this end asks for."""

    @BOTH
    def test_it_is_asked_once(self, side: Side) -> None:
        book, connection = opened(side)
        book.pause(connection)
        book.expect(PAUSE)
        book.pause(connection)
        book.expect()
        book.resume(connection)
        book.expect(RESUME)
        book.resume(connection)
        book.expect()

    @BOTH
    def test_what_was_on_its_way_is_delivered(self, side: Side) -> None:
        book, connection = opened(side)
        book.pause(connection)
        book.expect(PAUSE)
        book.receive(HELLO)
        book.expect(Data("SSH1", 1, 1, b"hello"))

    @BOTH
    def test_others_are_not_meant(self, side: Side) -> None:
        book, connection = opened(side)
        if side is Side.SOURCE:
            book.open()
            book.expect(CONNECTION_START_2)
        else:
            book.receive(CONNECTION_START_2)
            book.expect(Requested("SSH1", 1, 2))
        book.pause(connection)
        book.expect(PAUSE)
        other = book.session.connections[1]
        assert not other.pauses_peer
        book.pause(other)
        book.expect(PAUSE_2)

    @BOTH
    def test_a_connection_that_has_ended_is_neither_paused_nor_resumed(self, side: Side) -> None:
        book, connection = opened(side)
        book.pause(connection)
        book.expect(PAUSE)
        book.receive(CONNECTION_RESET)
        book.expect(Ended("SSH1", 1, 1, EndCause.CONNECTION_RESET))
        book.resume(connection)
        book.pause(connection)
        book.expect()

    @BOTH
    def test_it_ends_with_the_link(self, side: Side) -> None:
        book, connection = opened(side)
        book.pause(connection)
        book.expect(PAUSE)
        book.lose_link()
        book.expect(Ended("SSH1", 1, 1, EndCause.LINK_LOST))
        book.resume(connection)
        book.expect()


class TestBeingPaused:
    """What the peer asks for."""

    @BOTH
    def test_events_tell_of_each_change(self, side: Side) -> None:
        book, connection = opened(side)
        book.receive(PAUSE)
        book.expect(PAUSED)
        assert connection.is_paused
        book.receive(PAUSE)
        book.expect(IGNORED_PAUSE)
        book.receive(RESUME, RESUME)
        book.expect(RESUMED, IGNORED_RESUME)
        assert not connection.is_paused

    @BOTH
    def test_data_may_still_go_out_as_it_may_have_already(self, side: Side) -> None:
        book, connection = opened(side)
        book.receive(PAUSE)
        book.expect(PAUSED)
        book.send(connection, b"hello")
        book.expect(HELLO)
        book.reset(connection)
        book.expect(CONNECTION_RESET)

    @BOTH
    def test_a_pause_says_hello_too(self, side: Side) -> None:
        book, connection = opened(side, listens=False)
        book.receive(PAUSE)
        book.expect(PAUSED)
        assert connection.can_pause

    @BOTH
    @pytest.mark.parametrize(
        ("stream", "service", "connection"),
        [(2, "SSH1", 1), (0, "SSH1", 1), (-1, "SSH1", 1), (1, "SSH1", 2), (1, "VNC", 1)],
    )
    def test_what_names_no_open_connection_is_ignored(
        self, side: Side, stream: int, service: str, connection: int
    ) -> None:
        book, known = opened(side)
        for kind in (MessageType.CONNECTION_PAUSE, MessageType.CONNECTION_RESUME):
            book.receive(Message(kind, stream, service, connection, ignorable=True))
            book.expect(Ignored(kind, service))
        assert not known.is_paused

    @BOTH
    def test_an_idle_stream_ignores_both(self, side: Side) -> None:
        book = ready(side, "SSH1", may_pause=True)
        book.receive(PAUSE, RESUME)
        book.expect(IGNORED_PAUSE, IGNORED_RESUME)

    @BOTH
    @pytest.mark.parametrize("kind", [MessageType.CONNECTION_PAUSE, MessageType.CONNECTION_RESUME])
    def test_one_that_is_not_ignorable_is_not_ours(self, side: Side, kind: MessageType) -> None:
        book, _ = opened(side)
        with pytest.raises(RemoteProtocolError, match=f"type {kind.value} is not marked ignorable"):
            book.receive(Message(kind, 1, "SSH1", 1))


class TestDialects:
    """V2 and V1 name the one connection there is by its stream."""

    @pytest.mark.parametrize(
        ("dialect", "start", "pause", "resume"),
        [
            (
                V2,
                "000a 0802 1001 2a04 53534831",
                "000d 08e907 1001 1801 2a04 53534831",
                "000d 08ea07 1001 1801 2a04 53534831",
            ),
            (V1, "0004 0802 1001", "0007 08e907 1001 1801", "0007 08ea07 1001 1801"),
        ],
        ids=["V2", "V1"],
    )
    @BOTH
    def test_both_ways(
        self, side: Side, dialect: Dialect, start: str, pause: str, resume: str
    ) -> None:
        name = "SSH1" if dialect.has_service_id else ""
        fixed = dialect if side is Side.SOURCE else None
        book = Playbook(side, None, fixed, may_pause=True)
        book.receive(service_ids("SSH1"))
        book.expect(Ready(("SSH1",)))
        if side is Side.SOURCE:
            connection = book.open()
            book.expect(start, resume)
        else:
            book.receive(start)
            book.expect(Requested("SSH1", 1, 1), resume)
            (connection,) = book.requested
        book.receive(resume)
        book.expect(replace(IGNORED_RESUME, service_id=name))
        book.pause(connection)
        book.expect(pause)
        book.resume(connection)
        book.expect(resume)
        book.receive(pause, resume)
        book.expect(PAUSED, RESUMED)
