"""Bytes <-> tunnel messages. Pure: no sockets, no clock, no state but partial input.

May import nothing of this package but :mod:`tailrace.errors`.
"""

from .codec import DataHeader, decode, encode, encode_frame
from .fastpath import HeadIndex, payload_at
from .framing import MessageSplitter
from .messages import FLOW_MESSAGES, Message, MessageType
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

__all__ = [
    "FLOW_MESSAGES",
    "MAX_CONNECTION_ID",
    "MAX_FRAME",
    "MAX_MESSAGE",
    "MAX_PAYLOAD",
    "MAX_STREAM_ID",
    "SUBPROTOCOLS",
    "SUBPROTOCOL_V1",
    "SUBPROTOCOL_V2",
    "SUBPROTOCOL_V3",
    "DataHeader",
    "HeadIndex",
    "Message",
    "MessageSplitter",
    "MessageType",
    "decode",
    "encode",
    "encode_frame",
    "payload_at",
]
