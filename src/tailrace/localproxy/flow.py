"""Who slows whom: the high-water marks between local sockets and the link.

The protocol has no window for a single stream. Towards the tunnel, a full link parks
the local sockets that want to send. From the tunnel, a local socket that does not
take its data stops the reading of the whole link, which loses nothing; if it takes
nothing at all for ``stall_timeout`` while others wait behind it, it alone is given up.

Pure bookkeeping: no sockets, no clock.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

__all__ = ["CONNECTION_HIGH", "CONNECTION_LOW", "TOTAL_HIGH", "TOTAL_LOW", "InboundFlow", "Parking"]

CONNECTION_HIGH: Final = 1024 * 1024
"""Bytes one connection may have waiting for its local socket before the link stops."""
CONNECTION_LOW: Final = 256 * 1024
TOTAL_HIGH: Final = 16 * 1024 * 1024
"""Bytes all connections together may have waiting."""
TOTAL_LOW: Final = 8 * 1024 * 1024

C = TypeVar("C")


class InboundFlow(Generic[C]):
    """Tunnel to sockets: decides when the link may be read."""

    def __init__(self) -> None:
        self.total = 0
        """Bytes waiting for local sockets, all connections."""
        self._waiting_since: dict[C, float] = {}
        self._paused_since = 0.0
        self._blocked: set[C] = set()
        self._over_total = False

    @property
    def paused(self) -> bool:
        """Whether the link must not be read."""
        return bool(self._blocked) or self._over_total

    @property
    def blocked(self) -> list[C]:
        """The connections over their mark."""
        return list(self._blocked)

    def buffered(self, connection: C, size: int, waiting: int, now: float) -> None:
        """Note that ``size`` more bytes wait, ``waiting`` in all, for this connection."""
        self.total += size
        self._waiting_since.setdefault(connection, now)
        over_own, over_total = waiting > CONNECTION_HIGH, self.total > TOTAL_HIGH
        if (over_own or over_total) and not self.paused:
            self._paused_since = now
        if over_own:
            self._blocked.add(connection)
        if over_total:
            self._over_total = True

    def taken(self, connection: C, size: int, waiting: int, now: float) -> None:
        """Note that the local socket took ``size`` of its waiting bytes."""
        self.total -= size
        if waiting:
            self._waiting_since[connection] = now
        else:
            del self._waiting_since[connection]
        if waiting <= CONNECTION_LOW:
            self._blocked.discard(connection)
        if self.total <= TOTAL_LOW:
            self._over_total = False

    def removed(self, connection: C, waiting: int) -> None:
        """Forget a connection and the bytes that waited for it."""
        self.total -= waiting
        self._waiting_since.pop(connection, None)
        self._blocked.discard(connection)
        if self.total <= TOTAL_LOW:
            self._over_total = False

    def stalled(self, now: float, timeout: float) -> list[C]:
        """Return those that have paused the link for ``timeout`` seconds and taken nothing.

        The longest stalled come first. Where all together have paused it, it may go on
        before the last of them is given up.
        """
        if now - self._paused_since < timeout:
            return []
        suspects = self._waiting_since if self._over_total else self._blocked
        found = [c for c in suspects if now - self._waiting_since[c] >= timeout]
        return sorted(found, key=self._waiting_since.__getitem__)


class Parking(Generic[C]):
    """Sockets to tunnel: connections that wait for the link, in the order they came.

    Connections are parked one by one as they become readable, so that the cost of a
    pause depends on how many are active and not on how many there are; they are let go
    in the same order, so that bulk senders take turns.
    """

    def __init__(self) -> None:
        self.closed = False
        """Whether the link is full: connections that want to send must park."""
        self._parked: deque[C] = deque()

    def park(self, connection: C) -> None:
        """Add a connection that has stopped reading its socket."""
        self._parked.append(connection)

    def forget(self, connection: C) -> None:
        """Remove a connection that has ended, if it is parked."""
        if connection in self._parked:
            self._parked.remove(connection)

    def release(self) -> list[C]:
        """Open the gate; return those that were parked, first come first."""
        self.closed = False
        released = list(self._parked)
        self._parked.clear()
        return released
