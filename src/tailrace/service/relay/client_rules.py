"""What one client may send: a verdict for each of its messages.

Rules: guide V3, "Tunneling message frames" and "Message types"; guide V2, "Backward
compatibility". What may pass depends on which streams are open, so this is also where the
streams that the relay knows of are remembered, whichever side opened or reset them.

Nearly all messages are DATA of an open stream, or acknowledge it between two clients that both
understand that. From the third of its kind on, a message is recognised by the bytes around the
payload (:mod:`tailrace.wire.fastpath`) instead of being decoded. That is the same verdict only as
long as nothing changes that the verdict rests on: whatever changes the set of open streams, who is
on the other side, or whether service ids may be left out, makes all messages unknown again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ...errors import RemoteProtocolError
from ...wire import (
    FLOW_MESSAGES,
    PEER_MESSAGES,
    RESUME_MESSAGES,
    ConnectionIndex,
    Message,
    MessageType,
    Side,
    decode,
)

__all__ = ["MAX_STREAMS", "ClientRules", "StreamKey"]

StreamKey = tuple[str, int]
"""Service id and stream id."""

MAX_STREAMS: Final = 1024
"""Streams remembered for one client; one that opens more loses the oldest."""

_MAX_SEEN: Final = 512
"""Kinds of messages that are recognised at the same time; a connection has two."""

# Plain ints: looking up an enum member costs more than the comparison.
_DATA: Final = int(MessageType.DATA)
_CONNECTION_ACK: Final = int(MessageType.CONNECTION_ACK)
_STREAM_START: Final = int(MessageType.STREAM_START)
_STREAM_RESET: Final = int(MessageType.STREAM_RESET)
_KNOWN_TYPES: Final = frozenset(int(type_) for type_ in MessageType)
_FLOW_TYPES: Final = frozenset(int(type_) for type_ in FLOW_MESSAGES)
_CLIENT_TYPES: Final = (
    _KNOWN_TYPES
    - {MessageType.UNKNOWN, MessageType.SESSION_RESET, MessageType.SERVICE_IDS}
    - _FLOW_TYPES
    - PEER_MESSAGES
    - RESUME_MESSAGES
)
_DROPPED_TYPES: Final = _FLOW_TYPES | frozenset(map(int, RESUME_MESSAGES))
"""Ours, which pass between some clients; from all others they are dropped as unknown ones are."""
_SOURCE_ONLY: Final = frozenset({MessageType.STREAM_START, MessageType.CONNECTION_START})


class ClientRules:
    """The rules for the client on one side of a tunnel that has ``services``."""

    __slots__ = (
        "_peer_omits_ids",
        "_seen_routings",
        "_services",
        "_side",
        "_started",
        "_streams",
        "find",
        "find_only",
        "known",
        "peer_resumes",
    )

    def __init__(self, side: Side, services: Iterable[str]) -> None:
        self._side = side
        self._services = frozenset((*services, ""))
        self._streams: dict[StreamKey, int] = {}
        """The streams that are open -> the connection id of their start, oldest first."""
        self._started: set[str] = set()
        """The services that have had a stream."""
        self._peer_omits_ids = False
        """Whether the client has left out the service id, as version 1 does."""
        self.peer_resumes = False
        """Whether both clients go on by themselves when one of them comes back. What is recognised
        depends on it: to be changed only while no stream is open."""
        self.known: ConnectionIndex[bool] = ConnectionIndex()
        """The messages that may pass without being judged."""
        self._seen_routings: dict[tuple[int, int, str, int], bool] = {}
        """The types and ids of messages that have passed -> whether their form can be
        recognised."""
        self.find_only = self.known.find_only
        self.find = self.known.find
        """Tell whether a message may pass without being judged: not ``None`` if so."""

    @property
    def any_started(self) -> bool:
        """Whether there has been a stream at all."""
        return bool(self._started)

    def is_open(self, key: StreamKey) -> bool:
        """Return whether a stream is open."""
        return key in self._streams

    # -- streams -----------------------------------------------------------------------

    def stream_started(self, start: Message, *, is_open: bool = True) -> None:
        """Take note of a STREAM_START, and of a stream unless it is refused."""
        self._started.add(start.service_id)
        if not is_open:
            return
        key = (start.service_id, start.stream_id)
        self._streams.pop(key, None)
        self._streams[key] = start.connection_id
        if len(self._streams) > MAX_STREAMS:
            self.stream_ended(next(iter(self._streams)))

    def stream_ended(self, key: StreamKey) -> None:
        """Forget a stream that was reset."""
        self._streams.pop(key, None)
        self._unlearn()

    def end_streams(self) -> dict[StreamKey, int]:
        """Forget all streams; return the open ones, with the connection ids of their starts."""
        streams, self._streams = self._streams, {}
        self._unlearn()
        return streams

    # -- verdicts ----------------------------------------------------------------------

    def judge(self, body: memoryview) -> Message | None:
        """Check one message; return it when it cannot travel along with its neighbours.

        Raises:
            RemoteProtocolError: the client may not send it.
        """
        message = decode(body, strict=True)
        if self._is_usual(message) and (message.service_id, message.stream_id) in self._streams:
            self._learn(body, message)
            return None
        return self._judge_rarer(message)

    def _is_usual(self, message: Message) -> bool:
        """Return whether a message is one of those that nearly all are, if its stream is open."""
        if message.type == _DATA:
            return bool(message.service_id) is not self._peer_omits_ids
        return message.type == _CONNECTION_ACK and message.ignorable and self.peer_resumes

    def _judge_rarer(self, message: Message) -> Message | None:
        type_, stream_id, service_id = message[:3]
        # 1. The type. Ours may be dropped as unknown ones are; those of the service are refused.
        if type_ not in _CLIENT_TYPES:
            if message.ignorable and (type_ not in _KNOWN_TYPES or type_ in _DROPPED_TYPES):
                return message
            raise RemoteProtocolError(f"message of type {type_} from a client")
        # 2. The ids. Names must not come and go on one link (guide V2).
        if not service_id:
            self._peer_omits_ids = True
            self._unlearn()
        elif self._peer_omits_ids:
            raise RemoteProtocolError("message with a service id after one without")
        if stream_id < 1:
            raise RemoteProtocolError(f"stream id {stream_id} is not positive")
        if service_id not in self._services:
            raise RemoteProtocolError(f"service id {service_id!r} is not one of the tunnel")
        # 3. What the client's side may do, and the streams that are there for it.
        if self._side is Side.DESTINATION:
            return self._judge_destination(message)
        if type_ == _DATA and service_id not in self._started:
            raise RemoteProtocolError(f"data for service {service_id!r} without a stream start")
        if type_ in (_STREAM_START, _STREAM_RESET):
            return message
        return None if (service_id, stream_id) in self._streams else message

    def _judge_destination(self, message: Message) -> Message | None:
        """Apply what holds for destinations only.

        An old destination answers without service id to a source that gave one: what
        it says belongs to the one stream there is.
        """
        if message.type in _SOURCE_ONLY:
            raise RemoteProtocolError(f"message of type {message.type} from a destination")
        if message.type == _STREAM_RESET:
            return message
        known = message.service_id in self._started if message.service_id else self._started
        if message.type == _DATA and not known:
            raise RemoteProtocolError(
                f"data for service {message.service_id!r} without a stream start"
            )
        return None

    # -- recognising -------------------------------------------------------------------

    def _learn(self, body: memoryview, message: Message) -> None:
        """Recognise messages like this legal one from now on, if it is not the first of its kind.

        Many connections send a single message, and learning costs as much as judging.
        """
        routing = message[:4]
        if routing not in self._seen_routings:
            if len(self._seen_routings) == _MAX_SEEN:
                self._unlearn()
            self._seen_routings[routing] = True
        elif self._seen_routings[routing]:
            self._seen_routings[routing] = self.known.add(body, message, True) is not None

    def _unlearn(self) -> None:
        self.known.clear()
        self._seen_routings.clear()
