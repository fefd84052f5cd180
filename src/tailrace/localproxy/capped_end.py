"""A local end whose service has a bandwidth cap, and the clock of that cap.

The cap is a matter of the local end alone: to the connection that drives it, an end that may
move nothing now is a socket that is not ready. Towards the tunnel, bytes then stay in the
kernel, where TCP slows the application. From the tunnel they wait as for any slow application
(:mod:`.inbound`), so nothing is lost. Connections without a cap have nothing to do with any of
this.

A direction of an end is *watched* while the readiness of the inner end decides what comes next,
and *waits* while the cap does. An end that is ready and may move nothing goes from the first to
the second, so nothing is called again and again. When its turn comes it is called at once; if
it used all of its turn it waits for another, or else its inner end is watched again.
:mod:`tailrace.flow.bandwidth` says whose turn it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..flow.bandwidth import MIN_RATE, BandwidthCap
from .local_end import LocalEnd

__all__ = ["MIN_BANDWIDTH", "Bandwidth", "CappedEnd"]

MIN_BANDWIDTH: Final = MIN_RATE
"""Bytes a second."""
_TICK: Final = 0.005
"""Seconds between two looks at a cap, at least: what has come due meanwhile goes together."""
_UNLIMITED: Final = 1 << 30

_Callback = Callable[[], None]


class _SharedCap:
    """The cap of one direction, for all ends of a service, and the timer that gives turns."""

    __slots__ = ("_cap", "_rate", "_timer")

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._cap: BandwidthCap[_Direction] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def _at(self, now: float) -> BandwidthCap[_Direction]:
        """Return the cap, made at its first use: only then is there a clock."""
        if self._cap is None:
            self._cap = BandwidthCap(self._rate, now)
        return self._cap

    def allowance(self, now: float) -> int:
        return self._at(now).allowance(now)

    def moved(self, size: int, now: float) -> None:
        self._at(now).moved(size, now)

    def wait(self, direction: _Direction, loop: asyncio.AbstractEventLoop) -> None:
        """Call :meth:`_Direction.take_turn` when it is the turn of a direction."""
        self._at(loop.time()).wait(direction)
        if self._timer is None:
            self._arm(loop)

    def leave(self, direction: _Direction) -> None:
        if self._cap is not None:
            self._cap.leave(direction)
            if self._timer is not None and not self._cap.contended:
                self._timer.cancel()
                self._timer = None

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        delay = self._at(loop.time()).delay(loop.time())
        self._timer = loop.call_later(max(delay, _TICK), self._give_turns, loop)

    def _give_turns(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give all turns that have come: as many as the bucket has bytes for."""
        self._timer = None
        cap = self._at(loop.time())
        try:
            while (turn := cap.next_turn(loop.time())) is not None:
                direction, size = turn
                direction.take_turn(size)
        finally:
            if cap.contended and self._timer is None:
                self._arm(loop)


class Bandwidth:
    """Caps that the connections of a service share: ``rate`` bytes a second each way.

    Its ends belong to one event loop.
    """

    __slots__ = ("from_application", "rate", "to_application")

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.from_application = _SharedCap(rate)
        self.to_application = _SharedCap(rate)


