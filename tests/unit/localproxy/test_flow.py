from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.localproxy.flow import (
    CONNECTION_HIGH,
    CONNECTION_LOW,
    TOTAL_HIGH,
    TOTAL_LOW,
    InboundFlow,
    Parking,
)


def test_a_connection_over_its_mark_pauses_the_link():
    flow: InboundFlow[str] = InboundFlow()
    flow.buffered("a", CONNECTION_HIGH, CONNECTION_HIGH, 1.0)
    assert not flow.paused
    flow.buffered("a", 1, CONNECTION_HIGH + 1, 2.0)
    assert flow.paused
    assert flow.blocked == ["a"]


def test_the_link_goes_on_below_the_low_mark():
    flow: InboundFlow[str] = InboundFlow()
    flow.buffered("a", CONNECTION_HIGH + 1, CONNECTION_HIGH + 1, 0.0)
    flow.taken("a", CONNECTION_HIGH - CONNECTION_LOW, CONNECTION_LOW + 1, 1.0)
    assert flow.paused
    flow.taken("a", 1, CONNECTION_LOW, 2.0)
    assert not flow.paused


def test_all_connections_together_have_a_mark():
    flow: InboundFlow[int] = InboundFlow()
    each = CONNECTION_HIGH // 2
    count = TOTAL_HIGH // each + 1
    for connection in range(count):
        flow.buffered(connection, each, each, 0.0)
    assert flow.blocked == []
    assert flow.paused
    left = count * each
    for connection in range(count):
        flow.removed(connection, each)
        left -= each
        assert flow.paused is (left > TOTAL_LOW)
    assert flow.total == 0


def test_only_a_connection_that_takes_nothing_is_stalled():
    flow: InboundFlow[str] = InboundFlow()
    flow.buffered("stalled", CONNECTION_HIGH + 1, CONNECTION_HIGH + 1, 10.0)
    flow.buffered("slow", CONNECTION_HIGH + 9, CONNECTION_HIGH + 9, 10.0)
    flow.taken("slow", 1, CONNECTION_HIGH + 8, 39.0)
    assert flow.stalled(39.9, 30.0) == []
    assert flow.stalled(40.0, 30.0) == ["stalled"]


def test_the_stall_begins_with_the_pause():
    """Before, a connection that took nothing held up nobody."""
    flow: InboundFlow[str] = InboundFlow()
    flow.buffered("a", 1, 1, 0.0)
    flow.buffered("a", CONNECTION_HIGH, CONNECTION_HIGH + 1, 100.0)
    assert flow.stalled(129.9, 30.0) == []
    assert flow.stalled(130.0, 30.0) == ["a"]


def test_connections_that_are_too_much_together_are_stalled_the_oldest_first():
    flow: InboundFlow[int] = InboundFlow()
    count = TOTAL_HIGH // CONNECTION_HIGH + 1
    for connection in range(count):
        flow.buffered(connection, CONNECTION_HIGH, CONNECTION_HIGH, 50.0 - connection)
    flow.taken(0, 1, CONNECTION_HIGH - 1, 60.0)
    assert flow.paused
    assert flow.blocked == []
    assert flow.stalled(80.0, 30.0) == list(range(count - 1, 0, -1))
    flow.taken(1, CONNECTION_HIGH, 0, 80.0)
    assert 1 not in flow.stalled(80.0, 30.0)


def test_a_removed_connection_blocks_nobody():
    flow: InboundFlow[str] = InboundFlow()
    flow.buffered("a", CONNECTION_HIGH + 1, CONNECTION_HIGH + 1, 0.0)
    flow.removed("a", CONNECTION_HIGH + 1)
    assert not flow.paused
    assert flow.stalled(100.0, 30.0) == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 2 * CONNECTION_HIGH)), max_size=60))
def test_the_total_is_the_sum_and_an_empty_flow_is_never_paused(steps: list[tuple[int, int]]):
    flow: InboundFlow[int] = InboundFlow()
    waiting = dict.fromkeys(range(5), 0)
    for connection, size in steps:
        if waiting[connection] >= size:
            waiting[connection] -= size
            flow.taken(connection, size, waiting[connection], 0.0)
        else:
            waiting[connection] += size
            flow.buffered(connection, size, waiting[connection], 0.0)
        assert flow.total == sum(waiting.values())
        if any(size > CONNECTION_HIGH for size in waiting.values()):
            assert flow.paused
    for connection, size in waiting.items():
        flow.removed(connection, size)
    assert not flow.paused
    assert flow.total == 0


def test_parked_connections_go_on_in_the_order_they_came():
    parking: Parking[str] = Parking()
    parking.closed = True
    for name in "abc":
        parking.park(name)
    parking.forget("b")
    parking.forget("never parked")
    assert parking.release() == ["a", "c"]
    assert not parking.closed
    assert parking.release() == []
