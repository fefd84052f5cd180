"""What a source does, message by message, as bytes.

The numbers are those of the conformance scenarios; the hex is that of the published
test vectors.
"""

from __future__ import annotations

import pytest

from support.session.playbook import Data, Ended, Ignored, Playbook, Ready, ready
from tailrace.errors import LocalProtocolError
from tailrace.session import ConnectionEnded, EndCause, Event
from tailrace.wire import MAX_PAYLOAD, MAX_STREAM_ID, Message, MessageType, Side

SERVICE_IDS_NONE = "0002 0805"
SERVICE_IDS_SSH1 = "0008 0805 3204 53534831"
SERVICE_IDS_SSH1_HTTP1 = "000f 0805 3204 53534831 3205 4854545031"
SESSION_RESET = "0002 0804"

START_1 = "000c 0802 1001 2a04 53534831 3801"
START_2_3 = "000c 0802 1002 2a04 53534831 3803"
CONNECTION_START_2 = "000c 0806 1001 2a04 53534831 3802"
CONNECTION_RESET_1 = "000c 0807 1001 2a04 53534831 3801"
CONNECTION_RESET_2 = "000c 0807 1001 2a04 53534831 3802"
STREAM_RESET_1 = "000a 0803 1001 2a04 53534831"
HELLO_1 = "0013 0801 1001 2205 68656c6c6f 2a04 53534831 3801"
HELLO_2 = "0013 0801 1001 2205 68656c6c6f 2a04 53534831 3802"


def source(*ids: str) -> Playbook:
    """A source on a tunnel that has the services ``ids``."""
    return ready(Side.SOURCE, *ids)


def two_connections(*ids: str) -> Playbook:
    """A source with the connections 1 and 2 of SSH1 open."""
    book = source("SSH1", *ids)
    book.open("SSH1")
    book.expect(START_1)
    book.open("SSH1")
    book.expect(CONNECTION_START_2)
    return book


class TestServiceIds:
    """When a source may listen, and under which names."""

    def test_09_nothing_can_be_opened_before_the_service_ids(self) -> None:
        book = Playbook(Side.SOURCE, ("SSH1",))
        assert not book.session.can_open("SSH1")
        assert book.session.service_ids == ()
        with pytest.raises(LocalProtocolError):
            book.open("SSH1")
        book.expect()
        book.receive(SERVICE_IDS_SSH1)
        book.expect(Ready(("SSH1",)))
        assert book.session.can_open("SSH1")

    def test_10_no_services_and_a_lone_port_give_unnamed_messages(self) -> None:
        book = Playbook(Side.SOURCE, ("",))
        book.receive(SERVICE_IDS_NONE)
        book.expect(Ready(("",)))
        book.open("")
        book.expect("0006 0802 1001 3801")

    def test_11_one_service_and_a_lone_port_give_named_messages(self) -> None:
        book = Playbook(Side.SOURCE, ("",))
        book.receive(SERVICE_IDS_SSH1)
        book.expect(Ready(("SSH1",)))
        book.open("SSH1")
        book.expect(START_1)

    def test_12_service_ids_one_byte_a_frame(self) -> None:
        book = Playbook(Side.SOURCE, ("SSH1",))
        frame = bytes.fromhex(SERVICE_IDS_SSH1)
        for at in range(len(frame) - 1):
            book.receive(frame[at : at + 1])
            book.expect()
        book.receive(frame[-1:])
        book.expect(Ready(("SSH1",)))

    def test_51_the_same_service_ids_again_change_nothing(self) -> None:
        book = source("SSH1", "HTTP1")
        book.open("SSH1")
        book.expect(START_1)
        book.receive(SERVICE_IDS_SSH1_HTTP1)
        book.expect(Ignored(MessageType.SERVICE_IDS))
        book.receive(Message(MessageType.SERVICE_IDS, available_service_ids=("HTTP1", "SSH1")))
        book.expect(Ignored(MessageType.SERVICE_IDS))
        book.receive(HELLO_1)
        book.expect(Data("SSH1", 1, 1, b"hello"))


