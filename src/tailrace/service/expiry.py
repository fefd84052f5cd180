"""The end of tunnels whose time is over.

The sweep closes tunnels at the end of their lifetime and forgets closed ones three hours
later. Nothing but tidiness depends on it: admissions and rotations compare the lifetime
with the clock themselves, so a tunnel that a late sweep has left OPEN lets nobody in.

A tunnel is closed in the store first, and only then reported, withdrawn and disconnected.
The store tells which of several closers came first, so that a tunnel is reported once,
whether it expires, a client closes it or another service of the same store sweeps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from .errors import StoreFailed
from .notify.announcer import Announcer
from .relay.switchboard import Switchboard
from .telemetry.audit import AuditLog
from .tunnels.rules import Tunnels

__all__ = ["Expiry"]

_log = logging.getLogger(__name__)

_CHECK_SECONDS: Final = 1.0
"""Longest time between two sweeps. Lifetimes are of the wall clock, which may be set while a
timer runs, and machines sleep; closed tunnels are due at times of their own. A sweep that
finds nothing takes some microseconds."""

_RETRY_SECONDS: Final = 30.0
"""Until the next sweep after the store has failed."""


class Expiry:
    """Sweeps tunnels: after :meth:`start` until :meth:`stop`, in the running loop.

    ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        tunnels: Tunnels,
        switchboard: Switchboard,
        announcer: Announcer,
        audit: AuditLog,
        clock: Callable[[], float],
    ) -> None:
        self._tunnels = tunnels
        self._switchboard = switchboard
        self._announcer = announcer
        self._audit = audit
        self._clock = clock
        self._timer: asyncio.Handle | None = None

    def start(self) -> None:
        """Sweep now and from now on."""
        self._sweep()

    def stop(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def sweep_soon(self) -> None:
        """Called when the time of the next expiry may have changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_soon(self._sweep)

    def _sweep(self) -> None:
        delay = _CHECK_SECONDS
        try:
            due = self.expire()
        except StoreFailed as failed:
            _log.error("%s", failed)
            delay = _RETRY_SECONDS
        else:
            if due is not None:
                delay = min(delay, max(0.0, due - self._clock()))
        self._timer = asyncio.get_running_loop().call_later(delay, self._sweep)

    def expire(self) -> float | None:
        """Close what is due; return when the next tunnel expires, ``None`` without one.

        Raises:
            StoreFailed: the store cannot be read or written.
        """
        for tunnel_id in self._tunnels.expire(self._clock()):
            self._audit.expired(tunnel_id)
            self._announcer.withdraw(tunnel_id)
            self._switchboard.close_tunnel(tunnel_id, "The tunnel has expired")
        return self._tunnels.next_expiry()
