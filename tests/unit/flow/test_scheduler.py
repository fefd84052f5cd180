from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.flow.scheduler import (
    AHEAD,
    CONNECTION_HIGH,
    CONNECTION_LOW,
    GRANT,
    INTERACTIVE_BURST,
    INTERACTIVE_RATE,
    PAUSE_HIGH,
    PAUSE_HIGH_CROWDED,
    PAUSE_LOW,
    TOTAL_HIGH,
    TOTAL_LOW,
    InboundFlow,
    Turns,
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


def test_a_connection_whose_peer_can_pause_has_no_mark_of_its_own():
    flow: InboundFlow[str] = InboundFlow()
    flow.buffered("a", TOTAL_HIGH, TOTAL_HIGH, 0.0, can_pause=True)
    assert not flow.paused
    flow.buffered("a", 1, TOTAL_HIGH + 1, 0.0, can_pause=True)
    assert flow.paused
    assert flow.blocked == []
    assert flow.stalled(30.0, 30.0) == ["a"]


def test_a_peer_is_paused_long_before_the_link_stops():
    flow: InboundFlow[str] = InboundFlow()
    assert not flow.wants_pause(PAUSE_HIGH)
    assert flow.wants_pause(PAUSE_HIGH + 1)
    assert PAUSE_LOW < PAUSE_HIGH_CROWDED < PAUSE_HIGH < CONNECTION_HIGH


def test_many_stalled_connections_get_less_room_each():
    flow: InboundFlow[int] = InboundFlow()
    stalled = 0
    while not flow.paused:
        waiting = 0
        while not flow.wants_pause(waiting):
            waiting += 16 * 1024
            flow.buffered(stalled, 16 * 1024, waiting, 0.0, can_pause=True)
        stalled += 1
    assert stalled > 2 * TOTAL_HIGH // PAUSE_HIGH
    assert flow.total < TOTAL_HIGH + PAUSE_HIGH


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


def full_link() -> Turns[str]:
    turns: Turns[str] = Turns()
    turns.window_full = True
    return turns


def test_the_link_is_open_when_neither_buffer_nor_window_is_full():
    turns: Turns[str] = Turns()
    assert not turns.closed
    for name in ("link_paused", "window_full"):
        setattr(turns, name, True)
        assert turns.closed
        setattr(turns, name, False)
    assert not turns.closed


def test_parked_connections_take_turns_in_the_order_they_came():
    turns = full_link()
    for name in "abc":
        turns.park(name)
    turns.forget("b")
    turns.forget("never parked")
    assert list(turns.due()) == []
    turns.window_full = False
    for name in turns.due():
        assert name == "a"
        turns.park(name)
        turns.link_paused = True
    assert list(turns.due()) == []
    turns.link_paused = False
    assert list(turns.due()) == ["c", "a"]
    assert list(turns.due()) == []


def test_those_that_park_again_wait_for_the_next_time():
    turns = full_link()
    for name in "ab":
        turns.park(name)
    turns.window_full = False
    taken = []
    for name in turns.due():
        taken.append(name)
        turns.park(name)
    assert taken == ["a", "b"]
    assert list(turns.due()) == ["a", "b"]


def test_one_that_ends_while_others_take_their_turns():
    turns = full_link()
    for name in "ab":
        turns.park(name)
    turns.window_full = False
    for name in turns.due():
        assert name == "a"
        turns.forget("b")


def test_one_that_has_sent_little_goes_ahead():
    turns = full_link()
    assert turns.allowance("typist", 0, 0.0) == GRANT
    assert turns.allowance("typist", 64, 0.1) == GRANT
    # It has sent much, but long ago.
    assert turns.allowance("reader", 10 * INTERACTIVE_BURST, 0.0) == 0
    assert turns.allowance("reader", 10 * INTERACTIVE_BURST, 1000.0) == GRANT


def test_one_that_has_sent_much_waits():
    turns = full_link()
    assert turns.allowance("bulk", INTERACTIVE_BURST, 5.0) == 0
    # What it sent while the link was open counts too.
    assert turns.allowance("later", 0, 0.0) == GRANT
    assert turns.allowance("later", INTERACTIVE_BURST + INTERACTIVE_RATE, 0.5) == 0


def test_a_rate_above_that_of_a_person_is_bulk_in_the_end():
    turns = full_link()
    seconds = 0
    while turns.allowance("steady", int(1.5 * INTERACTIVE_RATE * seconds), float(seconds)):
        seconds += 1
    assert seconds == 2


def test_silence_is_no_credit_beyond_the_burst():
    turns = full_link()
    assert turns.allowance("quiet", 0, 0.0) == GRANT
    assert turns.allowance("quiet", 0, 10_000.0) == GRANT
    assert turns.allowance("quiet", INTERACTIVE_BURST, 10_000.1) == 0


def test_those_that_go_ahead_are_bounded_together():
    turns = full_link()
    granted = [turns.allowance(f"client {number}", 0, 0.0) for number in range(100)]
    assert sum(granted) == AHEAD
    assert list(turns.due()) == []
    assert turns.allowance("client 100", 0, 0.0) == 0
    turns.window_full = False
    assert list(turns.due()) == []
    turns.window_full = True
    assert turns.allowance("client 100", 0, 0.0) == GRANT


def test_one_that_does_not_want_to_send_any_more_is_not_given_a_turn():
    turns = full_link()
    for name in "abc":
        turns.park(name)
    turns.unpark("b")
    turns.unpark("never parked")
    turns.window_full = False
    assert list(turns.due()) == ["a", "c"]


@given(
    sizes=st.lists(st.integers(1, 100), min_size=2, max_size=8),
    capacity=st.integers(1, 5),
)
def test_bulk_senders_get_equal_shares(sizes: list[int], capacity: int):
    """Each has data for so many turns; the link takes ``capacity`` turns at a time."""
    turns: Turns[int] = Turns()
    left = dict(enumerate(sizes))
    served = dict.fromkeys(left, 0)
    for sender in left:
        turns.park(sender)
    while any(left.values()):
        turns.window_full = False
        for number, sender in enumerate(turns.due(), 1):
            served[sender] += 1
            left[sender] -= 1
            if left[sender]:
                turns.park(sender)
            turns.window_full = number == capacity
        busy = [served[sender] for sender in left if left[sender]]
        if busy:
            assert max(busy) - min(busy) <= 1
    assert list(served.values()) == sizes
