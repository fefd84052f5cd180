from __future__ import annotations

import pytest

from support.plugins.clock import ClockLoop
from support.tunnel.engine import pass_time, turn
from tailrace.flow.scheduler import AHEAD, GRANT, INTERACTIVE_BURST
from tailrace.localproxy.outbound import Outbound
from tailrace.session import MAX_KEPT

MAX_PAYLOAD = 1000


class Sender:
    """A connection that notes its turns, and does what a test says in them."""

    def __init__(self, outbound: Outbound[Sender], left: int = 0) -> None:
        self.bytes_in = 0
        self.turns = 0
        self.left = left
        """Turns after which it has nothing more to send."""
        self._outbound = outbound

    def take_turn(self) -> None:
        self.turns += 1
        self.bytes_in += self._outbound.budget
        self.left -= 1
        if self.left > 0:
            self._outbound.park(self)


@pytest.fixture
def outbound(loop: ClockLoop) -> Outbound[Sender]:
    outbound: Outbound[Sender] = Outbound(loop, MAX_PAYLOAD)
    outbound.attach(lambda _: None)
    turn(loop)
    assert not loop._ready
    return outbound


def test_nothing_can_be_sent_without_a_link(loop: ClockLoop):
    outbound: Outbound[Sender] = Outbound(loop, MAX_PAYLOAD)
    assert outbound.budget == 0
    assert outbound.go_ahead(Sender(outbound)) == 0
    with pytest.raises(AssertionError, match="without a link"):
        outbound.send(memoryview(b"x"))
    sent: list[bytes] = []
    outbound.attach(lambda message: sent.append(bytes(message)))
    assert outbound.budget == MAX_PAYLOAD
    outbound.send(memoryview(b"x"))
    assert sent == [b"x"]
    outbound.detach()
    assert outbound.budget == 0
    assert outbound.go_ahead(Sender(outbound)) == 0
    with pytest.raises(AssertionError, match="without a link"):
        outbound.send(memoryview(b"x"))


def test_those_that_wait_for_the_first_link_are_served(loop: ClockLoop):
    outbound: Outbound[Sender] = Outbound(loop, MAX_PAYLOAD)
    assert len(outbound.block.payload) == MAX_PAYLOAD
    assert outbound.must_wait(0)
    waits = Sender(outbound)
    outbound.park(waits)
    outbound.attach(lambda _: None)
    turn(loop)
    assert waits.turns == 1


def test_a_new_link_has_room_and_those_that_wait_are_served(
    outbound: Outbound[Sender], loop: ClockLoop
):
    outbound.set_link_paused(True)
    outbound.set_window(full=True, quantum=500)
    waits = Sender(outbound)
    outbound.park(waits)
    outbound.detach()
    turn(loop)
    assert waits.turns == 0
    outbound.attach(lambda _: None)
    assert waits.turns == 0
    turn(loop)
    assert waits.turns == 1


def test_the_budget_is_one_turn_of_the_window_and_never_more_than_a_message(
    outbound: Outbound[Sender],
):
    outbound.set_window(full=False, quantum=MAX_PAYLOAD - 1)
    assert outbound.budget == MAX_PAYLOAD - 1
    outbound.set_window(full=False, quantum=MAX_PAYLOAD + 1)
    assert outbound.budget == MAX_PAYLOAD


def test_there_is_no_budget_while_the_link_or_the_window_is_full(outbound: Outbound[Sender]):
    outbound.set_link_paused(True)
    assert outbound.budget == 0
    outbound.set_window(full=True, quantum=500)
    assert outbound.budget == 0
    outbound.set_link_paused(False)
    assert outbound.budget == 0
    outbound.set_window(full=False, quantum=500)
    assert outbound.budget == 500
    outbound.set_window(full=True, quantum=400)
    assert outbound.budget == 0
    outbound.set_window(full=False, quantum=300)
    assert outbound.budget == 300
    outbound.set_link_paused(True)
    outbound.set_link_paused(False)
    assert outbound.budget == 300


def test_one_that_has_sent_little_goes_ahead(outbound: Outbound[Sender], loop: ClockLoop):
    outbound.set_link_paused(True)
    typist, bulk = Sender(outbound), Sender(outbound)
    bulk.bytes_in = 10 * INTERACTIVE_BURST
    assert outbound.go_ahead(typist) == GRANT
    assert outbound.go_ahead(bulk) == 0
    pass_time(loop, 1000.0)
    assert outbound.go_ahead(bulk) == GRANT  # that was long ago


def test_one_has_to_wait_when_it_has_filled_the_link(outbound: Outbound[Sender]):
    assert not outbound.must_wait(MAX_PAYLOAD)
    outbound.set_link_paused(True)
    assert outbound.must_wait(0)


def test_one_with_more_to_send_waits_where_others_do(outbound: Outbound[Sender]):
    outbound.set_window(full=False, quantum=500)
    outbound.park(Sender(outbound))
    assert outbound.must_wait(500)
    assert not outbound.must_wait(499)


def test_one_that_sends_little_is_watched_again_where_others_wait(loop: ClockLoop):
    """It may go ahead then, which one that is parked may not."""
    outbound: Outbound[Sender] = Outbound(loop, 64_512)
    outbound.attach(lambda _: None)
    outbound.park(Sender(outbound))
    assert outbound.must_wait(GRANT)
    assert not outbound.must_wait(GRANT - 1)


