"""The local connections of a session: opened, limited, refused, drained, reported.

A connection is *live* for as long as the session has it open, and *draining* from then on
until its local end is closed. A draining one has nothing to do with the tunnel any more, so
it outlives the session.

At a source, clients come from :class:`~.clients.Clients`, which is asked for the next one
whenever a service can take it. At a destination the peer asks for connections, which
:class:`~.applications.Applications` attaches to an application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from ..session import V3, Connection, Session, SessionState
from ..wire import Side
from .applications import Applications, name_of
from .clients import Clients
from .connection_states import ConnectionState
from .events import (
    ConnectionClosed,
    ConnectionCut,
    ConnectionOpened,
    ConnectionRefused,
    PeerSilent,
    ProxyEvent,
)
from .inbound import Inbound
from .local_connection import LocalConnection
from .log import TunnelLog
from .outbound import Outbound
from .routes import Refusal, Route
from .settings import ProxySettings

__all__ = ["ConnectionTable"]

_SILENT_PEER: Final = 10.0
"""Seconds after which a peer that has answered nothing is reported."""


class ConnectionTable:
    """The local connections of one session, and what they share.

    The host of each of them (:class:`~.local_connection.ConnectionHost`).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: ProxySettings,
        session: Session,
        outbound: Outbound[LocalConnection],
        clients: Clients,
        emit: Callable[[ProxyEvent], None],
        log: TunnelLog,
    ) -> None:
        self.loop = loop
        self.log = log
        self.linger = settings.linger
        self.stall_timeout = settings.stall_timeout
        self.outbound = outbound
        self.inbound: Inbound[LocalConnection] = Inbound(
            loop, session, settings.stall_timeout, self._crowded, self._give_up
        )
        self.applications = Applications(loop, settings, emit, self._unreached, log)
        self._limit = settings.max_connections
        self._session = session
        self._clients = clients
        self._emit = emit
        self._live: dict[Connection, LocalConnection] = {}
        self._draining: set[LocalConnection] = set()
        self._end_calls: dict[LocalConnection, Callable[[], None]] = {}
        """Who is told of the end of a connection, where its route asks for it."""
        self._change: asyncio.Future[None] | None = None
        self._silence_timer: asyncio.TimerHandle | None = None
        self._peer_has_left = False

    def __iter__(self) -> Iterator[LocalConnection]:
        return iter([*self._live.values(), *self._draining])

    # -- the end --------------------------------------------------------------------------

    @property
    def is_drained(self) -> bool:
        """Whether no local connection is left."""
        return not (self._live or self._draining)

    @property
    def is_flushed(self) -> bool:
        """Whether every local connection has taken what was received for it."""
        return not self._live and all(
            local.state is ConnectionState.CLOSING for local in self._draining
        )

    async def wait_flushed(self) -> None:
        """Wait until :attr:`is_flushed`; nothing may come from the tunnel any more."""
        for local in self:
            local.expect_end()
        while not self.is_flushed:
            await self._next_change()

    async def wait_drained(self) -> None:
        """Wait until :attr:`is_drained`."""
        while not self.is_drained:
            await self._next_change()

    async def _next_change(self) -> None:
        if self._change is None:
            self._change = self.loop.create_future()
        await asyncio.shield(self._change)

    def _changed(self) -> None:
        if self._change is not None:
            self._change.set_result(None)
            self._change = None

    def reset_all(self, failure: str) -> None:
        """Reset every open connection in the tunnel, deliver what was received, reset it here.

        ``failure`` tells the peer why.
        """
        self._session.reset_all(failure)
        for local in list(self._live.values()):
            self._detach(local, cut=failure)

    def abort(self) -> None:
        """Close every local end at once."""
        for local in self:
            self.applications.give_up(local)
            local.abort()

    def link_lost(self) -> None:
        """Say nothing more about the peer."""
        self._peer_has_left = False
        if self._silence_timer is not None:
            self._silence_timer.cancel()

    # -- what the session says -----------------------------------------------------------------

    def requested(
        self, connection: Connection, find_route: Callable[[str], Route | Refusal]
    ) -> None:
        """Called when the peer has opened a connection to a service (destination)."""
        if self._limit and self._session.count(connection.service_id) > self._limit:
            told = f"{self._limit_reached} at the destination"
            self._refuse(connection, self._limit_reached, told)
            return
        route = find_route(connection.service_id)
        if isinstance(route, Refusal):
            self._refuse(connection, route.reason, route.told)
            return
        local = LocalConnection(self, connection, name_of(route.service), lingers=False)
        self._live[connection] = local
        if route.ended is not None:
            self._end_calls[local] = route.ended
        self.applications.reach(local, route)

    def ended(self, connection: Connection, cause: str, failure: str) -> None:
        """Called when a connection has ended in the tunnel; ``failure`` if not in order."""
        local = self._live.get(connection)
        if local is not None:
            self.log.debug("%s: %s", local.name, cause)
            if failure:
                about = (connection.service_id, connection.connection_id, local.name)
                self._emit(ConnectionCut(*about, local.bytes_out, failure))
            self._detach(local, cut=failure)
            self._service_freed(connection)

    def paused(self, connection: Connection) -> None:
        """Called when the peer takes no more of a connection."""
        local = self._live.get(connection)
        if local is not None:
            self.log.debug("%s: paused by the peer", local.name)
            local.pause()

    def resumed(self, connection: Connection) -> None:
        """Called when the peer takes data of a connection again."""
        local = self._live.get(connection)
        if local is not None:
            self.log.debug("%s: resumed by the peer", local.name)
            local.resume()

    def peer_finished(self, connection: Connection) -> None:
        """Called when the peer sends nothing more for a connection."""
        local = self._live.get(connection)
        if local is not None:
            self.log.debug("%s: the peer has sent everything", local.name)
            local.peer_finished()

    def _detach(self, local: LocalConnection, *, cut: str) -> None:
        """Have a connection that has ended in the tunnel drain by itself; ``cut`` says why."""
        if self._live.pop(local.connection, None) is None:
            return
        self._draining.add(local)
        if local.state is ConnectionState.DIALING and not local.waiting:
            self.applications.give_up(local)
            local.abort()
        else:
            local.tunnel_ended(cut=cut)

    # -- source: clients --------------------------------------------------------------------

    def serve_all(self) -> None:
        """Connect the clients that wait, as :meth:`serve`."""
        if self._session.side is Side.SOURCE:
            for service_id in self._session.service_ids:
                self.serve(service_id)

    def serve(self, service_id: str) -> str:
        """Connect the clients that wait for a service, for as long as it takes connections.

        Return why those that are left wait, for people.
        """
        while self._clients.has_waiting(service_id) and self._make_room(service_id):
            self._open(service_id)
        if self._session.state is SessionState.READY:
            return "the peer carries one connection of a service at a time"
        peer = self._session.side.other.value
        if self._peer_has_left:
            return f"the {peer} has left, and open connections wait for it"
        return f"the {peer} has not agreed yet how open connections go on"

    def peer_changed(self, present: bool) -> None:
        """Called when the peer has connected, or is not connected."""
        self._peer_has_left = not present
        self.serve_all()

    def _make_room(self, service_id: str) -> bool:
        """Return whether a service can take a connection now.

        A V1 or V2 peer carries one at a time; a client that has half-closed, or closed
        altogether, and gets no answer gives way.
        """
        if not self._session.can_open(service_id):
            for connection in self._session.connections:
                if connection.service_id == service_id:
                    self._live[connection].end_linger()
        return self._session.can_open(service_id)

    def _open(self, service_id: str) -> None:
        client = self._clients.next(service_id)
        if self._limit and self._session.count(service_id) >= self._limit:
            client.refuse(self._limit_reached)
            self._emit(ConnectionRefused(service_id, 0, self._limit_reached))
            return
        connection = self._session.open(service_id)
        local = LocalConnection(self, connection, client.peer, lingers=True)
        self._live[connection] = local
        self._emit(ConnectionOpened(service_id, connection.connection_id, client.peer))
        client.take()
        local.attach(client.end)
        if self._silence_timer is None:
            self._silence_timer = self.loop.call_later(
                _SILENT_PEER, self._check_silence, connection
            )

    def _check_silence(self, connection: Connection) -> None:
        answered = any(other.heard for other in self._session.connections)
        if connection.is_open and not answered and self._session.dialect is V3:
            self._emit(PeerSilent(connection.service_id, _SILENT_PEER))

    def _service_freed(self, connection: Connection) -> None:
        if self._session.side is Side.SOURCE and self._session.can_open(connection.service_id):
            self.serve(connection.service_id)

    # -- refusals ----------------------------------------------------------------------------

    @property
    def _limit_reached(self) -> str:
        return f"the limit of {self._limit} connections is reached"

    def _unreached(self, local: LocalConnection, reason: str, told: str) -> None:
        """End a connection whose application cannot be reached."""
        self._live.pop(local.connection, None)
        self._refuse(local.connection, reason, told)
        local.abort()

    def _refuse(self, connection: Connection, reason: str, told: str) -> None:
        """End a connection that gets no application; ``told`` is for the peer."""
        self._emit(ConnectionRefused(connection.service_id, connection.connection_id, reason))
        self._session.refuse(connection, told)

    def _crowded(self) -> bool:
        return len(self._live) + len(self._draining) > 1

    def _give_up(self, local: LocalConnection) -> None:
        """Reset a connection that holds up the others."""
        self.log.warning(
            "%s: reset: it has taken nothing for %g s while others waited; %d bytes lost",
            local.name,
            self.stall_timeout,
            local.waiting,
        )
        told = f"the other end took nothing for {self.stall_timeout:g} s while others waited"
        self._session.reset(local.connection, told)
        local.abort()
        self._service_freed(local.connection)

    # -- host of the connections ----------------------------------------------------------------

    def half_closed(self, connection: LocalConnection) -> None:
        if self._clients.has_waiting(connection.connection.service_id):
            connection.end_linger()

    def finished(self, connection: LocalConnection) -> None:
        self._session.finish(connection.connection)

    def local_ended(self, connection: LocalConnection, failure: str) -> None:
        del self._live[connection.connection]
        self._draining.add(connection)
        self._session.reset(connection.connection, failure)
        self._service_freed(connection.connection)

    def delivered(self, connection: LocalConnection) -> None:
        self._changed()

    def closed(self, connection: LocalConnection) -> None:
        inner = connection.connection
        self._live.pop(inner, None)
        self._draining.discard(connection)
        ended = self._end_calls.pop(connection, None)
        if ended is not None:
            ended()
        if connection.attached:
            self._emit(
                ConnectionClosed(
                    inner.service_id,
                    inner.connection_id,
                    connection.name,
                    connection.bytes_in,
                    connection.bytes_out,
                )
            )
        self._changed()
