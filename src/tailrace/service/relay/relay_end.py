"""One end of the relay: what a client sends is judged and passed on, unchanged.

A :class:`RelayEnd` sits between the WebSocket of one client (:class:`RelayLink`) and an
:class:`~.switchboard.Attachment`, behind which the end of the other side does the same in
the opposite direction. Messages are looked at, never rewritten: payloads are views of the
receive buffer all the way, and no object is made for a message that is recognised.

**Frames.** Whole messages of one frame that are neighbours leave together in one frame; a
message that straddles frames leaves in one of its own. STREAM_START always travels alone:
C++ peers lose what shares a WebSocket message with it. Messages that have to be answered
or dropped are taken out from between their neighbours (guide V3, "Tunneling message
frames" and "Message types").

**Streams that are over stay over.** An end that has told its client of a reset drops what
the client still sends for that stream, because it did not know yet. For a source that
follows from the stream id, for a destination see :mod:`.fence`. A source that goes on by itself
when its peer has left starts streams again under the ids they had, and has a fence as well.

**Turns.** In one turn of the event loop an end handles as many messages as its
:class:`~.turn_budget.TurnBudget` allows, and keeps the rest in its backlog, as bytes.

**Flow messages** (docs/internals/sessions.md) pass between two clients with that capability only.
From and for all others they are unknown messages, which are dropped. So it is with those of
clients that go on with their connections over lost links: when one of two leaves, the other one
is told so, and its streams are forgotten here but not reset.

**Back-pressure.** A client that takes in too little (:meth:`RelayEnd.write_blocked`) blocks
the other side, whose link is then not read (:meth:`RelayEnd.peer_blocked`). What was read
before is still delivered, so nothing is lost. The answers to streams that the client itself
starts meanwhile are held back, and their number is limited.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from ...errors import RemoteProtocolError
from ...wire import (
    FLOW_MESSAGES,
    PEER_LISTENS,
    RESUME_MESSAGES,
    Capabilities,
    Capability,
    ConnectionIndex,
    Message,
    MessageSplitter,
    MessageType,
    Side,
    encode_delimited,
    format_capabilities,
)
from ..telemetry.counters import Counters, ResetCause
from .client_rules import MAX_STREAMS, ClientRules, StreamKey
from .fence import Fence
from .switchboard import Attachment, Switchboard
from .turn_budget import FRAME_COST, JUDGED_COST, ROUTED_COST, TurnBudget

__all__ = ["REPLACED", "RelayEnd", "RelayLink", "service_ids_message"]

REPLACED: Final = "replaced by a newer connection"
"""Reason of the close frame for a connection that another one has taken the place of."""

# Plain ints: looking up an enum member costs more than the comparison.
_STREAM_START: Final = int(MessageType.STREAM_START)
_STREAM_RESET: Final = int(MessageType.STREAM_RESET)
_CONNECTION_START: Final = int(MessageType.CONNECTION_START)
_SESSION_OFFER: Final = int(MessageType.SESSION_OFFER)
_NEEDED: Final = dict.fromkeys(map(int, FLOW_MESSAGES), Capability.FLOW) | dict.fromkeys(
    map(int, RESUME_MESSAGES), Capability.RESUME
)
"""What both clients must be able to do for a message of ours to pass."""
_TELLING: Final = frozenset({Capability.FLOW, Capability.RESUME})
"""Clients with any of these are told about the other side."""
_ASKED_FOR: Final = {
    Side.SOURCE: ResetCause.SOURCE,
    Side.DESTINATION: ResetCause.DESTINATION,
}


class RelayLink(Protocol):
    """One open WebSocket of a client, as the relay uses it."""

    def send(self, messages: bytes | memoryview) -> None:
        """Send one binary message; ``messages`` may be reused as soon as this returns."""

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

    :meth:`join` comes first and :meth:`leave` last. In between, the link hands over frames
    and pongs, calls :meth:`proceed` in each turn of the loop that begins with a backlog, and
    :meth:`sweep` every few seconds.

    Implements :class:`~tailrace.service.relay.switchboard.Inbox`.
    """

    __slots__ = (
        "_attachment",
        "_backlog",
        "_backlog_at",
        "_counters",
        "_fence",
        "_link",
        "_peer_blocked",
        "_pending_resets",
        "_presence_pending",
        "_rules",
        "_side",
        "_splitter",
        "_traffic",
        "_turn_budget",
        "_write_blocked",
        "capabilities",
        "gate",
    )

    def __init__(
        self,
        link: RelayLink,
        side: Side,
        services: Iterable[str],
        counters: Counters,
        turn_budget: TurnBudget,
        capabilities: Capabilities,
    ) -> None:
        self._link = link
        self._side = side
        self.capabilities = capabilities
        """What the client can do."""
        self._counters = counters
        self._traffic = counters.traffic[side]
        self._turn_budget = turn_budget
        self._rules = ClientRules(side, services)
        self.gate: Any = None
        """Where messages pass without Python (``tailrace._fast.RelayGate``), if anywhere."""
        self._attachment: Attachment | None = None
        """The place in the tunnel; ``None`` before it is taken and once it is lost."""
        self._splitter = MessageSplitter()
        self._backlog = bytearray()
        """What was received and has to wait for :meth:`proceed`; empty most of the time."""
        self._backlog_at = 0
        """How much of it has been passed on."""
        self._fence = Fence()
        self._write_blocked = False
        self._peer_blocked = False
        self._pending_resets: dict[StreamKey, int] = {}
        """The streams to be refused when the client reads again -> connection ids."""
        self._presence_pending = False
        """Whether the client is to be told of the other side when it reads again."""

    @property
    def known(self) -> ConnectionIndex[bool]:
        """The connections whose messages are passed on unseen."""
        return self._rules.known

    @property
    def has_backlog(self) -> bool:
        """Whether :meth:`proceed` has something to pass on."""
        return bool(self._backlog)

    def join(self, switchboard: Switchboard, tunnel_id: str, expires_at: float) -> None:
        """Take the side's place in the tunnel; a previous connection loses it."""
        self._attachment = switchboard.join(tunnel_id, self._side, self, expires_at)
        self._note_peer()

    def leave(self) -> None:
        """Give the place up: the link is gone. The other side is told, or its streams are reset."""
        attachment = self._attachment
        self._lose_place()
        if attachment is not None:
            attachment.leave()

    def sweep(self) -> None:
        """Do what time asks for; call it every few seconds.

        A client whose frames are not read gets no pongs either, so it is pinged:
        it must not take a link that is merely slow for a dead one.
        """
        if self._peer_blocked:
            self._link.ping(b"0")
        self._fence.sweep()

    # -- from the client ---------------------------------------------------------------

    def frame_received(self, frame: memoryview) -> None:
        """Take the payload of one frame; the view may die when this returns.

        Raises:
            RemoteProtocolError: the client sent what it may not send. It has to be
                disconnected; the rest of the frame is lost.
        """
        budget = self._turn_budget
        if self._backlog or budget.left <= 0:
            self._backlog += frame
            return
        budget.left -= FRAME_COST
        # Nearly all frames are one message of a connection that is known.
        if self._rules.find_only(frame) is not None and not self._splitter.partial:
            budget.left -= 1
            traffic = self._traffic
            traffic.messages += 1
            traffic.bytes += len(frame)
            if self._attachment is not None and not self._fence.is_up:
                self._attachment.forward(frame, None)
                if self.gate is not None:
                    self._open_gate(self.gate)
            return
        at = self._take(frame)
        if at < len(frame):
            self._backlog += frame[at:]

    def _open_gate(self, gate: Any) -> None:
        """Let the next known messages pass by themselves, until something else comes."""
        if self._attachment is not None and not self._fence.is_up:
            gate.open(self._attachment.peer_gate)

    def proceed(self) -> None:
        """Pass on the next part of the backlog; call it every turn until there is none.

        Raises:
            RemoteProtocolError: as for :meth:`frame_received`.
        """
        if not self._backlog:
            return
        end = self._fence.limit(len(self._backlog))
        at = self._backlog_at
        at += self._take(memoryview(self._backlog)[at:end])
        self._fence.passed(at)
        if at >= len(self._backlog):
            self._backlog = bytearray()
            at = 0
        self._backlog_at = at

    def pong_received(self, payload: bytes) -> None:
        """Take a pong of the client."""
        self._fence.pong_received(payload, len(self._backlog))

    def write_blocked(self) -> None:
        """Called when the client takes in too little: the other side has to wait."""
        self._write_blocked = True
        if self._attachment is not None:
            self._attachment.block_peer()

    def write_unblocked(self) -> None:
        """Called when the client has caught up."""
        self._write_blocked = False
        pending, self._pending_resets = self._pending_resets, {}
        for key, connection_id in pending.items():
            self._send_reset(key, connection_id, self._peer_absent)
        if self._presence_pending:
            self._tell_presence()
        if self._attachment is not None:
            self._attachment.unblock_peer()

    def _take(self, frame: memoryview) -> int:
        """Pass on messages as long as the budget lasts; return where the last of them ends.

        With budget left, that is the end of ``frame``: the beginning of a message that is
        not complete is held back by the splitter.
        """
        start = 0
        # 1. The message that an earlier frame has begun. It has been copied, so that it
        #    cannot leave together with what follows.
        if self._splitter.partial:
            message, start = self._splitter.complete(frame)
            if message is not None:
                self._take_straddling(message)
        # 2. Messages that lie in this frame.
        if start < len(frame):
            start += self._take_whole(frame[start:] if start else frame)
        self._traffic.bytes += start
        return start

    def _take_straddling(self, message: memoryview) -> None:
        """Pass on one message; the budget has paid for the frames that it came in."""
        body = message[2:]
        self._traffic.messages += 1
        single = None if self._rules.find(body) is not None else self._rules.judge(body)
        if single is None:
            self._forward(message, None)
        else:
            self._route(single, message)

    def _take_whole(self, frame: memoryview) -> int:
        """Pass on messages that begin with ``frame``, as :meth:`_take` does."""
        find, judge = self._rules.find, self._rules.judge
        left, count = self._turn_budget.left, 0
        # What lies between ``begin`` and ``at`` has been found legal, and leaves together.
        begin = at = 0
        try:
            for body in self._splitter.feed(frame):
                stop = at + 2 + len(body)
                if find(body) is not None:
                    left -= 1
                else:
                    left -= JUDGED_COST
                    single = judge(body)
                    if single is not None:
                        left -= ROUTED_COST
                        self._forward(frame[begin:at], None)
                        begin = stop
                        self._route(single, frame[at:stop])
                at = stop
                count += 1
                if left <= 0:
                    return at
            return len(frame)
        finally:
            # Also when the next message is at fault: these were not.
            self._forward(frame[begin:at], None)
            self._turn_budget.left = left
            self._traffic.messages += count

    def _forward(self, messages: memoryview, control: Message | None) -> None:
        if messages and self._attachment is not None and not self._fence.is_up:
            self._attachment.forward(messages, control)

    def _route(self, message: Message, raw: memoryview) -> None:
        """Pass on, answer or drop a message that the rules have singled out."""
        key = (message.service_id, message.stream_id)
        if self._fence.is_up and message.type in (_STREAM_START, _CONNECTION_START):
            # Of a source that goes on by itself, for a peer that has left.
            self._rules.stream_started(message, is_open=False)
        elif message.type == _STREAM_START:
            has_peer = self._attachment is not None and self._attachment.peer_present
            self._rules.stream_started(message, is_open=has_peer)
            if has_peer:
                self._forward(raw, message)
            else:
                self._answer_reset(key, message.connection_id)
        elif message.type == _STREAM_RESET:
            self._rules.stream_ended(key)
            if not self._fence.is_up:
                self._counters.resets[_ASKED_FOR[self._side]] += 1
            self._forward(raw, message)
        elif message.type == _CONNECTION_START:
            self._answer_reset(key, message.connection_id)
        elif self._passes(message, key):
            self._counters.offers += message.type == _SESSION_OFFER and self._rules.peer_resumes
            self._forward(raw, message)

    def _passes(self, message: Message, key: StreamKey) -> bool:
        """Return whether a message of ours is passed on: for a stream, where its data is."""
        return _NEEDED.get(message.type) in self.capabilities and (
            message.type == _SESSION_OFFER
            or self._side is Side.DESTINATION
            or self._rules.is_open(key)
        )

    def _answer_reset(self, key: StreamKey, connection_id: int) -> None:
        """Refuse a stream; to a client that does not read, later."""
        self._counters.resets[ResetCause.PEER_ABSENT] += 1
        if not self._write_blocked:
            self._send_reset(key, connection_id, self._peer_absent)
            return
        self._pending_resets[key] = connection_id
        if len(self._pending_resets) > MAX_STREAMS:
            raise RemoteProtocolError("streams are started and the answers not read")

    @property
    def _peer_absent(self) -> str:
        return f"no {self._side.other.value} is connected"

    def _send_reset(self, key: StreamKey, connection_id: int, why: str) -> None:
        """Tell the client that a stream is over, and why if it understands that.

        The connection id of the stream's start is kept: peers on protocol 3.0 exist
        that drop the link over a reset without one, and the others ignore it.
        """
        service_id, stream_id = key
        payload = why.encode() if Capability.FLOW in self.capabilities else b""
        self._link.send(
            encode_delimited(
                Message(MessageType.STREAM_RESET, stream_id, service_id, connection_id, payload)
            )
        )

    # -- from the other side -----------------------------------------------------------

    def deliver(self, messages: memoryview, control: Message | None) -> None:
        if control is not None:
            if control.type == _STREAM_START:
                self._rules.stream_started(control)
            elif control.type == _STREAM_RESET:
                self._rules.stream_ended((control.service_id, control.stream_id))
            elif _NEEDED[control.type] not in self.capabilities:
                return
        self._link.send(messages)

    def _tell_presence(self) -> None:
        """Tell a client that understands it whether the other side is connected, and what it is."""
        self._presence_pending = self._write_blocked
        if self._attachment is None or self._write_blocked or not _TELLING & self.capabilities:
            return
        if self._attachment.peer_present:
            self._send_presence(MessageType.PEER_JOINED, self._peer_in_words())
        else:
            self._send_presence(MessageType.PEER_LEFT)

    def _send_presence(self, kind: MessageType, payload: bytes = b"") -> None:
        self._link.send(encode_delimited(Message(kind, payload=payload, ignorable=True)))

    def _peer_in_words(self) -> bytes:
        """Return what PEER_JOINED says of the other side, in the words that the client knows."""
        assert self._attachment is not None
        capabilities = self._attachment.peer_capabilities
        if Capability.RESUME in self.capabilities:
            return format_capabilities(capabilities).encode()
        return PEER_LISTENS if Capability.FLOW in capabilities else b""

    def _note_peer(self) -> None:
        assert self._attachment is not None
        both = self.capabilities & self._attachment.peer_capabilities
        self._rules.peer_resumes = Capability.RESUME in both
        self._tell_presence()

    def peer_joined(self) -> None:
        self._note_peer()

    def peer_left(self) -> None:
        if self.gate is not None:
            self.gate.shut()
        streams = self._rules.end_streams()
        resumes, self._rules.peer_resumes = self._rules.peer_resumes, False
        self._counters.suspended += resumes
        if resumes:
            # At once: what the next peer sends must not be taken for this one's. And ahead of the
            # ping, so that the pong says that the client knows.
            self._send_presence(MessageType.PEER_LEFT)
        else:
            for key, connection_id in streams.items():
                self._counters.resets[ResetCause.PEER_LEFT] += 1
                self._send_reset(key, connection_id, f"the {self._side.other.value} has left")
        # Also without streams: the source may have reset one that data is still on its way for.
        if resumes or (self._side is Side.DESTINATION and self._rules.any_started):
            self._link.ping(self._fence.put_up())
        if not resumes:
            self._tell_presence()

    def peer_blocked(self) -> None:
        self._peer_blocked = True
        self._link.pause_reading()

    def peer_unblocked(self) -> None:
        self._peer_blocked = False
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
        self._lose_place()
        self._link.close(code, reason)

    def _lose_place(self) -> None:
        """Pass nothing on any more, and owe nothing."""
        if self.gate is not None:
            self.gate.shut()
        self._attachment = None
        self._backlog = bytearray()
        self._backlog_at = 0
        self._pending_resets.clear()


def service_ids_message(services: Iterable[str]) -> bytes:
    """Return the frame that tells a client the tunnel's service ids.

    It is the first message of a link, alone in its frame (guide V2, "ServiceIDs").
    """
    names = tuple(dict.fromkeys(services))
    return encode_delimited(Message(MessageType.SERVICE_IDS, available_service_ids=names))
