"""What goes through a tunnel, by service: connections, bytes and rates. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ..library import ConnectionClosed, ConnectionOpened, ConnectionStatus, TunnelEvent

__all__ = ["ServiceTraffic", "TrafficMeter"]

_WINDOW: Final = 3.0
"""Seconds over which a rate is taken."""


@dataclass(frozen=True, slots=True)
class ServiceTraffic:
    """The connections of one service."""

    is_open: int = 0
    """Connections that are open."""
    opened: int = 0
    """Those that have been open so far."""
    sent: int = 0
    """Bytes from clients into the tunnel."""
    received: int = 0
    send_rate: float = 0.0
    """Bytes a second."""
    receive_rate: float = 0.0


class TrafficMeter:
    """Adds up what events and the status of a tunnel tell."""

    def __init__(self, services: Iterable[str]) -> None:
        self._opened = dict.fromkeys(services, 0)
        self._closed = dict.fromkeys(self._opened, (0, 0))
        """Bytes of connections that have ended, sent and received."""
        self._samples: deque[tuple[float, Mapping[str, tuple[int, int]]]] = deque()

    def take(self, event: TunnelEvent) -> None:
        """Take an event."""
        match event:
            case ConnectionOpened(service) if service in self._opened:
                self._opened[service] += 1
            case ConnectionClosed(service_id=service) if service in self._closed:
                sent, received = self._closed[service]
                self._closed[service] = sent + event.bytes_in, received + event.bytes_out
            case _:
                pass

    def sample(
        self, connections: Iterable[ConnectionStatus], now: float
    ) -> dict[str, ServiceTraffic]:
        """Return the traffic of each service.

        Args:
            now: seconds of any clock that never goes back.
        """
        totals = dict(self._closed)
        count = dict.fromkeys(totals, 0)
        for each in connections:
            if each.service_id in totals:
                sent, received = totals[each.service_id]
                totals[each.service_id] = sent + each.bytes_in, received + each.bytes_out
                count[each.service_id] += 1
        self._samples.append((now, totals))
        # One sample that is old enough stays, to compare with.
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        return {
            service: ServiceTraffic(
                count[service],
                self._opened[service],
                *totals[service],
                *(
                    # A connection may have ended of which the event is still to come.
                    max(0, after - earlier) / (now - then) if now > then else 0.0
                    for earlier, after in zip(before[service], totals[service], strict=True)
                ),
            )
            for service in totals
        }
