"""Drives a send window on an event loop: its clock, its pings and its patience.

The window (``send_window.py``, where the theory is) does nothing on its own. Its driver counts what
is sent, hands over pongs, sends the pings that are due, and opens a full window when pongs are
overdue.

Counting happens for each message, so it is one addition and one comparison; all else is done
at the window's mark only. Patience is renewed by each pong, but the timer is not moved each
time: when it runs out, it is set again for what is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from .send_window import PATIENCE, SendWindow

__all__ = ["WindowDriver"]

_now: Final = time.perf_counter
"""The window's clock. That of a loop may count whole milliseconds only, as uvloop's does."""


class WindowDriver:
    """One link's :class:`~tailrace.flow.send_window.SendWindow` at work.

    ``ping`` is called with the payload of a ping to send; ``changed`` is called when
    :attr:`full` or :attr:`quantum` may have changed, but not from within :meth:`suspend` and
    :meth:`resume`. :meth:`stop` must be called when the link is gone.
    """

    __slots__ = ("_changed", "_loop", "_ping", "_timer", "window")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ping: Callable[[bytes], None],
        changed: Callable[[], None],
    ) -> None:
        self.window = SendWindow()
        self._loop = loop
        self._ping = ping
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        """Whether bulk data has to wait for a pong."""
        return self.window.full

    @property
    def quantum(self) -> int:
        """Bytes that one of many senders may send before it is the next one's turn."""
        return self.window.quantum

    def start(self) -> None:
        """Measure the round trip of a link that has just opened, before anything is sent."""
        self._ping(self.window.begin(_now()))

    def count(self, size: int) -> None:
        """Count bytes that have just been sent, at once."""
        window = self.window
        window.sent += size
        if window.sent >= window.mark:
            self.mark_reached(size)

    def mark_reached(self, size: int) -> None:
        """Act on the mark that the window has reached with the last ``size`` bytes."""
        if size >= self.window.quantum:
            self.window.turn_used_up()
        self._proceed(self.window.mark_reached(_now()))

    def pong_received(self, payload: bytes) -> None:
        """Handle a pong of the link, no matter who sent its ping."""
        self._proceed(self.window.pong_received(payload, _now()))

    def suspend(self) -> None:
        """Bound nothing until :meth:`resume`: the other end is not read."""
        self.window.suspend()

    def resume(self) -> None:
        """Bound what is sent from now on, after :meth:`suspend`."""
        self.window.resume()

    def stop(self) -> None:
        """Cancel the timer: the link is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def _proceed(self, ping: bytes | None) -> None:
        if ping is not None:
            self._ping(ping)
        if self.window.full and self._timer is None:
            self._timer = self._loop.call_later(PATIENCE, self._check)
        self._changed()

    def _check(self) -> None:
        """Open the window if it is full and a pong is overdue."""
        self._timer = None
        if not self.window.full:
            return
        now = _now()
        left = self.window.patience_left(now)
        if left > 0.0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self.window.expire(now)
            self._changed()
