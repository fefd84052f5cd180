"""A bandwidth cap that several connections share: how much may be moved now, and who is next.

All bytes come out of one token bucket, which fills at the rate of the cap. It holds a quarter of a
second's worth, so that a keystroke, or the page of a quiet web server, is not held up. As long
as there is a quantum in it and nobody waits, a connection moves what it has, and no queue is
kept. One that finds less waits, and those that wait take turns in the order they came, with a
quantum each: plain round robin, as fair as deficit round robin because bytes can be cut anywhere
(see :mod:`.scheduler`). While any of them waits, others do not go ahead of it.

A quantum is a sixteenth of a second's worth, at most 16 KiB. Where very many wait it is less, so
that each has its turn within five seconds: one that got none for long would look stalled.

Invariants: what was moved in ``t`` seconds is at most ``burst + rate * t``, since nobody is given
more than the bucket holds; a connection waits at most once.

Pure: no sockets and no clock. ``now`` is any steady clock in seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

from .token_bucket import Bucket

__all__ = ["MIN_RATE", "BandwidthCap"]

MIN_RATE: Final = 1000
"""Bytes a second; less than that carries no protocol that anybody uses."""
_BURST: Final = 0.25
"""Seconds of the rate that the bucket holds."""
_TURN: Final = 1 / 16
"""Seconds of the rate that a turn has."""
_MAX_TURN: Final = 16 * 1024
"""Bytes of a turn."""
_ROUND: Final = 5.0
"""Seconds within which all that wait have had a turn."""

C = TypeVar("C")


class BandwidthCap(Generic[C]):
    """At most ``rate`` bytes a second (>= :data:`MIN_RATE`) for all connections together."""

    __slots__ = ("_bucket", "_waiting", "rate")

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._bucket = Bucket(rate, rate * _BURST, now)
        self._waiting: OrderedDict[C, None] = OrderedDict()

    @property
    def contended(self) -> bool:
        """Whether any connection waits for a turn."""
        return bool(self._waiting)

    @property
    def quantum(self) -> int:
        """Bytes of one turn, at least 1."""
        fair = self.rate * _ROUND / max(1, len(self._waiting))
        return max(1, int(min(self.rate * _TURN, fair, _MAX_TURN)))

    def allowance(self, now: float) -> int:
        """Return how many bytes one that does not wait may move now; with 0 it has to wait."""
        if self._waiting:
            return 0
        level = self._bucket.level(now)
        return int(level) if level >= self.quantum else 0

    def moved(self, size: int, now: float) -> None:
        """Note that ``size`` bytes, no more than were allowed, were moved."""
        self._bucket.take(size, now)

    def wait(self, connection: C) -> None:
        """Queue one that has bytes to move and may not."""
        self._waiting[connection] = None

    def leave(self, connection: C) -> None:
        """Remove one that does not want to move bytes any more, if it waits."""
        self._waiting.pop(connection, None)

    def next_turn(self, now: float) -> tuple[C, int] | None:
        """Take out the one that has waited longest, with the bytes of its turn, if it has come."""
        quantum = self.quantum
        if not self._waiting or self._bucket.level(now) < quantum:
            return None
        return self._waiting.popitem(last=False)[0], quantum

    def delay(self, now: float) -> float:
        """Return the seconds until there is a turn for one that waits, 0.0 if there is one."""
        return max(0.0, (self.quantum - self._bucket.level(now)) / self.rate)
