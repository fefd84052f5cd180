"""Reads of the service's state, for the control API, metrics and user interfaces.

None of them needs the store or the relay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from ..errors import TunnelNotFound
from .cursors import Cursors
from .records import TunnelRecord, TunnelSummary, Usage
from .store import NEWEST, Things, TunnelStore
from .unstored import Unstored

__all__ = ["TunnelPage", "TunnelQueries"]


@dataclass(frozen=True, slots=True)
class TunnelPage:
    """Some tunnels, newest first; ``cursor`` asks for the next page, ``None`` at the end."""

    tunnels: tuple[TunnelSummary, ...]
    cursor: str | None


class TunnelQueries:
    """Reads tunnels as they are now, and the names under which AWS knows them.

    ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        store: TunnelStore,
        unstored: Unstored,
        clock: Callable[[], float],
        region: str,
        account_id: str,
    ) -> None:
        self._store = store
        self._unstored = unstored
        self._clock = clock
        self._cursors = Cursors()
        self._scans: WeakValueDictionary[Things, asyncio.Lock] = WeakValueDictionary()
        self._arn_prefix = f"arn:aws:iot:{region}:{account_id}:tunnel/"

    def arn(self, tunnel_id: str) -> str:
        """Return the Amazon Resource Name of a tunnel."""
        return self._arn_prefix + tunnel_id

    def tunnel_id(self, arn: str) -> str:
        """Return the tunnel id in an ARN.

        Raises:
            TunnelNotFound: the ARN is not that of a tunnel of this service.
        """
        if not arn.startswith(self._arn_prefix):
            raise TunnelNotFound(arn)
        return arn.removeprefix(self._arn_prefix)

    def describe(self, tunnel_id: str) -> TunnelRecord:
        """Return one tunnel, open or recently closed.

        Raises:
            TunnelNotFound: there is no such tunnel.
        """
        stored = self._store.tunnel(tunnel_id)
        tunnel = None if stored is None else self._unstored.current(stored, self._clock())
        if tunnel is None:
            raise TunnelNotFound(tunnel_id)
        return tunnel

    def tags(self, tunnel_id: str) -> tuple[tuple[str, str], ...]:
        """Return the tags of a tunnel.

        Raises:
            TunnelNotFound: there is no such tunnel.
        """
        self.describe(tunnel_id)
        return self._store.tags(tunnel_id)

    async def page(self, things: Things, cursor: str | None, limit: int, reader: str) -> TunnelPage:
        """Return up to ``limit`` tunnels of some things, newest first.

        Nothing about it depends on tunnels of other things. ``cursor`` is good for the same
        things and the same ``reader``.

        Raises:
            InvalidCursor: ``cursor`` does not come from such a page of this process.
        """
        if things.patterns is not None and len(things.patterns) == 1:
            (only,) = things.patterns
            if not set(only) & set("*?"):
                things = Things(name=only)  # which has an index
        purpose = (reader, repr(things))
        before = NEWEST if cursor is None else self._cursors.open(cursor, purpose)
        found: list[TunnelSummary] = []
        # Patterns may match few tunnels of many. Each turn of the loop looks at a part of them,
        # and those who ask for the same things wait for each other.
        async with self._scans.setdefault(things, asyncio.Lock()):
            # One more than asked for tells whether there is another page.
            while before and len(found) <= limit:
                part, before = self._store.list_tunnels(things, before, limit + 1 - len(found))
                now = self._clock()
                current = (self._unstored.current_summary(stored, now) for stored in part)
                found += [tunnel for tunnel in current if tunnel is not None]
                if before and len(found) <= limit:
                    await asyncio.sleep(0)
        if len(found) <= limit:
            return TunnelPage(tuple(found), None)
        page = tuple(found[:limit])
        return TunnelPage(page, self._cursors.seal(page[-1].sequence, purpose))

    def usage(self) -> Usage:
        """Return what all tunnels take.

        Raises:
            StoreFailed: the store cannot be read.
        """
        return self._store.usage(None, self._clock())
