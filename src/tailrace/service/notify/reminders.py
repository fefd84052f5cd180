"""Notifications that are sent again while their thing has not connected.

A broker acknowledges what it has taken, not what the thing has got: one that is killed has lost
both what it was to deliver and for whom it was to keep it, and what is published before the thing
has subscribed again goes nowhere. So a notification comes again a few times, later and later, until
it is withdrawn. Together the delays are longer than an agent waits between two attempts at its
broker. A thing that had got it knows it by its token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from .base import Notification
from .outbox import Outbox

__all__ = ["Reminders"]

_DELAYS: Final = (10.0, 20.0, 40.0, 80.0)
"""Seconds between a notification and the next."""
_CAPACITY: Final = 10_000


class Reminders:
    """Puts notifications into an outbox, and again while they are not cancelled.

    At most ``capacity`` of them: with one more, the oldest is not sent again. :meth:`stop` it
    before its outbox.
    """

    def __init__(
        self, outbox: Outbox, delays: Sequence[float] = _DELAYS, capacity: int = _CAPACITY
    ) -> None:
        self._outbox = outbox
        self._delays = tuple(delays)
        self._capacity = capacity
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """By tunnel id."""

    def put(self, notification: Notification) -> None:
        """Send a notification; it replaces one of the same tunnel. A test is sent once."""
        self._forget(notification.tunnel_id)
        self._outbox.put(notification)
        if notification.is_test:
            return  # nothing withdraws one that has arrived
        self._remind(notification, 0)
        if len(self._timers) > self._capacity:
            self._forget(next(iter(self._timers)))

    def cancel(self, tunnel_id: str) -> None:
        """Send the notification of a tunnel no more, if there is one."""
        self._forget(tunnel_id)
        self._outbox.cancel(tunnel_id)

    def stop(self) -> None:
        """Send nothing again."""
        for tunnel_id in tuple(self._timers):
            self._forget(tunnel_id)

    def _forget(self, tunnel_id: str) -> None:
        timer = self._timers.pop(tunnel_id, None)
        if timer is not None:
            timer.cancel()

    def _remind(self, notification: Notification, number: int) -> None:
        if number < len(self._delays):
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._delays[number], self._send, notification, number)
            self._timers[notification.tunnel_id] = timer

    def _send(self, notification: Notification, number: int) -> None:
        del self._timers[notification.tunnel_id]
        if self._outbox.holds(notification.tunnel_id):
            self._remind(notification, number)  # the broker has not taken it yet
            return
        self._outbox.put(notification)
        self._remind(notification, number + 1)
