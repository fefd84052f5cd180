"""What the service counts: plain numbers, incremented where things happen.

They become metrics on request: :mod:`tailrace.service.telemetry.prometheus`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from ...wire import Side

__all__ = ["Counters", "LoopLag", "ResetCause", "StallClock", "Traffic"]


class ResetCause(StrEnum):
    """Why a stream was reset."""

    SOURCE = "source"
    """The source asked for it."""
    DESTINATION = "destination"
    """The destination asked for it."""
    PEER_ABSENT = "peer_absent"
    """It was started while the other side was not connected."""
    PEER_LEFT = "peer_left"
    """The other side's connection went away."""


class Traffic:
    """What the clients of one side have sent, in total."""

    __slots__ = ("bytes", "links", "messages")

    def __init__(self) -> None:
        self.links = 0
        """Links that are open."""
        self.messages = 0
        self.bytes = 0


class StallClock:
    """Sums up the time that links are not read because the other side is full.

    The sum is exact at any moment without a timer: for links that are stalled it is their
    number times the time, less the sum of the times at which they began.
    """

    __slots__ = ("_began_sum", "_clock", "_total", "stalled")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_sum = 0.0
        self._total = 0.0
        self.stalled = 0
        """Links that are not read."""

    @property
    def seconds(self) -> float:
        """Seconds up to now, summed over links."""
        return self._total + self.stalled * self._clock() - self._began_sum

    def begin(self) -> float:
        """Count a link that is no longer read; return what :meth:`end` needs."""
        now = self._clock()
        self.stalled += 1
        self._began_sum += now
        return now

    def end(self, began: float) -> None:
        """Count a link that is read again; ``began`` comes from :meth:`begin`."""
        self.stalled -= 1
        self._began_sum -= began
        self._total += self._clock() - began


class LoopLag:
    """Samples how late the event loop runs timers: a histogram in seconds."""

    BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
    """Upper bounds of the buckets; one more holds the rest."""
    INTERVAL: Final = 0.25

    def __init__(self) -> None:
        self.buckets = [0] * (len(self.BOUNDS) + 1)
        self.sum = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to sample, in the running loop."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self.INTERVAL
        self._timer = loop.call_at(due, self._sample, loop, due)

    def stop(self) -> None:
        """Stop sampling."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def record(self, late: float) -> None:
        """Count one sample."""
        self.buckets[bisect_left(self.BOUNDS, late)] += 1
        self.sum += late

    def _sample(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.record(max(0.0, loop.time() - due))
        self.start()


class Counters:
    """All numbers of one service. ``clock`` is monotonic and in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.traffic = {side: Traffic() for side in Side}
        self.resets: Counter[ResetCause] = Counter()
        self.suspended = 0
        """Clients that were told that the other side has left, and wait for it to come back: their
        streams were not reset."""
        self.offers = 0
        """Messages that were passed on with which two clients agree to go on."""
        self.refusals: Counter[str] = Counter()
        """Refused handshakes by cause."""
        self.ended: Counter[str] = Counter()
        """Links that have ended, by cause."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """Requests to the control API by operation and outcome."""
        self.quotas: Counter[str] = Counter()
        """Requests that were refused because of a key's quota, by quota."""
        self.request_seconds = 0.0
        """Time spent on requests that succeeded."""
        self.stalls = StallClock(clock)
        self.lag = LoopLag()
