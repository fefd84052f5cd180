"""Connections on which things wait for notifications, at the port of the control API.

A request is judged like any other: bounded head, no body, signature, rights, and the rate of its
address or key. From then on its connection is bounded here: in number (of all, of one key, and of
one thing, where the oldest makes room: it may be a dead one of the same device), in time (a client
that does not take what it is sent is dropped, and each stream ends after some minutes, so that what
a proxy in between keeps open for nobody ends, too), and in memory: one notification at a time is
written, and the next when the client has taken it. A key that is revoked gets no notification from
then on, and loses its streams within seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from ...common.event_loop import descriptor_limit
from ...common.log_floods import flood_kind
from ...common.notification_stream import (
    CONTENT_TYPE,
    KEEP_ALIVE,
    KEEP_ALIVE_SECONDS,
    STREAM_PATH,
    event,
)
from ..identity.policy import RECEIVE, AccessKey
from ..limits import Limits
from ..networks import Network
from ..notify.mailbox import Mailbox, Waiter
from .errors import ApiError, ErrorType
from .model import is_thing_name
from .request_body import address_of
from .responses import error_response
from .server import hold_open

__all__ = ["WaitingRoom"]

_log = logging.getLogger(__name__)

_OF_THING: Final = 4
_SHARE: Final = 8
"""One part in this many of the process' file descriptors is for waiting things."""
_SEND_SECONDS: Final = 30.0
"""For a client to take what it is sent."""
_LIFE_SECONDS: Final = 900.0
"""After which a stream ends and its thing begins another one; up to a third more at random."""
_HEADERS: Final = [
    (b"content-type", CONTENT_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"connection", b"close"),
    # nginx would keep back what comes until it has some kilobytes.
    (b"x-accel-buffering", b"no"),
]


