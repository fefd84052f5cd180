"""Notifications of a source for programs that serve their tunnels themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from ..common.log_floods import flood_kind
from ..errors import NotificationIgnored
from .notification import Notification, parse_notification
from .sources.base import Delivery, NotificationSource

__all__ = ["notifications"]

_log = logging.getLogger("tailrace.agent")


async def notifications(source: NotificationSource) -> AsyncIterator[Notification]:
    """Iterate over the notifications of a source; each is acknowledged when the next is asked for.

    What is no notification for a destination is logged and left out. The same one may come again,
    after a restart of the program or of the broker: an :class:`Agent` knows them again, and this
    does not. Ends with the source, which most never do.

    Example::

        async for notification in tailrace.notifications(tailrace.FileSource("/run/tunnel.json")):
            print(notification.services)
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[Notification, asyncio.Future[None]]] = asyncio.Queue(1)

    async def receive(delivery: Delivery) -> None:
        try:
            notification = parse_notification(delivery.payload)
        except NotificationIgnored as error:
            level = logging.INFO if error.expected else logging.WARNING
            text = "a notification is ignored: %s"
            _log.log(level, text, error, extra=flood_kind(str(error)))
            return
        done = loop.create_future()
        await waiting.put((notification, done))
        await done

    running = loop.create_task(source.run(receive))
    getting = None
    try:
        while True:
            getting = loop.create_task(waiting.get())
            await asyncio.wait([getting, running], return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                await running
                return
            notification, done = getting.result()
            yield notification
            if not done.done():
                done.set_result(None)
    finally:
        tasks = [running] if getting is None else [running, getting]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
