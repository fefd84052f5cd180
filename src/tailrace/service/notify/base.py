"""The interface of what delivers notifications.

A notification tells a thing that a tunnel was opened for it, and brings the access token
of its side (AWS IoT developer guide, "Configure a remote device and use IoT agent").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ...common.secret import Secret
from ..errors import ServiceError

__all__ = ["Notification", "Notifier", "NotifierDown", "NotifyFailed"]


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

    def document(self) -> dict[str, object]:
        """Return the content for the thing. It holds the token: keep it out of logs."""
        return {
            "clientAccessToken": self.access_token.reveal(),
            "clientMode": "destination",
            "region": self.region,
            "services": list(self.services),
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
