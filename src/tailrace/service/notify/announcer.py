"""Turns what happens to tunnels into notifications."""

from __future__ import annotations

from collections.abc import Sequence

from ...common.secret import Secret
from ..tunnels.records import TunnelRecord
from .base import Notification
from .outbox import Outbox

__all__ = ["Announcer"]


class Announcer:
    """Puts a notification into every outbox when a thing has to learn a token."""

    def __init__(self, outboxes: Sequence[Outbox], region: str) -> None:
        self._outboxes = tuple(outboxes)
        self._region = region

    def announce(self, tunnel: TunnelRecord, destination_token: Secret) -> None:
        """Tell the thing of a tunnel its new token; nothing happens when it has no thing."""
        if tunnel.thing_name is None:
            return
        notification = Notification(
            tunnel.tunnel_id,
            tunnel.thing_name,
            destination_token,
            self._region,
            tunnel.services,
            tunnel.expires_at,
        )
        for outbox in self._outboxes:
            outbox.put(notification)

    def withdraw(self, tunnel_id: str) -> None:
        """Tell nobody of a tunnel any more: it is closed, or its token has arrived."""
        for outbox in self._outboxes:
            outbox.cancel(tunnel_id)
