"""A source and a destination wired together in memory, through a small strict service.

Nothing moves by itself: messages wait on both hops until a test forwards and delivers
them, as few or as many bytes at a time as it likes. Every byte of application data is
checked when it arrives, and every message an end sends is checked against the rules of
the guides by code that shares nothing with the session.

The service fences what it resets: after a reset it drops what the receiver had sent
before it learned of the reset. Without a fence a new link, whose stream ids start again,
cannot be told from the old one by anybody.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from support.oracles.protobuf import oracle_decode
from support.session.playbook import feed
from support.session.rules import StrictChecker
from tailrace.session import (
    Connection,
    ConnectionEnded,
    ConnectionPaused,
    ConnectionRequested,
    ConnectionResumed,
    Dialect,
    EndCause,
    Event,
    MessageIgnored,
    Session,
    TunnelReady,
)
from tailrace.wire import (
    FLOW,
    MAX_FRAME,
    MAX_PAYLOAD,
    Message,
    MessageSplitter,
    MessageType,
    Side,
    encode_delimited,
)

__all__ = ["ConnectionPair", "End", "Half", "Transfer", "other"]

_NOISE: Final = random.Random(20).randbytes(1 << 20)
_NOISE_TWICE: Final = _NOISE + _NOISE
_STARTS: Final = (MessageType.STREAM_START, MessageType.CONNECTION_START)


def other(side: Side) -> Side:
    """Return the role of the other end."""
    return Side.DESTINATION if side is Side.SOURCE else Side.SOURCE


# -- application data --------------------------------------------------------------------


class Half:
    """One end of one application connection; checks what it receives byte for byte."""

    def __init__(self, transfer: Transfer, side: Side, connection: Connection) -> None:
        self.transfer = transfer
        self.side = side
        self.connection = connection
        self.sent = 0
        self.received = 0
        self.closed_here = False
        """Whether this end closed it in order."""
        self.failure = "it broke" if transfer.number % 2 else ""
        """Why this end closes it before its time, if it does not do so in order."""
        self.cause: EndCause | None = None
        self.breaks_on_data = False
        """Whether the local socket fails with the next data."""
        self.end: End | None = None
        connection.sink = self

    @property
    def is_open(self) -> bool:
        return self.connection.is_open

    def content(self, offset: int, size: int) -> bytes:
        """Return what this half sends at ``offset``."""
        way = 0 if self.side is Side.SOURCE else 1
        at = (self.transfer.number * 7919 + way * 104_729 + offset) % len(_NOISE)
        return _NOISE_TWICE[at : at + size]

    def data_received(self, payload: memoryview) -> None:
        peer = self.transfer.half(other(self.side))
        assert self.is_open, "data after the end"
        assert peer is not None, "data before the other end exists"
        assert 0 < len(payload) <= MAX_PAYLOAD
        assert self.received + len(payload) <= peer.sent, "more data than was sent"
        assert payload == peer.content(self.received, len(payload)), "other data than was sent"
        self.received += len(payload)
        if self.breaks_on_data:
            self.breaks_on_data = False
            assert self.end is not None
            self.end.close(self)

    def ended(self, cause: EndCause, failure: str) -> None:
        """Check how it ended: complete, if the other end closed it in order."""
        peer = self.transfer.half(other(self.side))
        if cause is EndCause.CONNECTION_RESET:
            # Not told to one that had not said that it understands.
            assert failure in ("", peer.failure if peer is not None else "")
        elif cause is not EndCause.STREAM_RESET and cause is not EndCause.STREAM_REPLACED:
            assert failure
        assert not self.is_open
        assert self.cause is None, "the end was told twice"
        assert not self.closed_here, "the end was told to the side that asked for it"
        self.cause = cause
        orderly = EndCause.CONNECTION_RESET
        if not self.connection.has_connection_id and peer is not None and peer.closed_here:
            orderly = EndCause.STREAM_RESET
        if cause is not orderly:
            self.transfer.disturbed = True
        elif not self.transfer.disturbed:
            assert peer is not None
            assert self.received == peer.sent, "data is missing at an orderly end"


@dataclass(eq=False)
class Transfer:
    """One application connection through the tunnel."""

    number: int
    disturbed: bool = False
    """Whether the service reset it or replaced an end under it."""
    halves: dict[Side, Half] = field(default_factory=dict)

    def half(self, side: Side) -> Half | None:
        return self.halves.get(side)


# -- the wire -----------------------------------------------------------------------------


class _Fence:
    """A mark among the messages to an end; the end's answer to it stands among its own."""


