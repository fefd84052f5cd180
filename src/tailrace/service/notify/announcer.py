"""From tunnels to notifications of things."""

from __future__ import annotations

from collections.abc import Sequence

from ...common.secret import Secret
from ...mqtt.topics import TopicTemplate
from ..tunnels.records import TunnelRecord
from .base import Notification, NotificationQueue

__all__ = ["Announcer"]


class Announcer:
    """Puts the notifications of things into every queue."""

    def __init__(
        self, queues: Sequence[NotificationQueue], region: str, topics: TopicTemplate
    ) -> None:
        self._queues = tuple(queues)
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
        for queue in self._queues:
            queue.put(notification)

    def withdraw(self, tunnel_id: str) -> None:
        """Drop the notification of a tunnel: it is closed, or the token has arrived."""
        for queue in self._queues:
            queue.cancel(tunnel_id)
