"""V1 and V2 peers, named and not, with ``-y`` and without.

The numbers are those of the conformance scenarios (#: issues of the reference's users).
"""

from __future__ import annotations

import pytest

from support.session.playbook import (
    Data,
    Ended,
    Ignored,
    Learned,
    Playbook,
    Ready,
    Requested,
    ready,
)
from tailrace.errors import LocalProtocolError
from tailrace.session import V1, V2, V3, ConnectionEnded, Dialect, EndCause, Event
from tailrace.wire import Message, MessageType, Side

SERVICE_IDS_NONE = "0002 0805"
SERVICE_IDS_SSH1 = "0008 0805 3204 53534831"

V1_START = "0004 0802 1001"
V1_HELLO = "000b 0801 1001 2205 68656c6c6f"
V1_RESET = "0004 0803 1001"
V2_START = "000a 0802 1001 2a04 53534831"
V2_START_2 = "000a 0802 1002 2a04 53534831"
V2_HELLO = "0011 0801 1001 2205 68656c6c6f 2a04 53534831"
V2_RESET = "000a 0803 1001 2a04 53534831"
V3_START = "000c 0802 1001 2a04 53534831 3801"
V3_CONNECTION_START_2 = "000c 0806 1001 2a04 53534831 3802"
V3_HELLO = "0013 0801 1001 2205 68656c6c6f 2a04 53534831 3801"
V3_CONNECTION_RESET = "000c 0807 1001 2a04 53534831 3801"