class _Inbox:
    """Bytes on their way to one end. A frame ends where a message must be the last of its own."""

    def __init__(self) -> None:
        self._parts: deque[bytearray | _Fence] = deque()
        self._closed = True

    def __bool__(self) -> bool:
        return bool(self._parts)

    def push(self, message: bytes, last_in_frame: bool) -> None:
        if self._closed:
            self._parts.append(bytearray())
        part = self._parts[-1]
        assert isinstance(part, bytearray)
        part += message
        self._closed = last_in_frame

    def push_fence(self, fence: _Fence) -> None:
        self._parts.append(fence)
        self._closed = True

    def pop(self, size: int) -> bytes | _Fence:
        """Take the next frame, of at most ``size`` bytes, or a fence."""
        part = self._parts[0]
        if isinstance(part, _Fence):
            self._parts.popleft()
            return part
        taken = bytes(part[:size])
        del part[:size]
        if not part:
            self._parts.popleft()
            self._closed = self._closed or not self._parts
        return taken


class End:
    """One end: its role, and the session and the halves of its present link."""

    def __init__(self, pair: ConnectionPair, side: Side) -> None:
        self.side = side
        self.pair = pair
        self.ready: tuple[str, ...] | None = None
        self.halves: dict[Connection, Half] = {}
        """The open connections."""
        self.refuse_next = 0
        """How many requests to refuse from inside the event."""
        self.reopen_on_end = False
        """Source: whether to open the next connection from inside the next end."""
        self.starts: deque[Transfer] = deque()
        """The transfers of the starts that are on their way from (source) or to this end."""
        self.inbox = _Inbox()
        self.outbox: deque[bytes | _Fence] = deque()
        dialect = pair.dialect if self._is_source else None
        self.checker = StrictChecker(side, pair.service_ids, dialect, passes_flow=pair.passes_flow)
        self._told = MessageSplitter()
        self.session = Session(side, self, pair.configured, dialect)
        if pair.passes_flow:
            self.session.capabilities = FLOW

    @property
    def _is_source(self) -> bool:
        return self.side is Side.SOURCE

    # -- what the session does

    def send_control(self, message: bytes) -> None:
        self._emit(message)

    def event_occurred(self, event: Event) -> None:
        match event:
            case TunnelReady(ids):
                assert self.ready is None
                self.ready = ids
            case ConnectionRequested(connection):
                self._requested(connection)
            case ConnectionEnded(connection, cause, failure):
                self._ended(connection, cause, failure)
            case ConnectionPaused(connection):
                assert connection in self.halves
                assert connection.is_paused
            case ConnectionResumed(connection):
                assert connection in self.halves
                assert not connection.is_paused
            case MessageIgnored(kind):
                if kind in _STARTS:
                    self.starts.popleft()
            case _:
                raise AssertionError(f"{event} in a tunnel of one dialect")

    def _requested(self, connection: Connection) -> None:
        assert not self._is_source
        transfer = self.starts.popleft()
        half = self._adopt(transfer, connection)
        if self.refuse_next:
            self.refuse_next -= 1
            self.refuse(half)

    def _ended(self, connection: Connection, cause: EndCause, failure: str) -> None:
        assert cause is not EndCause.PROTOCOL_ERROR
        assert cause is not EndCause.STREAM_REPLACED or not self.pair.fenced
        half = self.halves.pop(connection)
        half.ended(cause, failure)
        if self.reopen_on_end and self.session.can_open(connection.service_id):
            self.reopen_on_end = False
            self.open(connection.service_id)

    def _adopt(self, transfer: Transfer, connection: Connection) -> Half:
        half = Half(transfer, self.side, connection)
        half.end = self
        transfer.halves[self.side] = half
        self.halves[connection] = half
        return half

    def _emit(self, message: bytes) -> None:
        decoded = oracle_decode(message[2:])
        assert len(message) - 2 == int.from_bytes(message[:2], "big")
        self.checker.check(decoded)
        self.outbox.append(message)

    # -- what is done to it

    def open(self, service_id: str) -> Half:
        """Open a connection."""
        transfer = self.pair.new_transfer()
        self.starts.append(transfer)
        return self._adopt(transfer, self.session.open(service_id))

    def send(self, half: Half, size: int) -> None:
        """Send the next ``size`` bytes of a half's data."""
        payload = half.content(half.sent, size)
        half.sent += size
        self._emit(half.connection.data_header(size) + payload)

    def close(self, half: Half) -> None:
        """Close a connection in order."""
        half.closed_here = True
        del self.halves[half.connection]
        self.session.reset(half.connection, half.failure)

    def refuse(self, half: Half) -> None:
        """Refuse a connection that was requested; its data is lost."""
        half.transfer.disturbed = True
        half.closed_here = True
        del self.halves[half.connection]
        siblings = list(self.halves.values())
        self.session.refuse(half.connection, half.failure)
        assert all(sibling.is_open for sibling in siblings)

    def deliver(self, size: int = MAX_FRAME) -> None:
        """Deliver the next frame, of at most ``size`` bytes."""
        part = self.inbox.pop(size)
        if isinstance(part, _Fence):
            self.outbox.append(part)
            return
        for body in self._told.feed(memoryview(part)):
            self.checker.told(oracle_decode(bytes(body)))
        feed(self.session, part)
        self.checker.frame_delivered()