class TestOpening:
    """How clients become connections."""

    def test_13_the_first_client_starts_the_stream_the_second_a_connection(self) -> None:
        two_connections()

    def test_13_after_the_last_client_left_the_stream_is_still_open(self) -> None:
        book = source("SSH1")
        first = book.open("SSH1")
        book.expect(START_1)
        book.reset(first)
        book.expect(CONNECTION_RESET_1)
        book.open("SSH1")
        book.expect(CONNECTION_START_2)

    def test_13_each_service_counts_for_itself(self) -> None:
        book = source("SSH1", "HTTP1")
        book.open("SSH1")
        book.expect(START_1)
        book.open("HTTP1")
        book.expect("000d 0802 1001 2a05 4854545031 3801")
        book.open("HTTP1")
        book.expect("000d 0806 1001 2a05 4854545031 3802")
        assert [book.session.count(name) for name in ("SSH1", "HTTP1", "VNC1")] == [1, 2, 0]

    def test_14_data_carries_stream_service_and_connection(self) -> None:
        book = source("SSH1")
        book.open("SSH1")
        book.expect(START_1)
        second = book.open("SSH1")
        book.expect(CONNECTION_START_2)
        book.send(second, b"hello")
        book.expect(HELLO_2)
        # On the wire the payload is the last field.
        header = bytes.fromhex("0013 0801 1001 2a04 53534831 3802 2205")
        assert second.data_header(5) == header

    def test_15_a_message_takes_64512_bytes_and_not_one_more(self) -> None:
        book = source("SSH1")
        connection = book.open("SSH1")
        book.expect(START_1)
        book.send(connection, b"\xaa" * MAX_PAYLOAD)
        book.expect(
            "fc10 0801 1001 2280f803" + "aa" * MAX_PAYLOAD + "2a04 53534831 3801",
        )
        for size in (MAX_PAYLOAD + 1, 0, -1):
            with pytest.raises(LocalProtocolError):
                connection.data_header(size)

    def test_16_a_closed_client_resets_its_connection_and_no_other(self) -> None:
        book = source("SSH1")
        first = book.open("SSH1")
        book.expect(START_1)
        second = book.open("SSH1")
        book.expect(CONNECTION_START_2)
        book.send(second, b"hello")
        book.expect(HELLO_2)
        book.reset(second)
        book.expect(CONNECTION_RESET_2)
        assert first.is_open
        assert not second.is_open
        book.receive(HELLO_1)
        book.expect(Data("SSH1", 1, 1, b"hello"))

    def test_16_a_second_reset_is_not_sent(self) -> None:
        book = source("SSH1")
        connection = book.open("SSH1")
        book.expect(START_1)
        book.reset(connection)
        book.expect(CONNECTION_RESET_1)
        book.reset(connection)
        book.expect()

    def test_16_no_data_leaves_after_the_reset(self) -> None:
        book = source("SSH1")
        connection = book.open("SSH1")
        book.expect(START_1)
        book.reset(connection)
        book.expect(CONNECTION_RESET_1)
        with pytest.raises(LocalProtocolError):
            connection.data_header(1)

    def test_reset_all_ends_every_connection_of_every_service(self) -> None:
        book = two_connections("HTTP1")
        book.open("HTTP1")
        book.expect("000d 0802 1001 2a05 4854545031 3801")
        book.session.reset_all()
        book.expect(
            CONNECTION_RESET_1,
            CONNECTION_RESET_2,
            "000d 0807 1001 2a05 4854545031 3801",
        )
        assert book.session.connections == []


