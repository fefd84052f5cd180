"""Two ends whose connections outlive links, and a service between them that keeps no sessions.

Nothing moves by itself. Whatever a link carries when it is cut is lost, on either hop; the service
tells the end that is left that its peer has gone, and puts up its fence at a destination. It is as
strict as the real one: data for a stream that was not started on the sender's link ends the test.

Each connection carries bytes of its own in both directions, and every byte is compared as it comes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tailrace.session.events import EndCause
from tailrace.session.ledger import Ledger
from tailrace.session.replay import ReplayMemory
from tailrace.session.resumption import Resumption
from tailrace.wire import (
    MAX_PAYLOAD,
    Message,
    MessageType,
    Side,
    decode_fin,
    decode_progress,
    encode_fin,
    encode_progress,
)

__all__ = ["LENGTH", "SERVICES", "Half", "World"]

SERVICES = ("SSH", "WEB")
LENGTH = 700_000
"""Bytes that a connection sends at most: more than its window."""
_NOISE = Random(20).randbytes(2 * LENGTH)
_STARTS = (MessageType.STREAM_START, MessageType.CONNECTION_START)


def _content(tag: int) -> bytes:
    return _NOISE[tag % LENGTH : tag % LENGTH + LENGTH]


@dataclass(eq=False, repr=False)
class Half:
    """A connection at one end: what its local program has sent, got and seen."""

    end: _End
    ledger: Ledger
    tag: int
    written: int = 0
    got: int = 0
    saw_end: bool = False
    is_over: bool = False
    failed: bool = False
    peer: Half | None = None

    @property
    def is_alive(self) -> bool:
        return not (self.is_over or self.failed)

    def __repr__(self) -> str:
        return f"{self.ledger} of the {self.end.side}"

    def write(self, size: int) -> None:
        """Send what the credit allows."""
        ledger = self.ledger
        size = min(size, ledger.limit - ledger.sent, LENGTH - self.written)
        data = _content(self.tag)[self.written : self.written + size]
        for at in range(0, size, MAX_PAYLOAD):
            self.ledger.record(memoryview(data[at : at + MAX_PAYLOAD]))
        self.written += size
        self.end.settle(self)

    def take(self, size: int) -> None:
        size = min(size, self.ledger.waiting)
        self.ledger.waiting -= size
        self.end.settle(self)

    def finish(self) -> None:
        self.ledger.end()
        self.end.settle(self)

    def reset(self) -> None:
        self.failed = True
        self.end.world.excused.add(self.tag // 2)
        if self.ledger.is_open:
            self.end.send_reset(self.ledger)
        self.end.resumption.end(self.ledger)
        del self.end.halves[self.ledger]


@dataclass(eq=False, repr=False)
class _End:
    world: World
    side: Side
    resumption: Resumption = field(init=False)
    halves: dict[Ledger, Half] = field(default_factory=dict)
    send: Callable[[Message], None] | None = None
    agreed_with: _End | None = None
    opened: dict[tuple[str, int], Half] = field(default_factory=dict)
    """What a source has opened."""

    def __post_init__(self) -> None:
        session_id = next(self.world.processes).to_bytes(16, "big")
        self.resumption = Resumption(self.side, session_id, ReplayMemory(), self)
        self.world.by_id[session_id] = self

    def _send(self, kind: MessageType, ledger: Ledger | None = None, payload: bytes = b"") -> None:
        assert self.send is not None
        ids = (ledger.stream_id, ledger.service_id, ledger.connection_id) if ledger else (0, "", 0)
        self.send(Message(kind, *ids, payload))

    # -- what the resumption asks for

    def send_offer(self, payload: bytes) -> None:
        self._send(MessageType.SESSION_OFFER, None, payload)

    def send_start(self, ledger: Ledger, *, first: bool) -> None:
        peer = self.world.by_id[self.resumption._peer_id]
        if peer is not self.world.ends[self.side.other] and ledger in self.halves:
            # It was killed, which is not known here yet: the connection counts as lost with it.
            self.world.excused.add(self.halves[ledger].tag // 2)
        kind = MessageType.STREAM_START if first else MessageType.CONNECTION_START
        self._send(kind, ledger)

    def send_reset(self, ledger: Ledger) -> None:
        self._send(MessageType.CONNECTION_RESET, ledger)

    def suspended(self) -> None:
        pass

    def resumed(self) -> None:
        self.world.agreements += 1
        self.agreed_with = self.world.by_id[self.resumption._peer_id]
        for half in list(self.halves.values()):
            self.settle(half)

    def ended(self, ledger: Ledger, cause: EndCause) -> None:
        half = self.halves.pop(ledger)
        self._ended(half, failed=cause is not EndCause.COMPLETED)

    def _ended(self, half: Half, *, failed: bool) -> None:
        half.failed = failed
        half.is_over = not failed
        if failed:
            assert half.tag // 2 in self.world.excused, f"{half.ledger} failed for no reason"
        else:
            assert half.saw_end
            assert half.ledger.may_be_over

    # -- what comes

    def receive(self, message: Message) -> None:
        kind = message.type
        if kind == MessageType.PEER_LEFT:
            self.resumption.peer_left()
        elif kind == MessageType.SESSION_OFFER:
            self.resumption.offer_received(message.payload)
        elif self.resumption.is_live:
            self._receive_stream_message(message)

    def _receive_stream_message(self, message: Message) -> None:
        kind, stream_id, service_id, connection_id, payload, *_ = message
        if kind in _STARTS:
            ledger = self.resumption.requested(service_id, stream_id, connection_id)
            if ledger is None:
                self.send_reset(Ledger(service_id, stream_id, connection_id, ReplayMemory()))
                return
            self.settle(self.halves.get(ledger) or self.world.connected(self, ledger))
            return
        ledger = self.resumption.find(service_id, connection_id)
        if ledger is None:
            return
        half = self.halves[ledger]
        if kind == MessageType.DATA:
            self._arrived(half, bytes(payload))
        elif kind == MessageType.CONNECTION_ACK:
            ledger.acknowledged(decode_progress(payload))
        elif kind == MessageType.CONNECTION_FIN:
            ledger.fin_arrived(decode_fin(payload))
            half.saw_end = True
        else:
            assert kind == MessageType.CONNECTION_RESET
            self.resumption.end(ledger)
            del self.halves[ledger]
            self._ended(half, failed=True)
            return
        self.settle(half)

    def _arrived(self, half: Half, data: bytes) -> None:
        half.ledger.received += len(data)
        half.ledger.mark_reached()
        expected = _content(half.tag ^ 1)[half.got : half.got + len(data)]
        assert data == expected, f"other bytes than were sent, at {half.got} of {half.ledger}"
        half.got += len(data)
        half.ledger.waiting += len(data)

    def settle(self, half: Half) -> None:
        """Send what is due for a connection."""
        ledger = half.ledger
        while ledger.is_open and ledger.unsent:
            self._send(MessageType.DATA, ledger, ledger.next_unsent(MAX_PAYLOAD))
        if ledger.fin_is_due:
            self._send(MessageType.CONNECTION_FIN, ledger, encode_fin(ledger.sent))
            ledger.fin_sent()
        if ledger.acknowledgement_is_due:
            self._send(MessageType.CONNECTION_ACK, ledger, encode_progress(ledger.progress))
            ledger.progress_told()
        self.world.most_kept = max(self.world.most_kept, ledger.kept)
        if ledger.is_over and self.halves.pop(ledger, None):
            self.resumption.end(ledger)
            self._ended(half, failed=False)


class _Hop:
    """One link: two queues, and what the service knows of its client."""

    def __init__(self) -> None:
        self.up: deque[Message] = deque()
        self.down: deque[Message] = deque()
        self.started: set[tuple[str, int]] = set()
        self.ever_started: set[str] = set()
        self.fence: Message | None = None


class World:
    """A tunnel and all that can happen to it."""

    def __init__(self) -> None:
        self.processes = itertools.count(1)
        self.by_id: dict[bytes, _End] = {}
        """All processes that there have been, by session id."""
        self.hops: dict[Side, _Hop | None] = dict.fromkeys(Side)
        self.halves: list[Half] = []
        self.excused: set[int] = set()
        """Connections that may end before their time."""
        self.agreements = 0
        self.most_kept = 0
        self._numbers = itertools.count()
        self._ids = dict.fromkeys(SERVICES, 0)
        self.ends = {side: _End(self, side) for side in Side}

    # -- connections

    def open(self, service_id: str) -> Half:
        """Open a connection at the source, whatever state it is in."""
        source = self.ends[Side.SOURCE]
        self._ids[service_id] += 1
        number = self._ids[service_id]
        is_first = all(each.service_id != service_id for each in source.resumption.ledgers)
        ledger = source.resumption.open(service_id, 1, number)
        half = Half(source, ledger, 2 * next(self._numbers))
        source.halves[ledger] = half
        source.opened[service_id, number] = half
        self.halves.append(half)
        if ledger.is_open:
            source.send_start(ledger, first=is_first)
        return half

    def connected(self, end: _End, ledger: Ledger) -> Half:
        """Note that a connection has reached the destination."""
        assert end.agreed_with is not None
        opener = end.agreed_with.opened[ledger.service_id, ledger.connection_id]
        known = opener.peer
        assert known is None or known.end is not end, f"{ledger} was opened twice"
        half = Half(end, ledger, opener.tag + 1, peer=opener)
        opener.peer = half
        end.halves[ledger] = half
        self.halves.append(half)
        return half

    @property
    def alive(self) -> list[Half]:
        return [half for half in self.halves if half.is_alive]

    # -- links

    def connect(self, side: Side) -> None:
        """Give an end a link, if it has none."""
        if self.hops[side] is not None:
            return
        hop = self.hops[side] = _Hop()
        self.ends[side].send = hop.up.append
        self.ends[side].resumption.link_up()

    def cut(self, side: Side) -> None:
        """Cut a link: all that is under way on it is lost."""
        hop, self.hops[side] = self.hops[side], None
        if hop is None:
            return
        self.ends[side].resumption.link_lost()
        self.ends[side].send = None
        left = self.hops[side.other]
        if left is not None:
            left.down.append(Message(MessageType.PEER_LEFT))
            left.started.clear()
            if side is Side.SOURCE and left.ever_started:
                left.fence = Message(0, next(self.processes))
                left.down.append(left.fence)

    def restart(self, side: Side) -> None:
        """Kill an end and start another: all connections are lost."""
        self.cut(side)
        old = self.ends[side]
        for half in old.halves.values():
            half.failed = True
        for half in self.alive:
            self.excused.add(half.tag // 2)
        self.excused.update(half.tag // 2 for half in old.halves.values())
        self.ends[side] = _End(self, side)
        if side is Side.SOURCE:
            self._ids = dict.fromkeys(SERVICES, 0)

    def forward(self, side: Side) -> bool:
        """Let the service read one message of an end; return whether there was one."""
        hop = self.hops[side]
        if hop is None or not hop.up:
            return False
        message = hop.up.popleft()
        if hop.fence is not None:
            if message is hop.fence:
                hop.fence = None
            return True
        self._check(side, hop, message)
        target = self.hops[side.other]
        if message.type and target is not None:
            if message.type == MessageType.STREAM_START:
                for each in (hop, target):
                    each.started.add((message.service_id, message.stream_id))
                    each.ever_started.add(message.service_id)
            stream = (message.service_id, message.stream_id)
            if message.type == MessageType.SESSION_OFFER or stream in hop.started:
                target.down.append(message)
        return True

    @staticmethod
    def _check(side: Side, hop: _Hop, message: Message) -> None:
        if message.type == MessageType.STREAM_START:
            assert side is Side.SOURCE
            hop.ever_started.add(message.service_id)
        elif message.type == MessageType.DATA:
            assert message.service_id in hop.ever_started, "data without a stream start"

    def deliver(self, side: Side) -> bool:
        """Let an end read one message; return whether there was one."""
        hop = self.hops[side]
        if hop is None or not hop.down:
            return False
        message = hop.down.popleft()
        if not message.type:
            hop.up.append(message)  # a ping, which is answered in its turn
        else:
            self.ends[side].receive(message)
        return True

    def settle(self) -> None:
        """Connect both ends, and let everything that is under way arrive."""
        for side in Side:
            self.connect(side)
        moved = True
        while moved:
            moved = False
            for step, side in itertools.product((self.forward, self.deliver), Side):
                moved |= step(side)

    def finish(self) -> None:
        """Let all connections come to their end, and check that they do, with every byte."""
        self.settle()
        for half in self.alive:
            half.finish()
        for _ in range(100):
            for half in self.alive:
                half.take(LENGTH)
            self.settle()
        assert not self.alive, f"connections that do not end: {self.alive[:3]}"
        for half in self.halves:
            if half.is_over and half.peer is not None and not half.failed:
                assert half.got == half.peer.written
        for end in self.ends.values():
            assert end.resumption.is_live
            assert not end.resumption.ledgers, "a connection is kept that nobody uses"
            assert not end.halves
