"""The commands of the service: one object over tunnels, links, notifications and time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..common.secret import Secret
from ..wire import Side
from .errors import EndNotStored
from .notify.announcer import Announcer
from .notify.mailbox import Mailbox
from .relay.switchboard import Switchboard
from .tunnels.patience import Patience
from .tunnels.queries import TunnelQueries
from .tunnels.records import TunnelRecord
from .tunnels.rules import (
    Destination,
    OpenedTunnel,
    Owner,
    RandomIds,
    RotatedTunnel,
    Tunnels,
    TunnelSpec,
)

__all__ = ["ControlPlane"]


class ControlPlane:
    """Commands of the control API, and the admissions that the data listener needs.

    ``clock`` gives seconds since the epoch. ``reschedule`` is called when the time of the
    next expiry may have changed.

    A command changes the store first; then come the links and notifications that follow
    from it, which a failing store therefore leaves alone. Only the end of a tunnel is carried
    out in any case.
    """

    def __init__(
        self,
        tunnels: Tunnels,
        queries: TunnelQueries,
        switchboard: Switchboard,
        ids: RandomIds,
        clock: Callable[[], float],
        announcer: Announcer,
        mailbox: Mailbox,
        reschedule: Callable[[], None],
    ) -> None:
        self.queries = queries
        self.mailbox = mailbox
        """Notifications of things that wait at the service."""
        self.clock = clock
        self._tunnels = tunnels
        self._switchboard = switchboard
        self._ids = ids
        self._announcer = announcer
        self._reschedule = reschedule
        self.patience = Patience()
        """For callers that can wait for a store that is busy."""

    def open_tunnel(self, spec: TunnelSpec) -> OpenedTunnel:
        """Open a tunnel.

        Raises:
            TunnelLimitReached: a limit does not allow it.
        """
        opened = self._tunnels.open(spec, self.clock())
        self._announcer.announce(opened.tunnel, opened.destination_token)
        self._reschedule()
        return opened

    def send_test(self, thing_name: str, key_id: str) -> str:
        """Send a thing a notification that only shows that it arrives; return its token id."""
        return self._announcer.test(thing_name, key_id, self.clock())

    def close_tunnel(self, tunnel_id: str, *, delete: bool) -> None:
        """Close a tunnel and disconnect both its sides.

        Raises:
            TunnelNotFound: there is no such tunnel.
            EndNotStored: it is closed, which the store will have later.
        """
        connected = self._switchboard.is_connected(tunnel_id)
        try:
            self._tunnels.close(tunnel_id, self.clock(), delete=delete, connected=connected)
        except EndNotStored:
            self._end(tunnel_id)
            raise
        self._end(tunnel_id)

    def _end(self, tunnel_id: str) -> None:
        self._announcer.withdraw(tunnel_id)
        self._switchboard.close_tunnel(tunnel_id, "The tunnel was closed")
        self._reschedule()

    def rotate(
        self,
        tunnel_id: str,
        sides: Iterable[Side],
        destination: Destination | None,
        rotator: Owner,
    ) -> RotatedTunnel:
        """Replace access tokens, and disconnect the links that used the old ones.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelClosed: it has ended.
            TunnelLimitReached: a limit does not allow the new destination.
        """
        rotated = self._tunnels.rotate(tunnel_id, sides, destination, rotator, self.clock())
        for side in rotated.disconnect:
            reason = (
                "The access token was rotated"
                if side in rotated.tokens
                else "The service ids of the tunnel have changed"
            )
            self._switchboard.disconnect(tunnel_id, side, reason)
        if Side.DESTINATION in rotated.tokens:
            # A notification that is not delivered yet holds a token that was just revoked.
            self._announcer.withdraw(tunnel_id)
            self._announcer.announce(rotated.tunnel, rotated.tokens[Side.DESTINATION])
        return rotated

    def tag(self, tunnel_id: str, tags: Mapping[str, str], tagger: Owner) -> None:
        """Add tags to a tunnel.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelLimitReached: it would have too many, or the tagger has no quota left.
        """
        self._tunnels.tag(tunnel_id, tags, tagger, self.clock())

    def untag(self, tunnel_id: str, keys: Iterable[str]) -> None:
        """Remove tags from a tunnel.

        Raises:
            TunnelNotFound: there is no such tunnel.
        """
        self._tunnels.untag(tunnel_id, keys, self.clock())

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
            # The thing has its token. A notification that is still tried may have arrived:
            # brokers die between passing a message on and acknowledging it.
            self._announcer.withdraw(tunnel_id)
        self._tunnels.set_connected(tunnel_id, side, True, self.clock())

    def disconnected(self, tunnel_id: str, side: Side) -> None:
        self._tunnels.set_connected(tunnel_id, side, False, self.clock())
