"""How long to wait before the next try: exponential, with full jitter."""

from __future__ import annotations

import random
from typing import Final

from ..errors import ConfigurationError

__all__ = ["LASTED", "MIN_DELAY", "SETTLED", "Backoff"]

MIN_DELAY: Final = 0.05
"""Seconds. No delay is shorter, whatever the settings and the dice say: never a busy loop."""

LASTED: Final = 5.0
"""Seconds after which a link counts as one that worked."""

SETTLED: Final = 60.0
"""Seconds after which a link has proved that all is well again."""


class Backoff:
    """The delays between tries; times in seconds.

    The n-th delay is drawn evenly from 0 to ``base * 2**n``, but never above ``cap``: full
    jitter keeps many clients of one service from coming back at the same moment.
    """

    __slots__ = ("_base", "_cap", "_failures", "_rng", "_short_next")

    def __init__(self, base: float, cap: float, rng: random.Random) -> None:
        if base < 0 or cap < 0:
            raise ConfigurationError(f"retry delays {base} and {cap} must not be negative")
        self._base = base
        self._cap = cap
        self._rng = rng
        self._failures = 0
        self._short_next = False

    def next_delay(self) -> float:
        """Return the next delay; each call makes the following one longer on average."""
        if self._short_next:
            self._short_next = False
            limit = self._base
        else:
            # 2.0**64 is beyond any cap; without the limit the power would overflow.
            limit = self._base * 2.0 ** min(self._failures, 64)
            self._failures += 1
        return max(MIN_DELAY, self._rng.uniform(0.0, min(limit, self._cap)))

    def link_lasted(self, seconds: float) -> None:
        """Learn how long a link was up before it went down.

        A settled one starts the delays afresh. One that worked for a while earns one short
        delay, but keeps the count: a link that breaks every ten seconds is not healthy. One
        that broke at once earns nothing.
        """
        if seconds >= SETTLED:
            self.reset()
        elif seconds >= LASTED:
            self._short_next = True

    def reset(self) -> None:
        """Start afresh."""
        self._failures = 0
        self._short_next = False
