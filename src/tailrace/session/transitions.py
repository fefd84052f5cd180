"""Every transition of a stream, one table for each end. The only place they stand.

Sources: guide V3, message type reference; where the C++ proxy and the guide differ,
the guide. What pauses and resumes a connection is our own (docs/flow-messages.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from ..wire import MessageType
from .streams import StreamState

__all__ = ["DESTINATION", "SOURCE", "STREAM_MESSAGES", "Action", "Table"]


class Action(Enum):
    """What a received message does to the stream it names."""

    OPEN_STREAM = "open the stream and its first connection"
    REPLACE_STREAM = "end the stream, open the new one"
    ADD_CONNECTION = "open one more connection"
    DELIVER = "give the payload to the connection"
    CLOSE_CONNECTION = "end the connection"
    CLOSE_STREAM = "end the stream and all its connections"
    PAUSE_CONNECTION = "send nothing more for the connection"
    RESUME_CONNECTION = "send for the connection again"
    REFUSE_STREAM = "end the stream, answer STREAM_RESET"
    REFUSE_CONNECTION = "end the connection, answer CONNECTION_RESET"
    IGNORE = "nothing: stale, or already ended"


Table = Mapping[tuple[StreamState, int], Action]

DESTINATION: Final[Table] = {
    (StreamState.IDLE, MessageType.STREAM_START): Action.OPEN_STREAM,
    # After a restart of this end a running source sends CONNECTION_START first.
    (StreamState.IDLE, MessageType.CONNECTION_START): Action.OPEN_STREAM,
    (StreamState.IDLE, MessageType.DATA): Action.IGNORE,
    (StreamState.IDLE, MessageType.CONNECTION_RESET): Action.IGNORE,
    (StreamState.IDLE, MessageType.STREAM_RESET): Action.IGNORE,
    (StreamState.IDLE, MessageType.CONNECTION_PAUSE): Action.IGNORE,
    (StreamState.IDLE, MessageType.CONNECTION_RESUME): Action.IGNORE,
    (StreamState.OPEN, MessageType.STREAM_START): Action.REPLACE_STREAM,
    (StreamState.OPEN, MessageType.CONNECTION_START): Action.ADD_CONNECTION,
    (StreamState.OPEN, MessageType.DATA): Action.DELIVER,
    (StreamState.OPEN, MessageType.CONNECTION_RESET): Action.CLOSE_CONNECTION,
    (StreamState.OPEN, MessageType.STREAM_RESET): Action.CLOSE_STREAM,
    (StreamState.OPEN, MessageType.CONNECTION_PAUSE): Action.PAUSE_CONNECTION,
    (StreamState.OPEN, MessageType.CONNECTION_RESUME): Action.RESUME_CONNECTION,
}

SOURCE: Final[Table] = {
    (StreamState.IDLE, MessageType.STREAM_START): Action.REFUSE_STREAM,
    (StreamState.IDLE, MessageType.CONNECTION_START): Action.REFUSE_CONNECTION,
    (StreamState.IDLE, MessageType.DATA): Action.IGNORE,
    (StreamState.IDLE, MessageType.CONNECTION_RESET): Action.IGNORE,
    (StreamState.IDLE, MessageType.STREAM_RESET): Action.IGNORE,
    (StreamState.IDLE, MessageType.CONNECTION_PAUSE): Action.IGNORE,
    (StreamState.IDLE, MessageType.CONNECTION_RESUME): Action.IGNORE,
    (StreamState.OPEN, MessageType.STREAM_START): Action.REFUSE_STREAM,
    (StreamState.OPEN, MessageType.CONNECTION_START): Action.REFUSE_CONNECTION,
    (StreamState.OPEN, MessageType.DATA): Action.DELIVER,
    (StreamState.OPEN, MessageType.CONNECTION_RESET): Action.CLOSE_CONNECTION,
    (StreamState.OPEN, MessageType.STREAM_RESET): Action.CLOSE_STREAM,
    (StreamState.OPEN, MessageType.CONNECTION_PAUSE): Action.PAUSE_CONNECTION,
    (StreamState.OPEN, MessageType.CONNECTION_RESUME): Action.RESUME_CONNECTION,
}

STREAM_MESSAGES: Final = frozenset(
    {
        MessageType.DATA,
        MessageType.STREAM_START,
        MessageType.STREAM_RESET,
        MessageType.CONNECTION_START,
        MessageType.CONNECTION_RESET,
        MessageType.CONNECTION_PAUSE,
        MessageType.CONNECTION_RESUME,
    }
)
"""Types that name a stream and need a stream id above 0."""
