"""The in-process fabric: who hears of whom, and in which order."""

from tailrace.service.relay.switchboard import LocalFabric
from tailrace.wire import Message, Side


class Box:
    """An inbox that writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def deliver(self, run: memoryview, control: Message | None) -> None:
        self.heard.append((bytes(run), control))

    def peer_left(self) -> None:
        self.heard.append("left")

    def peer_stalled(self) -> None:
        self.heard.append("stalled")

    def peer_drained(self) -> None:
        self.heard.append("drained")

    def replaced(self) -> None:
        self.heard.append("replaced")

    def revoked(self, reason: str) -> None:
        self.heard.append(f"revoked: {reason}")

    def tunnel_closed(self, reason: str) -> None:
        self.heard.append(reason)


def test_messages_reach_the_other_side_of_the_same_tunnel_only() -> None:
    fabric = LocalFabric()
    source, destination, stranger = Box(), Box(), Box()
    port = fabric.join("t", Side.SOURCE, source)
    assert not port.peer_present
    port.forward(memoryview(b"lost"), None)
    fabric.join("other", Side.DESTINATION, stranger)
    back = fabric.join("t", Side.DESTINATION, destination)
    assert port.peer_present
    assert back.peer_present
    port.forward(memoryview(b"there"), None)
    back.forward(memoryview(b"back"), None)
    assert destination.heard == [(b"there", None)]
    assert source.heard == [(b"back", None)]
    assert stranger.heard == []


def test_replacing_a_side() -> None:
    fabric = LocalFabric()
    old, new, other = Box(), Box(), Box()
    old_port = fabric.join("t", Side.SOURCE, old)
    other_port = fabric.join("t", Side.DESTINATION, other)
    new_port = fabric.join("t", Side.SOURCE, new)
    assert old.heard == ["replaced"]
    assert other.heard == ["left"]
    old_port.forward(memoryview(b"late"), None)
    old_port.stall()
    old_port.leave()
    assert other.heard == ["left"]
    assert other_port.peer_present
    new_port.forward(memoryview(b"x"), None)
    assert other.heard == ["left", (b"x", None)]


def test_leaving() -> None:
    fabric = LocalFabric()
    source, destination = Box(), Box()
    port = fabric.join("t", Side.SOURCE, source)
    back = fabric.join("t", Side.DESTINATION, destination)
    port.leave()
    port.leave()
    assert destination.heard == ["left"]
    assert source.heard == []
    assert not back.peer_present


def test_stalling_is_undone_when_the_stalled_side_leaves() -> None:
    fabric = LocalFabric()
    source, destination = Box(), Box()
    fabric.join("t", Side.SOURCE, source)
    back = fabric.join("t", Side.DESTINATION, destination)
    back.stall()
    back.leave()
    assert source.heard == ["stalled", "drained", "left"]


def test_a_new_side_learns_that_its_peer_is_stalled() -> None:
    fabric = LocalFabric()
    source, destination = Box(), Box()
    back = fabric.join("t", Side.DESTINATION, destination)
    back.stall()
    fabric.join("t", Side.SOURCE, source)
    assert source.heard == ["stalled"]
    back.drain()
    assert source.heard == ["stalled", "drained"]


def test_closing_a_tunnel() -> None:
    fabric = LocalFabric()
    source, destination = Box(), Box()
    port = fabric.join("t", Side.SOURCE, source)
    fabric.join("t", Side.DESTINATION, destination)
    fabric.close_tunnel("t", "over")
    fabric.close_tunnel("t", "over")
    assert source.heard == ["over"]
    assert destination.heard == ["over"]
    port.leave()
    assert destination.heard == ["over"]
    fresh = Box()
    assert not fabric.join("t", Side.SOURCE, fresh).peer_present


def test_turning_one_side_out() -> None:
    fabric = LocalFabric()
    source, destination = Box(), Box()
    port = fabric.join("t", Side.SOURCE, source)
    fabric.join("t", Side.DESTINATION, destination)
    port.stall()
    fabric.disconnect("t", Side.SOURCE, "why")
    assert source.heard == ["revoked: why"]
    assert destination.heard == ["stalled", "drained", "left"]
    assert not port.peer_present
    fabric.disconnect("t", Side.SOURCE, "nobody there")
    assert len(source.heard) == 1
    # The place is free again.
    fabric.join("t", Side.SOURCE, Box())
    assert source.heard == ["revoked: why"]
