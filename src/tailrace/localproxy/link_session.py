"""One link, its session and the local connections they carry.

Lives from an accepted upgrade to the end of the link; a reconnect makes a new one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final, Protocol

from ..errors import ServiceIdMismatch, TailraceError
from ..flow.receive_buffers import PAUSE_LOW, ReceiveBuffers
from ..flow.scheduler import Turns
from ..flow.window_driver import WindowDriver
from ..link import Link, LinkClosed
from ..session import (
    V1,
    V2,
    V3,
    Connection,
    ConnectionEnded,
    ConnectionPaused,
    ConnectionRequested,
    ConnectionResumed,
    Dialect,
    DialectLearned,
    Event,
    MessageIgnored,
    Session,
    TunnelReady,
)
from ..wire import Side
from .dialer import DialFailed, dial
from .events import ConnectionClosed, ConnectionOpened, ConnectionRefused, ProxyEvent
from .local_connection import ConnectionState, LocalConnection, ReadBuffer
from .settings import PeerVersion, ProxySettings, ServiceMap

__all__ = ["LinkSession", "LinkSessionOwner"]

logger = logging.getLogger(__name__)

_SILENT_PEER: Final = 10.0
"""Seconds after which a peer that has answered nothing is reported."""
_STALL_CHECK: Final = 0.25
"""How often stalled connections are looked for, as a part of the stall timeout."""

_DIALECTS: Final[dict[PeerVersion, Dialect | None]] = {
    PeerVersion.AUTO: None,
    PeerVersion.V1: V1,
    PeerVersion.V2: V2,
    PeerVersion.V3: V3,
}


class LinkSessionOwner(Protocol):
    """The local proxy a tunnel belongs to."""

    def tunnel_ready(self, tunnel: LinkSession, service_ids: tuple[str, ...]) -> None:
        """Learn the service ids; map them with :meth:`Tunnel.map_services`."""

    def tunnel_failed(self, error: TailraceError) -> None:
        """End the proxy: a reconnect would not help."""

    def client_waits(self, service_id: str) -> bool:
        """Tell whether a client waits until the service can take its next connection."""

    def service_free(self, service_id: str) -> None:
        """Learn that a service of a V1 or V2 peer can take its next connection."""

    def emit(self, event: ProxyEvent) -> None:
        """Tell the subscribers."""


class LinkSession:
    """Glue between one link, one session and any number of local connections.

    Implements the handlers of both sides and the host of the connections.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: ProxySettings, owner: LinkSessionOwner
    ) -> None:
        self.loop = loop
        self.linger = settings.linger
        self.stall_timeout = settings.stall_timeout
        self.read_buffer = ReadBuffer(settings.max_payload)
        self._settings = settings
        self._owner = owner
        self._is_source = settings.side is Side.SOURCE
        configured = tuple(settings.services) if settings.services is not None else None
        self._session = Session(
            Side.SOURCE if self._is_source else Side.DESTINATION,
            self,
            configured,
            _DIALECTS[settings.peer_version] if self._is_source else None,
        )
        self._services: ServiceMap = {}
        self._link: Link | None = None
        self._local: dict[Connection, LocalConnection] = {}
        self._draining: set[LocalConnection] = set()
        self._dials: dict[LocalConnection, asyncio.Task[None]] = {}
        self._inbound: ReceiveBuffers[LocalConnection] = ReceiveBuffers()
        self._reading = True
        self._turns: Turns[LocalConnection] = Turns()
        self._window = WindowDriver(loop, self._send_ping, self._window_changed)
        self._quantum = self._allowed_quantum()
        self._next_turns: asyncio.Handle | None = None
        self._change: asyncio.Future[None] | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._silence_timer: asyncio.TimerHandle | None = None

    # -- life ------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        """Take the open link; frames may follow at once."""
        self._link = link
        self._session.may_pause = link.info.flow_messages

    def map_services(self, services: ServiceMap) -> None:
        """Set the local address of each service id."""
        self._services = services

    @property
    def link(self) -> Link | None:
        """The link, ``None`` before it is open and after it has ended."""
        return self._link

    @property
    def is_drained(self) -> bool:
        """Whether no local connection is left."""
        return not (self._local or self._draining)

    @property
    def is_flushed(self) -> bool:
        """Whether every local connection has taken what was received for it."""
        return not self._local and all(
            local.state is ConnectionState.CLOSING for local in self._draining
        )

    async def wait_flushed(self) -> None:
        """Wait until :attr:`is_flushed`."""
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

    def reset_all(self) -> None:
        """Reset every open connection in the tunnel, deliver what was received, close."""
        self._session.reset_all()
        for local in list(self._local.values()):
            self._detach(local)

    def abort(self) -> None:
        """Close every local socket at once."""
        for local in [*self._local.values(), *self._draining]:
            self._cancel_dial(local)
            local.abort()

    def abandon_dials(self) -> None:
        """Give up the connections whose application has not been reached yet."""
        for local in list(self._dials):
            logger.warning(
                "%s: not reached before the end; %d bytes lost", local.name, local.waiting
            )
            self._cancel_dial(local)
            local.abort()

    # -- link handler ------------------------------------------------------------------

    def frame_received(self, payload: memoryview) -> None:
        try:
            self._session.receive_frame(payload)
        except ServiceIdMismatch as error:
            self._owner.tunnel_failed(error)

    def writing_paused(self) -> None:
        self._turns.set_link_paused(True)

    def writing_resumed(self) -> None:
        if self._turns.set_link_paused(False):
            # Not at once: the transport is in the middle of writing.
            self._give_turns_soon()

    def pong_received(self, payload: bytes) -> None:
        """Learn from a pong how much of what was sent has been read."""
        self._window.pong_received(payload)

    def link_closed(self, closed: LinkClosed) -> None:
        self._link = None
        self._window.stop()
        for timer in (self._stall_timer, self._silence_timer):
            if timer is not None:
                timer.cancel()
        self._stall_timer = self._silence_timer = None
        self._session.link_lost()

    # -- session handler -----------------------------------------------------------------

    def send_control(self, frame: bytes) -> None:
        if self._link is not None:
            self._link.send(frame)

    def event_occurred(self, event: Event) -> None:
        match event:
            case ConnectionRequested(connection):
                self._connection_requested(connection)
            case ConnectionEnded(connection, cause):
                self._connection_ended(connection, cause.value)
            case ConnectionPaused(connection):
                self._connection_paused(connection)
            case ConnectionResumed(connection):
                self._connection_resumed(connection)
            case TunnelReady(service_ids):
                self._owner.tunnel_ready(self, service_ids)
            case DialectLearned(dialect):
                logger.warning(
                    "The peer speaks %s: one connection at a time for each service; "
                    "say so from the start with --destination-client-type %s",
                    dialect.name,
                    dialect.name,
                )
            case MessageIgnored(kind, service_id, reason):
                logger.debug(
                    "Ignored message type %d of service '%s': %s", kind, service_id, reason
                )

    def _connection_ended(self, connection: Connection, cause: str) -> None:
        local = self._local.get(connection)
        if local is not None:
            logger.debug("%s: %s", local.name, cause)
            self._detach(local)
            self._service_freed(connection.service_id)

    def _connection_paused(self, connection: Connection) -> None:
        local = self._local.get(connection)
        if local is not None:
            logger.debug("%s: paused by the peer", local.name)
            self._turns.unpark(local)
            local.pause()

    def _connection_resumed(self, connection: Connection) -> None:
        local = self._local.get(connection)
        if local is not None:
            logger.debug("%s: resumed by the peer", local.name)
            local.resume()

    def _detach(self, local: LocalConnection) -> None:
        """Let go of a connection that has ended in the tunnel; its socket drains by itself."""
        self._local.pop(local.connection, None)
        self._turns.forget(local)
        self._draining.add(local)
        if local.state is ConnectionState.DIALING and not local.waiting:
            self._cancel_dial(local)
            local.abort()
        else:
            local.tunnel_ended()

    def _service_freed(self, service_id: str) -> None:
        if self._is_source and self._link is not None and self._session.can_open(service_id):
            self._owner.service_free(service_id)

    # -- source: clients ------------------------------------------------------------------

    def can_take_client(self, service_id: str) -> bool:
        """Tell whether a client of this service can be connected now.

        A V1 or V2 peer carries one at a time; a client that has half-closed, or closed
        altogether, and gets no answer makes room.
        """
        if not self._session.can_open(service_id):
            for connection in self._session.connections:
                if connection.service_id == service_id:
                    self._local[connection].end_linger()
        return self._session.can_open(service_id)

    def client_accepted(self, service_id: str, sock: socket.socket, peer: str) -> None:
        """Connect a client: open a connection in the tunnel and start to move bytes."""
        limit = self._settings.max_connections
        if limit and self._session.count(service_id) >= limit:
            sock.close()
            reason = f"the limit of {limit} connections is reached"
            self._owner.emit(ConnectionRefused(service_id, 0, reason))
            return
        connection = self._session.open(service_id)
        local = LocalConnection(self, connection, peer, lingers=True)
        self._local[connection] = local
        self._owner.emit(ConnectionOpened(service_id, connection.connection_id, peer))
        local.attach(sock)
        if self._silence_timer is None:
            self._silence_timer = self.loop.call_later(
                _SILENT_PEER, self._check_silence, connection
            )

    def _check_silence(self, connection: Connection) -> None:
        answered = any(other.heard for other in self._session.connections)
        if connection.is_open and not answered and self._session.dialect is V3:
            logger.warning(
                "The peer has answered nothing on service '%s' for %g s. If the device runs an "
                "older client (Device Client, Greengrass, console), start this side with "
                "--destination-client-type V1 (-y V1)",
                connection.service_id,
                _SILENT_PEER,
            )

    # -- destination: applications -----------------------------------------------------------

    def _connection_requested(self, connection: Connection) -> None:
        address = self._services[connection.service_id]
        local = LocalConnection(self, connection, str(address), lingers=False)
        limit = self._settings.max_connections
        if limit and self._session.count(connection.service_id) > limit:
            self._refuse(local, f"the limit of {limit} connections is reached")
            return
        self._local[connection] = local
        logger.debug("Attempting to establish tcp socket connection to: %s", address)
        self._dials[local] = self.loop.create_task(self._dial(local))

    async def _dial(self, local: LocalConnection) -> None:
        connection = local.connection
        address = self._services[connection.service_id]
        try:
            sock = await dial(address, self._settings)
        except DialFailed as error:
            del self._dials[local]
            self._refuse(local, f"Could not connect to destination {error}")
            return
        del self._dials[local]
        self._owner.emit(
            ConnectionOpened(connection.service_id, connection.connection_id, str(address))
        )
        local.attach(sock)

    def _refuse(self, local: LocalConnection, reason: str) -> None:
        connection = local.connection
        self._owner.emit(ConnectionRefused(connection.service_id, connection.connection_id, reason))
        self._local.pop(connection, None)
        self._session.refuse(connection)
        local.abort()

    def _cancel_dial(self, local: LocalConnection) -> None:
        task = self._dials.pop(local, None)
        if task is not None:
            task.cancel()

    # -- host of the connections ---------------------------------------------------------------

    def allowance(self, connection: LocalConnection) -> int:
        turns = self._turns
        if not turns.closed:
            return self._quantum
        allowance = turns.allowance(connection, connection.bytes_in, self.loop.time())
        if not allowance:
            turns.park(connection)
        return allowance

    def turn_taken(self, connection: LocalConnection, size: int) -> None:
        # Where many have more to send than the link takes, to watch a socket again only to
        # be told that it waits still would cost more than its next turn.
        turns = self._turns
        if turns.closed or (turns.contended and size >= self._quantum):
            turns.park(connection)
        else:
            connection.resume_reading()

    def send_data(self, message: memoryview) -> None:
        assert self._link is not None
        self._link.send(message)
        self._window.count(len(message))

    def _send_ping(self, payload: bytes) -> None:
        if self._link is not None:
            self._link.send_ping(payload)

    def _window_changed(self) -> None:
        self._quantum = self._allowed_quantum()
        if self._turns.set_window_full(self._window.full):
            self._give_turns_soon()

    def _give_turns_soon(self) -> None:
        if self._next_turns is None:
            self._next_turns = self.loop.call_soon(self._give_turns)

    def _give_turns(self) -> None:
        """Let each parked connection read once, for as long as the link takes it."""
        self._next_turns = None
        for local in self._turns.due():
            local.take_turn()
        if self._turns.contended and not self._turns.closed:
            self._give_turns_soon()

    def _allowed_quantum(self) -> int:
        return min(self._settings.max_payload, self._window.quantum)

    def data_buffered(self, connection: LocalConnection, size: int) -> None:
        inner, inbound, waiting = connection.connection, self._inbound, connection.waiting
        now = self.loop.time()
        inbound.added(connection, size, waiting, now, can_pause=inner.can_pause)
        if inner.can_pause and inbound.wants_pause(waiting):
            self._session.pause(inner)
        self._regulate()

    def data_taken(self, connection: LocalConnection, size: int) -> None:
        self._inbound.taken(connection, size, connection.waiting, self.loop.time())
        if connection.waiting <= PAUSE_LOW:
            self._session.resume(connection.connection)
        self._regulate()

    def half_closed(self, connection: LocalConnection) -> None:
        if self._owner.client_waits(connection.connection.service_id):
            connection.end_linger()

    def local_ended(self, connection: LocalConnection) -> None:
        self._local.pop(connection.connection, None)
        self._turns.forget(connection)
        self._draining.add(connection)
        self._session.reset(connection.connection)
        self._service_freed(connection.connection.service_id)

    def closed(self, connection: LocalConnection) -> None:
        self._local.pop(connection.connection, None)
        self._turns.forget(connection)
        self._draining.discard(connection)
        self._inbound.removed(connection, connection.waiting)
        self._regulate()
        inner = connection.connection
        if connection.attached:
            self._owner.emit(
                ConnectionClosed(
                    inner.service_id,
                    inner.connection_id,
                    connection.name,
                    connection.bytes_in,
                    connection.bytes_out,
                )
            )
        self._changed()

    def delivered(self, connection: LocalConnection) -> None:
        self._changed()

    def _regulate(self) -> None:
        """Read the link exactly while nothing is over its mark."""
        reading = not self._inbound.full
        if reading is self._reading or self._link is None:
            return
        self._reading = reading
        if reading:
            self._window.resume()
            self._link.resume_reading()
            if self._stall_timer is not None:
                self._stall_timer.cancel()
                self._stall_timer = None
        else:
            self._link.pause_reading()
            self._window.suspend()
            self._window_changed()
            self._arm_stall_timer()

    def _arm_stall_timer(self) -> None:
        delay = self.stall_timeout * _STALL_CHECK
        self._stall_timer = self.loop.call_later(delay, self._check_stalls)

    def _check_stalls(self) -> None:
        """Give up a connection that takes nothing while others wait behind it."""
        self._stall_timer = None
        others = len(self._local) + len(self._draining) > 1
        if others:
            for local in self._inbound.stalled(self.loop.time(), self.stall_timeout):
                if self._reading:
                    break
                logger.warning(
                    "%s: reset: it has taken nothing for %g s while others waited; %d bytes lost",
                    local.name,
                    self.stall_timeout,
                    local.waiting,
                )
                self._session.reset(local.connection)
                local.abort()
                self._service_freed(local.connection.service_id)
        if not self._reading:
            self._arm_stall_timer()
