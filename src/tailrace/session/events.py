"""Events of a session, in the past tense. Data itself goes to the sinks of connections."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from .dialect import Dialect
from .streams import Connection

__all__ = [
    "ConnectionEnded",
    "ConnectionPaused",
    "ConnectionRequested",
    "ConnectionResumed",
    "DialectLearned",
    "EndCause",
    "Event",
    "MessageIgnored",
    "PeerChanged",
    "PeerFinished",
    "PeerOffered",
    "Resumed",
    "SessionHandler",
    "Suspended",
    "TunnelReady",
]


class EndCause(Enum):
    """Why a connection ended without this end having asked for it."""

    CONNECTION_RESET = "the peer closed the connection"
    STREAM_RESET = "the peer or the service reset the stream"
    STREAM_REPLACED = "the peer started a new stream"
    SESSION_RESET = "the service reset the session"
    PROTOCOL_ERROR = "the peer broke the protocol"
    LINK_LOST = "the link to the service was lost"
    TUNNEL_ENDED = "the tunnel has ended"
    COMPLETED = "both ends have sent everything"
    PEER_RESTARTED = "the peer was restarted, or replaced by another one"
    NOT_RESUMED = "the link, or the peer, was lost and did not come back in time"
    PEER_CANNOT_RESUME = (
        "the link, or the peer, was lost, and what came back cannot resume connections"
    )


@dataclass(frozen=True, slots=True)
class TunnelReady:
    """The service ids are known and match; ``("",)`` on a tunnel without any."""

    service_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConnectionRequested:
    """Destination: the peer opened a connection; set its ``sink`` before returning."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """A connection ended; what was received before must still be delivered."""

    connection: Connection
    cause: EndCause
    failure: str = ""
    """Why it ended before its time, for people, on one line; empty if it ended in order."""


@dataclass(frozen=True, slots=True)
class ConnectionPaused:
    """The application at the peer reads nothing: send no more data for this connection."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class ConnectionResumed:
    """The peer takes data for this connection again."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class PeerFinished:
    """The peer sends nothing more for a connection; what was received before comes first."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class PeerOffered:
    """The peer has said how far it has come, which is to be answered for so many connections."""

    connections: int


@dataclass(frozen=True, slots=True)
class Suspended:
    """There is no agreement with the peer: the connections that outlive links wait."""

    connections: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The two ends agree on which connections go on, and from where; there may be none."""

    connections: int
    replayed: int
    """Bytes that are sent again."""


@dataclass(frozen=True, slots=True)
class DialectLearned:
    """Source: the peer's answers show that it speaks an older dialect; told once."""

    dialect: Dialect


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """The other side of the tunnel has connected, or is not connected."""

    present: bool


@dataclass(frozen=True, slots=True)
class MessageIgnored:
    """A message had no effect; ``reason`` says why, for the log."""

    type: int
    service_id: str
    reason: str


Event: TypeAlias = (
    TunnelReady
    | ConnectionRequested
    | ConnectionEnded
    | ConnectionPaused
    | ConnectionResumed
    | PeerFinished
    | PeerOffered
    | Suspended
    | Resumed
    | DialectLearned
    | PeerChanged
    | MessageIgnored
)


class SessionHandler(Protocol):
    """The owner of a session."""

    def event_occurred(self, event: Event) -> None:
        """Called when something has happened, in the order of the messages that caused it."""

    def send_control(self, frame: bytes) -> None:
        """Called when a control message has to go out, alone in its frame, before any later data.

        C++ peers lose what follows a STREAM_START in the same frame.
        """
