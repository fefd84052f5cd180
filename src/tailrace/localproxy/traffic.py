"""What a link carries: a session and its local connections.

Links come and go; what they carry is attached to one and detached from it. The pure session
says what messages mean, :class:`~.connections.ConnectionTable` has the local connections, with
:class:`~.outbound.Outbound` as their way out and :class:`~.inbound.Inbound` as their way in.

Detaching ends the session, and with it every connection in the tunnel: the protocol has ids
start again with each link. The local ends drain by themselves, and the next link carries a
traffic of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from ..link import CloseCode, LinkClosed
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
    Session,
    TunnelReady,
)
from ..wire import Capabilities, Side
from ..wire.messages import FLOW_MESSAGES
from .applications import Applications
from .clients import Clients
from .connections import ConnectionTable
from .events import PeerDialectLearned, PeerJoined, PeerLeft, ProxyEvent
from .log import TunnelLog
from .routes import Refusal, Route
from .settings import PeerVersion, ProxySettings

__all__ = ["Carrier", "Traffic"]

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

    def count_request(self) -> None:
        """Note that the peer has asked for a connection, which takes its part of the turn."""


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
        self.session = Session(
            settings.side,
            self,
            tuple(settings.services) if settings.services is not None else None,
            _DIALECTS[settings.peer_version] if is_source else None,
        )
        self.connections = ConnectionTable(loop, settings, self.session, clients, emit, log)
        self.find_route: Callable[[str], Route | Refusal] = _no_routes
        """Destination: finds the route of a connection to a service."""
        self._carrier: Carrier | None = None
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
        """End the session: the link is gone."""
        self._carrier = None
        self.connections.outbound.detach()
        self.connections.inbound.detach()
        self.connections.link_lost()
        ended = closed.code == CloseCode.OK
        self.session.link_lost(EndCause.TUNNEL_ENDED if ended else EndCause.LINK_LOST)

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
            case TunnelReady(service_ids):
                self._ready(self, service_ids)
            case DialectLearned(dialect):
                self._emit(PeerDialectLearned(dialect.name))
            case PeerChanged(present):
                peer = self.session.side.other
                self._emit(PeerJoined(peer) if present else PeerLeft(peer))
            case MessageIgnored(kind, service_id, reason) if kind not in FLOW_MESSAGES:
                self._log.debug(
                    "Ignored message type %d of service '%s': %s", kind, service_id, reason
                )
