"""What a destination does, message by message, as bytes.

The numbers are those of the conformance scenarios (B: bugs of the reference, #: issues
of its users); the hex is that of the published test vectors.
"""

from __future__ import annotations

import pytest

from support.session.playbook import (
    Data,
    Ended,
    Ignored,
    Playbook,
    Ready,
    Requested,
    frame_of,
    ready,
)
from tailrace.errors import LocalProtocolError
from tailrace.session import ConnectionRequested, EndCause, Event
from tailrace.wire import MAX_STREAM_ID, Message, MessageType, Side

SERVICE_IDS_SSH1 = "0008 0805 3204 53534831"
SESSION_RESET = "0002 0804"
START_1 = "000c 0802 1001 2a04 53534831 3801"
START_2_3 = "000c 0802 1002 2a04 53534831 3803"
CONNECTION_START_1 = "000c 0806 1001 2a04 53534831 3801"
CONNECTION_START_2 = "000c 0806 1001 2a04 53534831 3802"
CONNECTION_RESET_1 = "000c 0807 1001 2a04 53534831 3801"
CONNECTION_RESET_2 = "000c 0807 1001 2a04 53534831 3802"
STREAM_RESET_1 = "000a 0803 1001 2a04 53534831"
HELLO_1 = "0013 0801 1001 2205 68656c6c6f 2a04 53534831 3801"
HELLO_2 = "0013 0801 1001 2205 68656c6c6f 2a04 53534831 3802"
START_HTTP1 = "000d 0802 1001 2a05 4854545031 3801"
HELLO_HTTP1 = "0014 0801 1001 2205 68656c6c6f 2a05 4854545031 3801"

GOT_1 = Data("SSH1", 1, 1, b"hello")
GOT_2 = Data("SSH1", 1, 2, b"hello")


def destination(*ids: str) -> Playbook:
    """A destination on a tunnel that has the services ``ids``."""
    return ready(Side.DESTINATION, *ids)


def two_connections(*ids: str) -> Playbook:
    """A destination with the connections 1 and 2 of SSH1 open."""
    book = destination("SSH1", *ids)
    book.receive(START_1, CONNECTION_START_2)
    book.expect(Requested("SSH1", 1, 1), Requested("SSH1", 1, 2))
    return book