class TestEnding:
    """What the other side and the service end."""

    def test_17_connection_reset_comes_after_all_data_and_is_not_echoed(self) -> None:
        book = two_connections()
        book.receive(HELLO_2, HELLO_2, CONNECTION_RESET_2)
        book.expect(
            Data("SSH1", 1, 2, b"hello"),
            Data("SSH1", 1, 2, b"hello"),
            Ended("SSH1", 1, 2, EndCause.CONNECTION_RESET),
        )

    def test_17_an_echoed_reset_is_ignored(self) -> None:
        book = source("SSH1")
        connection = book.open("SSH1")
        book.expect(START_1)
        book.reset(connection)
        book.expect(CONNECTION_RESET_1)
        book.receive(CONNECTION_RESET_1)
        book.expect(Ignored(MessageType.CONNECTION_RESET, "SSH1"))

    def test_18_stream_reset_ends_all_connections_and_the_next_stream_is_new(self) -> None:
        book = two_connections("HTTP1")
        book.open("HTTP1")
        book.expect("000d 0802 1001 2a05 4854545031 3801")
        book.receive(HELLO_2, STREAM_RESET_1)
        book.expect(
            Data("SSH1", 1, 2, b"hello"),
            Ended("SSH1", 1, 1, EndCause.STREAM_RESET),
            Ended("SSH1", 1, 2, EndCause.STREAM_RESET),
        )
        book.open("SSH1")
        book.expect(START_2_3)
        # Other services are not concerned.
        book.receive("0014 0801 1001 2205 68656c6c6f 2a05 4854545031 3801")
        book.expect(Data("HTTP1", 1, 1, b"hello"))

    def test_18_a_client_may_be_opened_from_inside_the_end_of_another(self) -> None:
        book = two_connections()

        def reopen(event: Event) -> None:
            if isinstance(event, ConnectionEnded) and event.connection.connection_id == 1:
                book.session.open("SSH1")

        book.react = reopen
        book.receive(STREAM_RESET_1)
        book.expect(
            Ended("SSH1", 1, 1, EndCause.STREAM_RESET),
            START_2_3,
            Ended("SSH1", 1, 2, EndCause.STREAM_RESET),
        )
        assert [c.connection_id for c in book.session.connections] == [3]

    @pytest.mark.parametrize("stream_id", [9, 0, -1])
    def test_19_stream_reset_of_another_stream_is_ignored(self, stream_id: int) -> None:
        book = two_connections()
        book.receive(Message(MessageType.STREAM_RESET, stream_id, "SSH1"))
        book.expect(Ignored(MessageType.STREAM_RESET, "SSH1"))
        assert len(book.session.connections) == 2

    @pytest.mark.parametrize(
        "data",
        [
            Message(MessageType.DATA, 9, "SSH1", 1, b"stale"),
            Message(MessageType.DATA, 0, "SSH1", 1, b"no stream"),
            Message(MessageType.DATA, 1, "SSH1", 9, b"no connection"),
            Message(MessageType.DATA, 1, "VNC1", 1, b"no service"),
        ],
    )
    def test_19_data_for_nobody_is_ignored(self, data: Message) -> None:
        book = two_connections()
        book.receive(data, HELLO_2)
        book.expect(
            Ignored(MessageType.DATA, data.service_id),
            Data("SSH1", 1, 2, b"hello"),
        )

    @pytest.mark.parametrize("stream_id", [9, 0])
    def test_20_connection_reset_of_another_stream_is_ignored(self, stream_id: int) -> None:
        book = two_connections()
        book.receive(Message(MessageType.CONNECTION_RESET, stream_id, "SSH1", 2))
        book.expect(Ignored(MessageType.CONNECTION_RESET, "SSH1"))
        assert book.session.count("SSH1") == 2

    def test_21_session_reset_closes_all_streams_and_the_session_goes_on(self) -> None:
        book = two_connections("HTTP1")
        book.open("HTTP1")
        book.expect("000d 0802 1001 2a05 4854545031 3801")
        book.receive(HELLO_2, SESSION_RESET, HELLO_2)
        book.expect(
            Data("SSH1", 1, 2, b"hello"),
            Ended("SSH1", 1, 1, EndCause.SESSION_RESET),
            Ended("SSH1", 1, 2, EndCause.SESSION_RESET),
            Ended("HTTP1", 1, 1, EndCause.SESSION_RESET),
            Ignored(MessageType.DATA, "SSH1"),
        )
        book.open("SSH1")
        book.expect(START_2_3)

    def test_21_session_reset_before_the_service_ids_is_harmless(self) -> None:
        book = Playbook(Side.SOURCE)
        book.receive(SESSION_RESET, SERVICE_IDS_SSH1)
        book.expect(Ready(("SSH1",)))

    @pytest.mark.parametrize("ids", [(), ("SSH1",)])
    def test_22_an_ignorable_message_of_unknown_type_is_skipped(self, ids: tuple[str, ...]) -> None:
        book = source(*ids)
        name = ids[0] if ids else ""
        connection = book.open(name)
        book.expect(Message(MessageType.STREAM_START, 1, name, 1))
        book.receive("0004 0863 1801", Message(MessageType.DATA, 1, name, 1, b"hello"))
        book.expect(Ignored(99), Data(name, 1, 1, b"hello"))
        assert connection.heard

    def test_an_ignorable_flag_on_a_known_type_changes_nothing(self) -> None:
        book = two_connections()
        book.receive(Message(MessageType.DATA, 1, "SSH1", 2, b"hello", ignorable=True))
        book.expect(Data("SSH1", 1, 2, b"hello"))

    def test_50_a_lost_link_ends_everything_and_a_new_session_starts_over(self) -> None:
        book = two_connections()
        book.lose_link()
        book.expect(
            Ended("SSH1", 1, 1, EndCause.LINK_LOST),
            Ended("SSH1", 1, 2, EndCause.LINK_LOST),
        )
        assert book.session.closed
        assert not book.session.can_open("SSH1")
        book.receive(HELLO_1)
        book.expect()
        again = Playbook(Side.SOURCE, ("SSH1",))
        again.receive(SERVICE_IDS_SSH1)
        again.expect(Ready(("SSH1",)))
        again.open("SSH1")
        again.expect(START_1)

    def test_56_fields_in_any_order_and_unknown_fields(self) -> None:
        book = two_connections()
        book.receive("0013 0801 1001 3802 2205 68656c6c6f 2a04 53534831")
        book.expect(Data("SSH1", 1, 2, b"hello"))
        book.receive("0013 0801 1001 2201 7a 2a04 53534831 3802 4202 6869")
        book.expect(Data("SSH1", 1, 2, b"z"))

    def test_a_sink_is_not_called_for_an_empty_payload(self) -> None:
        book = two_connections()
        # The payload is there, with no bytes in it.
        book.receive("000e 0801 1001 2200 2a04 53534831 3802")
        book.expect()