class TestOldSource:
    """A destination answers in the form it was addressed."""

    def test_33_v2_without_connection_ids(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(V2_START, V2_HELLO)
        book.expect(Requested("SSH1", 1, 1), Data("SSH1", 1, 1, b"hello"))
        (connection,) = book.requested
        book.send(connection, b"hello")
        book.expect(V2_HELLO)
        book.reset(connection)
        book.expect(V2_RESET)

    def test_33_v2_refused(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(V2_START)
        book.expect(Requested("SSH1", 1, 1))
        book.refuse(book.requested[0])
        book.expect(V2_RESET)

    def test_33_v2_one_stream_after_the_other(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(V2_START, V2_RESET, V2_START_2)
        book.expect(
            Requested("SSH1", 1, 1),
            Ended("SSH1", 1, 1, EndCause.STREAM_RESET),
            Requested("SSH1", 2, 1),
        )

    def test_34_v1_on_a_tunnel_without_services(self) -> None:
        book = Playbook(Side.DESTINATION, ("",))
        book.receive(SERVICE_IDS_NONE)
        book.expect(Ready(("",)))
        book.receive(V1_START, V1_HELLO)
        book.expect(Requested("", 1, 1), Data("", 1, 1, b"hello"))
        book.send(book.requested[0], b"hello")
        book.expect(V1_HELLO)
        book.reset(book.requested[0])
        book.expect(V1_RESET)

    def test_35_issue_150_v1_on_a_tunnel_with_one_service(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(V1_START, V1_HELLO)
        book.expect(Requested("SSH1", 1, 1), Data("SSH1", 1, 1, b"hello"))
        book.send(book.requested[0], b"hello")
        book.expect(V1_HELLO)
        book.reset(book.requested[0])
        book.expect(V1_RESET)

    def test_issue_150_a_v1_peer_may_end_the_stream(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(V1_START, V1_RESET, "0004 0802 1002")
        book.expect(
            Requested("SSH1", 1, 1),
            Ended("SSH1", 1, 1, EndCause.STREAM_RESET),
            Requested("SSH1", 2, 1),
        )

    def test_v1_cannot_name_a_service_where_there_are_two(self) -> None:
        book = ready(Side.DESTINATION, "SSH1", "HTTP1")
        book.receive(V1_START, V1_HELLO, V1_RESET)
        book.expect(
            V1_RESET,
            Ignored(MessageType.STREAM_START),
            Ignored(MessageType.DATA),
            Ignored(MessageType.STREAM_RESET),
        )

    def test_the_form_is_that_of_each_stream(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(V1_START)
        book.expect(Requested("SSH1", 1, 1))
        book.receive(V2_START_2)
        book.expect(Ended("SSH1", 1, 1, EndCause.STREAM_REPLACED), Requested("SSH1", 2, 1))
        book.reset(book.requested[-1])
        book.expect("000a 0803 1002 2a04 53534831")

    def test_a_missing_connection_id_is_read_as_the_first_connection(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(V3_START, V2_HELLO, "000a 0807 1001 2a04 53534831", V2_HELLO)
        book.expect(
            Requested("SSH1", 1, 1),
            Data("SSH1", 1, 1, b"hello"),
            Ended("SSH1", 1, 1, EndCause.CONNECTION_RESET),
            Ignored(MessageType.DATA, "SSH1"),
        )

    def test_an_unnumbered_connection_ends_with_its_stream_even_if_others_joined(self) -> None:
        # Guide V3: connection ids after an unnumbered start are an error of the peer.
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(V2_START, V3_CONNECTION_START_2)
        book.expect(Requested("SSH1", 1, 1), Requested("SSH1", 1, 2))
        book.reset(book.requested[0])
        book.expect(V2_RESET, Ended("SSH1", 1, 2, EndCause.STREAM_RESET))


class TestFixedDialect:
    """A source started with ``-y``."""

    def test_36_v1(self) -> None:
        book = ready(Side.SOURCE, "SSH1", dialect=V1)
        connection = book.open("SSH1")
        book.expect(V1_START)
        book.send(connection, b"hello")
        book.expect(V1_HELLO)
        book.receive(V1_HELLO)
        book.expect(Data("SSH1", 1, 1, b"hello"))
        book.reset(connection)
        book.expect(V1_RESET)

    def test_36_v1_on_a_tunnel_without_services(self) -> None:
        book = ready(Side.SOURCE, dialect=V1)
        connection = book.open("")
        book.expect(V1_START)
        book.receive(V1_HELLO)
        book.expect(Data("", 1, 1, b"hello"))
        book.reset(connection)
        book.expect(V1_RESET)

    def test_36_v2(self) -> None:
        book = ready(Side.SOURCE, "SSH1", dialect=V2)
        connection = book.open("SSH1")
        book.expect(V2_START)
        book.send(connection, b"hello")
        book.expect(V2_HELLO)
        book.receive(V2_HELLO)
        book.expect(Data("SSH1", 1, 1, b"hello"))
        book.reset(connection)
        book.expect(V2_RESET)
        book.open("SSH1")
        book.expect(V2_START_2)

    @pytest.mark.parametrize(("dialect", "start"), [(V1, V1_START), (V2, V2_START)])
    def test_37_a_second_client_is_refused_and_the_first_lives(
        self, dialect: Dialect, start: str
    ) -> None:
        book = ready(Side.SOURCE, "SSH1", dialect=dialect)
        first = book.open("SSH1")
        book.expect(start)
        assert not book.session.can_open("SSH1")
        with pytest.raises(LocalProtocolError, match="cannot take a connection now"):
            book.open("SSH1")
        book.expect()
        assert first.is_open
        book.receive(V2_HELLO)
        book.expect(Data("SSH1", 1, 1, b"hello"))

    def test_37_v2_services_are_independent(self) -> None:
        book = ready(Side.SOURCE, "SSH1", "HTTP1", dialect=V2)
        book.open("SSH1")
        book.expect(V2_START)
        book.open("HTTP1")
        book.expect("000b 0802 1001 2a05 4854545031")

    def test_37_the_next_client_may_be_opened_from_inside_the_end_of_the_first(self) -> None:
        book = ready(Side.SOURCE, "SSH1", dialect=V2)
        book.open("SSH1")
        book.expect(V2_START)

        def reopen(event: Event) -> None:
            if isinstance(event, ConnectionEnded):
                book.session.open("SSH1")

        book.react = reopen
        book.receive(V2_RESET, V2_HELLO)
        book.expect(
            Ended("SSH1", 1, 1, EndCause.STREAM_RESET),
            V2_START_2,
            Ignored(MessageType.DATA, "SSH1"),
        )

    def test_37_resets_of_both_ends_cross(self) -> None:
        book = ready(Side.SOURCE, "SSH1", dialect=V2)
        first = book.open("SSH1")
        book.expect(V2_START)
        book.reset(first)
        book.expect(V2_RESET)
        second = book.open("SSH1")
        book.expect(V2_START_2)
        book.receive(V2_RESET)
        book.expect(Ignored(MessageType.STREAM_RESET, "SSH1"))
        assert second.is_open

    def test_a_v2_stream_ended_by_connection_reset_starts_anew(self) -> None:
        book = ready(Side.SOURCE, "SSH1", dialect=V2)
        book.open("SSH1")
        book.expect(V2_START)
        book.receive(V3_CONNECTION_RESET)
        book.expect(Ended("SSH1", 1, 1, EndCause.CONNECTION_RESET))
        book.open("SSH1")
        book.expect(V2_START_2)

    def test_a_fixed_dialect_is_not_unlearned(self) -> None:
        book = ready(Side.SOURCE, "SSH1", dialect=V3)
        connection = book.open("SSH1")
        book.expect(V3_START)
        book.receive(V2_HELLO)
        book.expect(Data("SSH1", 1, 1, b"hello"))
        assert book.session.dialect is V3
        book.reset(connection)
        book.expect(V3_CONNECTION_RESET)


class TestLearning:
    """A source without ``-y`` adopts the dialect that the first answer shows."""

    def test_v2_is_learned_from_a_missing_connection_id(self) -> None:
        book = ready(Side.SOURCE, "SSH1")
        connection = book.open("SSH1")
        book.expect(V3_START)
        book.send(connection, b"hello")
        book.expect(V3_HELLO)
        book.receive(V2_HELLO)
        book.expect(Learned(V2), Data("SSH1", 1, 1, b"hello"))
        assert not book.session.can_open("SSH1")
        book.send(connection, b"hello")
        book.expect(V2_HELLO)
        book.reset(connection)
        book.expect(V2_RESET)
        book.open("SSH1")
        book.expect(V2_START_2)

    def test_v1_is_learned_from_a_missing_service_id(self) -> None:
        book = ready(Side.SOURCE, "SSH1")
        connection = book.open("SSH1")
        book.expect(V3_START)
        book.receive(V1_HELLO)
        book.expect(Learned(V1), Data("SSH1", 1, 1, b"hello"))
        # Guide V2: names must not come and go on one link, and a V1 peer skips them.
        book.send(connection, b"hello")
        book.expect(V2_HELLO)
        book.reset(connection)
        book.expect(V2_RESET)
        book.open("SSH1")
        book.expect(V2_START_2)

    def test_v1_and_v2_are_the_same_on_a_tunnel_without_services(self) -> None:
        book = ready(Side.SOURCE)
        connection = book.open("")
        book.expect("0006 0802 1001 3801")
        book.receive(V1_HELLO)
        book.expect(Learned(V2), Data("", 1, 1, b"hello"))
        book.reset(connection)
        book.expect(V1_RESET)

    def test_nothing_is_learned_from_a_v3_answer_or_after_it(self) -> None:
        book = ready(Side.SOURCE, "SSH1")
        book.open("SSH1")
        book.expect(V3_START)
        book.receive(V3_HELLO, V2_HELLO)
        book.expect(Data("SSH1", 1, 1, b"hello"), Data("SSH1", 1, 1, b"hello"))
        book.open("SSH1")
        book.expect(V3_CONNECTION_START_2)
        book.receive("0013 0801 1001 2205 68656c6c6f 2a04 53534831 3802", V2_HELLO)
        book.expect(Data("SSH1", 1, 2, b"hello"), Data("SSH1", 1, 1, b"hello"))
        assert book.session.dialect is V3

    def test_the_first_answer_of_all_decides(self) -> None:
        book = ready(Side.SOURCE, "SSH1", "HTTP1")
        book.open("SSH1")
        book.expect(V3_START)
        book.receive(V3_HELLO)
        book.expect(Data("SSH1", 1, 1, b"hello"))
        book.open("HTTP1")
        book.expect("000d 0802 1001 2a05 4854545031 3801")
        book.receive("0012 0801 1001 2205 68656c6c6f 2a05 4854545031")
        book.expect(Data("HTTP1", 1, 1, b"hello"))
        assert book.session.dialect is V3

    def test_a_dialect_is_learned_once(self) -> None:
        book = ready(Side.SOURCE, "SSH1", "HTTP1")
        book.open("SSH1")
        book.expect(V3_START)
        book.open("HTTP1")
        book.expect("000d 0802 1001 2a05 4854545031 3801")
        book.receive(V2_HELLO, "0012 0801 1001 2205 68656c6c6f 2a05 4854545031")
        book.expect(
            Learned(V2),
            Data("SSH1", 1, 1, b"hello"),
            Data("HTTP1", 1, 1, b"hello"),
        )

    def test_nothing_is_learned_while_two_connections_are_under_way(self) -> None:
        book = ready(Side.SOURCE, "SSH1")
        book.open("SSH1")
        book.expect(V3_START)
        book.open("SSH1")
        book.expect(V3_CONNECTION_START_2)
        book.receive(V2_HELLO)
        book.expect(Data("SSH1", 1, 1, b"hello"))
        assert book.session.dialect is V3

    def test_what_is_learned_on_one_service_holds_for_the_open_streams_of_all(self) -> None:
        book = ready(Side.SOURCE, "SSH1", "HTTP1")
        book.open("SSH1")
        book.expect(V3_START)
        other = book.open("HTTP1")
        book.expect("000d 0802 1001 2a05 4854545031 3801")
        book.receive(V2_HELLO)
        book.expect(Learned(V2), Data("SSH1", 1, 1, b"hello"))
        # A V2 peer knows no CONNECTION_RESET: it would never hear that this one closed.
        book.reset(other)
        book.expect("000b 0803 1001 2a05 4854545031")

    def test_nothing_is_learned_while_another_service_has_two_connections(self) -> None:
        book = ready(Side.SOURCE, "SSH1", "HTTP1")
        book.open("HTTP1")
        book.expect("000d 0802 1001 2a05 4854545031 3801")
        book.open("HTTP1")
        book.expect("000d 0806 1001 2a05 4854545031 3802")
        book.open("SSH1")
        book.expect(V3_START)
        book.receive(V2_HELLO)
        book.expect(Data("SSH1", 1, 1, b"hello"))
        assert book.session.dialect is V3

    def test_the_answer_of_a_second_stream_may_be_the_first_answer(self) -> None:
        book = ready(Side.SOURCE, "SSH1")
        first = book.open("SSH1")
        book.expect(V3_START)
        book.reset(first)
        book.expect(V3_CONNECTION_RESET)
        second = book.open("SSH1")
        book.expect(V3_CONNECTION_START_2)
        # A V2 peer refuses what it does not know by resetting the stream.
        book.receive(V2_RESET)
        book.expect(Ended("SSH1", 1, 2, EndCause.STREAM_RESET))
        assert not second.is_open
        third = book.open("SSH1")
        book.expect("000c 0802 1002 2a04 53534831 3803")
        book.receive(Message(MessageType.DATA, 2, "SSH1", payload=b"hello"))
        book.expect(Learned(V2), Data("SSH1", 2, 3, b"hello"))
        book.reset(third)
        book.expect("000a 0803 1002 2a04 53534831")

    def test_a_destination_learns_nothing(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(V3_START, V2_HELLO)
        book.expect(Requested("SSH1", 1, 1), Data("SSH1", 1, 1, b"hello"))
        assert book.session.dialect is V3
