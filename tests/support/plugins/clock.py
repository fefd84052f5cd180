"""Clocks that tests turn: one that stands still, and one whose loop has nothing else to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

__all__ = ["ClockLoop", "ManualClock"]


class ManualClock:
    """Tells the time that a test has set last."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class ClockLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, which starts at 0: hours take no time, to the second.

    For code that waits for timers only; what comes from sockets and threads would find that
    the time is over.
    """

    def __init__(self) -> None:
        super().__init__(_Selector(self._pass))
        self._now = 0.0

    def time(self) -> float:
        """Return seconds since the loop was made."""
        return self._now

    def _pass(self, seconds: float) -> None:
        self._now += seconds


class _Selector(selectors.DefaultSelector):
    """Looks at files without waiting; reports how long it was to wait instead."""

    def __init__(self, waited: Callable[[float], None]) -> None:
        super().__init__()
        self._waited = waited

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("nothing will ever happen")
        if not ready and timeout is not None:
            self._waited(max(0.0, timeout))
        return ready
