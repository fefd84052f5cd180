"""Bytes <-> tunnel messages. Pure: no sockets, no clock, no state but partial input.

May import nothing of this package but :mod:`tailrace.errors`.
"""

from .capabilities import (
    CAPABILITIES_FIELD,
    FLOW,
    FLOW_FIELD,
    NO_CAPABILITIES,
    OFFER,
    PASSED_ON,
    RESUME,
    Capabilities,
    Capability,
    format_capabilities,
    parse_capabilities,
)
from .codec import DataHeader, decode, encode, encode_delimited
from .fastpath import ConnectionIndex, DataKey
from .framing import MessageSplitter
from .messages import (
    FLOW_MESSAGES,
    PEER_LISTENS,
    PEER_MESSAGES,
    RESUME_MESSAGES,
    Message,
    MessageType,
)
from .protocol import (
    MAX_CONNECTION_ID,
    MAX_FRAME,
    MAX_MESSAGE,
    MAX_PAYLOAD,
    MAX_STREAM_ID,
    SUBPROTOCOL_V1,
    SUBPROTOCOL_V2,
    SUBPROTOCOL_V3,
    SUBPROTOCOLS,
)
from .resumption import (
    MAX_OFFER,
    NOBODY,
    SESSION_ID_SIZE,
    Place,
    Progress,
    SessionOffer,
    decode_fin,
    decode_offer,
    decode_progress,
    encode_fin,
    encode_offer,
    encode_progress,
)
from .side import Side

__all__ = [
    "CAPABILITIES_FIELD",
    "FLOW",
    "FLOW_FIELD",
    "FLOW_MESSAGES",
    "MAX_CONNECTION_ID",
    "MAX_FRAME",
    "MAX_MESSAGE",
    "MAX_OFFER",
    "MAX_PAYLOAD",
    "MAX_STREAM_ID",
    "NOBODY",
    "NO_CAPABILITIES",
    "OFFER",
    "PASSED_ON",
    "PEER_LISTENS",
    "PEER_MESSAGES",
    "RESUME",
    "RESUME_MESSAGES",
    "SESSION_ID_SIZE",
    "SUBPROTOCOLS",
    "SUBPROTOCOL_V1",
    "SUBPROTOCOL_V2",
    "SUBPROTOCOL_V3",
    "Capabilities",
    "Capability",
    "ConnectionIndex",
    "DataHeader",
    "DataKey",
    "Message",
    "MessageSplitter",
    "MessageType",
    "Place",
    "Progress",
    "SessionOffer",
    "Side",
    "decode",
    "decode_fin",
    "decode_offer",
    "decode_progress",
    "encode",
    "encode_delimited",
    "encode_fin",
    "encode_offer",
    "encode_progress",
    "format_capabilities",
    "parse_capabilities",
]
