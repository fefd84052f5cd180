"""How a destination reaches its applications: at an address, or in a handler of this process."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from ..common.addresses import (
    DEFAULT_APPLICATION_HOST,
    LocalAddress,
    TCPAddress,
)
from .capped_end import CappedEnd
from .dialer import Attempt, DialFailed, begin, dial
from .events import ConnectionOpened, ProxyEvent
from .in_process import IN_PROCESS, Streams, new_streams
from .local_connection import LocalConnection
from .local_end import LocalEnd
from .log import TunnelLog
from .routes import LocalService, Route, SocketFactory, StreamHandler
from .settings import ProxySettings
from .sockets import SocketEnd

__all__ = ["Applications", "name_of"]


_Dialed: TypeAlias = LocalAddress | SocketFactory
"""What a socket is connected to."""

_DIALS: Final = 128
"""Connections that are dialed at once for one service; the others wait for their turn."""


def name_of(service: LocalService) -> str:
    """Return how events and records name an application."""
    return str(service) if isinstance(service, _Dialed) else IN_PROCESS


def _told(address: _Dialed) -> str:
    """Return an address as the peer reads it, which does not know our default host."""
    if isinstance(address, TCPAddress) and not address.host:
        return str(TCPAddress(DEFAULT_APPLICATION_HOST, address.port))
    return str(address)


class Applications:
    """The applications behind the connections of one session.

    How fast connections are asked for is up to the peer. So only some are dialed at once: one
    turn of the loop makes a bounded number of sockets, and an application is not asked for more
    than systems queue by default. One service does not wait for another's application.

    ``refuse`` is called with a connection whose application cannot be reached, and why: for
    the log, and for the peer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: ProxySettings,
        emit: Callable[[ProxyEvent], None],
        refuse: Callable[[LocalConnection, str, str], None],
        log: TunnelLog,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._emit = emit
        self._refuse = refuse
        self._log = log
        self._dials: dict[LocalConnection, asyncio.Task[None]] = {}
        self._dialing: Counter[str] = Counter()
        """How many are dialed for each service."""
        self._queued: dict[str, OrderedDict[LocalConnection, Route]] = {}
        """Those that wait to be dialed for each service, oldest first."""
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The dials and handlers that are running."""
        return self._handlers.union(self._dials.values())

    def reach(self, local: LocalConnection, route: Route) -> None:
        """Attach the application of a new connection, as soon as there is one."""
        service = route.service
        if isinstance(service, _Dialed):
            service_id = local.connection.service_id
            if self._dialing[service_id] < _DIALS:
                self._begin_dial(local, route)
            else:
                self._queued.setdefault(service_id, OrderedDict())[local] = route
        else:
            end, streams = new_streams(self._loop)
            self._attach(local, end, route)
            task = self._loop.create_task(self._handle(local, service, streams))
            self._handlers.add(task)
            task.add_done_callback(self._handlers.discard)

    def give_up(self, local: LocalConnection) -> None:
        """Dial no more for a connection."""
        task = self._dials.pop(local, None)
        if task is not None:
            task.cancel()
        elif local.connection.service_id in self._queued:
            self._queued[local.connection.service_id].pop(local, None)

    def abandon_dials(self) -> None:
        """Close the connections whose application has not been reached yet."""
        queued = [local for queue in self._queued.values() for local in queue]
        for local in [*queued, *self._dials]:
            self._log.warning(
                "%s: not reached before the end; %d bytes lost", local.name, local.waiting
            )
            self.give_up(local)
            local.abort()

    def _begin_dial(self, local: LocalConnection, route: Route) -> None:
        service_id = local.connection.service_id
        self._log.debug("Attempting to establish tcp socket connection to: %s", route.service)
        self._dialing[service_id] += 1
        assert isinstance(route.service, _Dialed)
        attempt = begin(route.service, self._settings, route.networks)
        if isinstance(attempt, Attempt) and attempt.is_connected:
            # It counts until the next turn.
            self._loop.call_soon(self._dial_next, service_id)
            self._attach(local, SocketEnd(self._loop, attempt.sock), route)
            return
        task = self._dials[local] = self._loop.create_task(self._dial(local, route, attempt))
        task.add_done_callback(partial(self._dial_done, service_id, attempt))

    def _dial_done(
        self, service_id: str, attempt: Attempt | DialFailed | None, task: asyncio.Task[None]
    ) -> None:
        if isinstance(attempt, Attempt) and task.cancelled():
            attempt.sock.close()  # the task may not even have begun
        self._dial_next(service_id)

    def _dial_next(self, service_id: str) -> None:
        """Dial the next one that waits: one of those that were dialed is done."""
        self._dialing[service_id] -= 1
        queue = self._queued.get(service_id)
        if queue:
            self._begin_dial(*queue.popitem(last=False))

    async def _dial(
        self, local: LocalConnection, route: Route, attempt: Attempt | DialFailed | None
    ) -> None:
        address = route.service
        assert isinstance(address, _Dialed)
        try:
            sock = await dial(address, self._settings, route.networks, attempt)
        except DialFailed as error:
            del self._dials[local]
            told = f"the destination could not reach {_told(address)} ({error.cause})"
            self._refuse(local, f"Could not connect to destination {error}", told)
            return
        del self._dials[local]
        self._attach(local, SocketEnd(self._loop, sock), route)

    def _attach(self, local: LocalConnection, end: LocalEnd, route: Route) -> None:
        connection = local.connection
        if route.bandwidth is not None:
            end = CappedEnd(self._loop, end, route.bandwidth)
        self._emit(ConnectionOpened(connection.service_id, connection.connection_id, local.name))
        local.attach(end)

    async def _handle(
        self, local: LocalConnection, handler: StreamHandler, streams: Streams
    ) -> None:
        """Run a handler; its stream ends with it, in order unless it failed."""
        service_id = local.connection.service_id
        writer = streams[1]
        try:
            await handler(*streams)
        except ConnectionError as error:
            self._log.debug("The handler of service '%s' ended: %s", service_id, error)
        except Exception as error:
            self._log.error("The handler of service '%s' failed", service_id, exc_info=error)
            writer.transport.abort()
        finally:
            writer.close()
