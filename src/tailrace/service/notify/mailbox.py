"""Notifications for things that wait at the service itself.

A notification stays until the thing has acknowledged it, has connected to the tunnel, or cannot use
it any more (:meth:`Mailbox.cancel`, or a newer token of the same tunnel). So a thing that was away,
or whose connection broke before it had stored what it was sent, gets all of it again when it is
back, each in the order it came.

Unlike an :class:`~.outbox.Outbox`, nothing is tried again by time: a waiter is woken,
and takes what it has not sent yet (:meth:`Mailbox.next`), one at a time, as fast as its thing
reads. A thing that never comes costs nothing but the place of its notifications. Of those there is
a most for each thing, which loses its oldest, and for all, of which the key with the most loses its
oldest.

They are kept in memory only, because they hold access tokens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from ...common.log_floods import flood_kind
from .base import Notification

__all__ = ["Mailbox", "Waiter"]

_log = logging.getLogger(__name__)

_CAPACITY: Final = 10_000
_OF_THING: Final = 100
"""More than the tunnels that an agent has at the same time."""


@dataclass(eq=False, slots=True)
class Waiter:
    """One connection on which a thing waits."""

    thing_name: str
    key_id: str
    address: str
    since: float
    """In seconds since the epoch."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be something to send, or to end."""
    seen: int = 0
    """Number of the last notification that was sent."""
    ended: str = ""
    """Why it is to end; "" while it is not."""

    def end(self, why: str) -> None:
        """Let it end."""
        self.ended = self.ended or why
        self.woken.set()


class Mailbox:
    """Keeps notifications for things, and knows which of them wait."""

    def __init__(self, capacity: int = _CAPACITY, of_thing: int = _OF_THING) -> None:
        self._capacity = capacity
        self._of_thing = of_thing
        self._number = 0
        self._places: dict[str, tuple[int, Notification]] = {}
        """All of them with their number, by tunnel id, oldest first."""
        self._by_thing: dict[str, dict[str, None]] = {}
        self._by_key: dict[str, dict[str, None]] = {}
        """Tunnel ids, oldest first."""
        self._waiters: dict[str, dict[Waiter, None]] = {}
        """By thing, oldest first."""
        self.delivered = 0
        """How many were acknowledged."""

    def __len__(self) -> int:
        return len(self._places)

    def put(self, notification: Notification) -> None:
        """Add a notification; it replaces one of the same tunnel."""
        if notification.is_test:
            return  # a thing that waits here knows that without one
        tunnel_id, thing_name = notification.tunnel_id, notification.thing_name
        self.cancel(tunnel_id)
        self._number += 1
        self._places[tunnel_id] = (self._number, notification)
        self._by_thing.setdefault(thing_name, {})[tunnel_id] = None
        self._by_key.setdefault(notification.key_id, {})[tunnel_id] = None
        if len(self._by_thing[thing_name]) > self._of_thing:
            self._give_up(next(iter(self._by_thing[thing_name])), "too many wait for it")
        elif len(self._places) > self._capacity:
            most = max(self._by_key.values(), key=len)
            self._give_up(next(iter(most)), "too many wait")
        for waiter in self._waiters.get(thing_name, ()):
            waiter.woken.set()

    def cancel(self, tunnel_id: str) -> None:
        """Drop the notification of a tunnel, if there is one."""
        place = self._places.pop(tunnel_id, None)
        if place is not None:
            notification = place[1]
            _drop(self._by_thing, notification.thing_name, tunnel_id)
            _drop(self._by_key, notification.key_id, tunnel_id)

    def next(self, waiter: Waiter) -> Notification | None:
        """Return what a waiter has to send next, ``None`` for nothing."""
        for tunnel_id in self._by_thing.get(waiter.thing_name, ()):
            number, notification = self._places[tunnel_id]
            if number > waiter.seen:
                waiter.seen = number
                return notification
        return None

    def acknowledge(self, thing_name: str, token_ids: Collection[str]) -> None:
        """Drop what a thing has stored; what is not there any more does not matter."""
        for tunnel_id in tuple(self._by_thing.get(thing_name, ())):
            notification = self._places[tunnel_id][1]
            if notification.token_id in token_ids:
                self.cancel(tunnel_id)
                self.delivered += 1
                _log.info(
                    "tunnel %s: thing %s notified by the service",
                    tunnel_id,
                    thing_name,
                    extra=flood_kind(per=tunnel_id),
                )

    # Who waits

    def attach(self, waiter: Waiter) -> None:
        """Let a thing wait; call :meth:`detach` in the end."""
        self._waiters.setdefault(waiter.thing_name, {})[waiter] = None

    def detach(self, waiter: Waiter) -> None:
        """Forget a waiter."""
        waiters = self._waiters[waiter.thing_name]
        del waiters[waiter]
        if not waiters:
            del self._waiters[waiter.thing_name]

    def waiters(self, thing_name: str | None = None) -> Iterator[Waiter]:
        """Yield who waits, the oldest of each thing first; for one thing, or for all."""
        if thing_name is not None:
            yield from self._waiters.get(thing_name, ())
            return
        for waiters in self._waiters.values():
            yield from waiters

    @property
    def things(self) -> int:
        """How many things wait."""
        return len(self._waiters)

    def pending(self, thing_name: str) -> int:
        """Return how many notifications a thing has not acknowledged."""
        return len(self._by_thing.get(thing_name, ()))

    def _give_up(self, tunnel_id: str, why: str) -> None:
        thing_name = self._places[tunnel_id][1].thing_name
        self.cancel(tunnel_id)
        if thing_name in self._waiters:
            # Others may be notified in another way: only who waits here misses it.
            _log.warning(
                "tunnel %s: thing %s will not be notified by the service: %s; rotate its token "
                "to try again",
                tunnel_id,
                thing_name,
                why,
                extra=flood_kind(per=thing_name),
            )


def _drop(groups: dict[str, dict[str, None]], group: str, tunnel_id: str) -> None:
    del groups[group][tunnel_id]
    if not groups[group]:
        del groups[group]
