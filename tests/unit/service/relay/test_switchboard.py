"""The switchboard: who hears of whom, and in which order."""

from tailrace.service.relay.switchboard import Switchboard
from tailrace.wire import FLOW, NO_CAPABILITIES, Capabilities, Message, Side

LATER = 1e9
"""When tunnels end that are not to end here."""


class Box:
    """An inbox that writes down what it is told."""

    def __init__(self, capabilities: Capabilities = NO_CAPABILITIES) -> None:
        self.heard: list[object] = []
        self.capabilities = capabilities
        self.joined = 0
        """How often it was told that the other side has connected."""

    def deliver(self, messages: memoryview, control: Message | None) -> None:
        self.heard.append((bytes(messages), control))

    def peer_joined(self) -> None:
        self.joined += 1

    def peer_left(self) -> None:
        self.heard.append("left")

    def peer_blocked(self) -> None:
        self.heard.append("blocked")

    def peer_unblocked(self) -> None:
        self.heard.append("unblocked")

    def replaced(self) -> None:
        self.heard.append("replaced")

    def revoked(self, reason: str) -> None:
        self.heard.append(f"revoked: {reason}")

    def tunnel_closed(self, reason: str) -> None:
        self.heard.append(reason)


def test_messages_reach_the_other_side_of_the_same_tunnel_only() -> None:
    switchboard = Switchboard()
    source, destination, stranger = Box(), Box(), Box()
    attachment = switchboard.join("t", Side.SOURCE, source, LATER)
    assert not attachment.peer_present
    attachment.forward(memoryview(b"lost"), None)
    switchboard.join("other", Side.DESTINATION, stranger, LATER)
    back = switchboard.join("t", Side.DESTINATION, destination, LATER)
    assert attachment.peer_present
    assert back.peer_present
    attachment.forward(memoryview(b"there"), None)
    back.forward(memoryview(b"back"), None)
    assert destination.heard == [(b"there", None)]
    assert source.heard == [(b"back", None)]
    assert stranger.heard == []


def test_replacing_a_side() -> None:
    switchboard = Switchboard()
    old, new, other = Box(), Box(), Box()
    old_attachment = switchboard.join("t", Side.SOURCE, old, LATER)
    other_attachment = switchboard.join("t", Side.DESTINATION, other, LATER)
    new_attachment = switchboard.join("t", Side.SOURCE, new, LATER)
    assert old.heard == ["replaced"]
    assert other.heard == ["left"]
    old_attachment.forward(memoryview(b"late"), None)
    old_attachment.block_peer()
    old_attachment.leave()
    assert other.heard == ["left"]
    assert other_attachment.peer_present
    new_attachment.forward(memoryview(b"x"), None)
    assert other.heard == ["left", (b"x", None)]


def test_one_that_was_there_before_learns_who_joins() -> None:
    switchboard = Switchboard()
    source, destination = Box(FLOW), Box()
    attachment = switchboard.join("t", Side.SOURCE, source, LATER)
    assert attachment.peer_capabilities == NO_CAPABILITIES
    back = switchboard.join("t", Side.DESTINATION, destination, LATER)
    assert (source.joined, destination.joined) == (1, 0)
    assert attachment.peer_capabilities == NO_CAPABILITIES
    assert back.peer_capabilities == FLOW
    switchboard.join("t", Side.DESTINATION, Box(FLOW), LATER)
    assert source.joined == 2
    assert attachment.peer_capabilities == FLOW


def test_leaving() -> None:
    switchboard = Switchboard()
    source, destination = Box(), Box()
    attachment = switchboard.join("t", Side.SOURCE, source, LATER)
    back = switchboard.join("t", Side.DESTINATION, destination, LATER)
    attachment.leave()
    attachment.leave()
    assert destination.heard == ["left"]
    assert source.heard == []
    assert not back.peer_present


def test_blocking_is_undone_when_the_blocked_side_leaves() -> None:
    switchboard = Switchboard()
    source, destination = Box(), Box()
    switchboard.join("t", Side.SOURCE, source, LATER)
    back = switchboard.join("t", Side.DESTINATION, destination, LATER)
    back.block_peer()
    back.leave()
    assert source.heard == ["blocked", "unblocked", "left"]


