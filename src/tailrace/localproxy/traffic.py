"""What a link carries: a session and its local connections.

Links come and go; what they carry is attached to one and detached from it. The pure session
says what messages mean, :class:`~.connections.ConnectionTable` has the local connections, with
:class:`~.outbound.Outbound` as their way out and :class:`~.inbound.Inbound` as their way in.

A session survives its link where the service passes on what the ends tell each other for that.
Then the next link carries the same traffic, and the connections that both ends have agreed to keep
wait for it, for :attr:`~.settings.ProxySettings.resume_timeout`. Otherwise detaching ends the
session, and with it every connection in the tunnel: the protocol has ids start again with each
link. The local ends drain by themselves, and the next link carries a traffic of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final, Protocol

from ..link import CloseCode, ClosedBy, LinkClosed
from ..session import (
    V1,
    V2,
    V3,
    ConnectionEnded,
    ConnectionPaused,
    ConnectionRequested,
    ConnectionResumed,
    Dialect,
    DialectLearned,
    EndCause,
    Event,
    MessageIgnored,
    PeerChanged,
    PeerFinished,
    PeerOffered,
    Resumed,
    Session,
    SessionState,
    Suspended,
    TunnelReady,
)
from ..wire import SESSION_ID_SIZE, Capabilities, Side
from ..wire.messages import FLOW_MESSAGES
from .applications import Applications
from .clients import Clients
from .connections import ConnectionTable
from .events import (
    PeerDialectLearned,
    PeerJoined,
    PeerLeft,
    ProxyEvent,
    TunnelPaused,
    TunnelResumed,
)
from .local_connection import LocalConnection
from .log import TunnelLog
from .outbound import Outbound
from .routes import Refusal, Route
from .settings import PeerVersion, ProxySettings

__all__ = ["Carrier", "Traffic"]

_OFFERED: Final = 16
"""Connections of which an offer costs as much as one that is asked for."""
_DIALECTS: Final[dict[PeerVersion, Dialect | None]] = {
    PeerVersion.AUTO: None,
    PeerVersion.V1: V1,
    PeerVersion.V2: V2,
    PeerVersion.V3: V3,
}


class Carrier(Protocol):
    """An open link, as far as what it carries is concerned."""

    @property
    def capabilities(self) -> Capabilities:
        """What the service passes on."""

    def send_control(self, frame: bytes) -> None:
        """Send one control message in a frame of its own."""

    def send_data(self, message: memoryview) -> None:
        """Send one DATA message; the memory may be reused on return."""

    def set_reading(self, reading: bool) -> None:
        """Receive frames, or receive none."""

    def count_request(self, cost: int = 1) -> None:
        """Note that the peer has asked for something that takes its part of the turn.

        A connection costs 1.
        """


def _no_routes(service_id: str) -> Route | Refusal:
    raise AssertionError("a connection was requested before the tunnel was ready")


class Traffic:
    """The session of one end of a tunnel and its local connections.

    ``ready`` is called with this and the service ids once they are known; at a destination it
    has to set :attr:`find_route`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: ProxySettings,
        clients: Clients,
        ready: Callable[[Traffic, tuple[str, ...]], None],
        emit: Callable[[ProxyEvent], None],
        log: TunnelLog,
    ) -> None:
        is_source = settings.side is Side.SOURCE
        outbound: Outbound[LocalConnection] = Outbound(loop, settings.max_payload)
        self.session = Session(
            settings.side,
            self,
            tuple(settings.services) if settings.services is not None else None,
            _DIALECTS[settings.peer_version] if is_source else None,
            os.urandom(SESSION_ID_SIZE) if settings.can_resume else None,
            outbound.memory,
        )
        self.connections = ConnectionTable(
            loop, settings, self.session, outbound, clients, emit, log
        )
        self.find_route: Callable[[str], Route | Refusal] = _no_routes
        """Destination: finds the route of a connection to a service."""
        self._loop = loop
        self._carrier: Carrier | None = None
        self._resume_timeout = settings.resume_timeout
        self._waiting_since: float | None = None
        """When connections began to wait for the peer to come back, if they do."""
        self._give_up_timer: asyncio.TimerHandle | None = None
        """Runs while there is no agreement with a peer that can resume, or can come back."""
        self._ready = ready
        self._emit = emit
        self._log = log

    def attach(self, carrier: Carrier) -> None:
        """Let an open link carry this; frames for the session may follow at once."""
        self._carrier = carrier
        self.session.capabilities = carrier.capabilities
        self.connections.outbound.attach(carrier.send_data)
        self.connections.inbound.attach(carrier.set_reading)

    def detach(self, closed: LinkClosed) -> None:
        """Let what survives the link wait for the next one, and end the rest."""
        self._carrier = None
        self.connections.outbound.detach()
        self.connections.inbound.detach()
        self.connections.link_lost()
        cause = EndCause.LINK_LOST
        if closed.code == CloseCode.OK:
            cause = EndCause.TUNNEL_ENDED
        elif closed.by is ClosedBy.US and closed.code == CloseCode.PROTOCOL_ERROR:
            # The same would come again.
            cause = EndCause.PROTOCOL_ERROR
        self.session.link_lost(cause)
        if not self.survives:
            self._stop_waiting()

    @property
    def survives(self) -> bool:
        """Whether the next link may carry this."""
        return self.session.survives and not self.session.closed

    @property
    def waits(self) -> bool:
        """Whether connections wait for the link, or the peer, to come back."""
        return self._waiting_since is not None

    def give_up(self, cause: EndCause = EndCause.NOT_RESUMED) -> None:
        """End the connections that wait for the peer to go on with them."""
        self._stop_waiting()
        self.session.give_up(cause)
        self.connections.serve_all()

    def abort(self) -> None:
        """Close every local end at once, and wait for nothing."""
        self._stop_waiting()
        self.connections.abort()

    def _give_up_in_time(self) -> None:
        if self._give_up_timer is None:
            self._give_up_timer = self._loop.call_later(self._resume_timeout, self.give_up)

    def _stop_waiting(self) -> None:
        self._waiting_since = None
        if self._give_up_timer is not None:
            self._give_up_timer.cancel()
            self._give_up_timer = None

    @property
    def applications(self) -> Applications:
        """Destination: the applications of the connections."""
        return self.connections.applications

    @property
    def is_drained(self) -> bool:
        """Whether no local connection is left, and nothing runs for one."""
        return self.connections.is_drained and not self.applications.tasks

    async def wait_drained(self) -> None:
        """Wait until :attr:`is_drained`."""
        await self.connections.wait_drained()
        if self.applications.tasks:
            await asyncio.wait(self.applications.tasks)

    # -- session handler -------------------------------------------------------------------

    def send_control(self, frame: bytes) -> None:
        if self._carrier is not None:
            self._carrier.send_control(frame)

    def event_occurred(self, event: Event) -> None:
        match event:
            case ConnectionRequested(connection):
                if self._carrier is not None:
                    self._carrier.count_request()
                self.connections.requested(connection, self.find_route)
            case ConnectionEnded(connection, cause, failure):
                self.connections.ended(connection, cause.value, failure)
            case ConnectionPaused(connection):
                self.connections.paused(connection)
            case ConnectionResumed(connection):
                self.connections.resumed(connection)
            case PeerFinished(connection):
                self.connections.peer_finished(connection)
            case PeerOffered(connections):
                if self._carrier is not None:
                    self._carrier.count_request(1 + connections // _OFFERED)
            case Suspended(connections):
                self._suspended(connections)
            case Resumed(connections, replayed):
                self._resumed(connections, replayed)
            case TunnelReady(service_ids):
                self._ready(self, service_ids)
            case DialectLearned(dialect):
                self._emit(PeerDialectLearned(dialect.name))
            case PeerChanged(present):
                peer = self.session.side.other
                self._emit(PeerJoined(peer) if present else PeerLeft(peer))
                if self.session.state is SessionState.SUSPENDED:
                    # It may claim to be able to resume, and never make an offer.
                    self._give_up_in_time()
                self.connections.peer_changed(present)
            case MessageIgnored(kind, service_id, reason) if kind not in FLOW_MESSAGES:
                self._log.debug(
                    "Ignored message type %d of service '%s': %s", kind, service_id, reason
                )

    def _suspended(self, connections: int) -> None:
        cause = "link lost"
        if self._carrier is not None:
            cause = f"the {self.session.side.other.value} has left"
        self._give_up_in_time()
        if self._waiting_since is None:
            self._waiting_since = self._loop.time()
            self._emit(TunnelPaused(cause, connections, self._resume_timeout))

    def _resumed(self, connections: int, replayed: int) -> None:
        since = self._waiting_since
        self._stop_waiting()
        if since is not None:
            self._emit(TunnelResumed(self._loop.time() - since, connections, replayed))
        self.connections.serve_all()
