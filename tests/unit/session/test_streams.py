"""Streams and connections: numbering, lookup and ending."""

from __future__ import annotations

import pytest

from tailrace.errors import LocalProtocolError
from tailrace.session.ledger import Counts, Ledger
from tailrace.session.replay import ReplayMemory
from tailrace.session.streams import Connection, Stream, StreamState
from tailrace.wire import MAX_CONNECTION_ID, MAX_PAYLOAD, MAX_STREAM_ID


def open_stream(stream_id: int = 1, service_id: str = "SSH1") -> Stream:
    stream = Stream(service_id, service_id)
    stream.begin(stream_id)
    return stream


def add(stream: Stream, connection_id: int, *, has_connection_id: bool = True) -> Connection:
    return stream.add(connection_id, has_connection_id, Counts())


class TestStreamIds:
    """1, 2, ... 2**31-1, 1."""

    def test_the_first_is_1(self) -> None:
        assert Stream("SSH1", "SSH1").next_stream_id() == 1

    @pytest.mark.parametrize(
        ("current", "following"), [(1, 2), (MAX_STREAM_ID - 1, MAX_STREAM_ID), (MAX_STREAM_ID, 1)]
    )
    def test_the_next(self, current: int, following: int) -> None:
        assert open_stream(current).next_stream_id() == following

    def test_an_ended_stream_leaves_its_id_behind(self) -> None:
        stream = open_stream(4)
        stream.end()
        assert stream.next_stream_id() == 5


class TestConnectionIds:
    """1, 2, ... 2**32-1, 1, without those in use; streams come and go meanwhile."""

    def test_they_count_on_over_streams(self) -> None:
        stream = open_stream()
        assert [stream.next_connection_id() for _ in range(3)] == [1, 2, 3]
        stream.end()
        stream.begin(2)
        assert stream.next_connection_id() == 4

    def test_an_ended_one_is_not_used_again_soon(self) -> None:
        stream = open_stream()
        connection = add(stream, stream.next_connection_id())
        stream.remove(connection)
        assert stream.next_connection_id() == 2

    def test_they_wrap_and_skip_those_in_use(self) -> None:
        stream = open_stream()
        add(stream, 1)
        add(stream, 2)
        stream.last_connection_id = MAX_CONNECTION_ID - 1
        assert [stream.next_connection_id() for _ in range(2)] == [MAX_CONNECTION_ID, 3]


class TestLookup:
    """Which connection a message is for."""

    def test_by_number(self) -> None:
        stream = open_stream()
        first, second = (
            add(stream, 5),
            add(stream, 6),
        )
        assert stream.find(5) is first
        assert stream.find(6) is second
        assert stream.find(7) is None

    def test_no_number_means_the_first_connection_of_the_stream(self) -> None:
        stream = open_stream()
        assert stream.find(0) is None
        first = add(stream, 5)
        add(stream, 6)
        assert stream.find(0) is first
        stream.remove(first)
        assert stream.find(0) is None

    def test_the_next_stream_has_a_first_connection_of_its_own(self) -> None:
        stream = open_stream()
        add(stream, 5)
        stream.end()
        stream.begin(2)
        assert stream.find(0) is None
        second = add(stream, 6)
        assert stream.find(0) is second


class TestEnding:
    """What is open, and what is not any more."""

    def test_a_stream_is_idle_until_it_begins_and_after_it_ends(self) -> None:
        stream = Stream("SSH1", "SSH1")
        states = [stream.state]
        stream.begin(1)
        states.append(stream.state)
        stream.end()
        states.append(stream.state)
        assert states == [StreamState.IDLE, StreamState.OPEN, StreamState.IDLE]

    def test_an_end_takes_all_connections_oldest_first(self) -> None:
        stream = open_stream()
        connections = [add(stream, number) for number in (3, 1, 2)]
        assert stream.end() == connections
        assert not any(connection.is_open for connection in connections)
        assert stream.connections == {}
        assert stream.end() == []

    def test_removing_one_leaves_the_others(self) -> None:
        stream = open_stream()
        first, second = (
            add(stream, 1),
            add(stream, 2),
        )
        stream.remove(first)
        assert (first.is_open, second.is_open) == (False, True)
        assert list(stream.connections) == [2]
        assert stream.state is StreamState.OPEN

    def test_a_new_stream_forgets_which_one_was_reset(self) -> None:
        stream = open_stream()
        stream.ended_stream_id = 1
        stream.begin(1)
        assert stream.ended_stream_id == 0


class TestDataHeader:
    """What stands in front of the data of a connection."""

    @pytest.mark.parametrize(
        ("wire_name", "has_connection_id", "header"),
        [
            ("SSH1", True, "0013 0801 1001 2a04 53534831 3802 2205"),
            ("SSH1", False, "0011 0801 1001 2a04 53534831 2205"),
            ("", True, "000d 0801 1001 3802 2205"),
            ("", False, "000b 0801 1001 2205"),
        ],
    )
    def test_it_has_the_form_of_the_dialect(
        self, wire_name: str, has_connection_id: bool, header: str
    ) -> None:
        stream = Stream("SSH1", wire_name)
        stream.begin(1)
        connection = add(stream, 2, has_connection_id=has_connection_id)
        assert connection.data_header(5) == bytes.fromhex(header)

    def test_a_number_can_be_dropped(self) -> None:
        connection = add(open_stream(), 2)
        connection.drop_number()
        assert not connection.has_connection_id
        assert connection.data_header(5) == bytes.fromhex("0011 0801 1001 2a04 53534831 2205")

    @pytest.mark.parametrize("size", [-1, 0, MAX_PAYLOAD + 1])
    def test_sizes_out_of_range(self, size: int) -> None:
        connection = add(open_stream(), 1)
        with pytest.raises(LocalProtocolError):
            connection.data_header(size)

    def test_an_ended_connection_has_none(self) -> None:
        stream = open_stream()
        connection = add(stream, 1)
        stream.remove(connection)
        with pytest.raises(LocalProtocolError, match="connection SSH1/1/1 has ended"):
            connection.data_header(5)


class TestNames:
    """What a connection is called in the log."""

    def test_service_stream_and_connection(self) -> None:
        connection = add(open_stream(7), 2)
        assert repr(connection) == "connection SSH1/7/2"
        assert connection.service_id == "SSH1"

    def test_without_a_service_id(self) -> None:
        connection = add(open_stream(service_id=""), 1, has_connection_id=False)
        assert repr(connection) == "connection -/1/1"
        assert connection.service_id == ""

    def test_the_name_stays_when_the_stream_goes_on(self) -> None:
        stream = open_stream()
        connection: Connection = add(stream, 1)
        stream.end()
        stream.begin(2)
        assert repr(connection) == "connection SSH1/1/1"
        assert connection.stream_id == 1


class TestOutlivingLinks:
    """A connection with books waits until both ends go on with it."""

    def test_one_without_books_waits_for_nothing(self) -> None:
        connection = add(open_stream(), 1)
        assert connection.ledger is None
        assert not connection.is_awaited

    def test_one_with_books_waits_for_an_agreement(self) -> None:
        ledger = Ledger("SSH1", 1, 1, ReplayMemory())
        connection = open_stream().add(1, has_connection_id=True, counts=ledger)
        assert connection.ledger is ledger
        assert connection.is_awaited
        ledger.begin()
        assert not connection.is_awaited