class TestOpening:
    """How the peer's starts become connections."""

    def test_25_b6_service_ids_and_stream_start_in_one_frame(self) -> None:
        book = Playbook(Side.DESTINATION, ("SSH1",))
        book.receive(SERVICE_IDS_SSH1, START_1)
        book.expect(Ready(("SSH1",)), Requested("SSH1", 1, 1))

    def test_26_b6_stream_start_and_data_in_one_frame(self) -> None:
        book = destination("SSH1")
        book.receive(START_1, HELLO_1, CONNECTION_START_2, HELLO_2)
        book.expect(Requested("SSH1", 1, 1), GOT_1, Requested("SSH1", 1, 2), GOT_2)

    def test_b6_everything_in_one_frame_and_one_byte_a_frame(self) -> None:
        steps = (Ready(("SSH1",)), Requested("SSH1", 1, 1), GOT_1)
        whole = Playbook(Side.DESTINATION, ("SSH1",))
        whole.receive(SERVICE_IDS_SSH1, START_1, HELLO_1)
        whole.expect(*steps)
        split = Playbook(Side.DESTINATION, ("SSH1",))
        for byte in bytes.fromhex(SERVICE_IDS_SSH1 + START_1 + HELLO_1):
            split.session.receive_frame(memoryview(bytes([byte])))
        split.expect(*steps)

    def test_27_the_application_may_speak_first(self) -> None:
        book = destination("SSH1")
        book.receive(START_1)
        book.expect(Requested("SSH1", 1, 1))
        (connection,) = book.requested
        book.send(connection, b"hello")
        book.expect(HELLO_1)

    def test_28_connection_start_opens_a_second_application_connection(self) -> None:
        book = two_connections()
        first, second = book.requested
        book.receive(HELLO_1, HELLO_2)
        book.expect(GOT_1, GOT_2)
        book.send(second, b"hello")
        book.expect(HELLO_2)
        book.send(first, b"hello")
        book.expect(HELLO_1)

    def test_31_a_new_stream_replaces_the_active_one(self) -> None:
        book = two_connections()
        book.receive(START_2_3, HELLO_1)
        book.expect(
            Ended("SSH1", 1, 1, EndCause.STREAM_REPLACED),
            Ended("SSH1", 1, 2, EndCause.STREAM_REPLACED),
            Requested("SSH1", 2, 3),
            Ignored(MessageType.DATA, "SSH1"),
        )
        book.send(book.requested[-1], b"hello")
        book.expect("0013 0801 1002 2205 68656c6c6f 2a04 53534831 3803")

    def test_31_an_ended_connection_sends_nothing_on_the_new_stream(self) -> None:
        book = two_connections()
        book.receive(START_2_3)
        book.expect(
            Ended("SSH1", 1, 1, EndCause.STREAM_REPLACED),
            Ended("SSH1", 1, 2, EndCause.STREAM_REPLACED),
            Requested("SSH1", 2, 3),
        )
        with pytest.raises(LocalProtocolError):
            book.requested[0].data_header(5)
        book.reset(book.requested[0])
        book.expect()

    def test_31_the_same_stream_again_changes_nothing(self) -> None:
        book = two_connections()
        book.receive(START_1, HELLO_1)
        book.expect(Ignored(MessageType.STREAM_START, "SSH1"), GOT_1)

    def test_31_the_same_stream_without_connections_starts_anew(self) -> None:
        book = destination("SSH1")
        book.receive(START_1, CONNECTION_RESET_1, START_1)
        book.expect(
            Requested("SSH1", 1, 1),
            Ended("SSH1", 1, 1, EndCause.CONNECTION_RESET),
            Requested("SSH1", 1, 1),
        )

    def test_31_other_services_keep_their_streams(self) -> None:
        book = two_connections("HTTP1")
        book.receive(START_HTTP1, START_2_3, HELLO_HTTP1)
        book.expect(
            Requested("HTTP1", 1, 1),
            Ended("SSH1", 1, 1, EndCause.STREAM_REPLACED),
            Ended("SSH1", 1, 2, EndCause.STREAM_REPLACED),
            Requested("SSH1", 2, 3),
            Data("HTTP1", 1, 1, b"hello"),
        )

    def test_32_connection_start_with_a_live_id_resets_that_connection(self) -> None:
        book = two_connections()
        book.receive(CONNECTION_START_1)
        book.expect(
            CONNECTION_RESET_1,
            Ended("SSH1", 1, 1, EndCause.PROTOCOL_ERROR),
            Ignored(MessageType.CONNECTION_START, "SSH1"),
        )
        book.receive(HELLO_2)
        book.expect(GOT_2)

    def test_connection_start_of_another_stream_is_refused(self) -> None:
        book = two_connections()
        book.receive("000c 0806 1007 2a04 53534831 3801")
        book.expect(
            "000c 0807 1007 2a04 53534831 3801",
            Ignored(MessageType.CONNECTION_START, "SSH1"),
        )
        assert book.session.count("SSH1") == 2

    def test_issue_161_connection_start_may_come_first(self) -> None:
        book = destination("SSH1")
        book.receive(CONNECTION_START_2, HELLO_2)
        book.expect(Requested("SSH1", 1, 2), GOT_2)
        book.receive("000c 0806 1001 2a04 53534831 3803")
        book.expect(Requested("SSH1", 1, 3))

    def test_issue_161_the_first_connection_refused_takes_the_stream_with_it(self) -> None:
        # Whatever else the source has open on that stream is unknown here, so gone.
        book = destination("SSH1")
        book.receive(CONNECTION_START_2)
        book.expect(Requested("SSH1", 1, 2))
        book.refuse(book.requested[0])
        book.expect(STREAM_RESET_1)

    def test_issue_161_a_connection_id_in_stream_reset_is_ignored(self) -> None:
        book = two_connections()
        book.receive("000c 0803 1001 2a04 53534831 3802")
        book.expect(
            Ended("SSH1", 1, 1, EndCause.STREAM_RESET),
            Ended("SSH1", 1, 2, EndCause.STREAM_RESET),
        )

    def test_the_largest_ids(self) -> None:
        book = destination("SSH1")
        book.receive(Message(MessageType.STREAM_START, MAX_STREAM_ID, "SSH1", 2**32 - 1))
        book.expect(Requested("SSH1", MAX_STREAM_ID, 2**32 - 1))
        book.reset(book.requested[0])
        book.expect("0014 0807 10ffffffff07 2a04 53534831 38ffffffff0f")


