"""What a local proxy is doing, as one frozen tree of values."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ..wire import Side
from .connection_states import ConnectionState
from .events import (
    Connected,
    Connecting,
    ConnectionClosed,
    ConnectionOpened,
    PeerJoined,
    PeerLeft,
    ProxyEvent,
    Reconnecting,
    TunnelPaused,
    TunnelResumed,
)
from .local_connection import LocalConnection

__all__ = [
    "ConnectionStatus",
    "LinkPhase",
    "LinkStatus",
    "PeerPresence",
    "TunnelHistory",
    "TunnelStatus",
]


class LinkPhase(Enum):
    """Where a proxy stands with its link.

    Example: ``if tunnel.status().link.phase is tailrace.LinkPhase.WAITING: ...``
    """

    NOT_STARTED = "not started"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """It was lost or could not be set up; there will be another attempt."""
    ENDED = "ended"
    """There is none any more, and there will be none."""


class PeerPresence(Enum):
    """Whether the other side of the tunnel is connected to the service.

    Example: ``if tunnel.status().peer is tailrace.PeerPresence.ABSENT: ...``
    """

    UNKNOWN = "unknown"
    """There is no link."""
    UNTOLD = "untold"
    """The service does not tell: AWS' does not."""
    ABSENT = "absent"
    CONNECTED = "connected"


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One local connection; byte counts as seen from its local end.

    Example: ``for connection in tunnel.status().connections: print(connection.bytes_in)``
    """

    service_id: str
    connection_id: int
    peer: str
    """Address of the client or application, or what it is instead."""
    state: ConnectionState
    bytes_in: int
    """Read from the local end, sent into the tunnel."""
    bytes_out: int
    """Received from the tunnel."""
    since: float
    """Seconds since the epoch."""
    waits: bool = False
    """Whether it waits until a lost link, or the peer, has come back."""

    @classmethod
    def of(cls, local: LocalConnection) -> ConnectionStatus:
        """Return the status of a connection."""
        inner = local.connection
        return cls(
            inner.service_id,
            inner.connection_id,
            local.name,
            local.state,
            local.bytes_in,
            local.bytes_out,
            local.since,
            inner.is_open and inner.is_awaited,
        )


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The link to the service.

    Example: ``print(tunnel.status().link.round_trip)``
    """

    phase: LinkPhase
    endpoint: str
    """``host:port``."""
    round_trip: float | None
    """Seconds; ``None`` before the first pong of a link."""
    reconnects: int
    """How often it was set up again."""
    last_cause: str | None
    """Why it was lost or could not be set up last, ``None`` if it never was."""
    last_failure: float | None
    """When that was, in seconds since the epoch."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How often it was lost or could not be set up, by the class of the error, as ``LinkError``."""


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """One end of a tunnel.

    Example: ``print(tunnel.status().service_ids)``
    """

    side: Side
    service_ids: tuple[str, ...]
    """Those of the tunnel; empty before they are known."""
    link: LinkStatus
    peer: PeerPresence
    connections: tuple[ConnectionStatus, ...]
    """Open ones, and those that still drain."""
    opened: int = 0
    """Connections that have been open so far, also those that have ended."""
    bytes_in: int = 0
    """Read from all of their local ends, sent into the tunnel."""
    bytes_out: int = 0
    """Received from the tunnel for all of them."""
    paused_since: float | None = None
    """Since when connections wait until a lost link, or the peer, has come back, in seconds since
    the epoch; ``None`` if none does."""
    waiting: int = 0
    """Connections that do."""
    pauses: int = 0
    """How often connections have waited so far."""
    bytes_again: int = 0
    """What this end has sent again behind all pauses, of ``bytes_in``."""


class TunnelHistory:
    """What became of link, peer and connections so far, gathered from the events of a proxy."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._phase = LinkPhase.NOT_STARTED
        self._links = 0
        self._last_cause: str | None = None
        self._last_failure: float | None = None
        self._failures: Counter[str] = Counter()
        self._opened = 0
        self._closed_in = 0
        self._closed_out = 0
        """Bytes of connections that have ended."""
        self._paused_since: float | None = None
        self._pauses = 0
        self._bytes_again = 0
        self.peer = PeerPresence.UNKNOWN
        """Whether the other side is connected."""

    def __call__(self, event: ProxyEvent) -> None:
        """Take an event."""
        match event:
            case Connecting():
                self._phase = LinkPhase.CONNECTING
            case Connected():
                self._phase = LinkPhase.CONNECTED
                self._links += 1
                # A service that tells says so before anything else, when the peer is there.
                self.peer = PeerPresence.ABSENT if event.tells_presence else PeerPresence.UNTOLD
            case PeerJoined():
                self.peer = PeerPresence.CONNECTED
            case PeerLeft():
                self.peer = PeerPresence.ABSENT
            case Reconnecting():
                self._phase = LinkPhase.WAITING
                self.peer = PeerPresence.UNKNOWN
                self._last_cause = str(event.cause)
                self._last_failure = time.time()
                self._failures[type(event.cause).__name__] += 1
            case TunnelPaused():
                self._paused_since = time.time()
                self._pauses += 1
            case TunnelResumed():
                self._paused_since = None
                self._bytes_again += event.bytes_again
            case ConnectionOpened():
                self._opened += 1
            case ConnectionClosed():
                self._closed_in += event.bytes_in
                self._closed_out += event.bytes_out
            case _:
                pass

    def end(self) -> None:
        """Note that there will be no link any more."""
        self._phase = LinkPhase.ENDED
        self.peer = PeerPresence.UNKNOWN

    def status(
        self,
        side: Side,
        service_ids: tuple[str, ...],
        round_trip: float | None,
        connections: Sequence[ConnectionStatus],
    ) -> TunnelStatus:
        """Return the status of the tunnel, given what is so at the moment."""
        waiting = sum(each.waits for each in connections)
        if self._paused_since is None:
            waiting = 0  # what a destination has agreed to go on with is about to be started
        return TunnelStatus(
            side=side,
            service_ids=service_ids,
            link=self.link_status(round_trip),
            peer=self.peer,
            connections=tuple(connections),
            opened=self._opened,
            bytes_in=self._closed_in + sum(each.bytes_in for each in connections),
            bytes_out=self._closed_out + sum(each.bytes_out for each in connections),
            paused_since=self._paused_since if waiting else None,
            waiting=waiting,
            pauses=self._pauses,
            bytes_again=self._bytes_again,
        )

    def link_status(self, round_trip: float | None) -> LinkStatus:
        """Return the status of the link, given the round trip of the open one."""
        return LinkStatus(
            phase=self._phase,
            endpoint=self._endpoint,
            round_trip=round_trip,
            reconnects=max(0, self._links - 1),
            last_cause=self._last_cause,
            last_failure=self._last_failure,
            failures=dict(self._failures),
        )
