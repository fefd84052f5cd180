"""Notifications that wait to be delivered.

Delivery is *at least once*, as long as the service runs: a notification waits until its
notifier reports that the receiver has acknowledged it. A notifier that fails cannot tell
whether the receiver got the message before, so the next attempt may repeat it. A repeated
notification does no harm, because it brings the same token to the same thing, which can
use it once.

A waiting notification is dropped when it would bring a useless token: a newer one of the
same tunnel replaces it, because the rotation that made it has revoked the older token;
:meth:`Outbox.cancel` removes it when the tunnel is closed or the thing has connected; and
it is given up when the tunnel has expired. Such events also happen while the notification
is being delivered. That attempt is not interrupted, but its outcome then concerns nothing
that waits: :meth:`Outbox._forget` compares identities.

Notifications are kept in memory only, because they hold access tokens and the service
stores no token in clear. After a restart, tokens of things that were not notified have to
be rotated.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from ...common.log_floods import flood_kind
from .base import Notification, Notifier, NotifyFailed

__all__ = ["Outbox", "OutboxSettings"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxSettings:
    """Times in seconds."""

    capacity: int = 10_000
    """Notifications that may wait; with one more, the oldest is given up."""
    retry_first: float = 1.0
    retry_most: float = 60.0
    """After a failure the next attempt waits for a random time, from half of the delay to all of
    it; the delay doubles from ``retry_first`` to ``retry_most``."""
    flush_timeout: float = 2.0
    """For deliveries when the service stops."""


class Outbox:
    """Delivers notifications through a notifier, one at a time.

    A tunnel has at most one notification waiting. ``clock`` gives seconds since the epoch.
    Call :meth:`start` in the running loop, and :meth:`stop` in the end.
    """

    def __init__(
        self,
        notifier: Notifier,
        clock: Callable[[], float],
        settings: OutboxSettings | None = None,
    ) -> None:
        self._notifier = notifier
        self._clock = clock
        self._settings = settings or OutboxSettings()
        self._waiting: dict[str, Notification] = {}
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        """Set while a stopping service has nothing to wait for: nothing waits, or the last
        attempt has failed."""
        self._task: asyncio.Task[None]
        self.delivered = 0
        self.failed = 0
        self.given_up = 0

    @property
    def name(self) -> str:
        """Name of the notifier."""
        return self._notifier.name

    @property
    def waiting(self) -> int:
        """Notifications that are not delivered yet."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Deliver what can be delivered soon, give up the rest, close the notifier."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.flush_timeout):
                await self._settled.wait()
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._notifier.close()
        for notification in self._waiting.values():
            self._give_up(notification, "the service stops")
        self._waiting.clear()

    def put(self, notification: Notification) -> None:
        """Add a notification; it replaces a waiting one of the same tunnel."""
        # Removed first, so that it takes a place at the end.
        self._waiting.pop(notification.tunnel_id, None)
        self._waiting[notification.tunnel_id] = notification
        if len(self._waiting) > self._settings.capacity:
            oldest = self._waiting.pop(next(iter(self._waiting)))
            self._give_up(oldest, "too many are waiting")
        self._settled.clear()
        self._wake.set()

    def cancel(self, tunnel_id: str) -> None:
        """Drop the notification of a tunnel, if one waits."""
        self._waiting.pop(tunnel_id, None)

    async def _run(self) -> None:
        delay = 0.0
        while True:
            while not self._waiting:
                self._settled.set()
                self._wake.clear()
                await self._wake.wait()
            notification = next(iter(self._waiting.values()))
            if notification.expires_at <= self._clock():
                self._forget(notification)
                self._give_up(notification, "the tunnel has expired")
            elif await self._deliver(notification):
                delay = 0.0
            else:
                delay = min(max(self._settings.retry_first, 2 * delay), self._settings.retry_most)
                self._settled.set()
                await asyncio.sleep(random.uniform(delay / 2, delay))  # noqa: S311 - only jitter

    async def _deliver(self, notification: Notification) -> bool:
        try:
            await self._notifier.deliver(notification)
        except NotifyFailed as failed:
            self.failed += 1
            _log.warning(
                "tunnel %s: thing %s not notified by %s, trying again: %s",
                notification.tunnel_id,
                notification.thing_name,
                self.name,
                failed,
                extra=flood_kind(per=notification.tunnel_id),
            )
            # To the end, because it may fail for a reason that others do not have.
            if self._forget(notification):
                self._waiting[notification.tunnel_id] = notification
            return False
        self._forget(notification)
        self.delivered += 1
        _log.info(
            "tunnel %s: thing %s notified by %s",
            notification.tunnel_id,
            notification.thing_name,
            self.name,
            extra=flood_kind(per=notification.tunnel_id),
        )
        return True

    def _forget(self, notification: Notification) -> bool:
        """Remove a notification; return false if it was replaced or cancelled meanwhile."""
        if self._waiting.get(notification.tunnel_id) is not notification:
            return False
        del self._waiting[notification.tunnel_id]
        return True

    def _give_up(self, notification: Notification, why: str) -> None:
        self.given_up += 1
        _log.warning(
            "tunnel %s: thing %s will not be notified by %s: %s; rotate its token to try again",
            notification.tunnel_id,
            notification.thing_name,
            self.name,
            why,
            extra=flood_kind(per=notification.tunnel_id),
        )
