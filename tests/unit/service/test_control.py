"""The control plane: what it changes, and who is told."""

from typing import Any

import pytest

from tailrace.service.errors import TunnelNotFound
from tailrace.service.tunnels.records import ConnectionStatus, TunnelStatus
from tailrace.service.tunnels.rules import Destination, Owner, TunnelSpec
from tailrace.wire import Side


def test_opening_and_closing_reschedule_expiry(plane: Any) -> None:
    control = plane.control
    tunnel_id = control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
    assert plane.rescheduled == 1
    control.close_tunnel(tunnel_id, delete=False)
    assert plane.rescheduled == 2
    assert plane.switchboard.closed == [(tunnel_id, "The tunnel was closed")]
    closed = control.queries.describe(tunnel_id)
    assert (closed.status, closed.closed_at) == (TunnelStatus.CLOSED, 1000.0)
    with pytest.raises(TunnelNotFound):
        control.close_tunnel("unknown", delete=True)
    assert len(plane.switchboard.closed) == 1
    control.close_tunnel(tunnel_id, delete=True)
    with pytest.raises(TunnelNotFound):
        control.queries.describe(tunnel_id)


def test_connections_are_recorded(plane: Any) -> None:
    control = plane.control
    opened = control.open_tunnel(TunnelSpec())
    tunnel_id = opened.tunnel.tunnel_id
    assert control.admit(opened.source_token, Side.SOURCE, None).tunnel_id == tunnel_id
    plane.now = 1001.0
    control.connected(tunnel_id, Side.SOURCE)
    state = control.queries.describe(tunnel_id).source
    assert (state.status, state.last_updated_at) == (ConnectionStatus.CONNECTED, 1001.0)
    control.disconnected(tunnel_id, Side.SOURCE)
    assert control.queries.describe(tunnel_id).source.status is ConnectionStatus.DISCONNECTED


def test_things_are_told(plane: Any) -> None:
    control, announcer = plane.control, plane.announcer
    first = control.open_tunnel(TunnelSpec(thing_name="lamp", services=("SSH",)))
    second = control.open_tunnel(TunnelSpec())
    control.close_tunnel(first.tunnel.tunnel_id, delete=False)
    assert announcer.announced == [
        (first.tunnel, first.destination_token),
        (second.tunnel, second.destination_token),
    ]
    assert announcer.withdrawn == [first.tunnel.tunnel_id]


def test_ids_differ(plane: Any) -> None:
    assert plane.control.channel_id() != plane.control.channel_id()
    assert plane.control.request_id() != plane.control.request_id()


def test_rotation_disconnects_links_with_the_old_token(plane: Any) -> None:
    control, switchboard = plane.control, plane.switchboard
    tunnel_id = control.open_tunnel(TunnelSpec(services=("A",))).tunnel.tunnel_id
    plane.now = 1001.0
    rotated = control.rotate(tunnel_id, [Side.SOURCE], None, Owner())
    assert rotated.tunnel.last_updated_at == 1001.0
    assert control.admit(rotated.tokens[Side.SOURCE], Side.SOURCE, None).tunnel_id == tunnel_id
    reason = "The access token was rotated"
    assert switchboard.disconnected == [(tunnel_id, Side.SOURCE, reason)]
    switchboard.disconnected.clear()
    control.rotate(tunnel_id, [Side.DESTINATION], Destination(("B",)), Owner())
    assert switchboard.disconnected == [
        (tunnel_id, Side.SOURCE, "The service ids of the tunnel have changed"),
        (tunnel_id, Side.DESTINATION, reason),
    ]


def test_tags(plane: Any) -> None:
    tunnel_id = plane.control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
    plane.control.tag(tunnel_id, {"a": "1", "b": "2"}, Owner())
    plane.control.untag(tunnel_id, ["a"])
    assert plane.queries.tags(tunnel_id) == (("b", "2"),)


def test_things_learn_their_new_token(plane: Any) -> None:
    control, announcer = plane.control, plane.announcer
    opened = control.open_tunnel(TunnelSpec(thing_name="thing", services=("A",)))
    tunnel_id = opened.tunnel.tunnel_id
    announcer.announced.clear()
    control.rotate(tunnel_id, [Side.SOURCE], None, Owner())
    assert announcer.announced == announcer.withdrawn == []
    rotated = control.rotate(tunnel_id, Side, Destination(("A",), "other"), Owner())
    # Nor the old one, should it not be delivered yet.
    assert announcer.withdrawn == [tunnel_id]
    assert announcer.announced == [(rotated.tunnel, rotated.tokens[Side.DESTINATION])]
    assert rotated.tunnel.thing_name == "other"


def test_a_thing_that_has_connected_is_told_no_more(plane: Any) -> None:
    """However the notification fared: its token has arrived."""
    opened = plane.control.open_tunnel(TunnelSpec(thing_name="thing", services=("A",)))
    tunnel_id = opened.tunnel.tunnel_id
    plane.control.connected(tunnel_id, Side.SOURCE)
    assert plane.announcer.withdrawn == []
    plane.control.connected(tunnel_id, Side.DESTINATION)
    assert plane.announcer.withdrawn == [tunnel_id]
