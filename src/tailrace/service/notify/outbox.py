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
that waits: another notification of the tunnel may, but it is not the same object.

What fails holds up nothing else. Each notification has a delay of its own, several are delivered
at the same time, and the places are shared out twice: access keys take turns, and no key has more
than half of them; within a key its things take turns, one notification at a time. A notifier that
cannot reach anything at all (:class:`~.base.NotifierDown`) is a different matter: then the outbox
waits as a whole, and tries one notification to see whether it works again. When too many wait,
the key with the most loses its oldest.

Notifications are kept in memory only, because they hold access tokens and the service
stores no token in clear. After a restart, tokens of things that were not notified have to
be rotated.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ...common.log_floods import flood_kind
from .base import Notification, Notifier, NotifierDown, NotifyFailed

__all__ = ["Outbox", "OutboxSettings"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxSettings:
    """Times in seconds."""

    capacity: int = 10_000
    """Notifications that may wait; with one more, the key with the most loses its oldest."""
    concurrency: int = 8
    """Deliveries at the same time."""
    concurrency_of_key: int = 4
    retry_first: float = 1.0
    retry_most: float = 60.0
    """After a failure the next attempt waits for a random time, from half of the delay to all of
    it; the delay doubles from ``retry_first`` to ``retry_most``."""
    flush_timeout: float = 2.0
    """For deliveries when the service stops."""

    def longer(self, delay: float) -> float:
        """Return the delay after another failure."""
        return min(max(self.retry_first, 2 * delay), self.retry_most)


class _Entry:
    """One notification that waits, or is being delivered."""

    __slots__ = ("delay", "lane", "notification", "timer", "under_way")

    def __init__(self, notification: Notification) -> None:
        self.notification = notification
        self.lane = (notification.key_id, notification.thing_name)
        """Of one key for one thing: notifications that wait for each other."""
        self.delay = 0.0
        self.timer: asyncio.TimerHandle | None = None
        """Set until it may be tried again."""
        self.under_way = False


_Lane = tuple[str, str]


class Outbox:
    """Delivers notifications through a notifier.

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
        self._started = False
        self._waiting: dict[str, _Entry] = {}
        """Everything that is not delivered yet, by tunnel id."""
        self._by_key: dict[str, dict[str, _Entry]] = {}
        """The same by key, in the order it came."""
        self._ready: dict[_Lane, dict[str, _Entry]] = {}
        """What may be tried now."""
        self._turns: dict[str, dict[_Lane, None]] = {}
        """The keys in the order of their turns, and likewise the lanes of each that are ready and
        have nothing under way."""
        self._lanes_under_way: set[_Lane] = set()
        self._keys_under_way: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._outage_delay = 0.0
        """Longer than 0 from when the notifier was down until it has delivered something."""
        self._outage: asyncio.TimerHandle | None = None
        """Set while nothing is tried at all."""
        self._settled = asyncio.Event()
        """Set while a stopping service has nothing to wait for: nothing is under way, or may be
        tried now."""
        self._settled.set()
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
        self._started = True
        self._proceed()

    async def stop(self) -> None:
        """Deliver what can be delivered soon, give up the rest, close the notifier."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.flush_timeout):
                    await self._settled.wait()
        finally:
            await self._give_up_all()

    async def _give_up_all(self) -> None:
        self._started = False
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._notifier.close()
        if self._outage is not None:
            self._outage.cancel()
        for entry in tuple(self._waiting.values()):
            self._remove(entry)
            self._give_up(entry.notification, "the service stops")

    def put(self, notification: Notification) -> None:
        """Add a notification; it replaces a waiting one of the same tunnel."""
        self.cancel(notification.tunnel_id)
        entry = _Entry(notification)
        self._waiting[notification.tunnel_id] = entry
        self._by_key.setdefault(notification.key_id, {})[notification.tunnel_id] = entry
        if len(self._waiting) > self._settings.capacity:
            most = max(self._by_key.values(), key=len)
            # Not one that may be delivered already.
            oldest = next((each for each in most.values() if not each.under_way), entry)
            self._remove(oldest)
            self._give_up(oldest.notification, "too many are waiting")
        if self._waiting.get(notification.tunnel_id) is entry:
            self._make_ready(entry)

    def holds(self, tunnel_id: str) -> bool:
        """Return whether the notification of a tunnel is not delivered yet."""
        return tunnel_id in self._waiting

    def cancel(self, tunnel_id: str) -> None:
        """Drop the notification of a tunnel, if one waits."""
        entry = self._waiting.get(tunnel_id)
        if entry is not None:
            self._remove(entry)
            self._settle()

    def _make_ready(self, entry: _Entry) -> None:
        entry.timer = None
        self._ready.setdefault(entry.lane, {})[entry.notification.tunnel_id] = entry
        self._await_turn(entry.lane)
        self._proceed()

    def _await_turn(self, lane: _Lane) -> None:
        if lane in self._ready and lane not in self._lanes_under_way:
            self._turns.setdefault(lane[0], {})[lane] = None

    def _remove(self, entry: _Entry) -> None:
        """Forget a notification; an attempt that is under way ends without consequences."""
        tunnel_id, (key_id, _) = entry.notification.tunnel_id, entry.lane
        del self._waiting[tunnel_id]
        del self._by_key[key_id][tunnel_id]
        if not self._by_key[key_id]:
            del self._by_key[key_id]
        if entry.timer is not None:
            entry.timer.cancel()
        self._take(entry)

    def _take(self, entry: _Entry) -> None:
        """Take a notification out of those that may be tried now, if it is one."""
        ready = self._ready.get(entry.lane, {})
        if ready.get(entry.notification.tunnel_id) is entry:
            del ready[entry.notification.tunnel_id]
            if not ready:
                del self._ready[entry.lane]
                self._leave_turns(entry.lane)

    def _leave_turns(self, lane: _Lane) -> None:
        lanes = self._turns.get(lane[0], {})
        lanes.pop(lane, None)
        if not lanes:
            self._turns.pop(lane[0], None)

    def _proceed(self) -> None:
        """Begin as many deliveries as are allowed."""
        # After an outage, one to see whether it is over.
        most = 1 if self._outage_delay else self._settings.concurrency
        while self._started and self._outage is None and len(self._tasks) < most:
            lane = self._next_lane()
            if lane is None:
                break
            entry = next(iter(self._ready[lane].values()))
            if entry.notification.expires_at <= self._clock():
                self._remove(entry)
                self._give_up(entry.notification, "the tunnel has expired")
                continue
            self._begin(entry)
        self._settle()

    def _next_lane(self) -> _Lane | None:
        """Return the lane whose turn it is, and let other keys and lanes have the next ones."""
        for key_id in self._turns:
            if self._keys_under_way[key_id] < self._settings.concurrency_of_key:
                lanes = self._turns.pop(key_id)
                lane = next(iter(lanes))
                del lanes[lane]
                lanes[lane] = None
                self._turns[key_id] = lanes
                return lane
        return None

    def _begin(self, entry: _Entry) -> None:
        entry.under_way = True
        self._lanes_under_way.add(entry.lane)
        self._keys_under_way[entry.lane[0]] += 1
        self._take(entry)
        self._leave_turns(entry.lane)
        task = asyncio.get_running_loop().create_task(self._deliver(entry))
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._end(entry, task))

    def _end(self, entry: _Entry, task: asyncio.Task[None]) -> None:
        entry.under_way = False
        self._tasks.discard(task)
        self._lanes_under_way.discard(entry.lane)
        self._keys_under_way[entry.lane[0]] -= 1
        if not self._keys_under_way[entry.lane[0]]:
            del self._keys_under_way[entry.lane[0]]
        self._await_turn(entry.lane)
        self._proceed()

    def _settle(self) -> None:
        """Note whether anything is under way or could be."""
        if self._tasks or (self._turns and self._outage is None):
            self._settled.clear()
        else:
            self._settled.set()

    async def _deliver(self, entry: _Entry) -> None:
        notification = entry.notification
        try:
            await self._notifier.deliver(notification)
        except NotifyFailed as failed:
            self._failed(entry, failed)
            return
        self._outage_delay = 0.0
        if self._waiting.get(notification.tunnel_id) is entry:
            self._remove(entry)
        self.delivered += 1
        _log.info(
            "tunnel %s: thing %s notified by %s",
            notification.tunnel_id,
            notification.thing_name,
            self.name,
            extra=flood_kind(per=notification.tunnel_id),
        )

    def _failed(self, entry: _Entry, failed: NotifyFailed) -> None:
        notification = entry.notification
        self.failed += 1
        _log.warning(
            "tunnel %s: thing %s not notified by %s, trying again: %s",
            notification.tunnel_id,
            notification.thing_name,
            self.name,
            failed,
            extra=flood_kind(per=notification.tunnel_id),
        )
        if isinstance(failed, NotifierDown):
            self._begin_outage()
        else:
            self._outage_delay = 0.0
            entry.delay = self._settings.longer(entry.delay)
        if self._waiting.get(notification.tunnel_id) is entry:
            if isinstance(failed, NotifierDown):
                self._make_ready(entry)
            else:
                entry.timer = self._later(entry.delay, self._make_ready, entry)

    def _begin_outage(self) -> None:
        if self._outage is None:
            self._outage_delay = self._settings.longer(self._outage_delay)
            self._outage = self._later(self._outage_delay, self._look_again)

    def _look_again(self) -> None:
        self._outage = None
        self._proceed()

    def _later(self, delay: float, call: Callable[..., None], *args: object) -> asyncio.TimerHandle:
        wait = random.uniform(delay / 2, delay)  # noqa: S311 - only jitter
        return asyncio.get_running_loop().call_later(wait, call, *args)

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
