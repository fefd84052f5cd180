"""Every decision of a session, in tables: the only place where they are made.

A message is judged in two steps. What kind it is and the state of the session choose an entry
of :data:`SESSION`. A message that belongs to a stream is then placed (:class:`Standing`): does
the tunnel have its service, is the stream open, does the message name this stream or an older
one, does it name an open connection? Message type and standing choose an entry of
:data:`SOURCE` or :data:`DESTINATION`.

A stream id tells the lives of a stream apart, so whatever names another id than the current
one is *stale*: it crossed a reset or a new start on its way, and its sender will learn of that.
Stale data and resets have no effect; a stale start is answered with a reset, because its
sender has a client waiting.

Sources: guide V3, message type reference; where the C++ proxy and the guide differ, the guide.
What pauses and resumes a connection is our own (docs/internals/sessions.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, unique
from typing import Final

from ..wire import FLOW_MESSAGES, PEER_MESSAGES, RESUME_MESSAGES, Message, MessageType
from .events import EndCause
from .streams import Stream, StreamState

__all__ = [
    "DESTINATION",
    "ENDINGS",
    "RESUMPTION",
    "SESSION",
    "SOURCE",
    "STREAM_MESSAGES",
    "Action",
    "Ending",
    "MessageKind",
    "ResumptionAction",
    "ResumptionEvent",
    "ResumptionState",
    "ResumptionTable",
    "SessionAction",
    "SessionState",
    "SessionTable",
    "Standing",
    "StreamTable",
    "kind_of",
    "standing_of",
]


class _Entry(Enum):
    """What tables are looked up by; hashed as an object, because Enum hashes its name in Python."""

    __hash__ = object.__hash__


class SessionState(_Entry):
    """Phases of a session."""

    AWAITING_SERVICE_IDS = "awaiting the service ids"
    READY = "ready"
    SUSPENDED = "no agreement with a peer that can resume"
    CLOSED = "closed"


class MessageKind(_Entry):
    """What a message is to the session as a whole."""

    SERVICE_IDS = "SERVICE_IDS"
    SESSION_RESET = "SESSION_RESET"
    STREAM = "any of the stream tables"
    PEER = "PEER_JOINED or PEER_LEFT"
    OFFER = "SESSION_OFFER"
    FLOW_UNMARKED = "a type of this project, not marked ignorable"
    IGNORABLE = "unknown type, ignorable"
    UNKNOWN = "unknown type, not ignorable"


class SessionAction(Enum):
    """What a message does to the session."""

    MATCH_SERVICE_IDS = "match them with the configured ids, become ready"
    COMPARE_SERVICE_IDS = "end the link if they differ from those announced before"
    END_STREAMS = "end all streams and all their connections"
    NOTE_PEER = "note whether the other side is connected"
    TAKE_OFFER = "see the table of agreements"
    TO_STREAM = "see the stream tables"
    IGNORE = "nothing"
    END_LINK = "end the link"


class Standing(_Entry):
    """Where a message stands to the stream and the connection it names."""

    INVALID = "stream id below 1"
    NO_SERVICE = "service unknown"
    IDLE = "stream idle"
    RESET = "stream idle, reset by this end"
    STALE = "open under another stream id"
    OPEN = "open, no such connection"
    LIVE = "open, connection open"
    AWAITED = "open, connection waits for its start to go on"
    PAST = "start of a connection that has ended here"


class Action(_Entry):
    """What a message does to the stream it names."""

    OPEN_STREAM = "open the stream and its first connection"
    REPLACE_STREAM = "end the stream, open the new one"
    ADD_CONNECTION = "open one more connection"
    DELIVER = "give the payload to the connection"
    CLOSE_CONNECTION = "end the connection"
    CLOSE_STREAM = "end the stream and all its connections"
    NOTE_FLOW = "note that the peer knows flow messages"
    PAUSE_CONNECTION = "send nothing more for the connection"
    RESUME_CONNECTION = "send for the connection again"
    GO_ON = "let the connection go on"
    TAKE_ACKNOWLEDGEMENT = "drop what is acknowledged, send up to the new limit"
    END_HALF = "end the half that the peer sends"
    REFUSE_STREAM = "end the stream, answer STREAM_RESET"
    REFUSE_CONNECTION = "end the connection, answer CONNECTION_RESET"
    ANSWER_RESET = "answer with a reset"
    IGNORE = "nothing"


class Ending(Enum):
    """What the end of a connection means to those who use it."""

    ORDERLY = "in order, unless the reset says that it failed"
    BY_DIALECT = "the same where it has no connection id; it failed where it has one"
    FAILURE = "it failed"


SessionTable = Mapping[tuple[SessionState, MessageKind], SessionAction]
StreamTable = Mapping[tuple[Standing, int], Action]

_AWAITING: Final = SessionState.AWAITING_SERVICE_IDS
_READY: Final = SessionState.READY
_SUSPENDED: Final = SessionState.SUSPENDED

SESSION: Final[SessionTable] = {
    (_AWAITING, MessageKind.SERVICE_IDS): SessionAction.MATCH_SERVICE_IDS,
    (_AWAITING, MessageKind.SESSION_RESET): SessionAction.END_STREAMS,
    (_AWAITING, MessageKind.STREAM): SessionAction.END_LINK,
    (_AWAITING, MessageKind.PEER): SessionAction.NOTE_PEER,
    (_AWAITING, MessageKind.OFFER): SessionAction.IGNORE,
    (_AWAITING, MessageKind.FLOW_UNMARKED): SessionAction.END_LINK,
    (_AWAITING, MessageKind.IGNORABLE): SessionAction.IGNORE,
    (_AWAITING, MessageKind.UNKNOWN): SessionAction.END_LINK,
    (_READY, MessageKind.SERVICE_IDS): SessionAction.COMPARE_SERVICE_IDS,
    (_READY, MessageKind.SESSION_RESET): SessionAction.END_STREAMS,
    (_READY, MessageKind.STREAM): SessionAction.TO_STREAM,
    (_READY, MessageKind.PEER): SessionAction.NOTE_PEER,
    (_READY, MessageKind.OFFER): SessionAction.TAKE_OFFER,
    (_READY, MessageKind.FLOW_UNMARKED): SessionAction.END_LINK,
    (_READY, MessageKind.IGNORABLE): SessionAction.IGNORE,
    (_READY, MessageKind.UNKNOWN): SessionAction.END_LINK,
    (_SUSPENDED, MessageKind.SERVICE_IDS): SessionAction.COMPARE_SERVICE_IDS,
    (_SUSPENDED, MessageKind.SESSION_RESET): SessionAction.END_STREAMS,
    # It was sent before the peer had agreed, and will be sent again.
    (_SUSPENDED, MessageKind.STREAM): SessionAction.IGNORE,
    (_SUSPENDED, MessageKind.PEER): SessionAction.NOTE_PEER,
    (_SUSPENDED, MessageKind.OFFER): SessionAction.TAKE_OFFER,
    (_SUSPENDED, MessageKind.FLOW_UNMARKED): SessionAction.END_LINK,
    (_SUSPENDED, MessageKind.IGNORABLE): SessionAction.IGNORE,
    (_SUSPENDED, MessageKind.UNKNOWN): SessionAction.END_LINK,
}

_NOTHING: Final = Action.IGNORE


def _table(rows: Mapping[MessageType, tuple[Action, ...]]) -> StreamTable:
    """Return the table whose rows have one action for each :class:`Standing`, in its order."""
    return {
        (standing, type_): action
        for type_, actions in rows.items()
        for standing, action in zip(Standing, actions, strict=True)
    }


_COMMON: Final[Mapping[MessageType, tuple[Action, ...]]] = {
    MessageType.DATA: (*[_NOTHING] * 6, Action.DELIVER, *[_NOTHING] * 2),
    MessageType.STREAM_RESET: (*[_NOTHING] * 5, *[Action.CLOSE_STREAM] * 3, _NOTHING),
    MessageType.CONNECTION_RESET: (*[_NOTHING] * 6, *[Action.CLOSE_CONNECTION] * 2, _NOTHING),
    MessageType.CONNECTION_PAUSE: (
        *[_NOTHING] * 5,
        Action.NOTE_FLOW,
        Action.PAUSE_CONNECTION,
        *[_NOTHING] * 2,
    ),
    MessageType.CONNECTION_RESUME: (
        *[_NOTHING] * 5,
        Action.NOTE_FLOW,
        Action.RESUME_CONNECTION,
        *[_NOTHING] * 2,
    ),
    MessageType.CONNECTION_ACK: (
        *[_NOTHING] * 6,
        Action.TAKE_ACKNOWLEDGEMENT,
        *[_NOTHING] * 2,
    ),
    MessageType.CONNECTION_FIN: (*[_NOTHING] * 6, Action.END_HALF, *[_NOTHING] * 2),
}
"""Rows in which the two sides do not differ: all but those of the starts."""

DESTINATION: Final[StreamTable] = _table(
    {
        **_COMMON,
        MessageType.STREAM_START: (
            _NOTHING,
            Action.ANSWER_RESET,
            Action.OPEN_STREAM,
            Action.OPEN_STREAM,
            Action.REPLACE_STREAM,
            Action.REPLACE_STREAM,
            _NOTHING,
            Action.GO_ON,
            Action.REFUSE_CONNECTION,
        ),
        MessageType.CONNECTION_START: (
            _NOTHING,
            Action.ANSWER_RESET,
            # After a restart of this end a running source sends CONNECTION_START first.
            Action.OPEN_STREAM,
            Action.REFUSE_CONNECTION,
            Action.REFUSE_CONNECTION,
            Action.ADD_CONNECTION,
            Action.REFUSE_CONNECTION,
            Action.GO_ON,
            Action.REFUSE_CONNECTION,
        ),
    }
)

SOURCE: Final[StreamTable] = _table(
    {
        **_COMMON,
        MessageType.STREAM_START: (
            _NOTHING,
            Action.ANSWER_RESET,
            *[Action.REFUSE_STREAM] * 7,
        ),
        MessageType.CONNECTION_START: (
            _NOTHING,
            Action.ANSWER_RESET,
            *[Action.REFUSE_CONNECTION] * 7,
        ),
    }
)

ENDINGS: Final[Mapping[EndCause, Ending]] = {
    # The guides have one message for an end of file and for a failure.
    EndCause.CONNECTION_RESET: Ending.ORDERLY,
    # Where connections have no ids, a reset of the stream is the only end there is.
    EndCause.STREAM_RESET: Ending.BY_DIALECT,
    EndCause.STREAM_REPLACED: Ending.BY_DIALECT,
    EndCause.SESSION_RESET: Ending.FAILURE,
    EndCause.PROTOCOL_ERROR: Ending.FAILURE,
    EndCause.LINK_LOST: Ending.FAILURE,
    EndCause.TUNNEL_ENDED: Ending.FAILURE,
    EndCause.COMPLETED: Ending.ORDERLY,
    EndCause.PEER_RESTARTED: Ending.FAILURE,
    EndCause.NOT_RESUMED: Ending.FAILURE,
    EndCause.PEER_CANNOT_RESUME: Ending.FAILURE,
}


class ResumptionState(_Entry):
    """How far the two ends agree on which connections go on, and where."""

    DOWN = "no link"
    OFFERED = "link, no agreement"
    LIVE = "agreed"


@unique
class ResumptionEvent(_Entry):
    """What brings an agreement about, or ends it."""

    LINK_UP = "a link has come up"
    LINK_LOST = "the link was lost"
    PEER_LEFT = "PEER_LEFT"
    OFFER_UNAWARE = "SESSION_OFFER that does not name this incarnation"
    OFFER_UNAWARE_NEW = "SESSION_OFFER that does not name it, of an incarnation not heard before"
    OFFER_AWARE = "SESSION_OFFER that names this incarnation"
    OFFER_AWARE_NEW = "SESSION_OFFER that names it, of an incarnation not heard before"


class ResumptionAction(Enum):
    """What an event does to an agreement."""

    NOTHING = "nothing"
    SUSPEND = "send nothing more"
    RENEW = "begin an incarnation"
    RENEW_AND_OFFER = "begin an incarnation, offer"
    OFFER = "offer"
    AGREE = "go on"
    OFFER_AND_AGREE = "offer, go on"


ResumptionTable = Mapping[
    tuple[ResumptionState, ResumptionEvent], tuple[ResumptionAction, ResumptionState]
]


def _resumption(
    rows: Mapping[ResumptionEvent, tuple[tuple[ResumptionAction, ResumptionState], ...]],
) -> ResumptionTable:
    """Return the table whose rows have one entry for each :class:`ResumptionState`, in order."""
    return {
        (state, event): entry
        for event, entries in rows.items()
        for state, entry in zip(ResumptionState, entries, strict=True)
    }


_STAY_DOWN: Final = (ResumptionAction.NOTHING, ResumptionState.DOWN)
_STAY_LIVE: Final = (ResumptionAction.NOTHING, ResumptionState.LIVE)
_BEGIN: Final = (ResumptionAction.RENEW_AND_OFFER, ResumptionState.OFFERED)
_SUSPEND: Final = (ResumptionAction.SUSPEND, ResumptionState.DOWN)
_RENEW: Final = (ResumptionAction.RENEW, ResumptionState.OFFERED)
_OFFER: Final = (ResumptionAction.OFFER, ResumptionState.OFFERED)
_AGREE: Final = (ResumptionAction.AGREE, ResumptionState.LIVE)
_OFFER_AND_AGREE: Final = (ResumptionAction.OFFER_AND_AGREE, ResumptionState.LIVE)

RESUMPTION: Final[ResumptionTable] = _resumption(
    {
        ResumptionEvent.LINK_UP: (_BEGIN, _BEGIN, _BEGIN),
        ResumptionEvent.LINK_LOST: (_STAY_DOWN, _SUSPEND, _SUSPEND),
        # No offer: there is nobody to read it, and whoever comes makes the first one.
        ResumptionEvent.PEER_LEFT: (_STAY_DOWN, _RENEW, _RENEW),
        ResumptionEvent.OFFER_UNAWARE: (_STAY_DOWN, _OFFER, _STAY_LIVE),
        ResumptionEvent.OFFER_UNAWARE_NEW: (_STAY_DOWN, _OFFER, _OFFER),
        ResumptionEvent.OFFER_AWARE: (_STAY_DOWN, _AGREE, _STAY_LIVE),
        ResumptionEvent.OFFER_AWARE_NEW: (_STAY_DOWN, _OFFER_AND_AGREE, _OFFER_AND_AGREE),
    }
)

_OURS: Final = FLOW_MESSAGES | PEER_MESSAGES | RESUME_MESSAGES

STREAM_MESSAGES: Final = frozenset(type_ for _, type_ in SOURCE)
"""Types that name a stream."""


def kind_of(message: Message) -> MessageKind:
    """Return what a message is to the session as a whole."""
    if message.type in _OURS and not message.ignorable:
        return MessageKind.FLOW_UNMARKED
    if message.type in STREAM_MESSAGES:
        return MessageKind.STREAM
    if message.type in PEER_MESSAGES:
        return MessageKind.PEER
    if message.type == MessageType.SESSION_OFFER:
        return MessageKind.OFFER
    if message.type == MessageType.SERVICE_IDS:
        return MessageKind.SERVICE_IDS
    if message.type == MessageType.SESSION_RESET:
        return MessageKind.SESSION_RESET
    return MessageKind.IGNORABLE if message.ignorable else MessageKind.UNKNOWN


def standing_of(message: Message, stream: Stream | None, *, has_ended: bool = False) -> Standing:
    """Return where a stream message stands; ``stream`` is that of its service, if there is one.

    ``has_ended`` tells that it starts a connection that is known to have ended.
    """
    if message.stream_id <= 0:
        return Standing.INVALID
    if stream is None:
        return Standing.NO_SERVICE
    if has_ended:
        return Standing.PAST
    if stream.state is StreamState.IDLE:
        return Standing.RESET if message.stream_id == stream.ended_stream_id else Standing.IDLE
    if message.stream_id != stream.stream_id:
        return Standing.STALE
    named = stream.connections.get(message.connection_id)
    if named is not None and named.is_awaited:
        return Standing.AWAITED
    return Standing.LIVE if _names_connection(message, stream) else Standing.OPEN


def _names_connection(message: Message, stream: Stream) -> bool:
    """Return whether what the message is about is open: its connection, or any of the stream's.

    STREAM_START and STREAM_RESET are about the stream as a whole. Elsewhere a missing
    connection id means the stream's first connection, in CONNECTION_START the id 1
    (guide V3, message schema).
    """
    if message.type == MessageType.CONNECTION_START:
        return (message.connection_id or 1) in stream.connections
    if message.type in (MessageType.STREAM_START, MessageType.STREAM_RESET):
        return bool(stream.connections)
    return stream.find(message.connection_id) is not None
