"""When to ping and when a link is dead. Pure, with the time as an argument.

A TCP connection whose other end has vanished (power off, a NAT that forgot it) looks as one that
is silent. So something is sent once in a period: a WebSocket ping (RFC 6455 section 5.5.2), which
also keeps middleboxes from forgetting the connection. What proves that the other end is there is
any byte at all. A missing pong alone proves nothing, as the guide allows the service to ignore
pings; three periods without a single byte mean that it is gone.

There are two deadlines, the next ping and the end of patience. :meth:`Heartbeat.next_deadline`
returns the earlier one. A byte that comes in moves the second one on, of which the heartbeat hears
only at the next deadline: nothing is called for each frame, and a deadline may find nothing to do.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..errors import ConfigurationError

__all__ = ["Heartbeat", "HeartbeatAction"]

_SILENT_PERIODS: Final = 3


class HeartbeatAction(Enum):
    """What to do at a deadline."""

    PING = "ping"
    """Send a ping."""
    DEAD = "dead"
    """Nothing came in for three periods: drop the link."""
    WAIT = "wait"
    """Nothing, until the next deadline."""


class Heartbeat:
    """The pings of one link; times in seconds of one monotonic clock.

    Raises:
        ConfigurationError: ``period`` is not positive.
    """

    __slots__ = ("_last_received", "_next_ping", "_period")

    def __init__(self, period: float, now: float) -> None:
        if not period > 0:
            raise ConfigurationError(f"ping period {period} is not positive")
        self._period = period
        self._next_ping = now
        self._last_received = now

    @property
    def patience(self) -> float:
        """Seconds of silence after which the link counts as dead."""
        return self._period * _SILENT_PERIODS

    def next_deadline(self) -> float:
        """Return when :meth:`on_deadline` has to be called next."""
        return min(self._next_ping, self._last_received + self.patience)

    def on_deadline(self, now: float, last_received: float) -> HeartbeatAction:
        """Return what to do; ``last_received`` is when the last bytes of any kind came in."""
        self._last_received = max(self._last_received, last_received)
        if now >= self._last_received + self.patience:
            return HeartbeatAction.DEAD
        if now < self._next_ping:
            return HeartbeatAction.WAIT
        # From now, not from the last deadline: after a suspended machine woke up, one ping
        # is due and not a burst of them.
        self._next_ping = now + self._period
        return HeartbeatAction.PING