class TestRolesReversed:
    """Scenario 38: a destination that starts things is wrong; the source stays up."""

    def test_38_stream_start_of_an_idle_service(self) -> None:
        book = source("SSH1")
        book.receive(START_1)
        book.expect(STREAM_RESET_1, Ignored(MessageType.STREAM_START, "SSH1"))
        book.open("SSH1")
        book.expect(START_1)

    def test_38_stream_start_ends_the_active_stream_on_both_sides(self) -> None:
        book = two_connections()
        book.receive("000c 0802 1007 2a04 53534831 3801")
        book.expect(
            # The one that was started, and the one that was active.
            "000a 0803 1007 2a04 53534831",
            STREAM_RESET_1,
            Ended("SSH1", 1, 1, EndCause.PROTOCOL_ERROR),
            Ended("SSH1", 1, 2, EndCause.PROTOCOL_ERROR),
            Ignored(MessageType.STREAM_START, "SSH1"),
        )

    def test_38_stream_start_of_the_active_stream_is_answered_once(self) -> None:
        book = source("SSH1")
        book.open("SSH1")
        book.expect(START_1)
        book.receive(START_1)
        book.expect(
            STREAM_RESET_1,
            Ended("SSH1", 1, 1, EndCause.PROTOCOL_ERROR),
            Ignored(MessageType.STREAM_START, "SSH1"),
        )

    def test_38_a_client_opened_because_of_it_is_not_reset_with_it(self) -> None:
        book = source("SSH1")
        book.open("SSH1")
        book.expect(START_1)

        def reopen(event: Event) -> None:
            if isinstance(event, ConnectionEnded):
                book.session.open("SSH1")

        book.react = reopen
        # The wrong start bears the id that the next stream will have.
        book.receive("000c 0802 1002 2a04 53534831 3801")
        book.expect(
            "000a 0803 1002 2a04 53534831",
            STREAM_RESET_1,
            Ended("SSH1", 1, 1, EndCause.PROTOCOL_ERROR),
            "000c 0802 1002 2a04 53534831 3802",
            Ignored(MessageType.STREAM_START, "SSH1"),
        )
        assert [c.connection_id for c in book.session.connections] == [2]

    def test_38_connection_start_closes_the_connection_it_names(self) -> None:
        book = two_connections()
        book.receive(CONNECTION_START_2)
        book.expect(
            CONNECTION_RESET_2,
            Ended("SSH1", 1, 2, EndCause.PROTOCOL_ERROR),
            Ignored(MessageType.CONNECTION_START, "SSH1"),
        )
        assert [c.connection_id for c in book.session.connections] == [1]

    def test_38_connection_start_without_a_number_means_the_first_connection(self) -> None:
        book = source("SSH1")
        first = book.open("SSH1")
        book.expect(START_1)
        book.receive(STREAM_RESET_1)
        book.expect(Ended("SSH1", 1, 1, EndCause.STREAM_RESET))
        assert not first.is_open
        book.open("SSH1")
        book.expect("000c 0802 1002 2a04 53534831 3802")
        # Read as 1 it would name nothing: our numbers count on over streams.
        book.receive("000a 0806 1002 2a04 53534831")
        book.expect(
            "000a 0807 1002 2a04 53534831",
            Ended("SSH1", 2, 2, EndCause.PROTOCOL_ERROR),
            Ignored(MessageType.CONNECTION_START, "SSH1"),
        )

    @pytest.mark.parametrize("stream_id", [1, 5])
    def test_38_connection_start_of_nothing_we_know(self, stream_id: int) -> None:
        book = two_connections()
        book.receive(Message(MessageType.CONNECTION_START, stream_id, "SSH1", 9))
        book.expect(
            Message(MessageType.CONNECTION_RESET, stream_id, "SSH1", 9),
            Ignored(MessageType.CONNECTION_START, "SSH1"),
        )
        assert book.session.count("SSH1") == 2

    def test_38_connection_start_of_an_idle_service(self) -> None:
        book = source("SSH1")
        book.receive(CONNECTION_START_2)
        book.expect(CONNECTION_RESET_2, Ignored(MessageType.CONNECTION_START, "SSH1"))


def test_stream_ids_wrap_to_one() -> None:
    book = source("SSH1")
    first = book.open("SSH1")
    book.expect(START_1)
    first.stream.stream_id = MAX_STREAM_ID - 1
    book.receive(Message(MessageType.STREAM_RESET, MAX_STREAM_ID - 1, "SSH1"))
    book.expect(Ended("SSH1", 1, 1, EndCause.STREAM_RESET))
    book.open("SSH1")
    book.expect("0010 0802 10ffffffff07 2a04 53534831 3802")
    book.receive(Message(MessageType.STREAM_RESET, MAX_STREAM_ID, "SSH1"))
    book.expect(Ended("SSH1", MAX_STREAM_ID, 2, EndCause.STREAM_RESET))
    book.open("SSH1")
    book.expect("000c 0802 1001 2a04 53534831 3803")
