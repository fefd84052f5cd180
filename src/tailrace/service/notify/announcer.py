"""From tunnels to notifications of things."""

from __future__ import annotations

from collections.abc import Sequence

from ...common.secret import Secret
from ...mqtt.topics import TopicTemplate
from ..tunnels.records import TunnelRecord
from .base import Notification
from .outbox import Outbox

__all__ = ["Announcer"]


class Announcer:
    """Puts the notifications of things into every outbox."""

    def __init__(self, outboxes: Sequence[Outbox], region: str, topics: TopicTemplate) -> None:
        self._outboxes = tuple(outboxes)
        self._region = region
        self._topics = topics

    def announce(self, tunnel: TunnelRecord, destination_token: Secret) -> None:
        """Notify the thing of a tunnel, if it has one, of its new access token."""
        if tunnel.thing_name is None:
            return
        notification = Notification(
            tunnel.tunnel_id,
            tunnel.key_id,
            tunnel.thing_name,
            self._topics.topic(tunnel.thing_name),
            destination_token,
            self._region,
            tunnel.services,
            tunnel.expires_at,
        )
        for outbox in self._outboxes:
            outbox.put(notification)

    def withdraw(self, tunnel_id: str) -> None:
        """Drop the notification of a tunnel: it is closed, or the token has arrived."""
        for outbox in self._outboxes:
            outbox.cancel(tunnel_id)
