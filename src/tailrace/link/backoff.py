"""How long to wait before the next try: exponential backoff with full jitter. Pure.

When a service restarts, all its clients lose their links in the same second. If each of them came
back after a fixed time, they would do so together, again and again, and keep it down. Two measures
help (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015):

* *exponential*: the limit of the delay doubles with each failure, up to a cap, so that the load of
  all tries falls quickly while the service is down;
* *full jitter*: the delay is drawn evenly from zero to that limit. Of the kinds compared there,
  which differ in how much of the delay is random, it needs the fewest calls until all are served.

How far the limit falls back after a link depends on how long that one lasted, see
:meth:`Backoff.link_lasted`: a link that can be set up but breaks at once is no success. After one
that has lasted, the first try comes within :data:`QUICK`, because connections wait for it, and what
breaks a good link is mostly over at once: a reboot of a router, another radio cell. It is random,
too, so that the clients of a service that restarts come over that time, and not all at once.

While connections wait, which they do for a bounded time, the limit doubles only twice: on a network
that breaks every link within seconds they would end otherwise, for a delay of minutes.
"""

from __future__ import annotations

import random
from typing import Final

from ..errors import ConfigurationError

__all__ = ["LASTED", "MIN_DELAY", "QUICK", "SETTLED", "Backoff"]

MIN_DELAY: Final = 0.05
"""Seconds. No delay is shorter, whatever the settings and the jitter: never a busy loop."""

QUICK: Final = 0.5
"""Seconds within which the first try follows a link that worked."""

LASTED: Final = 5.0
"""Seconds after which a link counts as one that worked."""

SETTLED: Final = 60.0
"""Seconds after which a link has shown that the service works again."""

_HASTE: Final = 2
"""How often the limit doubles while connections wait."""


class Backoff:
    """The delays between tries; times in seconds.

    The n-th delay is drawn evenly from 0 to ``base * 2**n``, and never above ``cap``. A quick one
    comes before them when a link has lasted.

    Raises:
        ConfigurationError: ``base`` or ``cap`` is negative.
    """

    __slots__ = ("_base", "_cap", "_failures", "_quick_next", "_rng")

    def __init__(self, base: float, cap: float, rng: random.Random) -> None:
        if base < 0 or cap < 0:
            raise ConfigurationError(f"retry delays {base} and {cap} must not be negative")
        self._base = base
        self._cap = cap
        self._rng = rng
        self._failures = 0
        self._quick_next = False

    def next_delay(self, *, in_haste: bool = False) -> float:
        """Return the next delay; each call makes the following one longer on average.

        ``in_haste`` tells that connections wait for the link.
        """
        if self._quick_next:
            self._quick_next = False
            limit = min(QUICK, self._base)
        else:
            # 2.0**64 is beyond any cap; without the limit the power would overflow.
            limit = self._base * 2.0 ** min(self._failures, _HASTE if in_haste else 64)
            self._failures += 1
        return max(MIN_DELAY, self._rng.uniform(0.0, min(limit, self._cap)))

    def link_lasted(self, seconds: float) -> None:
        """Take into account how long a link was up before it went down.

        :data:`LASTED` seconds earn one quick delay, but keep the count: a link that breaks every
        ten seconds is not healthy. :data:`SETTLED` seconds also start the count afresh. Less than
        both earns nothing.
        """
        if seconds >= SETTLED:
            self.start_afresh()
        if seconds >= LASTED:
            self._quick_next = True

    def start_afresh(self) -> None:
        """Forget the failures so far; the next delay is the shortest again, but not a quick one."""
        self._failures = 0
        self._quick_next = False