def test_a_new_side_learns_that_its_peer_is_blocked() -> None:
    switchboard = Switchboard()
    source, destination = Box(), Box()
    back = switchboard.join("t", Side.DESTINATION, destination, LATER)
    back.block_peer()
    switchboard.join("t", Side.SOURCE, source, LATER)
    assert source.heard == ["blocked"]
    back.unblock_peer()
    assert source.heard == ["blocked", "unblocked"]
    # It has been undone, for this peer and for the next one.
    fresh = Box()
    switchboard.join("t", Side.SOURCE, fresh, LATER)
    assert fresh.heard == []
    back.leave()
    assert fresh.heard == ["left"]


def test_closing_a_tunnel() -> None:
    switchboard = Switchboard()
    source, destination = Box(), Box()
    attachment = switchboard.join("t", Side.SOURCE, source, LATER)
    switchboard.join("t", Side.DESTINATION, destination, LATER)
    switchboard.close_tunnel("t", "over")
    switchboard.close_tunnel("t", "over")
    assert source.heard == ["over"]
    assert destination.heard == ["over"]
    attachment.leave()
    assert destination.heard == ["over"]
    fresh = Box()
    assert not switchboard.join("t", Side.SOURCE, fresh, LATER).peer_present


def test_disconnecting_one_side() -> None:
    switchboard = Switchboard()
    source, destination = Box(), Box()
    attachment = switchboard.join("t", Side.SOURCE, source, LATER)
    switchboard.join("t", Side.DESTINATION, destination, LATER)
    attachment.block_peer()
    switchboard.disconnect("t", Side.SOURCE, "why")
    assert source.heard == ["revoked: why"]
    assert destination.heard == ["blocked", "unblocked", "left"]
    assert not attachment.peer_present
    switchboard.disconnect("t", Side.SOURCE, "nobody there")
    assert len(source.heard) == 1
    # The place is free again.
    switchboard.join("t", Side.SOURCE, Box(), LATER)
    assert source.heard == ["revoked: why"]


def test_tunnels_are_due_once_in_the_order_of_their_ends() -> None:
    switchboard = Switchboard()
    assert switchboard.next_expiry is None
    for tunnel_id, expires_at in (("late", 30.0), ("soon", 10.0), ("then", 20.0)):
        switchboard.join(tunnel_id, Side.SOURCE, Box(), expires_at)
    # One that comes back is not due twice.
    switchboard.join("soon", Side.SOURCE, Box(), 10.0).leave()
    switchboard.join("soon", Side.DESTINATION, Box(), 10.0)
    assert switchboard.next_expiry == 10.0
    assert switchboard.take_expired(9.9, 5) == []
    assert switchboard.take_expired(25.0, 1) == ["soon"]
    assert switchboard.take_expired(25.0, 5) == ["then"]
    assert switchboard.next_expiry == 30.0
    # The clock was set back: it is due again.
    switchboard.join("soon", Side.SOURCE, Box(), 10.0)
    assert switchboard.take_expired(10.0, 5) == ["soon"]


def test_connected_tunnels() -> None:
    switchboard = Switchboard()
    attachment = switchboard.join("t", Side.DESTINATION, Box(), LATER)
    switchboard.join("t", Side.SOURCE, Box(), LATER)
    switchboard.join("other", Side.SOURCE, Box(), LATER)
    assert switchboard.connected_tunnels() == {"t", "other"}
    attachment.leave()
    assert switchboard.is_connected("t")
    assert not switchboard.is_connected("unknown")
    switchboard.close_tunnel("t", "")
    assert switchboard.connected_tunnels() == {"other"}


def test_tunnels_that_come_and_go_do_not_pile_up() -> None:
    switchboard = Switchboard()
    switchboard.join("kept", Side.SOURCE, Box(), 10.0)
    for number in range(5000):
        switchboard.join(f"t{number}", Side.SOURCE, Box(), 20.0).leave()
        assert len(switchboard._by_expiry) == len(switchboard._expiries) <= 1010
    assert switchboard.take_expired(10.0, 5) == ["kept"]
    # One that comes back is due all the same.
    switchboard.join("t0", Side.SOURCE, Box(), 15.0)
    assert switchboard.take_expired(15.0, 5) == ["t0"]
