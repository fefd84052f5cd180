"""What a notification is, and what delivers it.

A thing learns from a notification that a tunnel was opened for it, and gets the
access token of its side (AWS IoT developer guide, "Configure a remote device and use
IoT agent").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ...common.secret import Secret
from ..errors import ServiceError

__all__ = ["Notification", "Notifier", "NotifyFailed"]


class NotifyFailed(ServiceError):
    """A notification was not delivered this time; another try may succeed."""


@dataclass(frozen=True, slots=True)
class Notification:
    """A destination's new access token, on its way to the thing."""

    tunnel_id: str
    thing_name: str
    access_token: Secret
    region: str
    services: Sequence[str]
    expires_at: float
    """End of the tunnel, in seconds since the epoch; the token is worth nothing afterwards."""

    @property
    def topic(self) -> str:
        """The MQTT topic to which the thing has subscribed."""
        return f"$aws/things/{self.thing_name}/tunnels/notify"

    def document(self) -> dict[str, object]:
        """Return what the thing reads. It holds the token: keep it out of logs."""
        return {
            "clientAccessToken": self.access_token.reveal(),
            "clientMode": "destination",
            "region": self.region,
            "services": list(self.services),
        }

    def payload(self) -> bytes:
        """Return the message as it is published."""
        return json.dumps(self.document()).encode()


class Notifier(Protocol):
    """One way to reach things."""

    @property
    def name(self) -> str:
        """What it is, for logs and metrics; without credentials."""

    async def deliver(self, notification: Notification) -> None:
        """Deliver one notification; on return the other side has taken it over.

        Raises:
            NotifyFailed: it was not delivered, or nobody knows.
        """

    async def close(self) -> None:
        """Release connections, in bounded time."""
