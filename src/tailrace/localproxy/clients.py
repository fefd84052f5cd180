"""How clients come to a source: through listeners, or from within this process.

A client that comes is queued, and the connections of the present link (if there is one) are
told. They take it at once, unless the service's peer carries one connection at a time and is
busy, or both ends have yet to agree how the open ones go on: then it waits, and with it all that
come behind it, in order; the listener is paused, so that those wait in the kernel. Clients from
within this process also wait here while there is no link; those of a listener wait in its backlog.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..common.addresses import LocalAddress, TCPAddress
from ..errors import OpenFailed, TunnelClosed
from .events import Listening, ListeningOnNetwork, ProxyEvent
from .in_process import IN_PROCESS, Streams, new_streams
from .listener import Listener, bind
from .local_end import LocalEnd
from .log import TunnelLog
from .socket_pair import socket_pair
from .sockets import SocketEnd

__all__ = ["Client", "Clients"]

_NO_LINK: Final = "there is no link"


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """One that wants a connection."""

    service_id: str
    peer: str
    end: LocalEnd
    opened: asyncio.Future[None] | None = None
    """Of one within this process: done when it has its connection."""
    listener: Listener | None = None
    """Of one that came to a listener, which accepts no others while it waits."""

    @property
    def has_left(self) -> bool:
        """Whether it does not wait any more."""
        return self.opened is not None and self.opened.done()

    @property
    def is_connected(self) -> bool:
        """Whether it was told that it has its connection."""
        opened = self.opened
        return bool(opened and opened.done() and not (opened.cancelled() or opened.exception()))

    def take(self) -> None:
        """Tell it that it has its connection."""
        if self.opened is not None:
            self.opened.set_result(None)

    def refuse(self, reason: str, kind: type[OpenFailed] = OpenFailed) -> None:
        """Send it away."""
        self.end.reset(reason)
        if self.opened is not None and not self.opened.done():
            self.opened.set_exception(kind(reason))


class Clients:
    """The clients of a source that wait for a connection, and the listeners they come to."""

    def __init__(
        self, bind_address: str, emit: Callable[[ProxyEvent], None], log: TunnelLog
    ) -> None:
        self._bind_address = bind_address
        self._emit = emit
        self._log = log
        self._listeners: dict[str, Listener] = {}
        """Those of the settings, by service id."""
        self._added: dict[Listener, tuple[str, bool]] = {}
        """The service id of those that were added, and whether their port was picked."""
        self._waiting: dict[str, deque[Client]] = {}
        self._service_ids: tuple[str, ...] | None = None
        self._serve: Callable[[str], str] | None = None
        self._end = ""
        """Why there will be no more connections; empty as long as there may be."""

    # -- listeners ----------------------------------------------------------------------

    def bind(self, service_id: str, address: LocalAddress) -> None:
        """Bind the listener of a service, unless it is bound; clients are not accepted yet.

        Raises:
            ListenError: the address cannot be bound.
        """
        if self._listener(service_id) is not None:
            return
        if isinstance(address, TCPAddress) and not address.host:
            address = TCPAddress(self._bind_address, address.port)
        listener = bind(service_id, address, self._log)
        self._listeners[service_id] = listener
        if not listener.is_local:
            self._emit(ListeningOnNetwork(listener.address))

    def bound_address(self, service_id: str, given: LocalAddress | None) -> LocalAddress | None:
        """Return the address that was given for a bound service, with the port that was picked."""
        listener = self._listener(service_id)
        if not isinstance(given, TCPAddress) or given.port or listener is None:
            return given
        assert isinstance(listener.address, TCPAddress)
        return TCPAddress(given.host, listener.address.port)

    def listen(self, service_id: str, assigned: bool) -> None:
        """Accept the clients of a service, which has been bound."""
        listener = self._listener(service_id)
        assert listener is not None
        self._start(listener, service_id)
        self._emit(Listening(service_id, listener.address, assigned))

    def add_listener(self, service_id: str, address: LocalAddress) -> Listener:
        """Bind one more listener for a service; it accepts clients while there is a link.

        Raises:
            ListenError: the address cannot be bound.
            OpenFailed: there is no such service.
            TunnelClosed: the tunnel has ended.
        """
        self._check(service_id)
        listener = bind(service_id, address, self._log)
        self._added[listener] = service_id, not (isinstance(address, TCPAddress) and address.port)
        if not listener.is_local:
            self._emit(ListeningOnNetwork(listener.address))
        if self._serve is not None:
            self._begin(listener)
        return listener

    def remove_listener(self, listener: Listener) -> None:
        """Close one that was added; the connections of its clients go on."""
        self._added.pop(listener, None)
        listener.close()

    def _begin(self, listener: Listener) -> None:
        """Accept the clients of a listener that was added."""
        service_id, assigned = self._added[listener]
        self._start(listener, service_id)
        self._emit(Listening(service_id, listener.address, assigned))

    def _listener(self, service_id: str) -> Listener | None:
        # A lone port serves the only service.
        return self._listeners.get(service_id) or self._listeners.get("")

    def _start(self, listener: Listener, service_id: str) -> None:
        """Accept the clients of a listener, unless one of them waits here."""
        if any(client.listener is listener for client in self._waiting.get(service_id, ())):
            return
        listener.start(asyncio.get_running_loop(), partial(self._accepted, listener, service_id))

    def _accepted(
        self, listener: Listener, service_id: str, sock: socket.socket, peer: str
    ) -> None:
        end = SocketEnd(asyncio.get_running_loop(), sock)
        client = Client(service_id, peer, end, listener=listener)
        reason = self._add(client)
        if reason:
            self._log.info("%s waits: %s", peer, reason)
            listener.pause()

    # -- clients within this process ---------------------------------------------------------

    async def open_connection(self, service_id: str) -> Streams:
        """Connect to a service from within this process, once there is a link that can take it.

        Raises:
            OpenFailed: there is no such service, or a limit is reached.
            TunnelClosed: the tunnel has ended.
        """
        self._check(service_id)
        end, streams = new_streams(asyncio.get_running_loop())
        try:
            await self._connect(service_id, end)
        except BaseException:
            # It may have been opened in the turn of the loop in which it was cancelled.
            streams[1].transport.abort()
            raise
        return streams

    async def open_socket(self, service_id: str) -> socket.socket:
        """Connect to a service; return a connected, non-blocking socket, which the caller owns.

        Raises:
            OpenFailed: there is no such service, a limit is reached, or this process can have
                no more sockets.
            TunnelClosed: the tunnel has ended.
        """
        self._check(service_id)
        try:
            near, far = await socket_pair()
        except OSError as error:
            raise OpenFailed(f"a socket cannot be made: {error.strerror}") from None
        try:
            await self._connect(service_id, SocketEnd(asyncio.get_running_loop(), far))
        except BaseException:
            near.close()
            raise
        return near

    async def _connect(self, service_id: str, end: LocalEnd) -> None:
        """Wait until a local end has its connection; one that gets none is reset."""
        client = Client(service_id, IN_PROCESS, end, asyncio.get_running_loop().create_future())
        assert client.opened is not None
        self._add(client)
        try:
            await client.opened
        except BaseException:
            queue = self._waiting.get(service_id)
            if queue and client in queue:
                queue.remove(client)
            if not client.is_connected:
                end.reset()
            raise

    def _check(self, service_id: str) -> None:
        if self._end:
            raise TunnelClosed(self._end)
        if self._service_ids is not None and service_id not in self._service_ids:
            raise OpenFailed(_no_service(service_id))

    # -- the queue ------------------------------------------------------------------------------

    def tunnel_ready(self, service_ids: tuple[str, ...], serve: Callable[[str], str]) -> None:
        """Let connections be opened: ``serve`` is called with the service a client came for.

        It returns why clients of that service still wait, for people.
        """
        self._service_ids = service_ids
        self._serve = serve
        for service_id in self._waiting.keys() - set(service_ids):
            self._refuse(self._waiting.pop(service_id), _no_service(service_id))
        for listener, (service_id, _) in list(self._added.items()):
            if service_id in service_ids:
                self._begin(listener)
            else:
                self._log.warning("%s: closed, %s", listener.address, _no_service(service_id))
                self.remove_listener(listener)

    def pause(self) -> None:
        """Let no connections be opened until :meth:`tunnel_ready`."""
        self._serve = None
        for listener in [*self._listeners.values(), *self._added]:
            listener.pause()

    def close(self, reason: str) -> None:
        """Send all clients away, for good, and close the listeners."""
        self.pause()
        self._end = reason
        for listener in [*self._listeners.values(), *self._added]:
            listener.close()
        for queue in self._waiting.values():
            self._refuse(queue, reason, TunnelClosed)
        self._waiting.clear()

    def has_waiting(self, service_id: str) -> bool:
        """Return whether a client waits for a connection that could be opened."""
        queue = self._waiting.get(service_id)
        while queue and queue[0].has_left:
            queue.popleft()
        return bool(queue) and self._serve is not None

    def next(self, service_id: str) -> Client:
        """Take the client that has waited longest; there must be one that waits."""
        client = self._waiting[service_id].popleft()
        if client.listener is not None and not client.listener.accepting:
            self._start(client.listener, service_id)
        return client

    def _add(self, client: Client) -> str:
        """Queue a client; return why it waits, nothing if it was taken at once."""
        queue = self._waiting.setdefault(client.service_id, deque())
        queue.append(client)
        reason = _NO_LINK if self._serve is None else self._serve(client.service_id)
        return reason if client in queue else ""

    @staticmethod
    def _refuse(
        clients: Iterable[Client], reason: str, kind: type[OpenFailed] = OpenFailed
    ) -> None:
        for client in clients:
            client.refuse(reason, kind)


def _no_service(service_id: str) -> str:
    return f"the tunnel has no service {service_id!r}"
