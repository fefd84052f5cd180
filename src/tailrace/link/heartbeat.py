"""When to ping and when to give a link up; pure, with the time as an argument."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Final

from ..errors import ConfigurationError

__all__ = ["Heartbeat", "HeartbeatAction"]

_SILENT_PERIODS: Final = 3
_OUTSTANDING: Final = 8


class HeartbeatAction(Enum):
    """What to do at a deadline."""

    PING = "ping"
    """Send a ping now and report it with :meth:`Heartbeat.ping_sent`."""
    DEAD = "dead"
    """Nothing came in for three periods: drop the link."""
    WAIT = "wait"
    """Nothing, until the next deadline."""


class Heartbeat:
    """The pings of one link; times in seconds.

    Deadlines and round trips may be told by different monotonic clocks: a loop's own is good
    for timers, but uvloop's counts whole milliseconds only.

    A missing pong alone proves nothing (the guide lets the service ignore pings), but three
    periods without a single byte do.
    """

    __slots__ = ("_last_received", "_next_ping", "_outstanding", "_period")

    def __init__(self, period: float, now: float) -> None:
        if not period > 0:
            raise ConfigurationError(f"ping period {period} is not positive")
        self._period = period
        self._next_ping = now
        self._last_received = now
        self._outstanding: OrderedDict[bytes, float] = OrderedDict()

    @property
    def patience(self) -> float:
        """Seconds of silence after which the link counts as dead."""
        return self._period * _SILENT_PERIODS

    def next_deadline(self) -> float:
        """Return when :meth:`on_deadline` wants to be called next."""
        return min(self._next_ping, self._last_received + self.patience)

    def on_deadline(self, now: float, last_received: float) -> HeartbeatAction:
        """Decide; ``last_received`` is when the last bytes of any kind came in."""
        self._last_received = max(self._last_received, last_received)
        if now >= self._last_received + self.patience:
            return HeartbeatAction.DEAD
        if now < self._next_ping:
            return HeartbeatAction.WAIT
        # From now, not from the last deadline: after a suspended machine woke up, one ping
        # is due and not a burst of them.
        self._next_ping = now + self._period
        return HeartbeatAction.PING

    def ping_sent(self, payload: bytes, now: float) -> None:
        """Remember a ping, so that its pong can be timed."""
        self._outstanding[payload] = now
        self._outstanding.move_to_end(payload)
        while len(self._outstanding) > _OUTSTANDING:
            self._outstanding.popitem(last=False)

    def pong_received(self, payload: bytes, now: float) -> float | None:
        """Return the round-trip time, or ``None`` for a pong no outstanding ping asked for.

        A pong answers all earlier pings too (RFC 6455 section 5.5.3).
        """
        sent = self._outstanding.get(payload)
        if sent is None:
            return None
        while payload in self._outstanding:
            self._outstanding.popitem(last=False)
        return now - sent
