from __future__ import annotations

import asyncio

import pytest

from support.plugins.clock import ClockLoop
from support.tunnel.engine import NullLink, Ready, data_message, service_ids, settings, turn
from tailrace.errors import RemoteProtocolError, ServiceIdMismatch
from tailrace.flow.receive_buffers import CONNECTION_HIGH, CONNECTION_LOW
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.events import ConnectionOpened
from tailrace.localproxy.link_session import LinkSession
from tailrace.wire import (
    FLOW,
    MAX_PAYLOAD,
    NO_CAPABILITIES,
    Message,
    MessageType,
    Side,
    encode_delimited,
)


@pytest.fixture
def source(loop: ClockLoop) -> Ready:
    return Ready(loop, settings())


def test_before_the_link_is_open_nothing_is_sent_and_nothing_is_read(loop: ClockLoop):
    unopened = LinkSession(loop, Ready(loop, settings()).traffic, lambda _: None)
    assert unopened.link is None
    assert unopened.capabilities == NO_CAPABILITIES
    unopened.send_control(b"nobody hears this")


def test_wrong_service_ids_end_it_all_and_other_faults_end_the_link(source: Ready):
    with pytest.raises(RemoteProtocolError):
        source.link_session.frame_received(service_ids("VNC"))
    assert source.failures == []
    mismatched = Ready(source._loop, settings(services={"VNC": lambda *_: None}))
    (failure,) = mismatched.failures
    assert isinstance(failure, ServiceIdMismatch)


def test_the_budget_is_a_part_of_the_send_window(source: Ready):
    assert source.table.outbound.budget == 1024


def test_a_full_window_parks_bulk_until_it_is_answered(source: Ready):
    end = source.come()
    end.say(*[bytes(8192)] * 20)
    assert [local.state for local in source.table] == [ConnectionState.PARKED]
    sent = len(source.link.data)
    assert 4 * 1024 <= sent < 8 * 1024
    assert source.link.pings
    source.answer_pings()
    turn(source._loop, 10)
    end.tell()
    assert len(source.link.data) > sent
    while len(source.link.data) < 20 * 8192:
        source.answer_pings()
        turn(source._loop, 10)
        end.tell()
    assert source.link.data == bytes(20 * 8192)
    source.close()


def test_a_full_write_buffer_parks_bulk_until_it_has_drained(source: Ready):
    end = source.come()
    end.say(*[bytes(1024)] * 3)
    source.answer_pings()
    before = len(source.link.data)
    source.link_session.writing_paused()
    end.say(b"hello")
    assert [local.state for local in source.table] == [ConnectionState.PARKED]
    source.link_session.writing_resumed()
    assert len(source.link.data) == before  # not from within the transport's call
    turn(source._loop)
    assert source.link.data.endswith(b"hello")


def test_a_link_that_is_not_read_is_not_bound_by_its_pongs(source: Ready):
    """They cannot be seen, and two full directions would wait for each other."""
    end = source.come()
    end.room = 0
    source.come().say(*[bytes(8192)] * 20)
    parked = next(local for local in source.table if local.connection.connection_id == 2)
    assert parked.state is ConnectionState.PARKED
    payload = bytes(MAX_PAYLOAD)
    count = CONNECTION_HIGH // MAX_PAYLOAD + 1
    for _ in range(count):
        source.link_session.frame_received(data_message(payload))
    assert not source.link.reading
    assert source.table.outbound.budget == MAX_PAYLOAD
    turn(source._loop, 30)
    assert parked.state is ConnectionState.OPEN
    end.take(count * MAX_PAYLOAD - CONNECTION_LOW)
    assert source.link.reading
    source.close()


