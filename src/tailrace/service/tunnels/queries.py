"""Reads of the service's state, for the control API, metrics and user interfaces.

None of them needs the store or the relay.
"""

from __future__ import annotations

from ..errors import TunnelNotFound
from .records import TunnelPage, TunnelRecord, TunnelStatus
from .store import TunnelStore

__all__ = ["TunnelQueries"]


class TunnelQueries:
    """Reads tunnels, and the names under which AWS knows them."""

    def __init__(self, store: TunnelStore, region: str, account_id: str) -> None:
        self._store = store
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
        tunnel = self._store.tunnel(tunnel_id)
        if tunnel is None:
            raise TunnelNotFound(tunnel_id)
        return tunnel

    def page(self, thing_name: str | None, cursor: str | None, limit: int) -> TunnelPage:
        """Return up to ``limit`` tunnels, newest first, of one thing or of all.

        Raises:
            InvalidCursor: ``cursor`` does not come from an earlier page.
        """
        return self._store.list_tunnels(thing_name, cursor, limit)

    def count_by_status(self) -> dict[TunnelStatus, int]:
        """Return the number of tunnels of each status.

        Raises:
            StoreFailed: the store cannot be read.
        """
        return self._store.count_by_status()