class WaitingRoom:
    """Lets things wait. :meth:`close` it before its server stops.

    ``judge`` returns who has signed a request without a body; ``find_key`` the key with an id as
    it is now. ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        judge: Callable[[Request, str], AccessKey],
        find_key: Callable[[str], AccessKey | None],
        *,
        clock: Callable[[], float],
        request_id: Callable[[], str],
        count: Callable[[str, str], None],
        limits: Limits,
        forwarders: Collection[Network],
    ) -> None:
        self._mailbox = mailbox
        self._judge = judge
        self._find_key = find_key
        self._clock = clock
        self._request_id = request_id
        self._count = count
        self._forwarders = forwarders
        self._most = max(1, min(limits.waiting_things, descriptor_limit() // _SHARE))
        self._of_key: Counter[str] = Counter()
        self._is_closed = False

    def routes(self) -> list[BaseRoute]:
        """Return the route by which things wait."""
        return [Route(STREAM_PATH, self._begin, methods=["GET"])]

    def close(self) -> None:
        """End all streams; things come back to the next start of the service."""
        self._is_closed = True
        for waiter in self._mailbox.waiters():
            waiter.end("the service stops")

    async def _begin(self, request: Request) -> Response:
        address = address_of(request, self._forwarders)
        try:
            waiter = self._admit(request, address)
        except ApiError as error:
            _log.warning(
                "a thing at %s may not wait: %s",
                address,
                error.shown,
                extra=flood_kind(error.type),
            )
            self._count(RECEIVE, error.type)
            return error_response(error, self._request_id())
        self._count(RECEIVE, "ok")
        return _Stream(self, waiter)

    def _admit(self, request: Request, address: str) -> Waiter:
        """Return who waits from now on.

        Raises:
            ApiError: the request is refused.
        """
        key = self._judge(request, address)
        names = request.query_params.getlist("thing")
        if len(names) != 1 or not is_thing_name(names[0]):
            raise ApiError(ErrorType.VALIDATION, "The query must name one thing")
        if not self._allows(key, names[0]):
            raise ApiError(
                ErrorType.ACCESS_DENIED,
                f"Access key {key.access_key_id} is not authorized to perform {RECEIVE} for "
                "this thing",
            )
        self._make_room(key.access_key_id, names[0])
        return Waiter(names[0], key.access_key_id, address, self._clock())

    def _make_room(self, key_id: str, thing_name: str) -> None:
        if self._is_closed or self._of_key.total() >= self._most:
            raise ApiError(ErrorType.UNAVAILABLE, "Too many things are waiting")
        if self._of_key[key_id] >= max(1, self._most // 2):
            raise ApiError(ErrorType.THROTTLING, "Too many things are waiting with this key")
        staying = [each for each in self._mailbox.waiters(thing_name) if not each.ended]
        for oldest in staying[: 1 - _OF_THING]:
            oldest.end("the thing waits elsewhere")

    def _allows(self, key: AccessKey, thing_name: str) -> bool:
        # A notification holds a token: it is not for keys that only read.
        return key.policy.allows(RECEIVE, writes=True) and key.policy.allows_thing(thing_name)

    # For its streams

    def enter(self, waiter: Waiter) -> None:
        self._of_key[waiter.key_id] += 1
        self._mailbox.attach(waiter)
        _log.info(
            "thing %s waits at %s with the key %s",
            waiter.thing_name,
            waiter.address,
            waiter.key_id,
            extra=flood_kind(per=waiter.thing_name),
        )

    def leave(self, waiter: Waiter) -> None:
        self._of_key[waiter.key_id] -= 1
        if not self._of_key[waiter.key_id]:
            del self._of_key[waiter.key_id]
        self._mailbox.detach(waiter)
        _log.info(
            "thing %s no longer waits at %s: %s",
            waiter.thing_name,
            waiter.address,
            waiter.ended,
            extra=flood_kind(per=waiter.thing_name),
        )

    def next(self, waiter: Waiter) -> bytes | None:
        """Return the next event to send, ``None`` for none.

        Ends the stream of a key that was revoked, has expired or may do less.
        """
        self._look_at_key(waiter)
        notification = None if waiter.ended else self._mailbox.next(waiter)
        if notification is None:
            return None
        return event(notification.token_id, notification.payload().decode())

    def _look_at_key(self, waiter: Waiter) -> None:
        key = self._find_key(waiter.key_id)
        if key is None or key.has_expired(self._clock()):
            waiter.end("its key is no longer good")
        elif not self._allows(key, waiter.thing_name):
            waiter.end("its key may do less")


class _Stream(Response):
    """The response on which a thing waits."""

    def __init__(self, room: WaitingRoom, waiter: Waiter) -> None:
        super().__init__()
        self._room = room
        self._waiter = waiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hold_open(scope)
        self._room.enter(self._waiter)
        watch = asyncio.get_running_loop().create_task(self._watch(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await self._serve(send)
            await self._send(send, b"", is_last=True)
        except (TimeoutError, OSError):
            self._waiter.end("it takes nothing")
        finally:
            watch.cancel()
            self._waiter.end("its connection is lost")
            self._room.leave(self._waiter)

    async def _watch(self, receive: Receive) -> None:
        """Notice that the client is gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._waiter.end("it has left")

    async def _serve(self, send: Send) -> None:
        waiter, loop = self._waiter, asyncio.get_running_loop()
        # The first one tells that the stream has begun.
        await self._send(send, KEEP_ALIVE)
        # Not all at the same time, after a restart of the service.
        until = loop.time() + _LIFE_SECONDS * random.uniform(1, 4 / 3)  # noqa: S311
        while not waiter.ended:
            waiter.woken.clear()
            while (data := self._room.next(waiter)) is not None:
                await self._send(send, data)
            if loop.time() >= until:
                waiter.end("it comes back")
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    await waiter.woken.wait()
            except TimeoutError:
                await self._send(send, KEEP_ALIVE)

    async def _send(self, send: Send, data: bytes, *, is_last: bool = False) -> None:
        async with asyncio.timeout(_SEND_SECONDS):
            await send({"type": "http.response.body", "body": data, "more_body": not is_last})