class ConnectionPair:
    """A tunnel: two ends and the service between them.

    ``fenced`` tells whether the service drops what an end sent before it learned of a
    reset. Without that, a source must not be replaced, and after a reset a destination
    may keep connections the source no longer has, until the next stream starts.
    ``passes_flow`` tells whether it passes on flow messages.
    """

    def __init__(
        self,
        service_ids: tuple[str, ...] = ("SSH1",),
        dialect: Dialect | None = None,
        configured: tuple[str, ...] | None = None,
        fenced: bool = True,
        passes_flow: bool = False,
    ) -> None:
        self.service_ids = service_ids
        self.dialect = dialect
        self.configured = configured
        self.fenced = fenced
        self.passes_flow = passes_flow
        self.transfers: list[Transfer] = []
        self._active: dict[str, int] = {}
        self._started: dict[str, int] = {}
        """The last stream the present source has started, by service."""
        self._fences: dict[Side, dict[_Fence, Callable[[Message], bool]]] = {}
        self.ends: dict[Side, End] = {}
        for side in Side:
            self._connect(side)

    @property
    def source(self) -> End:
        return self.ends[Side.SOURCE]

    @property
    def destination(self) -> End:
        return self.ends[Side.DESTINATION]

    def new_transfer(self) -> Transfer:
        """Return a new transfer with data of its own."""
        transfer = Transfer(len(self.transfers))
        self.transfers.append(transfer)
        return transfer

    # -- the service -----------------------------------------------------------------------

    def _connect(self, side: Side) -> None:
        end = End(self, side)
        self.ends[side] = end
        self._fences[side] = {}
        message = Message(MessageType.SERVICE_IDS, available_service_ids=self.service_ids)
        end.inbox.push(encode_delimited(message), last_in_frame=True)

    def replace(self, side: Side) -> None:
        """Drop the link of one end; a new one takes its place, the other end hears of it."""
        old = self.ends[side]
        self._disturb_all()
        halves = list(old.halves.values())
        old.reopen_on_end = False
        old.session.link_lost()
        assert old.session.connections == []
        assert all(half.cause is EndCause.LINK_LOST for half in halves)
        self._connect(side)
        survivor = other(side)
        for service_id in list(self._active):
            self._reset(survivor, service_id)
        self._active.clear()
        # Streams that the old end itself has reset are no less stale: the survivor may
        # not know of that yet, and the new end never will.
        if survivor is Side.DESTINATION:
            self._started.clear()
            self._push_fence(survivor, lambda _: True)
        else:
            known = dict(self._started)
            self._push_fence(survivor, lambda m: m.stream_id <= known.get(m.service_id, 0))

    def reset_stream(self, service_id: str) -> None:
        """Reset the active stream of a service (as messages name it) on both sides."""
        self._disturb_all()
        for side in Side:
            self._reset(side, service_id)
        del self._active[service_id]

    def reset_session(self) -> None:
        """Reset all streams on both sides."""
        self._disturb_all()
        self._active.clear()
        for side in Side:
            message = encode_delimited(Message(MessageType.SESSION_RESET))
            self._push_reset(side, message, lambda _: True)

    @property
    def active(self) -> list[str]:
        """Services with an active stream, as messages name them."""
        return list(self._active)

    def _disturb_all(self) -> None:
        for end in self.ends.values():
            for transfer in [*end.starts, *(half.transfer for half in end.halves.values())]:
                transfer.disturbed = True

    def _reset(self, side: Side, service_id: str) -> None:
        self._send_stream_reset(side, self._active[service_id], service_id)

    def _send_stream_reset(self, side: Side, stream_id: int, service_id: str) -> None:
        message = encode_delimited(Message(MessageType.STREAM_RESET, stream_id, service_id))
        stale = (stream_id, service_id)
        self._push_reset(side, message, lambda m: (m.stream_id, m.service_id) == stale)

    def _push_reset(self, side: Side, message: bytes, stale: Callable[[Message], bool]) -> None:
        self.ends[side].inbox.push(message, last_in_frame=False)
        self._push_fence(side, stale)

    def _push_fence(self, side: Side, stale: Callable[[Message], bool]) -> None:
        """Drop what is ``stale`` until the end has seen all that is on its way to it now."""
        if self.fenced:
            fence = _Fence()
            self._fences[side][fence] = stale
            self.ends[side].inbox.push_fence(fence)

    def _refuse(self, side: Side, start: Message, transfer: Transfer) -> None:
        """Answer a start that was dropped: it may have been sent in view of the reset."""
        self._disturb_all()
        transfer.disturbed = True
        self._send_stream_reset(side, start.stream_id, start.service_id)

    def forward(self, side: Side, count: int = 1) -> None:
        """Take up to ``count`` messages from one end and pass them on."""
        end = self.ends[side]
        for _ in range(min(count, len(end.outbox))):
            item = end.outbox.popleft()
            if isinstance(item, _Fence):
                del self._fences[side][item]
            else:
                self._route(side, item)

    def _route(self, side: Side, message: bytes) -> None:
        decoded = oracle_decode(message[2:])
        is_start = decoded.type in _STARTS
        transfer = self.ends[side].starts.popleft() if is_start else None
        if any(stale(decoded) for stale in self._fences[side].values()):
            if transfer is not None:
                self._refuse(side, decoded, transfer)
            return
        receiver = self.ends[other(side)]
        if transfer is not None:
            receiver.starts.append(transfer)
        if decoded.type == MessageType.STREAM_START:
            self._active[decoded.service_id] = decoded.stream_id
            self._started[decoded.service_id] = decoded.stream_id
        elif (
            decoded.type == MessageType.STREAM_RESET
            and self._active.get(decoded.service_id) == decoded.stream_id
        ):
            del self._active[decoded.service_id]
        is_last = decoded.type == MessageType.STREAM_START
        receiver.inbox.push(message, last_in_frame=is_last)

    # -- the end of a test ---------------------------------------------------------------

    def drain(self) -> None:
        """Move everything until nothing moves any more."""
        while any(end.inbox or end.outbox for end in self.ends.values()):
            for side, end in self.ends.items():
                while end.inbox:
                    end.deliver()
                self.forward(side, len(end.outbox))

    def check_agreement(self, exactly: bool | None = None) -> None:
        """Check, when nothing is under way, that both sides have the same connections.

        ``exactly`` allows the destination none left over; as a rule only with fences.
        """
        for end in self.ends.values():
            assert set(end.halves) == set(end.session.connections)
            assert all(half.is_open for half in end.halves.values())
            assert not end.starts
        here, there = (
            {half.transfer for half in self.ends[side].halves.values()}
            for side in (Side.SOURCE, Side.DESTINATION)
        )
        assert here <= there, "the source has connections that the destination has not"
        assert all(transfer.disturbed for transfer in there - here)
        if self.fenced if exactly is None else exactly:
            assert here == there, "the destination has connections left over"
        for transfer in here:
            one, two = transfer.halves[Side.SOURCE], transfer.halves[Side.DESTINATION]
            if not transfer.disturbed:
                assert (one.sent, two.sent) == (two.received, one.received)
                for a, b in ((one.connection, two.connection), (two.connection, one.connection)):
                    assert a.pauses_peer is b.is_paused
                    assert a.can_pause is self.passes_flow
