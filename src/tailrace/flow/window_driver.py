"""Drives the bound on bytes in flight: its clock, its pings and its patience, on a loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from .send_window import PATIENCE, SendWindow

__all__ = ["WindowDriver"]

_now: Final = time.perf_counter
"""A loop's own clock may count whole milliseconds only, as uvloop's does."""


class WindowDriver:
    """One link's :class:`~tailrace.flow.send_window.SendWindow` at work.

    ``ping`` sends a ping; ``changed`` is called whenever :attr:`full` or :attr:`quantum`
    may have changed, but not from within :meth:`suspend` and :meth:`resume`.
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
        """Whether what can wait has to wait for a pong."""
        return self.window.full

    @property
    def quantum(self) -> int:
        """Bytes that one of many senders may send before it is the next one's turn."""
        return self.window.quantum

    def count(self, size: int) -> None:
        """Count bytes that have just been sent."""
        window = self.window
        window.sent += size
        if window.sent >= window.mark:
            self._proceed(window.mark_reached(_now()))

    def pong_received(self, payload: bytes) -> None:
        """Take any pong of the link."""
        self._proceed(self.window.pong_received(payload, _now()))

    def suspend(self) -> None:
        """Bound nothing while the other end is not read."""
        self.window.suspend()

    def resume(self) -> None:
        """Bound what is sent from now on."""
        self.window.resume()

    def stop(self) -> None:
        """Do nothing more: the link is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def _proceed(self, ping: bytes | None) -> None:
        if ping is not None:
            self._ping(ping)
        if self.window.full and self._timer is None:
            self._timer = self._loop.call_later(PATIENCE, self._check)
        self._changed()

    def _check(self) -> None:
        """Let data pass when pongs are overdue."""
        self._timer = None
        if not self.window.full:
            return
        left = self.window.patience_left(_now())
        if left > 0.0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self.window.expire()
            self._changed()