class TestRefusing:
    """Scenario 29, session part: the application cannot be reached."""

    def test_29_a_refused_stream_start_is_answered_with_stream_reset(self) -> None:
        book = destination("SSH1")
        book.receive(START_1)
        book.expect(Requested("SSH1", 1, 1))
        book.refuse(book.requested[0])
        book.expect(STREAM_RESET_1)
        book.refuse(book.requested[0])
        book.expect()

    def test_29_b7_a_refused_connection_start_leaves_its_sibling_alone(self) -> None:
        book = two_connections()
        first, second = book.requested
        book.refuse(second)
        book.expect(CONNECTION_RESET_2)
        assert first.is_open
        book.receive(HELLO_1)
        book.expect(GOT_1)

    def test_29_b7_a_refused_first_connection_leaves_its_sibling_alone(self) -> None:
        book = two_connections()
        first, second = book.requested
        book.refuse(first)
        book.expect(CONNECTION_RESET_1)
        book.receive(HELLO_2)
        book.expect(GOT_2)
        book.refuse(second)
        book.expect(CONNECTION_RESET_2)

    def test_29_a_connection_may_be_refused_from_inside_its_request(self) -> None:
        book = destination("SSH1")

        def refuse(event: Event) -> None:
            if isinstance(event, ConnectionRequested):
                book.session.refuse(event.connection)

        book.react = refuse
        book.receive(START_1, HELLO_1, CONNECTION_START_2, START_2_3)
        book.expect(
            Requested("SSH1", 1, 1),
            STREAM_RESET_1,
            Ignored(MessageType.DATA, "SSH1"),
            # Sent before the source knew that the stream was reset.
            CONNECTION_RESET_2,
            Ignored(MessageType.CONNECTION_START, "SSH1"),
            Requested("SSH1", 2, 3),
            "000a 0803 1002 2a04 53534831",
        )

    def test_29_a_reset_stream_may_start_again_under_its_id(self) -> None:
        # The C library's ids start over after a reset.
        book = destination("SSH1")
        book.receive(START_1)
        book.expect(Requested("SSH1", 1, 1))
        book.refuse(book.requested[0])
        book.expect(STREAM_RESET_1)
        book.receive(START_1, CONNECTION_START_2, HELLO_2)
        book.expect(Requested("SSH1", 1, 1), Requested("SSH1", 1, 2), GOT_2)

    def test_29_a_stream_started_again_is_no_longer_the_one_that_was_reset(self) -> None:
        book = destination("SSH1")
        book.receive(START_1)
        book.expect(Requested("SSH1", 1, 1))
        book.refuse(book.requested[0])
        book.expect(STREAM_RESET_1)
        book.receive(START_1, SESSION_RESET, CONNECTION_START_2)
        book.expect(
            Requested("SSH1", 1, 1),
            Ended("SSH1", 1, 1, EndCause.SESSION_RESET),
            Requested("SSH1", 1, 2),
        )


