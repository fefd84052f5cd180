from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.flow.receive_buffers import (
    CONNECTION_HIGH,
    CONNECTION_LOW,
    PAUSE_HIGH,
    PAUSE_HIGH_CROWDED,
    PAUSE_LOW,
    TOTAL_CROWDED,
    TOTAL_HIGH,
    TOTAL_LOW,
    ReceiveBuffers,
)

MIB = 1024 * 1024


def test_the_figures_are_those_that_were_measured():
    """They bound the memory of a proxy, and what is in flight when a peer is paused."""
    assert (CONNECTION_HIGH, CONNECTION_LOW) == (MIB, MIB // 4)
    assert (TOTAL_HIGH, TOTAL_LOW, TOTAL_CROWDED) == (24 * MIB, 12 * MIB, 4 * MIB)
    assert (PAUSE_HIGH, PAUSE_HIGH_CROWDED, PAUSE_LOW) == (MIB // 4, MIB // 16, MIB // 32)


def test_a_connection_over_its_mark_stops_the_link():
    buffers: ReceiveBuffers[str] = ReceiveBuffers()
    buffers.added("a", CONNECTION_HIGH, CONNECTION_HIGH, 1.0)
    assert not buffers.full
    buffers.added("b", CONNECTION_HIGH, CONNECTION_HIGH, 1.0)
    buffers.added("a", 1, CONNECTION_HIGH + 1, 2.0)
    assert buffers.full
    assert buffers.stalled(2.0, 0.0) == ["a"]


def test_the_link_goes_on_below_the_low_mark():
    buffers: ReceiveBuffers[str] = ReceiveBuffers()
    buffers.added("a", CONNECTION_HIGH + 1, CONNECTION_HIGH + 1, 0.0)
    buffers.taken("a", CONNECTION_HIGH - CONNECTION_LOW, CONNECTION_LOW + 1, 1.0)
    assert buffers.full
    buffers.taken("a", 1, CONNECTION_LOW, 2.0)
    assert not buffers.full


def test_all_connections_together_have_a_mark():
    buffers: ReceiveBuffers[int] = ReceiveBuffers()
    each = CONNECTION_HIGH // 2
    count = TOTAL_HIGH // each + 1
    for connection in range(count):
        buffers.added(connection, each, each, 0.0)
    assert buffers.full
    left = count * each
    for connection in range(count):
        buffers.removed(connection, each)
        left -= each
        assert buffers.full is (left > TOTAL_LOW)
    assert buffers.total == 0


def test_the_link_goes_on_when_all_together_have_taken_enough():
    buffers: ReceiveBuffers[str] = ReceiveBuffers()
    buffers.added("a", TOTAL_HIGH, TOTAL_HIGH, 0.0, can_pause=True)
    assert not buffers.full
    buffers.added("b", 1, 1, 0.0, can_pause=True)
    assert buffers.full
    buffers.taken("a", TOTAL_HIGH - TOTAL_LOW, TOTAL_LOW, 1.0)
    assert buffers.full
    buffers.taken("b", 1, 0, 1.0)
    assert not buffers.full


def test_only_a_connection_that_takes_nothing_is_stalled():
    buffers: ReceiveBuffers[str] = ReceiveBuffers()
    buffers.added("stalled", CONNECTION_HIGH + 1, CONNECTION_HIGH + 1, 10.0)
    buffers.added("slow", CONNECTION_HIGH + 9, CONNECTION_HIGH + 9, 10.0)
    buffers.taken("slow", 1, CONNECTION_HIGH + 8, 39.0)
    assert buffers.stalled(39.9, 30.0) == []
    assert buffers.stalled(40.0, 30.0) == ["stalled"]


def test_the_stall_begins_with_the_pause():
    """Before, a connection that took nothing held up nobody."""
    buffers: ReceiveBuffers[str] = ReceiveBuffers()
    buffers.added("a", 1, 1, 0.0)
    buffers.added("a", CONNECTION_HIGH, CONNECTION_HIGH + 1, 100.0)
    assert buffers.stalled(129.9, 30.0) == []
    assert buffers.stalled(130.0, 30.0) == ["a"]


def test_more_that_comes_does_not_put_off_the_end_of_a_stall():
    buffers: ReceiveBuffers[str] = ReceiveBuffers()
    buffers.added("a", CONNECTION_HIGH + 1, CONNECTION_HIGH + 1, 0.0)
    buffers.added("a", 1, CONNECTION_HIGH + 2, 29.0)
    buffers.added("b", CONNECTION_HIGH + 1, CONNECTION_HIGH + 1, 29.0)
    assert buffers.stalled(30.0, 30.0) == ["a"]


def test_connections_that_are_too_much_together_are_stalled_the_oldest_first():
    buffers: ReceiveBuffers[int] = ReceiveBuffers()
    count = TOTAL_HIGH // CONNECTION_HIGH + 1
    for connection in range(count):
        buffers.added(connection, CONNECTION_HIGH, CONNECTION_HIGH, 50.0 - connection)
    buffers.taken(0, 1, CONNECTION_HIGH - 1, 60.0)
    assert buffers.full
    assert buffers.stalled(80.0, 30.0) == list(range(count - 1, 0, -1))
    buffers.taken(1, CONNECTION_HIGH, 0, 80.0)
    buffers.removed(2, CONNECTION_HIGH)
    assert buffers.full
    assert buffers.stalled(80.0, 30.0) == list(range(count - 1, 2, -1))


def test_a_removed_connection_blocks_nobody():
    buffers: ReceiveBuffers[str] = ReceiveBuffers()
    buffers.added("a", CONNECTION_HIGH + 1, CONNECTION_HIGH + 1, 0.0)
    buffers.removed("a", CONNECTION_HIGH + 1)
    assert not buffers.full
    assert buffers.stalled(100.0, 30.0) == []


def test_a_connection_whose_peer_can_pause_has_no_mark_of_its_own():
    buffers: ReceiveBuffers[str] = ReceiveBuffers()
    buffers.added("a", TOTAL_HIGH, TOTAL_HIGH, 0.0, can_pause=True)
    assert not buffers.full
    buffers.added("a", 1, TOTAL_HIGH + 1, 0.0, can_pause=True)
    assert buffers.full
    assert buffers.stalled(30.0, 30.0) == ["a"]


def test_a_peer_is_paused_long_before_the_link_stops():
    buffers: ReceiveBuffers[str] = ReceiveBuffers()
    assert not buffers.wants_pause(PAUSE_HIGH)
    assert buffers.wants_pause(PAUSE_HIGH + 1)
    buffers.added("others", TOTAL_CROWDED, TOTAL_CROWDED, 0.0, can_pause=True)
    assert not buffers.wants_pause(PAUSE_HIGH)
    buffers.added("others", 1, TOTAL_CROWDED + 1, 0.0, can_pause=True)
    assert buffers.wants_pause(PAUSE_HIGH_CROWDED + 1)
    assert not buffers.wants_pause(PAUSE_HIGH_CROWDED)
    assert PAUSE_LOW < PAUSE_HIGH_CROWDED < PAUSE_HIGH < CONNECTION_HIGH


def test_many_stalled_connections_get_less_room_each():
    buffers: ReceiveBuffers[int] = ReceiveBuffers()
    stalled = 0
    while not buffers.full:
        waiting = 0
        while not buffers.wants_pause(waiting):
            waiting += 16 * 1024
            buffers.added(stalled, 16 * 1024, waiting, 0.0, can_pause=True)
        stalled += 1
    assert stalled > 2 * TOTAL_HIGH // PAUSE_HIGH
    assert buffers.total < TOTAL_HIGH + PAUSE_HIGH


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 2 * CONNECTION_HIGH)), max_size=60))
def test_the_total_is_the_sum_and_empty_buffers_are_never_full(steps: list[tuple[int, int]]):
    buffers: ReceiveBuffers[int] = ReceiveBuffers()
    waiting = dict.fromkeys(range(5), 0)
    for connection, size in steps:
        if waiting[connection] >= size:
            waiting[connection] -= size
            buffers.taken(connection, size, waiting[connection], 0.0)
        else:
            waiting[connection] += size
            buffers.added(connection, size, waiting[connection], 0.0)
        assert buffers.total == sum(waiting.values())
        if any(size > CONNECTION_HIGH for size in waiting.values()):
            assert buffers.full
    for connection, size in waiting.items():
        buffers.removed(connection, size)
    assert not buffers.full
    assert buffers.total == 0