def test_the_end_of_the_link_is_the_end_of_its_timers(source: Ready):
    end = source.come()
    end.room = 0
    end.say(*[bytes(8192)] * 20)
    payload = bytes(MAX_PAYLOAD)
    for _ in range(CONNECTION_HIGH // MAX_PAYLOAD + 1):
        source.link_session.frame_received(data_message(payload))
    source.lose_link()
    assert source.link_session.link is None
    assert source.table.outbound.budget == 0
    source.table.abort()
    assert not [handle for handle in source._loop._scheduled if not handle.cancelled()]
    source.link_session._send_ping(b"late")
    source.link_session.send_control(b"x")
    assert b"late" not in source.link.pings


def test_control_messages_go_out_at_once_and_count_for_nothing(source: Ready):
    source.come()
    sent = source.link_session._window.window.sent
    source.link_session.send_control(b"\0\2\x08\x07")
    assert source.link.control[-1] == (MessageType.CONNECTION_RESET, 0)
    assert source.link_session._window.window.sent == sent == 0


def test_the_capabilities_are_what_the_link_says(loop: ClockLoop):
    for capabilities in (FLOW, NO_CAPABILITIES):
        session = LinkSession(loop, Ready(loop, settings()).traffic, lambda _: None)
        session.link_opened(NullLink(capabilities))
        assert session.capabilities == capabilities


# -- turns ---------------------------------------------------------------------------------------


async def hold(*_: object) -> None:
    await asyncio.sleep(3600.0)


def starts(first: int, count: int) -> memoryview:
    """Return a frame that asks for connections."""
    return memoryview(
        b"".join(
            encode_delimited(
                Message(
                    MessageType.STREAM_START if number == 1 else MessageType.CONNECTION_START,
                    *(1, "SSH", number),
                )
            )
            for number in range(first, first + count)
        )
    )


@pytest.fixture
def destination(loop: ClockLoop) -> Ready:
    return Ready(loop, settings(Side.DESTINATION), services={"SSH": hold})


def open_connections(destination: Ready) -> int:
    return len([event for event in destination.events if isinstance(event, ConnectionOpened)])


def test_a_flood_of_requests_takes_many_turns(destination: Ready, loop: ClockLoop):
    opened: list[int] = []

    def look() -> None:
        opened.append(open_connections(destination))
        loop.call_soon(look)

    for first in range(1, 3001, 100):
        destination.link_session.frame_received(starts(first, 100))
    look()
    assert opened == [300]  # over the bound with the frame it is in
    assert not destination.link.reading
    destination.link_session.frame_received(data_message(b"in its place"))
    turn(loop, 20)
    assert opened[:10] == list(range(300, 3001, 300))
    assert destination.link.reading
    (first_one, *_) = destination.table
    assert first_one.bytes_out == len(b"in its place")
    destination.close()


def test_fewer_requests_in_each_turn_wait_for_nothing(destination: Ready, loop: ClockLoop):
    for first in range(1, 2001, 200):
        destination.link_session.frame_received(starts(first, 200))
        assert open_connections(destination) == first + 199
        assert destination.link.reading
        turn(loop)
    destination.close()


def test_frames_that_wait_are_taken_before_the_link_is_given_up(destination: Ready):
    destination.link_session.frame_received(starts(1, 300))
    for first in range(301, 1200, 300):
        destination.link_session.frame_received(starts(first, 300))
    destination.link_session.frame_received(data_message(b"last words"))
    (first_one, *_) = destination.table
    destination.lose_link()
    assert first_one.bytes_out == len(b"last words")
    assert open_connections(destination) == 1200
    destination.close()


def test_a_proxy_that_ends_takes_no_more_requests(destination: Ready, loop: ClockLoop):
    for first in range(1, 1001, 300):
        destination.link_session.frame_received(starts(first, 300))
    destination.link_session.stop_receiving()
    destination.link_session.frame_received(starts(2000, 300))
    turn(loop, 3)
    assert open_connections(destination) == 300
    destination.close()


def test_a_fault_in_a_frame_that_waited_ends_the_link(destination: Ready, loop: ClockLoop):
    destination.link_session.frame_received(starts(1, 300))
    destination.link_session.frame_received(memoryview(b"\0\0"))
    destination.link_session.frame_received(starts(301, 300))
    assert destination.link.closed is None
    turn(loop)
    assert destination.link.closed == (1002, "length prefix is 0")
    assert open_connections(destination) == 300
    destination.close()


def test_a_bug_that_a_frame_that_waited_shows_ends_the_link_too(
    destination: Ready, loop: ClockLoop, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    destination.link_session.frame_received(starts(1, 300))
    destination.link_session.frame_received(starts(301, 300))
    destination.link_session.frame_received(starts(601, 300))
    monkeypatch.setattr(destination.table, "requested", fail)
    turn(loop)
    assert destination.link.closed == (1011, "internal error")
    assert destination.link.reading
    destination.close()


def test_a_link_that_is_not_to_be_read_is_not_when_the_turn_is_over(
    destination: Ready, loop: ClockLoop
):
    destination.link_session.frame_received(starts(1, 300))
    destination.link_session.frame_received(starts(301, 100))
    destination.link_session.set_reading(False)
    turn(loop)
    assert open_connections(destination) == 400
    assert not destination.link.reading
    destination.link_session.set_reading(True)
    assert destination.link.reading
    destination.close()