class _Direction:
    """One direction of a capped end: its readiness, and what it may move."""

    __slots__ = ("_callback", "_cap", "_left", "_lifted", "_loop", "_start", "_stop", "_watched")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        cap: _SharedCap,
        start: Callable[[_Callback], object],
        stop: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._cap = cap
        self._start = start
        self._stop = stop
        self._callback: _Callback | None = None
        self._watched = False
        self._left = 0
        """Bytes left of what was allowed to the call that is running."""
        self._lifted = False

    @property
    def allowance(self) -> int:
        """Bytes that may be moved now."""
        if self._lifted:
            return _UNLIMITED
        return self._left or self._cap.allowance(self._loop.time())

    def moved(self, size: int) -> None:
        """Note that ``size`` bytes were moved."""
        self._left = max(0, self._left - size)
        if not self._lifted:
            self._cap.moved(size, self._loop.time())

    def start(self, callback: _Callback) -> None:
        """Call back for as long as the inner end is ready and the cap allows it."""
        self._callback = callback
        self._watch()

    def stop(self) -> None:
        """Call back no more."""
        self._callback = None
        self._cap.leave(self)
        self._unwatch()

    def lift(self) -> None:
        """Move bytes without a cap from now on."""
        self._lifted = True
        self._cap.leave(self)
        if self._callback is not None:
            self._watch()

    def take_turn(self, size: int) -> None:
        """Called when it waited, and may move ``size`` bytes."""
        left = self._call(size)
        if self._callback is None or self._watched:
            return
        if left:
            self._watch()
        else:
            self._cap.wait(self, self._loop)

    def _ready(self) -> None:
        allowed = self.allowance
        if allowed:
            self._call(allowed)
        else:
            self._unwatch()
            self._cap.wait(self, self._loop)

    def _call(self, allowed: int) -> int:
        """Call back; return how many of the allowed bytes were not moved."""
        assert self._callback is not None
        self._left = allowed
        self._callback()
        left, self._left = self._left, 0
        return left

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._start(self._ready)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._stop()


class CappedEnd:
    """A :class:`~.local_end.LocalEnd` that moves no more than its service may."""

    __slots__ = (
        "_end",
        "_reading",
        "_writing",
        "is_gone",
        "pending_error",
        "start_reading",
        "start_writing",
        "stop_reading",
        "stop_writing",
        "unacknowledged",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, end: LocalEnd, bandwidth: Bandwidth
    ) -> None:
        self._end = end
        self._reading = _Direction(
            loop, bandwidth.from_application, end.start_reading, end.stop_reading
        )
        self._writing = _Direction(
            loop, bandwidth.to_application, end.start_writing, end.stop_writing
        )
        self.start_reading = self._reading.start
        self.stop_reading = self._reading.stop
        self.start_writing = self._writing.start
        self.stop_writing = self._writing.stop
        self.pending_error = end.pending_error
        self.unacknowledged = end.unacknowledged
        self.is_gone = end.is_gone

    def recv_into(self, buffer: memoryview, limit: int) -> int:
        """Read at most ``limit`` bytes, and what the cap allows; 0 is the end of file."""
        size = self._end.recv_into(buffer, min(limit, _allowed(self._reading)))
        self._reading.moved(size)
        return size

    def send(self, data: memoryview) -> int:
        """Write what the cap allows; return how many bytes were taken."""
        sent = self._end.send(data[: _allowed(self._writing)])
        self._writing.moved(sent)
        return sent

    def sendmsg(self, pieces: list[memoryview]) -> int:
        """Write of the pieces what the cap allows; return how many bytes were taken."""
        allowed = _allowed(self._writing)
        some = []
        for piece in pieces:
            some.append(piece[:allowed])
            allowed -= len(some[-1])
            if not allowed:
                break
        sent = self._end.sendmsg(some)
        self._writing.moved(sent)
        return sent

    def expect_end(self) -> None:
        """Hold back nothing: what was received is to be delivered soon, what is read is lost."""
        self._writing.lift()
        self._reading.lift()
        self._end.expect_end()

    def shut_down(self) -> None:
        """End the writing half."""
        self._end.shut_down()

    def close(self) -> None:
        """Give up both halves."""
        self._end.close()

    def reset(self, reason: str = "") -> None:
        """Give up both halves, so that the other end sees a failure."""
        self._end.reset(reason)


def _allowed(direction: _Direction) -> int:
    """Return how many bytes may be moved now.

    Raises:
        BlockingIOError: none.
    """
    allowed = direction.allowance
    if not allowed:
        raise BlockingIOError
    return allowed