@pytest.mark.parametrize("reason", ["link", "window"])
def test_turns_are_given_in_a_turn_of_the_loop_when_the_gate_opens(
    outbound: Outbound[Sender], loop: ClockLoop, reason: str
):
    def fill(full: bool) -> None:
        if reason == "link":
            outbound.set_link_paused(full)
        else:
            outbound.set_window(full, 500)

    fill(True)
    turn(loop)
    first, second = Sender(outbound), Sender(outbound)
    outbound.park(first)
    outbound.park(second)
    fill(False)
    fill(False)
    assert (first.turns, second.turns) == (0, 0)  # the transport may be writing
    turn(loop)
    assert (first.turns, second.turns) == (1, 1)
    fill(True)
    assert not loop._ready
    fill(False)
    turn(loop)
    assert (first.turns, second.turns) == (1, 1)


def test_turns_go_on_for_as_long_as_somebody_waits(outbound: Outbound[Sender], loop: ClockLoop):
    outbound.set_link_paused(True)
    senders = [Sender(outbound, left=3), Sender(outbound, left=5)]
    for sender in senders:
        outbound.park(sender)
    outbound.set_link_paused(False)
    turn(loop, 10)
    assert [sender.turns for sender in senders] == [3, 5]
    assert not loop._ready


def test_turns_end_when_the_link_is_full_and_nothing_is_tried_meanwhile(
    outbound: Outbound[Sender], loop: ClockLoop
):
    class Filler(Sender):
        def take_turn(self) -> None:
            super().take_turn()
            outbound.set_link_paused(True)

    outbound.set_link_paused(True)
    filler, other = Filler(outbound, left=5), Sender(outbound)
    outbound.park(filler)
    outbound.park(other)
    outbound.set_link_paused(False)
    turn(loop, 5)
    assert (filler.turns, other.turns) == (1, 0)
    assert not loop._ready
    outbound.set_link_paused(False)
    turn(loop, 5)
    assert (filler.turns, other.turns) == (2, 1)


def test_one_that_has_left_has_no_turn(outbound: Outbound[Sender], loop: ClockLoop):
    outbound.set_link_paused(True)
    paused, ended, stays = (Sender(outbound) for _ in range(3))
    for sender in (paused, ended, stays):
        outbound.go_ahead(sender)
        outbound.park(sender)
    outbound.unpark(paused)
    outbound.forget(ended)
    assert set(outbound._turns._accounts) == {paused, stays}
    outbound.set_link_paused(False)
    turn(loop)
    assert [sender.turns for sender in (paused, ended, stays)] == [0, 0, 1]


def test_what_goes_ahead_is_bounded_until_the_gate_opens(
    outbound: Outbound[Sender], loop: ClockLoop
):
    outbound.set_link_paused(True)
    granted = [outbound.go_ahead(Sender(outbound)) for _ in range(AHEAD // GRANT + 1)]
    assert sum(granted) == AHEAD
    outbound.set_link_paused(False)
    turn(loop)
    outbound.set_link_paused(True)
    assert outbound.go_ahead(Sender(outbound)) == GRANT


def test_one_that_asks_gets_its_turn_through_an_open_gate(
    outbound: Outbound[Sender], loop: ClockLoop
):
    sender = Sender(outbound)
    outbound.ask_turn(sender)
    assert sender.turns == 0
    turn(loop)
    assert sender.turns == 1
    outbound.set_link_paused(True)
    outbound.ask_turn(sender)
    turn(loop)
    assert sender.turns == 1
    outbound.set_link_paused(False)
    turn(loop)
    assert sender.turns == 2


def test_nothing_is_read_while_as_much_is_kept_as_may_be(
    outbound: Outbound[Sender], loop: ClockLoop
):
    sender = Sender(outbound)
    outbound.memory.count(MAX_KEPT + 1)
    assert outbound.budget == 0
    outbound.park(sender)
    outbound.memory.count(-1)
    turn(loop)
    assert sender.turns == 0
    outbound.memory.count(-MAX_KEPT)
    turn(loop)
    assert sender.turns == 1
    assert outbound.budget == MAX_PAYLOAD


def test_what_has_to_be_sent_again_does_not_wait_for_memory(
    outbound: Outbound[Sender], loop: ClockLoop
):
    """Only what it sends can be acknowledged, and make room."""
    outbound.memory.count(MAX_KEPT + 1)
    assert outbound.budget == 0
    reads, sends_again, forgotten = Sender(outbound), Sender(outbound), Sender(outbound)
    outbound.park(reads)
    for sender in (sends_again, forgotten):
        outbound.ask_turn(sender)
    outbound.unpark(forgotten)
    outbound.forget(forgotten)
    assert outbound.replay_budget == MAX_PAYLOAD
    turn(loop)
    assert (reads.turns, sends_again.turns, forgotten.turns) == (0, 1, 0)
    outbound.set_window(full=True, quantum=500)
    outbound.ask_turn(sends_again)
    turn(loop)
    assert sends_again.turns == 1
    outbound.set_window(full=False, quantum=500)
    assert outbound.replay_budget == 500
    turn(loop)
    assert (reads.turns, sends_again.turns) == (0, 2)
    outbound.memory.count(-MAX_KEPT)
    turn(loop)
    assert reads.turns == 1
