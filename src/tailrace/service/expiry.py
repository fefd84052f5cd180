"""The end of tunnels whose time is over.

Two things end a tunnel: its links are cut, and the store says CLOSED. They do not wait for each
other. Links are cut from memory, because a link knows when its tunnel ends, and a store that
cannot write must not keep a tunnel alive. The store is asked to close what is due, tunnel by
tunnel, and tells which of several closers came first: a tunnel is reported once, as soon as
that is stored, whether it expires, a client closes it or another service of the same store does.
When another process has changed the store, the links are compared with it.

Reads, admissions and rotations compare the lifetime with the clock themselves, so that a tunnel
that a late sweep has left OPEN in the store is CLOSED for everybody all the same.

However much is due at once, one turn of the event loop does a bounded part of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Final

from .errors import StoreFailed
from .notify.announcer import Announcer
from .relay.switchboard import Switchboard
from .telemetry.audit import AuditLog
from .tunnels.rules import Tunnels

__all__ = ["Expiry"]

_log = logging.getLogger(__name__)

_EXPIRED: Final = "The tunnel has expired"

_CHECK_SECONDS: Final = 1.0
"""Longest time between two sweeps, also after the store has failed. Lifetimes are of the wall
clock, which may be set while a timer runs, and machines sleep; closed tunnels are due at times
of their own. A sweep that finds nothing takes some microseconds."""

_BATCH: Final = 8
"""Tunnels that are cut, or closed in the store, in one turn of the event loop: a millisecond."""

_REMOVED: Final = 4
"""Tunnels that are removed in one turn. Those with the most tags take a millisecond each."""


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
        self._suspects: set[str] = set()
        """Connected tunnels that another process may have closed."""
        self._failure = ""
        """Why the store could not do its part of the last sweep."""
        self._next_due: float | None = None
        """When the next tunnel expires, as the store knew last."""

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

    def expire(self, tunnel_id: str) -> None:
        """End a tunnel as if its time were over, which tests cannot wait for.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelClosed: it has ended.
            StoreFailed: the store cannot write.
        """
        self._tunnels.end_lifetime(tunnel_id, self._clock())
        self._switchboard.close_tunnel(tunnel_id, _EXPIRED)
        self.sweep_soon()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        # Links first. The store has its turn when all of them are cut.
        if self._cut() or self._ask_store():
            self._timer = loop.call_soon(self._sweep)
        else:
            self._timer = loop.call_later(self._delay(), self._sweep)

    def _delay(self) -> float:
        """Return the seconds until the next sweep."""
        due = (self._switchboard.next_expiry, None if self._failure else self._next_due)
        now = self._clock()
        return min([_CHECK_SECONDS, *(max(0.0, at - now) for at in due if at is not None)])

    def _cut(self) -> bool:
        """End links of tunnels that have expired; return whether there may be more of them."""
        expired = self._switchboard.take_expired(self._clock(), _BATCH)
        for tunnel_id in expired:
            self._switchboard.close_tunnel(tunnel_id, _EXPIRED)
        return len(expired) == _BATCH

    def _ask_store(self) -> bool:
        """Bring the store up to date, and links with it; return whether there is more to do."""
        try:
            more = self._bring_up_to_date()
        except StoreFailed as failed:
            # Once for each cause: this is tried every second.
            if str(failed) != self._failure:
                self._failure = str(failed)
                _log.error("%s; trying again every second", failed)
            return False
        if self._failure:
            self._failure = ""
            _log.info("the tunnel store works again")
        return more

    def _bring_up_to_date(self) -> bool:
        now, closed = self._clock(), 0
        more = self._tunnels.store_again(_BATCH)
        for tunnel_id in self._tunnels.expire(now, _BATCH):
            closed += 1
            self._audit.expired(tunnel_id)
            self._announcer.withdraw(tunnel_id)
        more |= closed == _BATCH
        more |= self._tunnels.purge(now, _REMOVED)
        if self._tunnels.changed_elsewhere():
            self._suspects = self._switchboard.connected_tunnels()
        for tunnel_id in tuple(islice(self._suspects, _BATCH)):
            if not self._tunnels.is_open(tunnel_id):
                self._switchboard.close_tunnel(tunnel_id, "The tunnel was closed")
            self._suspects.discard(tunnel_id)
        self._next_due = self._tunnels.next_expiry()
        return more or bool(self._suspects)
