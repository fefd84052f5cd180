"""The one message type of the tunnel protocol."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

__all__ = [
    "FLOW_MESSAGES",
    "PEER_LISTENS",
    "PEER_MESSAGES",
    "RESUME_MESSAGES",
    "Message",
    "MessageType",
]


class MessageType(IntEnum):
    """Field 1 of every message; values are those of the protocol's schema.

    Some are our own (docs/internals/sessions.md), with numbers that the schema is unlikely to
    reach.
    """

    UNKNOWN = 0
    DATA = 1
    STREAM_START = 2
    STREAM_RESET = 3
    SESSION_RESET = 4
    SERVICE_IDS = 5
    CONNECTION_START = 6
    CONNECTION_RESET = 7
    # Not of the guides: between proxies and services of this project, always ignorable.
    CONNECTION_PAUSE = 1001
    CONNECTION_RESUME = 1002
    PEER_JOINED = 1003
    PEER_LEFT = 1004
    SESSION_OFFER = 1005
    CONNECTION_ACK = 1006
    CONNECTION_FIN = 1007


FLOW_MESSAGES: Final = frozenset({MessageType.CONNECTION_PAUSE, MessageType.CONNECTION_RESUME})
"""Types of this project, sent only to peers that have said they understand them."""
PEER_MESSAGES: Final = frozenset({MessageType.PEER_JOINED, MessageType.PEER_LEFT})
"""Types of this project with which the service tells about the other side of the tunnel."""
RESUME_MESSAGES: Final = frozenset(
    {MessageType.SESSION_OFFER, MessageType.CONNECTION_ACK, MessageType.CONNECTION_FIN}
)
"""Types of this project with which connections outlive a link (:mod:`.resumption`)."""
PEER_LISTENS: Final = b"1"
"""Payload of PEER_JOINED where the other side understands flow messages."""


class Message(NamedTuple):
    """One decoded tunnel message.

    A named tuple and not a dataclass: one is made for each message on the data
    path, and a tuple costs a quarter of a frozen dataclass.

    ``type`` is an int because peers may send types this version does not know;
    the known ones compare equal to :class:`MessageType`. ``stream_id`` is a signed
    32-bit number, ``connection_id`` an unsigned one; 0 and "" mean "not set".
    ``payload`` of a decoded message is a view into the received frame and dies
    with it.
    """

    type: int
    stream_id: int = 0
    service_id: str = ""
    connection_id: int = 0
    payload: bytes | memoryview = b""
    available_service_ids: tuple[str, ...] = ()
    ignorable: bool = False
