"""The interface of what delivers notifications.

A notification tells a thing that a tunnel was opened for it, and brings the access token
of its side (AWS IoT developer guide, "Configure a remote device and use IoT agent").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ...common.secret import Secret
from ..errors import ServiceError

__all__ = ["Notification", "NotificationQueue", "Notifier", "NotifierDown", "NotifyFailed"]


_TOKEN_ID: Final = 16
"""Characters."""


class NotifyFailed(ServiceError):
    """A notification was not delivered; another attempt may succeed."""


class NotifierDown(NotifyFailed):
    """Nothing can be delivered now, whatever it is."""


@dataclass(frozen=True, slots=True)
class Notification:
    """The new access token of a destination, for its thing."""

    tunnel_id: str
    key_id: str
    """The access key that opened the tunnel."""
    thing_name: str
    topic: str
    """MQTT topic to which the thing subscribes."""
    access_token: Secret
    region: str
    services: Sequence[str]
    expires_at: float
    """End of the tunnel, and so of the token, in seconds since the epoch."""
    is_test: bool = False
    """Whether it is only to show that it arrives: there is no tunnel, and the token is none."""

    @property
    def token_id(self) -> str:
        """Name of the access token, which does not tell it: the beginning of its digest."""
        return self.access_token.digest[:_TOKEN_ID]

    def document(self) -> dict[str, object]:
        """Return the content for the thing. It holds the token: keep it out of logs."""
        if self.is_test:
            return {"clientMode": "test", "tokenId": self.token_id}
        return {
            "clientAccessToken": self.access_token.reveal(),
            "clientMode": "destination",
            "region": self.region,
            "services": list(self.services),
            # Not of AWS, whose clients pass over what they do not know.
            "tunnelId": self.tunnel_id,
            "expiresAt": int(self.expires_at),
            "tokenId": self.token_id,
        }

    def payload(self) -> bytes:
        """Return the message to publish."""
        return json.dumps(self.document()).encode()


class Notifier(Protocol):
    """One way to reach things."""

    @property
    def name(self) -> str:
        """Name for logs and metrics; holds no credentials."""

    async def deliver(self, notification: Notification) -> None:
        """Deliver one notification; return when the receiver has acknowledged it.

        Several may be under way.

        Raises:
            NotifierDown: no notification can be delivered.
            NotifyFailed: this one was not delivered, or may not have been.
        """

    async def close(self) -> None:
        """Release connections, in bounded time."""


class NotificationQueue(Protocol):
    """Where notifications are left until they are delivered."""

    def put(self, notification: Notification) -> None:
        """Add a notification; it replaces a waiting one of the same tunnel."""

    def cancel(self, tunnel_id: str) -> None:
        """Drop the notification of a tunnel, if one waits."""
