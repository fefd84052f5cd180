"""Tunnel to sockets: what waits for local sockets, and what that means for the link.

Bytes that a local socket does not take wait in memory. The protocol knows no credit, so there
are three ways to keep that bounded, from the gentlest to the last:

1. The peer of one connection is asked to pause it and later to resume it, where it
   understands that (docs/internals/sessions.md). No other connection is held up. What is in flight
   still comes, so this begins early (:data:`PAUSE_HIGH`), and earlier when all together hold
   much (:data:`PAUSE_HIGH_CROWDED`): many stalled connections get less room each. A connection
   that outlives links has a window, which does this alone as long as they are not crowded.
2. The link is not read. TCP carries that back to the peer and nothing is lost, but all
   connections wait. It begins when one connection whose peer cannot pause is over its own
   mark, or all together are over theirs, and ends at a mark well below, or reading would
   stop and start with every segment.
3. One connection is given up, so that the others can go on: one that has taken nothing at
   all for some time while it was the reason that the link is not read. Its clock starts when
   the reading stops; before that it did no harm.

Invariants: ``total`` is the sum of what waits for each connection; an empty set of buffers is
never a reason not to read the link.

Pure: no sockets and no clock. ``now`` is any steady clock in seconds.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

__all__ = [
    "CONNECTION_HIGH",
    "CONNECTION_LOW",
    "PAUSE_HIGH",
    "PAUSE_HIGH_CROWDED",
    "PAUSE_LOW",
    "TOTAL_CROWDED",
    "TOTAL_HIGH",
    "TOTAL_LOW",
    "ReceiveBuffers",
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

C = TypeVar("C")


class ReceiveBuffers(Generic[C]):
    """The bookkeeping of what waits; the bytes themselves are with their connections."""

    __slots__ = ("_full_since", "_over_own", "_over_total", "_waiting_since", "total")

    def __init__(self) -> None:
        self.total = 0
        """Bytes waiting for local sockets, all connections."""
        self._waiting_since: dict[C, float] = {}
        """When each connection last took something, or began to wait."""
        self._over_own: set[C] = set()
        self._over_total = False
        self._full_since = 0.0

    @property
    def full(self) -> bool:
        """Whether the link must not be read."""
        return bool(self._over_own) or self._over_total

    def wants_pause(self, waiting: int, *, has_window: bool = False) -> bool:
        """Return whether ``waiting`` bytes of one connection are reason to pause its peer."""
        if self.total > TOTAL_CROWDED:
            return waiting > PAUSE_HIGH_CROWDED
        return waiting > PAUSE_HIGH and not has_window

    def added(
        self, connection: C, size: int, waiting: int, now: float, *, can_pause: bool = False
    ) -> None:
        """Note that ``size`` more bytes wait, ``waiting`` in all, for this connection.

        One that ``can_pause`` has no mark of its own.
        """
        self.total += size
        self._waiting_since.setdefault(connection, now)
        over_own = waiting > CONNECTION_HIGH and not can_pause
        over_total = self.total > TOTAL_HIGH
        if (over_own or over_total) and not self.full:
            self._full_since = now
        if over_own:
            self._over_own.add(connection)
        if over_total:
            self._over_total = True

    def taken(self, connection: C, size: int, waiting: int, now: float) -> None:
        """Note that the local socket took ``size`` of its bytes; ``waiting`` are left."""
        self.total -= size
        if waiting:
            self._waiting_since[connection] = now
        else:
            del self._waiting_since[connection]
        if waiting <= CONNECTION_LOW:
            self._over_own.discard(connection)
        if self.total <= TOTAL_LOW:
            self._over_total = False

    def removed(self, connection: C, waiting: int) -> None:
        """Forget a connection and the bytes that waited for it."""
        self.total -= waiting
        self._waiting_since.pop(connection, None)
        self._over_own.discard(connection)
        if self.total <= TOTAL_LOW:
            self._over_total = False

    def stalled(self, now: float, timeout: float) -> list[C]:
        """Return those that have kept the link unread for ``timeout`` seconds and taken nothing.

        The longest stalled come first. Where all together are too much, the link may go on
        before the last of them is given up.
        """
        if now - self._full_since < timeout:
            return []
        suspects = self._waiting_since if self._over_total else self._over_own
        found = [c for c in suspects if now - self._waiting_since[c] >= timeout]
        return sorted(found, key=self._waiting_since.__getitem__)
