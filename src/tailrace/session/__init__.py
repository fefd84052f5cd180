"""One end of a tunnel as a pure state machine: streams, connections, dialects.

No sockets, no clock, no await. May import :mod:`tailrace.wire` and
:mod:`tailrace.errors` only.
"""

from .dialect import V1, V2, V3, Dialect
from .events import (
    ConnectionEnded,
    ConnectionPaused,
    ConnectionRequested,
    ConnectionResumed,
    DialectLearned,
    EndCause,
    Event,
    MessageIgnored,
    PeerChanged,
    SessionHandler,
    TunnelReady,
)
from .services import match_service_ids
from .session import Session
from .streams import Connection, DataSink, Stream, StreamState
from .transitions import Action, SessionState, Standing

__all__ = [
    "V1",
    "V2",
    "V3",
    "Action",
    "Connection",
    "ConnectionEnded",
    "ConnectionPaused",
    "ConnectionRequested",
    "ConnectionResumed",
    "DataSink",
    "Dialect",
    "DialectLearned",
    "EndCause",
    "Event",
    "MessageIgnored",
    "PeerChanged",
    "Session",
    "SessionHandler",
    "SessionState",
    "Standing",
    "Stream",
    "StreamState",
    "TunnelReady",
    "match_service_ids",
]
