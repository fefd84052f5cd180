"""Connections, bytes and rates by service."""

from tailrace.library import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionState,
    ConnectionStatus,
    PeerJoined,
)
from tailrace.operator.traffic import ServiceTraffic, TrafficMeter
from tailrace.wire import Side


def connection(service: str, sent: int, received: int) -> ConnectionStatus:
    return ConnectionStatus(service, 1, "", ConnectionState.OPEN, sent, received, 0.0)


def test_open_and_ended_connections_count() -> None:
    meter = TrafficMeter(["SSH", "WEB"])
    for event in (
        PeerJoined(Side.DESTINATION),
        ConnectionOpened("SSH", 1, ""),
        ConnectionOpened("SSH", 2, ""),
        ConnectionOpened("other", 3, ""),
        ConnectionClosed("SSH", 1, "", 100, 1000),
        ConnectionClosed("other", 3, "", 100, 1000),
    ):
        meter.take(event)
    found = meter.sample([connection("SSH", 5, 7), connection("other", 1, 1)], 10.0)
    assert found == {"SSH": ServiceTraffic(1, 2, 105, 1007), "WEB": ServiceTraffic()}


def test_rates_are_those_of_the_last_seconds() -> None:
    meter = TrafficMeter(["SSH"])

    def rates(now: float, sent: int) -> tuple[float, float]:
        found = meter.sample([connection("SSH", sent, 0)], now)["SSH"]
        return found.send_rate, found.receive_rate

    assert rates(10.0, 0) == (0.0, 0.0)
    assert rates(10.0, 500) == (0.0, 0.0)
    assert rates(11.0, 1000) == (1000.0, 0.0)
    assert rates(12.0, 4000) == (2000.0, 0.0)
    # Three seconds and more ago does not count any more.
    assert rates(14.0, 7000) == (2000.0, 0.0)
    assert rates(20.0, 7000)[0] < 1000
    assert rates(30.0, 7000) == (0.0, 0.0)
    # A connection has ended of which nobody was told yet.
    assert meter.sample([], 31.0)["SSH"].send_rate == 0.0
