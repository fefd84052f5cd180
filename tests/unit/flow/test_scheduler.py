from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.flow.scheduler import (
    AHEAD,
    GRANT,
    INTERACTIVE_BURST,
    INTERACTIVE_RATE,
    Turns,
)


def test_the_figures_are_those_that_were_measured():
    """A change of them is a change of how keystrokes feel: see docs/about/performance.md."""
    assert (INTERACTIVE_BURST, INTERACTIVE_RATE) == (16_384, 8_192)
    assert (GRANT, AHEAD) == (4_096, 65_536)


def full_link() -> Turns[str]:
    turns: Turns[str] = Turns()
    turns.set_window_full(True)
    return turns


def test_the_link_is_open_when_neither_buffer_nor_window_is_full():
    turns: Turns[str] = Turns()
    assert not turns.closed
    for name in ("link_paused", "window_full"):
        getattr(turns, f"set_{name}")(True)
        assert turns.closed
        getattr(turns, f"set_{name}")(False)
    assert not turns.closed


def test_the_gate_opens_when_the_last_reason_to_close_it_has_gone():
    turns: Turns[str] = Turns()
    assert not turns.set_window_full(False)
    assert not turns.set_link_paused(False)
    assert not turns.closed
    assert not turns.set_link_paused(True)
    assert not turns.set_window_full(True)
    assert not turns.set_link_paused(False)
    assert turns.closed
    assert turns.set_window_full(False)
    assert not turns.closed
    assert not turns.set_window_full(True)
    assert not turns.set_link_paused(True)
    assert not turns.set_window_full(False)
    assert turns.closed
    assert turns.set_link_paused(False)
    assert not turns.set_link_paused(False)


def test_parked_connections_take_turns_in_the_order_they_came():
    turns = full_link()
    for name in "abc":
        turns.park(name)
    turns.forget("b")
    turns.forget("never parked")
    assert list(turns.due()) == []
    turns.set_window_full(False)
    for name in turns.due():
        assert name == "a"
        turns.park(name)
        turns.set_link_paused(True)
    assert list(turns.due()) == []
    turns.set_link_paused(False)
    assert list(turns.due()) == ["c", "a"]
    assert list(turns.due()) == []


def test_those_that_park_again_wait_for_the_next_time():
    turns = full_link()
    for name in "ab":
        turns.park(name)
    turns.set_window_full(False)
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
    turns.set_window_full(False)
    for name in turns.due():
        assert name == "a"
        turns.forget("b")


def test_what_is_little_goes_by_the_quantum():
    for quantum, scale in ((16_384, 1), (8_192, 1), (4_096, 2), (1_024, 8)):
        turns = full_link()
        turns.set_quantum(quantum)
        assert turns.allowance("typist", INTERACTIVE_BURST // scale - 1, 0.0) == GRANT // scale
        assert turns.allowance("typist", INTERACTIVE_BURST // scale, 0.0) == 0
        # One byte more than what a second refills.
        more = INTERACTIVE_RATE // scale
        assert turns.allowance("typist", INTERACTIVE_BURST // scale + more, 1.0) == 0
        assert turns.allowance("typist", INTERACTIVE_BURST // scale + more, 1.5) > 0
        granted = [turns.allowance(f"client {number}", 0, 2.0) for number in range(20)]
        assert sum(granted) == (AHEAD - 2 * GRANT) // scale


def test_one_that_has_sent_little_goes_ahead():
    turns = full_link()
    assert turns.allowance("typist", 0, 0.0) == GRANT
    assert turns.allowance("typist", 64, 0.1) == GRANT
    # It has sent much, but long ago.
    assert turns.allowance("reader", 10 * INTERACTIVE_BURST, 0.0) == 0
    assert turns.allowance("reader", 10 * INTERACTIVE_BURST, 1000.0) == GRANT


def test_little_is_less_than_the_burst():
    turns = full_link()
    assert turns.allowance("new", INTERACTIVE_BURST - 1, 0.0) == GRANT
    assert turns.allowance("idle", 0, 0.0) == GRANT
    assert turns.allowance("idle", INTERACTIVE_BURST - 1, 1000.0) == GRANT


def test_one_that_has_ended_has_no_account():
    turns = full_link()
    turns.allowance("a", INTERACTIVE_BURST, 0.0)
    turns.forget("a")
    assert turns._accounts == {}


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
    turns.set_window_full(False)
    assert list(turns.due()) == []
    turns.set_window_full(True)
    assert turns.allowance("client 100", 0, 0.0) == GRANT


def test_one_that_does_not_want_to_send_any_more_is_not_given_a_turn():
    turns = full_link()
    for name in "abc":
        turns.park(name)
    turns.unpark("b")
    turns.unpark("never parked")
    turns.set_window_full(False)
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
        turns.set_window_full(False)
        for number, sender in enumerate(turns.due(), 1):
            served[sender] += 1
            left[sender] -= 1
            if left[sender]:
                turns.park(sender)
            turns.set_window_full(number == capacity)
        busy = [served[sender] for sender in left if left[sender]]
        if busy:
            assert max(busy) - min(busy) <= 1
    assert list(served.values()) == sizes
