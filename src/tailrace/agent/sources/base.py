"""The interface of what brings notifications to the agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

__all__ = ["Delivery", "NotificationSource", "Receive"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One notification as it came in, unread.

    Example: ``await receive(tailrace.Delivery(message.payload, "pump-7"))``
    """

    payload: bytes = field(repr=False)
    """At most :data:`~tailrace.agent.notification.MAX_PAYLOAD` bytes. It holds a token."""
    thing_name: str | None = None
    """Thing that its topic names; ``None`` where the way in has no topics."""
    retained: bool = False
    """Whether the MQTT broker had kept it for later subscribers."""


Receive: TypeAlias = Callable[[Delivery], Awaitable[None]]
"""Takes one delivery; what it raises means that it was not stored."""


class NotificationSource(Protocol):
    """One way in which notifications come in.

    Example::

        class MySource:
            name = "my queue"

            def status(self) -> str:
                return "connected"

            async def run(self, receive):
                async for message in my_queue:
                    await receive(tailrace.Delivery(message.body))
                    await message.acknowledge()
    """

    @property
    def name(self) -> str:
        """Name for logs and the status; holds no credentials."""

    def status(self) -> str:
        """Return what it is doing, in a few words: ``connected to broker.example:8883``.

        Subscribers of the agent are told within a second when the first one has changed.
        """

    async def run(self, receive: Receive) -> None:
        """Deliver notifications until cancelled; never give up.

        When ``receive`` returns, the notification is stored, or is not worth storing: it is
        acknowledged then. When it raises, it is not acknowledged. Nothing more is read while
        ``receive`` runs. Returns only where a way in has an end, as standard input has.
        """
