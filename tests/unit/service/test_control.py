"""The control plane: what it changes, whom it tells."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.common.secret import Secret
from tailrace.service.control import ControlPlane
from tailrace.service.errors import TunnelNotFound
from tailrace.service.relay.switchboard import Switchboard
from tailrace.service.tunnels.queries import TunnelQueries
from tailrace.service.tunnels.rules import Destination, RandomIds, Tunnels, TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.store import ConnectionStatus, TunnelRecord, TunnelStatus
from tailrace.wire import Side


class Clock:
    """Time as the test wants it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class ClosingSwitchboard(Switchboard):
    """Notes which tunnels are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: list[tuple[str, str]] = []
        self.disconnected: list[tuple[str, Side, str]] = []

    def disconnect(self, tunnel_id: str, side: Side, reason: str) -> None:
        self.disconnected.append((tunnel_id, side, reason))

    def close_tunnel(self, tunnel_id: str, reason: str) -> None:
        self.closed.append((tunnel_id, reason))


class Announcements:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.announced: list[tuple[TunnelRecord, Secret]] = []
        self.withdrawn: list[str] = []

    def announce(self, tunnel: TunnelRecord, destination_token: Secret) -> None:
        self.announced.append((tunnel, destination_token))

    def withdraw(self, tunnel_id: str) -> None:
        self.withdrawn.append(tunnel_id)


@pytest.fixture
def switchboard() -> ClosingSwitchboard:
    return ClosingSwitchboard()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def control(
    tmp_path: Path, switchboard: ClosingSwitchboard, clock: Clock
) -> Iterator[ControlPlane]:
    store = SqliteStore.open(tmp_path / "db")
    ids = RandomIds()
    yield ControlPlane(Tunnels(store, ids), TunnelQueries(store, "r", "a"), switchboard, ids, clock)
    store.close()


def test_opening_and_closing_reschedule_expiry(
    control: ControlPlane, switchboard: ClosingSwitchboard
) -> None:
    scheduled: list[None] = []
    control.schedule = lambda: scheduled.append(None)
    tunnel_id = control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
    assert len(scheduled) == 1
    control.close_tunnel(tunnel_id, delete=False)
    assert len(scheduled) == 2
    assert switchboard.closed == [(tunnel_id, "The tunnel was closed")]
    assert control.queries.describe(tunnel_id).status is TunnelStatus.CLOSED
    with pytest.raises(TunnelNotFound):
        control.close_tunnel("unknown", delete=True)
    assert len(switchboard.closed) == 1


def test_expiry_closes_and_says_when_to_come_again(
    control: ControlPlane, switchboard: ClosingSwitchboard, clock: Clock
) -> None:
    assert control.expire() is None
    first = control.open_tunnel(TunnelSpec(lifetime_minutes=1)).tunnel.tunnel_id
    control.open_tunnel(TunnelSpec(lifetime_minutes=3))
    assert control.expire() == 1060.0
    clock.now = 1060.0
    assert control.expire() == 1180.0
    assert switchboard.closed == [(first, "The tunnel has expired")]


def test_connections_are_recorded(control: ControlPlane, clock: Clock) -> None:
    opened = control.open_tunnel(TunnelSpec())
    tunnel_id = opened.tunnel.tunnel_id
    assert control.admit(opened.source_token, Side.SOURCE, None).tunnel_id == tunnel_id
    clock.now = 1001.0
    control.connected(tunnel_id, Side.SOURCE)
    state = control.queries.describe(tunnel_id).source
    assert (state.status, state.last_updated_at) == (ConnectionStatus.CONNECTED, 1001.0)
    control.disconnected(tunnel_id, Side.SOURCE)
    assert control.queries.describe(tunnel_id).source.status is ConnectionStatus.DISCONNECTED


def test_things_and_auditors_are_told(control: ControlPlane, clock: Clock) -> None:
    announcements = Announcements()
    control.announcements = announcements
    expired: list[str] = []
    control.expired = expired.append
    first = control.open_tunnel(TunnelSpec(thing_name="lamp", services=("SSH",)))
    second = control.open_tunnel(TunnelSpec(lifetime_minutes=1))
    control.close_tunnel(first.tunnel.tunnel_id, delete=False)
    clock.now += 60
    control.expire()
    assert announcements.announced == [
        (first.tunnel, first.destination_token),
        (second.tunnel, second.destination_token),
    ]
    assert announcements.withdrawn == [first.tunnel.tunnel_id, second.tunnel.tunnel_id]
    assert expired == [second.tunnel.tunnel_id]


def test_ids_differ(control: ControlPlane) -> None:
    assert control.channel_id() != control.channel_id()
    assert control.request_id() != control.request_id()


def test_rotation_disconnects_who_came_with_the_old_token(
    control: ControlPlane, switchboard: ClosingSwitchboard
) -> None:
    tunnel_id = control.open_tunnel(TunnelSpec(services=("A",))).tunnel.tunnel_id
    rotated = control.rotate(tunnel_id, [Side.SOURCE], None)
    assert control.admit(rotated.tokens[Side.SOURCE], Side.SOURCE, None).tunnel_id == tunnel_id
    reason = "The access token was rotated"
    assert switchboard.disconnected == [(tunnel_id, Side.SOURCE, reason)]
    switchboard.disconnected.clear()
    control.rotate(tunnel_id, [Side.DESTINATION], Destination(("B",)))
    assert switchboard.disconnected == [
        (tunnel_id, Side.SOURCE, "The service ids of the tunnel have changed"),
        (tunnel_id, Side.DESTINATION, reason),
    ]


def test_tags(control: ControlPlane) -> None:
    tunnel_id = control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
    control.tag(tunnel_id, {"a": "1", "b": "2"})
    control.untag(tunnel_id, ["a"])
    assert control.queries.describe(tunnel_id).tags == (("b", "2"),)


def test_things_learn_their_new_token(control: ControlPlane) -> None:
    announcements = Announcements()
    control.announcements = announcements
    opened = control.open_tunnel(TunnelSpec(thing_name="thing", services=("A",)))
    tunnel_id = opened.tunnel.tunnel_id
    announcements.announced.clear()
    control.rotate(tunnel_id, [Side.SOURCE], None)
    assert announcements.announced == announcements.withdrawn == []
    rotated = control.rotate(tunnel_id, Side, Destination(("A",), "other"))
    # Not the old one any more, should it be on its way still.
    assert announcements.withdrawn == [tunnel_id]
    assert announcements.announced == [(rotated.tunnel, rotated.tokens[Side.DESTINATION])]
    assert rotated.tunnel.thing_name == "other"


def test_a_thing_that_has_connected_is_told_no_more(control: ControlPlane) -> None:
    """Whatever became of the notification: its token has arrived."""
    announcements = Announcements()
    control.announcements = announcements
    opened = control.open_tunnel(TunnelSpec(thing_name="thing", services=("A",)))
    tunnel_id = opened.tunnel.tunnel_id
    control.connected(tunnel_id, Side.SOURCE)
    assert announcements.withdrawn == []
    control.connected(tunnel_id, Side.DESTINATION)
    assert announcements.withdrawn == [tunnel_id]