class TestEnding:
    """What the application, the source and the service end."""

    def test_16_a_closed_application_resets_its_connection_and_no_other(self) -> None:
        book = two_connections()
        first, second = book.requested
        book.send(second, b"hello")
        book.expect(HELLO_2)
        book.reset(second)
        book.expect(CONNECTION_RESET_2)
        assert first.is_open

    def test_17_connection_reset_comes_after_all_data_and_is_not_echoed(self) -> None:
        book = two_connections()
        book.receive(HELLO_2, CONNECTION_RESET_2, CONNECTION_RESET_2)
        book.expect(
            GOT_2,
            Ended("SSH1", 1, 2, EndCause.CONNECTION_RESET),
            Ignored(MessageType.CONNECTION_RESET, "SSH1"),
        )

    def test_17_both_ends_close_at_once(self) -> None:
        book = two_connections()
        book.reset(book.requested[1])
        book.expect(CONNECTION_RESET_2)
        book.receive(HELLO_2, CONNECTION_RESET_2)
        book.expect(
            Ignored(MessageType.DATA, "SSH1"),
            Ignored(MessageType.CONNECTION_RESET, "SSH1"),
        )

    def test_18_stream_reset_ends_all_connections_of_its_service(self) -> None:
        book = two_connections("HTTP1")
        book.receive(START_HTTP1, HELLO_1, STREAM_RESET_1, HELLO_1, STREAM_RESET_1, HELLO_HTTP1)
        book.expect(
            Requested("HTTP1", 1, 1),
            GOT_1,
            Ended("SSH1", 1, 1, EndCause.STREAM_RESET),
            Ended("SSH1", 1, 2, EndCause.STREAM_RESET),
            Ignored(MessageType.DATA, "SSH1"),
            Ignored(MessageType.STREAM_RESET, "SSH1"),
            Data("HTTP1", 1, 1, b"hello"),
        )
        book.receive(START_2_3)
        book.expect(Requested("SSH1", 2, 3))

    @pytest.mark.parametrize("stream_id", [9, 0, -1])
    def test_19_stream_reset_of_another_stream_is_ignored(self, stream_id: int) -> None:
        book = two_connections()
        book.receive(Message(MessageType.STREAM_RESET, stream_id, "SSH1"), HELLO_1)
        book.expect(Ignored(MessageType.STREAM_RESET, "SSH1"), GOT_1)

    @pytest.mark.parametrize("kind", [MessageType.STREAM_START, MessageType.CONNECTION_START])
    @pytest.mark.parametrize("stream_id", [0, -1])
    def test_19_a_start_without_a_stream_id_is_ignored(
        self, kind: MessageType, stream_id: int
    ) -> None:
        book = two_connections()
        book.receive(Message(kind, stream_id, "SSH1", 3), HELLO_1)
        book.expect(Ignored(kind, "SSH1"), GOT_1)

    def test_20_connection_reset_of_another_stream_is_ignored(self) -> None:
        book = two_connections()
        book.receive("000c 0807 1009 2a04 53534831 3802", HELLO_2)
        book.expect(Ignored(MessageType.CONNECTION_RESET, "SSH1"), GOT_2)

    def test_21_session_reset_closes_all_streams_and_the_session_goes_on(self) -> None:
        book = two_connections("HTTP1")
        book.receive(START_HTTP1, SESSION_RESET, HELLO_1, START_2_3)
        book.expect(
            Requested("HTTP1", 1, 1),
            Ended("SSH1", 1, 1, EndCause.SESSION_RESET),
            Ended("SSH1", 1, 2, EndCause.SESSION_RESET),
            Ended("HTTP1", 1, 1, EndCause.SESSION_RESET),
            Ignored(MessageType.DATA, "SSH1"),
            Requested("SSH1", 2, 3),
        )

    @pytest.mark.parametrize("frame", [HELLO_1, CONNECTION_RESET_1, STREAM_RESET_1])
    def test_21_an_idle_service_ignores_all_but_starts(self, frame: str) -> None:
        book = destination("SSH1")
        book.receive(frame)
        kind = MessageType(bytes.fromhex(frame)[3])
        book.expect(Ignored(kind, "SSH1"))

    def test_50_a_lost_link_ends_everything(self) -> None:
        book = two_connections()
        book.lose_link()
        book.expect(
            Ended("SSH1", 1, 1, EndCause.LINK_LOST),
            Ended("SSH1", 1, 2, EndCause.LINK_LOST),
        )
        book.lose_link()
        book.expect()
        book.refuse(book.requested[0])
        book.expect()

    def test_50_what_is_left_of_a_frame_is_dropped_when_the_link_is_lost(self) -> None:
        book = destination("SSH1")

        def lose(event: Event) -> None:
            if isinstance(event, ConnectionRequested):
                book.session.link_lost()

        book.react = lose
        book.receive(START_1, HELLO_1, CONNECTION_START_2)
        book.expect(Requested("SSH1", 1, 1), Ended("SSH1", 1, 1, EndCause.LINK_LOST))


def test_a_destination_opens_nothing() -> None:
    book = destination("SSH1")
    with pytest.raises(LocalProtocolError, match="only a source"):
        book.open("SSH1")
    book.expect()


def test_data_of_a_connection_nobody_took_is_dropped() -> None:
    book = destination("SSH1")
    book.receive(START_1)
    book.expect(Requested("SSH1", 1, 1))
    book.requested[0].sink = None
    book.receive(HELLO_1)
    book.expect()


def test_a_payload_that_looks_like_a_message_stays_in_its_place() -> None:
    """Also in a frame of its own, which would otherwise be known at once."""
    book = two_connections()
    for _ in range(2):
        book.receive(HELLO_1)
        book.expect(GOT_1)
    payload = b"before" + frame_of(HELLO_1) + b"after"
    whole = frame_of(Message(MessageType.DATA, 1, "SSH1", 2, payload))
    at = whole.index(payload) + len(b"before")
    for frame in (whole[:at], HELLO_1):
        book.receive(frame)
        book.expect()
    book.receive(whole[at + len(frame_of(HELLO_1)) :])
    book.expect(Data("SSH1", 1, 2, payload))
