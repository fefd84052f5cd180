"""Bytes <-> tunnel messages. Pure: no sockets, no clock, no state but partial input.

May import nothing of this package but :mod:`tailrace.errors`.
"""

from .codec import DataHeader, decode, encode, encode_delimited
from .fastpath import ConnectionIndex, DataKey
from .framing import MessageSplitter
from .messages import FLOW_MESSAGES, PEER_LISTENS, PEER_MESSAGES, Message, MessageType
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
from .side import Side

__all__ = [
    "FLOW_MESSAGES",
    "MAX_CONNECTION_ID",
    "MAX_FRAME",
    "MAX_MESSAGE",
    "MAX_PAYLOAD",
    "MAX_STREAM_ID",
    "PEER_LISTENS",
    "PEER_MESSAGES",
    "SUBPROTOCOLS",
    "SUBPROTOCOL_V1",
    "SUBPROTOCOL_V2",
    "SUBPROTOCOL_V3",
    "ConnectionIndex",
    "DataHeader",
    "DataKey",
    "Message",
    "MessageSplitter",
    "MessageType",
    "Side",
    "decode",
    "encode",
    "encode_delimited",
]
