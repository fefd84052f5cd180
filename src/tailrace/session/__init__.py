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
    PeerFinished,
    PeerOffered,
    Resumed,
    SessionHandler,
    Suspended,
    TunnelReady,
)
from .ledger import Counts, Ledger
from .replay import LARGE, MAX_KEPT, Block, ReplayBuffer, ReplayMemory
from .services import match_service_ids
from .session import Session
from .streams import Connection, DataSink, Stream, StreamState
from .transitions import Action, SessionState, Standing

__all__ = [
    "LARGE",
    "MAX_KEPT",
    "V1",
    "V2",
    "V3",
    "Action",
    "Block",
    "Connection",
    "ConnectionEnded",
    "ConnectionPaused",
    "ConnectionRequested",
    "ConnectionResumed",
    "Counts",
    "DataSink",
    "Dialect",
    "DialectLearned",
    "EndCause",
    "Event",
    "Ledger",
    "MessageIgnored",
    "PeerChanged",
    "PeerFinished",
    "PeerOffered",
    "ReplayBuffer",
    "ReplayMemory",
    "Resumed",
    "Session",
    "SessionHandler",
    "SessionState",
    "Standing",
    "Stream",
    "StreamState",
    "Suspended",
    "TunnelReady",
    "match_service_ids",
]
