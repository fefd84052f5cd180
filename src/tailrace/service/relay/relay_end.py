"""One end of the relay: what a client sends is judged and passed on, unchanged.

A :class:`RelayEnd` sits between one WebSocket (:class:`RelayLink`) and the
:class:`~tailrace.service.relay.switchboard.Port` to the other side. It parses message headers
only; payloads are views all the way. Whole messages of one frame leave together in
one frame, except that STREAM_START travels alone: C++ peers lose what shares a
WebSocket message with it. Rules: guide V3, "Tunneling message frames" and "Message
types"; guide V2, "Backward compatibility". Flow messages (docs/flow-messages.md) pass
between clients that are ``ours`` only; from and for all others they are unknown ones, which
are dropped.

Streams whose end has told the client that they are over stay over: what the client
still sends for them, because it did not know yet, is dropped. For a source that
follows from the stream id. A destination's old streams may carry the ids that a new
source uses again, so it is sent a ping behind the resets, and everything it sends
before the pong belongs to the old streams (frames are answered in order, RFC 6455
section 5.5.3).

One turn of the event loop may bring thousands of tiny messages. An end looks at so many
of them only as take about a millisecond, and keeps the others in
:attr:`RelayEnd.backlog`, so that other tunnels get their turn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Protocol

from ...errors import RemoteProtocolError
from ...wire import FLOW_MESSAGES, Message, MessageType, PrefixIndex, Side, decode, encode_delimited
from ..telemetry.counters import Counters, ResetCause
from .shapes import DataShape
from .switchboard import Fabric, Port

__all__ = ["REPLACED", "SHARE", "RelayEnd", "RelayLink", "service_ids_message"]

REPLACED: Final = "replaced by a newer connection"
"""Reason of the close frame for a connection that another one has taken the place of."""

_MAX_STREAMS: Final = 1024
"""Streams remembered per end; a client that opens more loses the oldest."""

_MAX_MET: Final = 256
"""Connections whose messages are recognised at the same time."""

_FENCE_SWEEPS: Final = 2
"""Sweeps after which a client that answers no ping is listened to again."""

SHARE: Final = 1024
"""Messages that one end may pass on in one turn of the loop; some count for more."""

_JUDGED: Final = 8
"""What a message that is not recognised counts for, and a frame for itself."""

_ROUTED: Final = 32
"""What one counts for in addition that travels alone, or is answered."""

# Plain ints: looking up an enum member costs more than the comparison.
_DATA: Final = int(MessageType.DATA)
_STREAM_START: Final = int(MessageType.STREAM_START)
_STREAM_RESET: Final = int(MessageType.STREAM_RESET)
_CONNECTION_START: Final = int(MessageType.CONNECTION_START)
_KNOWN_TYPES: Final = frozenset(int(type_) for type_ in MessageType)
_FLOW_TYPES: Final = frozenset(int(type_) for type_ in FLOW_MESSAGES)
_CLIENT_TYPES: Final = (
    _KNOWN_TYPES
    - {MessageType.UNKNOWN, MessageType.SESSION_RESET, MessageType.SERVICE_IDS}
    - _FLOW_TYPES
)
_ASKED_FOR: Final = {
    Side.SOURCE: ResetCause.SOURCE,
    Side.DESTINATION: ResetCause.DESTINATION,
}
_SOURCE_ONLY: Final = frozenset({MessageType.STREAM_START, MessageType.CONNECTION_START})


class RelayLink(Protocol):
    """One open WebSocket of a client, as the relay uses it."""

    def send(self, run: bytes | memoryview) -> None:
        """Send one binary message; ``run`` may be reused as soon as this returns."""

    def ping(self, payload: bytes) -> None:
        """Send a ping with at most 125 bytes."""

    def pause_reading(self) -> None:
        """Take in no further frames; those already in user space still come."""

    def resume_reading(self) -> None:
        """Take in frames again."""

    def close(self, code: int, reason: str) -> None:
        """Flush, send a close frame, end the link in bounded time."""


class RelayEnd:
    """One side of one tunnel, for the life of one WebSocket.

    Implements :class:`~tailrace.service.relay.switchboard.Inbox`.
    """

    __slots__ = (
        "_backlog_at",
        "_choked",
        "_counters",
        "_fence",
        "_fence_end",
        "_fence_sweeps",
        "_fences",
        "_last_routing",
        "_link",
        "_met",
        "_ours",
        "_owed",
        "_partial",
        "_port",
        "_prefixes",
        "_services",
        "_shape",
        "_side",
        "_stalled",
        "_started",
        "_streams",
        "_traffic",
        "_unnamed",
        "backlog",
        "share",
    )

    def __init__(
        self,
        link: RelayLink,
        side: Side,
        services: Sequence[str],
        counters: Counters | None = None,
        *,
        ours: bool = False,
    ) -> None:
        self._link: RelayLink = link
        self._counters = counters = counters or Counters(time.monotonic)
        self._traffic = counters.traffic[side]
        self._side = side
        self._ours = ours
        self._services = frozenset((*services, ""))
        self._port: Port = _NOWHERE
        self._partial = bytearray()
        self.backlog = bytearray()
        """What was received and has to wait for :meth:`proceed`; empty most of the time."""
        self._backlog_at = 0
        self.share = SHARE
        """What is left of :data:`SHARE`; to be set again with every turn of the loop."""
        self._streams: dict[tuple[str, int], int] = {}
        self._started: set[str] = set()
        self._shape: DataShape | None = None
        self._last_routing: tuple[int, str, int] | None = None
        self._prefixes: PrefixIndex[None] = PrefixIndex()
        self._met: dict[tuple[int, str, int], bool] = {}
        """Who has sent data, and whether its messages have a head to know them by."""
        self._unnamed = False
        self._stalled = False
        self._choked = False
        self._owed: dict[tuple[str, int], int] = {}
        self._fence: bytes | None = None
        self._fence_end: int | None = None
        self._fence_sweeps = 0
        self._fences = 0

    def join(self, fabric: Fabric, tunnel_id: str) -> None:
        """Take the side's place in the tunnel, from whoever had it before."""
        self._port = fabric.join(tunnel_id, self._side, self)

    def leave(self) -> None:
        """Give the place up: the link is gone. The other side's streams are reset.

        The link is let go of: what is owed to its client is owed no longer.
        """
        self.backlog = bytearray()
        self._link = _NOBODY
        self._port.leave()
        self._port = _NOWHERE

    def sweep(self) -> None:
        """Do what time asks for; call it every few seconds.

        A client whose frames are not read gets no pongs either, so it is pinged:
        it must not take a link that is merely slow for a dead one.
        """
        if self._stalled:
            self._link.ping(b"0")
        if self._fence is not None:
            self._fence_sweeps += 1
            if self._fence_sweeps >= _FENCE_SWEEPS:
                self._fence = None

    # From the client

    def frame_received(self, frame: memoryview) -> None:
        """Take the payload of one frame; the view may die when this returns.

        Raises:
            RemoteProtocolError: the client sent what it may not send. It has to be
                disconnected; the rest of the frame is lost.
        """
        if self.share <= 0 or self.backlog:
            self.backlog += frame
            return
        self.share -= _JUDGED
        at = self._take(frame)
        if at < len(frame):
            self.backlog += frame[at:]

    def proceed(self) -> None:
        """Pass on the next part of :attr:`backlog`; call it every turn until there is none.

        Raises:
            RemoteProtocolError: as for :meth:`frame_received`.
        """
        self.share = SHARE
        size = len(self.backlog)
        end = size if self._fence_end is None else self._fence_end
        at = self._backlog_at
        at += self._take(memoryview(self.backlog)[at:end])
        if at == self._fence_end:
            self._fence = self._fence_end = None
        if at == size:
            self.backlog = bytearray()
            at = 0
        self._backlog_at = at

    def _take(self, frame: memoryview) -> int:
        """Pass on as many messages as the share allows; return where they end."""
        begin = at = self._complete(frame) if self._partial else 0
        end = len(frame)
        count, left = 0, self.share
        while end - at >= 2 and left > 0:
            stop = at + 2 + (frame[at] << 8 | frame[at + 1])
            if stop > end:
                break
            body = frame[at + 2 : stop]
            count += 1
            shape = self._shape
            if (shape is not None and shape.matches(body)) or self._prefixes.knows(body):
                left -= 1
                at = stop
                continue
            left -= _JUDGED
            try:
                single = self._judge(body)
            except RemoteProtocolError:
                if begin < at:
                    # What came before it was legal.
                    self._forward(frame[begin:at])
                raise
            if single is not None:
                left -= _ROUTED
                if begin < at:
                    self._forward(frame[begin:at])
                self._route(single, frame[at:stop])
                begin = stop
            at = stop
        if begin < at:
            self._forward(frame[begin:at] if at - begin < end else frame)
        if at < end and left > 0:
            self._partial += frame[at:]
            at = end
        self.share = left
        self._traffic.messages += count
        self._traffic.bytes += at
        return at

    def pong_received(self, payload: bytes) -> None:
        """Take a pong of the client."""
        if payload == self._fence:
            if self.backlog:
                self._fence_end = len(self.backlog)
            else:
                self._fence = None

    def writing_paused(self) -> None:
        """The client takes in too little: the other side has to wait."""
        self._choked = True
        self._port.stall()

    def writing_resumed(self) -> None:
        """The client has caught up."""
        self._choked = False
        owed, self._owed = self._owed, {}
        for key, connection_id in owed.items():
            self._send_reset(key, connection_id)
        self._port.drain()

    def _complete(self, frame: memoryview) -> int:
        """Finish the message held back, if ``frame`` does; return where the next one begins."""
        partial = self._partial
        at = 0
        if len(partial) < 2:
            at = min(1, len(frame))
            partial += frame[:at]
            if len(partial) < 2:
                return at
        missing = 2 + (partial[0] << 8 | partial[1]) - len(partial)
        partial += frame[at : at + missing]
        if len(frame) - at < missing:
            return len(frame)
        self._partial = bytearray()
        self._traffic.messages += 1
        run = memoryview(partial)
        single = self._judge(run[2:])
        if single is None:
            self._forward(run)
        else:
            self._route(single, run)
        return at + missing

    def _judge(self, body: memoryview) -> Message | None:
        """Check one message; return it when it cannot travel along with its neighbours."""
        message = decode(body, strict=True)
        if (
            message.type == _DATA
            and bool(message.service_id) is not self._unnamed
            and (message.service_id, message.stream_id) in self._streams
        ):
            self._recognise(body, message)
            return None
        return self._judge_rarer(message)

    def _recognise(self, body: memoryview, message: Message) -> None:
        """Learn to recognise messages like this legal one, once they come again.

        One shape is for connections that have the link to themselves; the heads of many
        are for those that share it.
        """
        routing = message[1:4]
        if routing == self._last_routing:
            self._shape = DataShape.learn(body, message)
        elif routing not in self._met:
            if len(self._met) == _MAX_MET:
                self._unlearn()
            self._met[routing] = True
        elif self._met[routing]:
            self._met[routing] = bool(self._prefixes.add(body, message, None))
        self._last_routing = routing

    def _unlearn(self) -> None:
        self._shape = None
        self._prefixes.clear()
        self._met.clear()

    def _judge_rarer(self, message: Message) -> Message | None:
        type_, stream_id, service_id = message[:3]
        if type_ not in _CLIENT_TYPES:
            if message.ignorable and (type_ not in _KNOWN_TYPES or type_ in _FLOW_TYPES):
                return message
            raise RemoteProtocolError(f"message of type {type_} from a client")
        if not service_id:
            self._unnamed = True
            self._unlearn()
        elif self._unnamed:
            raise RemoteProtocolError("message with a service id after one without")
        if stream_id < 1:
            raise RemoteProtocolError(f"stream id {stream_id} is not positive")
        if service_id not in self._services:
            raise RemoteProtocolError(f"service id {service_id!r} is not one of the tunnel")
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

    def _forward(self, run: memoryview) -> None:
        if self._fence is None:
            self._port.forward(run, None)

    def _route(self, message: Message, run: memoryview) -> None:
        """Pass on, answer or drop a message that :meth:`_judge` singled out."""
        key = (message.service_id, message.stream_id)
        if message.type == _STREAM_START:
            self._started.add(message.service_id)
            if self._port.peer_present:
                self._remember(message)
                self._port.forward(run, message)
            else:
                self._answer_reset(key, message.connection_id)
        elif message.type == _STREAM_RESET:
            self._forget(key)
            if self._fence is None:
                self._counters.resets[_ASKED_FOR[self._side]] += 1
                self._port.forward(run, message)
        elif message.type == _CONNECTION_START:
            self._answer_reset(key, message.connection_id)
        elif message.type in _FLOW_TYPES and self._passes_flow(key):
            self._port.forward(run, message)

    def _passes_flow(self, key: tuple[str, int]) -> bool:
        """Tell whether this client's flow messages for a stream are passed on, as its data is."""
        known = self._side is Side.DESTINATION or key in self._streams
        return self._ours and known and self._fence is None

    def _remember(self, start: Message) -> None:
        streams = self._streams
        key = (start.service_id, start.stream_id)
        streams.pop(key, None)
        streams[key] = start.connection_id
        if len(streams) > _MAX_STREAMS:
            self._forget(next(iter(streams)))

    def _forget(self, key: tuple[str, int]) -> None:
        self._streams.pop(key, None)
        self._unlearn()

    def _answer_reset(self, key: tuple[str, int], connection_id: int) -> None:
        """Refuse a stream; to a client that does not read, later."""
        self._counters.resets[ResetCause.PEER_ABSENT] += 1
        if not self._choked:
            self._send_reset(key, connection_id)
            return
        self._owed[key] = connection_id
        if len(self._owed) > _MAX_STREAMS:
            raise RemoteProtocolError("streams are started and the answers not read")

    def _send_reset(self, key: tuple[str, int], connection_id: int) -> None:
        """Tell the client that a stream is over.

        The connection id of the stream's start is kept: peers on protocol 3.0 exist
        that drop the link over a reset without one, and the others ignore it.
        """
        service_id, stream_id = key
        self._link.send(
            encode_delimited(
                Message(MessageType.STREAM_RESET, stream_id, service_id, connection_id)
            )
        )

    # From the other side

    def deliver(self, run: memoryview, control: Message | None) -> None:
        if control is not None:
            if control.type == _STREAM_START:
                self._started.add(control.service_id)
                self._remember(control)
            elif control.type in _FLOW_TYPES:
                if not self._ours:
                    return
            else:
                self._forget((control.service_id, control.stream_id))
        self._link.send(run)

    def peer_left(self) -> None:
        streams, self._streams = self._streams, {}
        self._unlearn()
        self._counters.resets[ResetCause.PEER_LEFT] += len(streams)
        for key, connection_id in streams.items():
            self._send_reset(key, connection_id)
        # Also without streams: the source may have reset one that data is still on its way for.
        if self._started and self._side is Side.DESTINATION:
            self._fences += 1
            self._fence = str(self._fences).encode()
            self._fence_end = None
            self._fence_sweeps = 0
            self._link.ping(self._fence)

    def peer_stalled(self) -> None:
        self._stalled = True
        self._link.pause_reading()

    def peer_drained(self) -> None:
        self._stalled = False
        self._link.resume_reading()

    def replaced(self) -> None:
        # Neither 1000, which tells clients that the tunnel has ended, nor a bare
        # drop, after which both connections would take the place from each other.
        self._dismiss(1008, REPLACED)

    def revoked(self, reason: str) -> None:
        self._dismiss(1008, reason)

    def tunnel_closed(self, reason: str) -> None:
        self._dismiss(1000, reason)

    def _dismiss(self, code: int, reason: str) -> None:
        self._port = _NOWHERE
        self.backlog = bytearray()
        self._link.close(code, reason)


class _NoPort:
    """The port of an end that is not part of a tunnel."""

    peer_present = False

    def forward(self, run: memoryview, control: Message | None) -> None:
        pass

    def stall(self) -> None:
        pass

    def drain(self) -> None:
        pass

    def leave(self) -> None:
        pass


class _NoLink:
    """The link of an end whose client is gone."""

    def send(self, run: bytes | memoryview) -> None:
        pass

    def ping(self, payload: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self, code: int, reason: str) -> None:
        pass


_NOWHERE: Final = _NoPort()
_NOBODY: Final = _NoLink()


def service_ids_message(services: Sequence[str]) -> bytes:
    """Return the frame that tells a client the tunnel's service ids.

    It is the first message of a link, alone in its frame (guide V2, "ServiceIDs").
    """
    names = tuple(dict.fromkeys(services))
    return encode_delimited(Message(MessageType.SERVICE_IDS, available_service_ids=names))
