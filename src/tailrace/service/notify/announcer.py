"""From tunnels to notifications of things."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from ...common.secret import Secret
from ...mqtt.topics import TopicTemplate
from ..tunnels.records import TunnelRecord
from .base import Notification, NotificationQueue

__all__ = ["Announcer"]

_TEST_LIFETIME: Final = 60.0
"""Seconds after which a test that was not delivered is given up."""


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

    def test(self, thing_name: str, key_id: str, now: float) -> str:
        """Notify a thing that this is a test; return the token id that it brings."""
        notification = Notification(
            f"test of {thing_name}",
            key_id,
            thing_name,
            self._topics.topic(thing_name),
            Secret(secrets.token_hex()),
            self._region,
            (),
            now + _TEST_LIFETIME,
            is_test=True,
        )
        for queue in self._queues:
            queue.put(notification)
        return notification.token_id

    def withdraw(self, tunnel_id: str) -> None:
        """Drop the notification of a tunnel: it is closed, or the token has arrived."""
        for queue in self._queues:
            queue.cancel(tunnel_id)
