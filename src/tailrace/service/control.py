"""What the service can be asked to do: one object over store, switchboard and time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from ..common.secret import Secret
from ..wire import Side
from .relay.switchboard import Switchboard
from .tunnels.queries import TunnelQueries
from .tunnels.rules import Destination, IdSource, OpenedTunnel, RotatedTunnel, Tunnels, TunnelSpec
from .tunnels.store import TunnelRecord

__all__ = ["Announcements", "ControlPlane"]


class Announcements(Protocol):
    """Who learns of tunnels that are for a thing."""

    def announce(self, tunnel: TunnelRecord, destination_token: Secret) -> None:
        """Tell the thing of a tunnel, if it has one, about a new destination token."""

    def withdraw(self, tunnel_id: str) -> None:
        """Tell nobody any more: the tunnel is closed, or its token has arrived."""


class _Nobody:
    def announce(self, tunnel: TunnelRecord, destination_token: Secret) -> None:
        pass

    def withdraw(self, tunnel_id: str) -> None:
        pass


class ControlPlane:
    """Commands of the control API, and the admissions that the data listener needs.

    ``clock`` gives seconds since the epoch. ``schedule`` is called whenever the time
    of the next expiry may have changed, ``expired`` with the id of each tunnel whose
    lifetime has ended. ``announcements`` learn of tunnels and of tokens for things.
    """

    def __init__(
        self,
        tunnels: Tunnels,
        queries: TunnelQueries,
        switchboard: Switchboard,
        ids: IdSource,
        clock: Callable[[], float],
    ) -> None:
        self.queries = queries
        self.clock = clock
        self.schedule: Callable[[], None] = lambda: None
        self.expired: Callable[[str], None] = lambda _: None
        self.announcements: Announcements = _Nobody()
        self._tunnels = tunnels
        self._switchboard = switchboard
        self._ids = ids

    def open_tunnel(self, spec: TunnelSpec) -> OpenedTunnel:
        """Open a tunnel.

        Raises:
            TunnelLimitReached: a limit does not allow it.
        """
        opened = self._tunnels.open(spec, self.clock())
        self.announcements.announce(opened.tunnel, opened.destination_token)
        self.schedule()
        return opened

    def close_tunnel(self, tunnel_id: str, *, delete: bool) -> None:
        """Close a tunnel and disconnect both its sides.

        Raises:
            TunnelNotFound: there is no such tunnel.
        """
        self._tunnels.close(tunnel_id, self.clock(), delete=delete)
        self.announcements.withdraw(tunnel_id)
        self._switchboard.close_tunnel(tunnel_id, "The tunnel was closed")
        self.schedule()

    def rotate(
        self, tunnel_id: str, sides: Iterable[Side], destination: Destination | None
    ) -> RotatedTunnel:
        """Replace access tokens, and disconnect who came with the old ones.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelClosed: it has ended.
            TunnelLimitReached: a limit does not allow the new destination.
        """
        rotated = self._tunnels.rotate(tunnel_id, sides, destination, self.clock())
        for side in rotated.disconnect:
            reason = (
                "The access token was rotated"
                if side in rotated.tokens
                else "The service ids of the tunnel have changed"
            )
            self._switchboard.disconnect(tunnel_id, side, reason)
        if Side.DESTINATION in rotated.tokens:
            # A notification that is still under way holds a token that is dead by now.
            self.announcements.withdraw(tunnel_id)
            self.announcements.announce(rotated.tunnel, rotated.tokens[Side.DESTINATION])
        return rotated

    def tag(self, tunnel_id: str, tags: Mapping[str, str]) -> None:
        """Add tags to a tunnel.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelLimitReached: it would have too many.
        """
        self._tunnels.tag(tunnel_id, tags, self.clock())

    def untag(self, tunnel_id: str, keys: Iterable[str]) -> None:
        """Remove tags from a tunnel.

        Raises:
            TunnelNotFound: there is no such tunnel.
        """
        self._tunnels.untag(tunnel_id, keys, self.clock())

    def expire(self) -> float | None:
        """Close what is due; return when to call again, in seconds since the epoch."""
        for tunnel_id in self._tunnels.expire(self.clock()):
            self.expired(tunnel_id)
            self.announcements.withdraw(tunnel_id)
            self._switchboard.close_tunnel(tunnel_id, "The tunnel has expired")
        return self._tunnels.next_expiry()

    def request_id(self) -> str:
        """Return an id for an API request."""
        return self._ids.request_id()

    # For the data listener

    def admit(self, token: Secret, side: Side, client_token: Secret | None) -> TunnelRecord:
        return self._tunnels.admit(token, side, client_token, self.clock())

    def channel_id(self) -> str:
        return self._ids.channel_id()

    def connected(self, tunnel_id: str, side: Side) -> None:
        if side is Side.DESTINATION:
            # The thing has its token, so what still tries to tell it would say it twice:
            # a broker may die between passing a message on and acknowledging it.
            self.announcements.withdraw(tunnel_id)
        self._tunnels.set_connected(tunnel_id, side, True, self.clock())

    def disconnected(self, tunnel_id: str, side: Side) -> None:
        self._tunnels.set_connected(tunnel_id, side, False, self.clock())
