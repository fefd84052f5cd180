"""Reads of the service's state, for the control API, metrics and user interfaces.

None of them needs the store or the relay.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import TunnelNotFound
from .records import TunnelPage, TunnelRecord, TunnelStatus
from .store import TunnelStore
from .unstored import Unstored

__all__ = ["TunnelQueries"]


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

    def page(self, thing_name: str | None, cursor: str | None, limit: int) -> TunnelPage:
        """Return up to ``limit`` tunnels, newest first, of one thing or of all.

        Raises:
            InvalidCursor: ``cursor`` does not come from an earlier page.
        """
        page = self._store.list_tunnels(thing_name, cursor, limit)
        now = self._clock()
        current = (self._unstored.current(stored, now) for stored in page.tunnels)
        return TunnelPage(tuple(tunnel for tunnel in current if tunnel is not None), page.cursor)

    def count_by_status(self) -> dict[TunnelStatus, int]:
        """Return the number of tunnels of each status.

        Raises:
            StoreFailed: the store cannot be read.
        """
        return self._store.count_by_status()
