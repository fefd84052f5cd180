"""Sockets to tunnel: which connections may send now, and which one is next.

The protocol has no window for a single stream, so all connections of a tunnel share one
gate. It is closed while the link's write buffer is over its mark, while as much is in flight as
:mod:`.send_window` allows, or while as much is kept to be sent again as may be.

*Open*: a socket is read when it is readable, and no accounts are kept. *Closed*: a connection
that wants to send is parked, which costs one entry in a queue. So the cost of a pause depends
on how many are active and not on how many there are. When the gate opens, the parked ones
read once each, in the order they came, and those that have more queue up again behind the
others. A read can be cut at any byte, so this plain round robin with a quantum (the
caller's) is as fair as deficit round robin (Shreedhar and Varghese, SIGCOMM 1995) without
keeping deficits: between two turns of one connection every other parked one has had its own.

One exception keeps keystrokes quick. A connection that has sent little recently is
interactive: its few bytes fill nothing, and a person may be waiting for the answer, so it may
go ahead through the closed gate. "Little" is a token bucket, :data:`INTERACTIVE_BURST` bytes
that refill at :data:`INTERACTIVE_RATE`, kept as a debt that is only worked out when the
connection asks; it goes by what a connection has sent in all, so that bytes sent while the gate
was open count too. How much goes ahead before the gate opens again is bounded for all
together (:data:`AHEAD`), or a thousand typists would be one bulk sender. All of these are
for a path with turns of 8 KiB and more; they shrink with the quantum, as what is little for one
path is all that another carries.

Invariant: a connection is parked at most once, and not while it does not want to send.

Pure: no sockets and no clock. ``now`` is any steady clock in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

__all__ = ["AHEAD", "GRANT", "INTERACTIVE_BURST", "INTERACTIVE_RATE", "Turns"]

INTERACTIVE_BURST: Final = 16 * 1024
INTERACTIVE_RATE: Final = 8 * 1024
"""What an interactive connection sends at most: bytes at once, and bytes a second."""
GRANT: Final = 4096
"""Bytes with which an interactive connection may go ahead at a time."""
AHEAD: Final = 16 * GRANT
"""Bytes that may go ahead, of all connections together, before the gate is open again."""

C = TypeVar("C")


@dataclass(slots=True)
class _Account:
    """What a connection has sent recently, as of the last time it asked to go ahead."""

    seen: int
    debt: float
    time: float


class Turns(Generic[C]):
    """The gate, those parked before it, and the accounts of those that asked to go ahead."""

    __slots__ = (
        "_accounts",
        "_ahead",
        "_link_paused",
        "_memory_full",
        "_parked",
        "_scale",
        "_window_full",
        "closed",
    )

    def __init__(self) -> None:
        self.closed = False
        """Whether bulk data has to wait."""
        self._link_paused = False
        self._window_full = False
        self._memory_full = False
        self._parked: deque[C] = deque()
        self._accounts: dict[C, _Account] = {}
        self._ahead = 0
        self._scale = 1.0

    @property
    def contended(self) -> bool:
        """Whether any connection waits for a turn."""
        return bool(self._parked)

    def set_link_paused(self, paused: bool) -> bool:
        """Note whether the link's write buffer is over its mark; return whether the gate opens."""
        self._link_paused = paused
        return self._judge()

    def set_window_full(self, full: bool) -> bool:
        """Note whether as much is in flight as may be; return whether this opens the gate."""
        self._window_full = full
        return self._judge()

    def set_memory_full(self, full: bool) -> bool:
        """Note whether as much is kept as may be; return whether this opens the gate."""
        self._memory_full = full
        return self._judge()

    def _judge(self) -> bool:
        was_closed = self.closed
        self.closed = self._link_paused or self._window_full or self._memory_full
        return was_closed and not self.closed

    def set_quantum(self, quantum: int) -> None:
        """Note how many bytes a turn has: what counts as little goes by that."""
        self._scale = min(1.0, quantum / (2 * GRANT))

    def allowance(self, connection: C, total: int, now: float) -> int:
        """Return how many bytes a connection may send although the gate is closed.

        ``total`` counts what it has sent in its life. With 0 it has to be parked.
        """
        account = self._accounts.get(connection)
        if account is None:
            account = self._accounts[connection] = _Account(0, 0.0, now)
        elapsed = now - account.time
        scale = self._scale
        debt = max(0.0, account.debt - INTERACTIVE_RATE * scale * elapsed) + total - account.seen
        account.seen, account.debt, account.time = total, debt, now
        if debt >= INTERACTIVE_BURST * scale or self._ahead >= AHEAD * scale:
            return 0
        grant = int(GRANT * scale)
        self._ahead += grant
        return grant

    def park(self, connection: C) -> None:
        """Add a connection that wants to send and may not."""
        self._parked.append(connection)

    def unpark(self, connection: C) -> None:
        """Remove a connection that does not want to send any more, if it is parked."""
        if connection in self._parked:
            self._parked.remove(connection)

    def due(self) -> Iterator[C]:
        """Take out those that are parked now, longest first, for as long as the gate is open.

        Those that are parked again meanwhile wait for the next call.
        """
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
