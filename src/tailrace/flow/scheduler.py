"""Who slows whom: the high-water marks between local sockets and the link.

The protocol has no window for a single stream. Towards the tunnel, a full link parks
the local sockets that want to send, except for those that send little. From the tunnel,
a local socket that does not take its data has the peer asked to pause the connection,
where the peer understands that (docs/flow-messages.md): it holds up nobody. Where it does not,
or where all together are too much, the reading of the whole link stops, which loses nothing;
if a connection takes nothing at all for ``stall_timeout`` while others wait behind it, it
alone is given up.

Pure bookkeeping: no sockets, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

__all__ = [
    "AHEAD",
    "CONNECTION_HIGH",
    "CONNECTION_LOW",
    "GRANT",
    "INTERACTIVE_BURST",
    "INTERACTIVE_RATE",
    "PAUSE_HIGH",
    "PAUSE_HIGH_CROWDED",
    "PAUSE_LOW",
    "TOTAL_CROWDED",
    "TOTAL_HIGH",
    "TOTAL_LOW",
    "InboundFlow",
    "Turns",
]

CONNECTION_HIGH: Final = 1024 * 1024
"""Bytes one connection may have waiting for its local socket before the link stops, when its
peer cannot be asked to pause."""
CONNECTION_LOW: Final = 256 * 1024
TOTAL_HIGH: Final = 24 * 1024 * 1024
"""Bytes all connections together may have waiting: room for what is on its way to a connection
when its peer is asked to pause."""
TOTAL_LOW: Final = 12 * 1024 * 1024

PAUSE_HIGH: Final = 256 * 1024
"""Bytes waiting for one connection at which its peer is asked to pause."""
PAUSE_LOW: Final = 32 * 1024
"""Bytes at which the peer is asked to go on: the socket still holds more."""
TOTAL_CROWDED: Final = 4 * 1024 * 1024
"""Bytes all connections together have waiting when :data:`PAUSE_HIGH` becomes less."""
PAUSE_HIGH_CROWDED: Final = 64 * 1024

INTERACTIVE_BURST: Final = 16 * 1024
INTERACTIVE_RATE: Final = 8 * 1024
"""What an interactive connection sends at most: bytes at once, and bytes a second."""
GRANT: Final = 4096
"""Bytes with which an interactive connection may go ahead at a time."""
AHEAD: Final = 16 * GRANT
"""Bytes that may go ahead, of all connections together, before the link is open again."""

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

    def wants_pause(self, waiting: int) -> bool:
        """Tell whether ``waiting`` bytes of one connection are reason to pause its peer."""
        crowded = self.total > TOTAL_CROWDED
        return waiting > (PAUSE_HIGH_CROWDED if crowded else PAUSE_HIGH)

    def buffered(
        self, connection: C, size: int, waiting: int, now: float, *, can_pause: bool = False
    ) -> None:
        """Note that ``size`` more bytes wait, ``waiting`` in all, for this connection.

        One that ``can_pause`` has no mark of its own.
        """
        self.total += size
        self._waiting_since.setdefault(connection, now)
        over_own = waiting > CONNECTION_HIGH and not can_pause
        over_total = self.total > TOTAL_HIGH
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


@dataclass(slots=True)
class _Account:
    """What a connection has sent of late, as far as it was looked at."""

    seen: int
    debt: float
    time: float


class Turns(Generic[C]):
    """Sockets to tunnel: who may send now, and whose turn comes next.

    While the link is full, connections that want to send are parked, in the order in
    which they came, and take turns when it goes on. So the cost of a pause depends on how
    many are active and not on how many there are. One that has sent little of late is
    interactive: it may go ahead with the little it has, in bounds, because its few bytes
    fill nothing and somebody waits for the answer.
    """

    def __init__(self) -> None:
        self.link_paused = False
        """Whether the link's write buffer is over its mark."""
        self.window_full = False
        """Whether as much is on its way as may be."""
        self._parked: deque[C] = deque()
        self._accounts: dict[C, _Account] = {}
        self._ahead = 0

    @property
    def closed(self) -> bool:
        """Whether bulk data has to wait."""
        return self.link_paused or self.window_full

    @property
    def contended(self) -> bool:
        """Whether somebody waits for a turn."""
        return bool(self._parked)

    def allowance(self, connection: C, total: int, now: float) -> int:
        """Return how many bytes a connection may send although the link is full.

        ``total`` counts what it has sent in its life, ``now`` is in seconds. With 0 it
        has to be parked.
        """
        account = self._accounts.get(connection)
        if account is None:
            account = self._accounts[connection] = _Account(0, 0.0, now)
        elapsed = now - account.time
        debt = max(0.0, account.debt - INTERACTIVE_RATE * elapsed) + total - account.seen
        account.seen, account.debt, account.time = total, debt, now
        if debt >= INTERACTIVE_BURST or self._ahead >= AHEAD:
            return 0
        self._ahead += GRANT
        return GRANT

    def park(self, connection: C) -> None:
        """Add a connection that wants to send and may not."""
        self._parked.append(connection)

    def unpark(self, connection: C) -> None:
        """Take out a connection that does not want to send any more, if it is parked."""
        if connection in self._parked:
            self._parked.remove(connection)

    def due(self) -> Iterator[C]:
        """Take out those that are parked now, longest first, for as long as the link is open."""
        if not self.closed:
            self._ahead = 0
        for _ in range(len(self._parked)):
            if self.closed or not self._parked:
                break
            yield self._parked.popleft()

    def forget(self, connection: C) -> None:
        """Remove a connection that has ended."""
        self._accounts.pop(connection, None)
        self.unpark(connection)
