"""The events of a tunnel for one ``async for``: kept until they are taken, in bounds."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final, TypeAlias

from ..localproxy.events import ProxyEvent

__all__ = ["EventStream", "EventsDropped", "TunnelEvent"]

_KEPT: Final = 10_000
"""Events that wait for a reader; of more, the oldest are dropped."""


@dataclass(frozen=True, slots=True)
class EventsDropped:
    """Events were lost because they were not taken in time; ``count`` says how many.

    Example: ``case tailrace.EventsDropped(count): print(count, "events missed")``
    """

    count: int


TunnelEvent: TypeAlias = ProxyEvent | EventsDropped
"""What ``async for event in tunnel.events()`` yields.

Example: ``case tailrace.PeerJoined(): print("the device is there")``
"""


class EventStream:
    """An asynchronous iterator over the events from its making to the end of a tunnel."""

    def __init__(self) -> None:
        self._events: deque[ProxyEvent] = deque()
        self._dropped = 0
        self._ended = False
        self._news: asyncio.Future[None] | None = None

    def put(self, event: ProxyEvent) -> None:
        """Keep an event until it is taken."""
        if len(self._events) == _KEPT:
            self._events.popleft()
            self._dropped += 1
        self._events.append(event)
        self._wake()

    def end(self) -> None:
        """Let the iteration end behind the last event."""
        self._ended = True
        self._wake()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> TunnelEvent:
        while not self._events and not self._ended:
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            # Shielded, because more than one task may wait for it.
            await asyncio.shield(self._news)
        if self._dropped:
            count, self._dropped = self._dropped, 0
            return EventsDropped(count)
        if not self._events:
            raise StopAsyncIteration
        return self._events.popleft()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set_result(None)
            self._news = None
