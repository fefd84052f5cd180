"""Records as they are by now, whatever the store has of it."""

from dataclasses import replace

from tailrace.service.tunnels.records import (
    ConnectionState,
    ConnectionStatus,
    TunnelRecord,
    TunnelStatus,
    TunnelSummary,
)
from tailrace.service.tunnels.unstored import Ending, Unstored
from tailrace.wire import Side

OFF = ConnectionState(ConnectionStatus.DISCONNECTED, 100.0)
ON = ConnectionState(ConnectionStatus.CONNECTED, 120.0)
TUNNEL = TunnelRecord("t", TunnelStatus.OPEN, 100.0, 100.0, 160.0, 1, OFF, OFF)


def closed(at: float) -> TunnelRecord:
    return replace(TUNNEL, status=TunnelStatus.CLOSED, last_updated_at=at, closed_at=at)


def test_a_tunnel_is_closed_when_its_lifetime_has_ended() -> None:
    unstored = Unstored()
    assert unstored.current(TUNNEL, 159.9) == TUNNEL
    assert unstored.current(TUNNEL, 160.0) == closed(160.0)
    assert unstored.current(closed(130.0), 170.0) == closed(130.0)


def test_a_tunnel_is_closed_when_that_could_not_be_stored() -> None:
    unstored = Unstored()
    unstored.endings["t"] = Ending(130.0, delete=False)
    unstored.endings["other"] = Ending(130.0, delete=True)
    assert unstored.current(TUNNEL, 140.0) == closed(130.0)
    unstored.endings["t"] = Ending(130.0, delete=True)
    assert unstored.current(TUNNEL, 140.0) is None


def test_a_closed_tunnel_stays_closed_when_the_clock_is_set_back() -> None:
    unstored = Unstored()
    unstored.endings["t"] = Ending(130.0, delete=False)
    assert unstored.current(TUNNEL, 120.0) == closed(130.0)


def test_a_tunnel_that_was_closed_late_has_ended_with_its_lifetime() -> None:
    """As the store has it later."""
    unstored = Unstored()
    unstored.endings["t"] = Ending(165.0, delete=False)
    assert unstored.current(TUNNEL, 170.0) == closed(160.0)


def test_connection_states() -> None:
    unstored = Unstored()
    unstored.connections["t", Side.SOURCE] = ON
    unstored.connections["other", Side.DESTINATION] = ON
    assert unstored.current(TUNNEL, 140.0) == replace(TUNNEL, source=ON)


def test_summaries_say_the_same() -> None:
    unstored = Unstored()
    summary = TunnelSummary(1, "t", TunnelStatus.OPEN, 100.0, 100.0, 160.0, None, None)
    ended = replace(summary, status=TunnelStatus.CLOSED, last_updated_at=160.0)
    assert unstored.current_summary(summary, 159.9) == summary
    assert unstored.current_summary(summary, 160.0) == ended
    unstored.endings["t"] = Ending(130.0, delete=True)
    assert unstored.current_summary(summary, 140.0) is None
