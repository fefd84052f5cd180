"""Two ends whose connections outlive links, and the relay of the service between them.

The ends are sessions as the proxies have them, the relay's two ends are those of the service, and
what moves between them is frames. Nothing moves by itself. Whatever a link carries when it is cut
is lost, on either hop; the end and the service may learn of it at different times. Processes and
the service are restarted, peers that cannot resume come and take an end's place, local programs
are slow.

Each connection carries bytes of its own in both directions, and every byte is compared as it comes.
No connection that outlives links may end but in order, with all bytes at both ends, unless
something has happened to it that must end it.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from random import Random
from typing import Final

from tailrace.service.relay.relay_end import RelayEnd, service_ids_message
from tailrace.service.relay.switchboard import Switchboard
from tailrace.service.relay.turn_budget import FULL_BUDGET, TurnBudget
from tailrace.service.telemetry.counters import Counters
from tailrace.session import (
    MAX_KEPT,
    Connection,
    ConnectionEnded,
    ConnectionRequested,
    ConnectionResumed,
    EndCause,
    Event,
    PeerFinished,
    ReplayMemory,
    Resumed,
    Session,
    Suspended,
)
from tailrace.session.ledger import FIRST_LIMIT
from tailrace.wire import FLOW, MAX_PAYLOAD, OFFER, RESUME, MessageType, Side, decode

from .books import keep, take
from .playbook import feed

__all__ = ["LENGTH", "SERVICES", "SIZES", "Cut", "End", "Half", "Transfer", "World", "play"]

SERVICES = ("SSH", "WEB")
LENGTH = 700_000
"""Bytes that most connections send in each direction: more than the first window."""
SIZES: Final = (1, 100, 5_000, 64_512, 300_000)
_NOISE = Random(20).randbytes(2 * LENGTH)
_PAUSE_AT = 100_000
"""Bytes that wait for a local program, beyond which the peer is asked to pause."""
_STARTS = (MessageType.STREAM_START, MessageType.CONNECTION_START)
_BY_PEER = (EndCause.CONNECTION_RESET, EndCause.STREAM_RESET)


class Cut(Enum):
    """Who learns at once that a link is gone."""

    BOTH = "both"
    CLIENT = "the client"
    SERVICE = "the service"


@dataclass(eq=False)
class Transfer:
    """One connection through the tunnel."""

    number: int
    peer: End | None = None
    """With whom the source had agreed when it opened the connection, or did before it was used."""
    excused: bool = False
    """Whether something has happened that must end it."""
    halves: dict[Side, Half] = field(default_factory=dict)

    @property
    def outlives(self) -> bool:
        """Whether it outlives links."""
        return self.peer is not None

    @property
    def lost_an_end(self) -> bool:
        """Whether a process that it belongs to has been killed."""
        ends = [self.peer, *(half.end for half in self.halves.values())]
        return any(end is not None and end.is_dead for end in ends)


class Half:
    """A connection at one end: its local program, and the books of the session."""

    def __init__(self, end: End, connection: Connection, transfer: Transfer) -> None:
        self.end = end
        self.connection = connection
        self.transfer = transfer
        self.length = LENGTH
        """Bytes that it sends at most."""
        self.written = 0
        self.got = 0
        self.is_slow = False
        self.finished = False
        self.saw_end = False
        self.cause: EndCause | None = None
        """How it has ended, if it has, and the session has told."""
        connection.sink = self
        transfer.halves[end.side] = self
        end.halves[connection] = self
        end.world.halves.append(self)

    @property
    def is_alive(self) -> bool:
        return self.connection.is_open and not self.end.is_dead

    @property
    def owes(self) -> bool:
        """Whether something has come that was not acknowledged, and can be."""
        ledger = self.connection.ledger
        return ledger is not None and ledger.owes and ledger.is_open

    @property
    def peer(self) -> Half | None:
        return self.transfer.halves.get(self.end.side.other)

    def __repr__(self) -> str:
        return f"{self.connection} of the {self.end.side}"

    def _content(self, side: Side, offset: int, size: int) -> bytes:
        """Return what the program at a side sends."""
        at = (2 * self.transfer.number + (side is Side.SOURCE) + offset) % LENGTH
        return _NOISE[at : at + size]

    # -- the local program

    def write(self, size: int) -> None:
        """Send what may be sent."""
        connection, counts, end = self.connection, self.connection.counts, self.end
        ledger = connection.ledger
        while size and self.is_alive and not (connection.is_paused or self.finished):
            wanted = min(size, MAX_PAYLOAD, self.length - self.written)
            if not wanted or end.is_full or (ledger is not None and ledger.unsent):
                return
            piece = take(counts, wanted)
            if not piece:
                return
            data = self._content(end.side, self.written, piece)
            self.written += piece
            size -= piece
            message = connection.data_header(piece) + data
            end.send_control(message)
            if ledger is not None:
                keep(ledger, message, piece)

    def send_again(self) -> bool:
        """Send once of what was lost with a link; return whether there was anything."""
        connection, ledger = self.connection, self.connection.ledger
        if ledger is None or not ledger.unsent or not ledger.is_open or connection.is_paused:
            return False
        self.end.send_control(bytes(ledger.next_unsent(MAX_PAYLOAD)))
        if self.finished and not ledger.unsent:
            self.end.session.finish(connection)
        return True

    def take(self, size: int) -> None:
        """Take what waits."""
        counts, ledger = self.connection.counts, self.connection.ledger
        counts.waiting -= min(size, counts.waiting)
        if not counts.waiting:
            self.end.session.resume(self.connection)
        if ledger is not None and ledger.acknowledgement_is_due:
            self.end.session.settle(self.connection)

    def finish(self) -> None:
        """End the sending half; without books that is the end of all."""
        if self.connection.ledger is None:
            self.reset()
        else:
            self.finished = True
            self.end.session.finish(self.connection)

    def reset(self) -> None:
        self.transfer.excused = True
        self.end.halves.pop(self.connection, None)
        self.end.session.reset(self.connection)

    def refuse(self) -> None:
        self.transfer.excused = True
        del self.end.halves[self.connection]
        self.end.session.refuse(self.connection)

    # -- what the session tells

    def data_received(self, payload: memoryview) -> None:
        assert self.is_alive, "data after the end"
        assert not self.saw_end, "data behind the end"
        counts, size = self.connection.counts, len(payload)
        counts.received += size
        expected = self._content(self.end.side.other, self.got, size)
        assert payload == expected, f"other bytes than were sent, at {self.got} of {self}"
        self.got += size
        if self.is_slow:
            counts.waiting += size
            if counts.waiting > _PAUSE_AT:
                self.end.session.pause(self.connection)
        if counts.received >= counts.ack_at:
            self.end.session.mark_reached(self.connection)

    def peer_finished(self) -> None:
        assert not self.saw_end, "the end was told twice"
        assert self.peer is not None
        assert self.got == self.peer.written
        self.saw_end = True

    def ended(self, cause: EndCause) -> None:
        assert self.cause is None, "the end was told twice"
        assert not self.connection.is_open
        self.cause = cause
        transfer, world = self.transfer, self.end.world
        if not transfer.outlives:
            return
        if cause is EndCause.COMPLETED:
            assert self.saw_end, f"{self} is over without an end"
            assert self.finished
        elif cause is EndCause.PEER_RESTARTED:
            assert transfer.lost_an_end, f"{self} ended with a peer that lives"
        elif cause is EndCause.PEER_CANNOT_RESUME:
            assert world.foreigners, f"{self} ended for a peer that never came"
            transfer.excused = True
        else:
            assert cause in (*_BY_PEER, EndCause.NOT_RESUMED), f"{self} ended: {cause}"
            assert transfer.excused or transfer.lost_an_end, f"{self} failed for no reason"


class End:
    """A process: its session, its local programs, and its link if it has one."""

    def __init__(self, world: World, side: Side, *, resumes: bool) -> None:
        self.world = world
        self.side = side
        self.resumes = resumes
        self.memory = ReplayMemory()
        self.memory.filled = partial(self._set_full, full=True)
        self.memory.room_made = partial(self._set_full, full=False)
        self.is_full = False
        """Whether as much is kept as may be."""
        self.halves: dict[Connection, Half] = {}
        self.opened: dict[tuple[str, int, int], Half] = {}
        """Source: what it has opened, by service, stream and connection."""
        self.link: Link | None = None
        self.waits = False
        """Whether connections wait, and may be given up."""
        self.refuses = False
        """Whether it refuses the next connection."""
        self.is_dead = False
        self.agreements = 0
        number = next(world.processes).to_bytes(16, "big")
        session_id = number if resumes else None
        self.session = Session(side, self, None, None, session_id, self.memory)
        world.by_id[number] = self

    def _set_full(self, *, full: bool) -> None:
        self.is_full = full

    @property
    def is_live(self) -> bool:
        """Whether it has agreed with its peer."""
        continuity = self.session._continuity
        return continuity is not None and continuity.is_live

    @property
    def peer(self) -> End | None:
        """The process that it has met last."""
        continuity = self.session._continuity
        return self.world.by_id.get(continuity.resumption._peer_id) if continuity else None

    @property
    def kept(self) -> set[tuple[str, int]]:
        """The connections that outlive its link."""
        continuity = self.session._continuity
        assert continuity is not None
        ledgers = continuity.resumption.ledgers
        return {(ledger.service_id, ledger.connection_id) for ledger in ledgers}

    def open(self, service_id: str) -> Half | None:
        """Open a connection, if that is possible now."""
        if not self.session.can_open(service_id):
            return None
        connection = self.session.open(service_id)
        half = Half(self, connection, Transfer(next(self.world.numbers)))
        self._meet(half)
        key = (service_id, connection.stream_id, connection.connection_id)
        self.opened[key] = half
        return half

    def _meet(self, half: Half) -> None:
        """Note with whom a connection was opened, once that is known."""
        if half.connection.ledger is not None and half.transfer.peer is None:
            half.transfer.peer = self.peer

    # -- session handler

    def send_control(self, frame: bytes) -> None:
        if self.link is not None:
            self.link.up.append(frame)

    def event_occurred(self, event: Event) -> None:
        match event:
            case ConnectionRequested(connection):
                self._requested(connection)
            case ConnectionEnded(connection, cause):
                self.halves.pop(connection).ended(cause)
            case ConnectionResumed(connection):
                self._meet(self.halves[connection])
            case PeerFinished(connection):
                self.halves[connection].peer_finished()
            case Suspended():
                assert not self.waits
                self.waits = True
            case Resumed():
                self.waits = False
                self.agreements += 1

    def _requested(self, connection: Connection) -> None:
        opener = self.world.opener
        assert opener is not None
        transfer = opener.transfer
        assert Side.DESTINATION not in transfer.halves, f"{connection} was opened twice"
        assert (connection.ledger is not None) is transfer.outlives
        half = Half(self, connection, transfer)
        if self.refuses:
            self.refuses = False
            half.refuse()


class Link:
    """A WebSocket: two queues, and the relay's end of it."""

    def __init__(self, world: World, end: End) -> None:
        self.world = world
        self.end = end
        self.up: deque[bytes] = deque()
        self.down: deque[tuple[bytes, Half | None]] = deque()
        self.carries = True
        """Whether anything still gets through."""
        self.is_read = True
        self.is_closed = False
        """Whether the service has closed it; what was sent before still comes."""
        self.is_blocked = False
        self.relay_end = RelayEnd(
            self,
            end.side,
            SERVICES,
            Counters(lambda: 0.0),
            TurnBudget(),
            OFFER | RESUME if end.resumes else OFFER,
        )

    # -- relay link

    def send(self, messages: bytes | memoryview) -> None:
        self.down.append((bytes(messages), self.world.starting))

    def ping(self, payload: bytes) -> None:
        # No message begins with a length of zero.
        self.down.append((b"\0\0" + payload, None))

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def close(self, code: int, reason: str) -> None:
        self.is_closed = True

    # -- one step

    def forward(self) -> bool:
        """Let the service read one frame of the end; return whether there was one."""
        if not (self.up and self.carries and self.is_read) or self.is_closed:
            return False
        frame = self.up.popleft()
        if frame[:2] == b"\0\0":
            self.relay_end.pong_received(frame[2:])
            return True
        first = memoryview(frame)[2 : 2 + int.from_bytes(frame[:2], "big")]
        kind, stream_id, service_id, connection_id, *_ = decode(first)
        if kind in _STARTS:
            self.world.starting = self.end.opened.get((service_id, stream_id, connection_id))
        self.relay_end._turn_budget.left = FULL_BUDGET
        self.relay_end.frame_received(memoryview(frame))
        self.world.starting = None
        return True

    def deliver(self) -> bool:
        """Let the end read one frame; return whether there was one, or the end of the link."""
        if not self.carries or not (self.down or self.is_closed):
            return False
        if not self.down:
            self.world.lose(self)
            return True
        frame, self.world.opener = self.down.popleft()
        if frame[:2] == b"\0\0":
            self.up.append(frame)
        else:
            feed(self.end.session, frame)
        self.world.opener = None
        return True

    def block(self, blocked: bool) -> None:
        """Say whether the end takes in too little."""
        if blocked is not self.is_blocked:
            self.is_blocked = blocked
            if blocked:
                self.relay_end.write_blocked()
            else:
                self.relay_end.write_unblocked()


class World:
    """A tunnel and all that can happen to it."""

    def __init__(self) -> None:
        self.processes = itertools.count(1)
        self.numbers = itertools.count()
        self.by_id: dict[bytes, End] = {}
        """All processes that there have been, by session id."""
        self.halves: list[Half] = []
        self.starting: Half | None = None
        """Whose start the service passes on."""
        self.opener: Half | None = None
        """Whose start an end reads."""
        self.cuts = 0
        self.foreigners = 0
        self.switchboard = Switchboard()
        self.unnoticed: dict[Side, Link] = {}
        """Links that have gone without the service having noticed."""
        self.ends = {side: End(self, side, resumes=True) for side in Side}
        self.guests: dict[Side, End] = {}
        """Peers that cannot resume, in the place of an end."""

    # -- who is there

    @property
    def alive(self) -> list[Half]:
        return [half for half in self.halves if half.is_alive]

    def at(self, side: Side) -> End:
        """Return who has an end's place, or wants it."""
        return self.guests.get(side) or self.ends[side]

    def open(self, service_id: str) -> Half | None:
        return self.at(Side.SOURCE).open(service_id)

    # -- links

    def connect(self, side: Side) -> None:
        """Give an end a link, if it has none."""
        end = self.at(side)
        if end.link is not None:
            return
        link = end.link = Link(self, end)
        end.session.capabilities = FLOW | RESUME if end.resumes else FLOW
        link.send(service_ids_message(SERVICES))
        link.relay_end.join(self.switchboard, "tunnel", 1e9)
        self.unnoticed.pop(side, None)

    def cut(self, side: Side, cut: Cut = Cut.BOTH) -> None:
        """Cut a link: all that is under way on it is lost."""
        link = self.at(side).link
        if link is None:
            return
        self.cuts += link.carries
        link.carries = False
        if cut is not Cut.SERVICE:
            self.lose(link)
        if cut is not Cut.CLIENT:
            link.relay_end.leave()
            self.unnoticed.pop(side, None)
        elif not link.is_closed:
            self.unnoticed[side] = link

    def lose(self, link: Link) -> None:
        """Let an end learn that its link is gone."""
        link.carries = False
        if link.end.link is link:
            link.end.link = None
            link.end.session.link_lost()

    def notice(self, side: Side) -> None:
        """Let an end and the service learn of a link that is gone."""
        link = self.at(side).link
        if link is not None and not link.carries:
            self.lose(link)
        unnoticed = self.unnoticed.pop(side, None)
        if unnoticed is not None:
            unnoticed.relay_end.leave()

    def restart_service(self) -> None:
        """Kill the service and start another, which knows nothing."""
        for side in Side:
            self.cut(side)
            self.notice(side)
        self.switchboard = Switchboard()

    # -- processes

    def restart(self, side: Side) -> None:
        """Kill an end and start another: all its connections are lost."""
        self.expel(side)
        end = self.ends[side]
        self._kill(end)
        self.ends[side] = End(self, side, resumes=True)

    def _kill(self, end: End) -> None:
        link, end.link = end.link, None
        if link is not None:
            link.carries = False
            link.relay_end.leave()
        end.is_dead = True

    def intrude(self, side: Side) -> None:
        """Let a peer that cannot resume take an end's place."""
        if side not in self.guests:
            self.foreigners += 1
            self.guests[side] = End(self, side, resumes=False)
            self.connect(side)

    def expel(self, side: Side) -> None:
        """Let it go."""
        guest = self.guests.pop(side, None)
        if guest is not None:
            self._kill(guest)

    def give_up(self, side: Side) -> None:
        """Let the time pass for which an end waits."""
        end = self.ends[side]
        if end.waits:
            end.waits = False
            for half in end.halves.values():
                half.transfer.excused = True
            end.session.give_up()

    # -- steps

    def links(self, side: Side) -> list[Link]:
        """Return the links of a side: an end may not know that a guest has its place."""
        ends = [self.ends[side], *([self.guests[side]] if side in self.guests else [])]
        return [end.link for end in ends if end.link is not None]

    def forward(self, side: Side) -> bool:
        return sum(link.forward() for link in self.links(side)) > 0

    def deliver(self, side: Side) -> bool:
        return sum(link.deliver() for link in self.links(side)) > 0

    def send_again(self) -> bool:
        return sum(half.send_again() for half in self.alive) > 0

    def acknowledge(self) -> bool:
        """Let a second pass, in which all that has come is acknowledged; return whether any was."""
        owing = [half for half in self.alive if half.owes]
        return sum(len(half.end.session.acknowledge([half.connection])) for half in owing) > 0

    def settle(self) -> None:
        """Connect both ends, and let everything that is under way arrive."""
        moved = True
        while moved:
            moved = False
            for side in Side:
                self.notice(side)
                self.connect(side)
                for link in self.links(side):
                    moved |= link.is_blocked
                    link.block(blocked=False)
                moved |= self.forward(side) | self.deliver(side)
            moved |= self.send_again() or self.acknowledge()
        self.check()
        for end in self.ends.values():
            assert not end.is_full, "all is acknowledged that comes, sooner or later"
        ends = [self.at(side) for side in Side]
        if all(end.resumes for end in ends):
            source, destination = ends
            assert source.is_live
            assert destination.is_live
            assert source.kept == destination.kept, "a connection waits for one that is gone"

    def check(self) -> None:
        """Check what holds at any time: bounds, and books that agree with what is kept."""
        for side in Side:
            end = self.ends[side]
            assert end.memory.size <= 2 * MAX_KEPT
            ledgers = [half.connection.ledger for half in end.halves.values()]
            assert end.memory.owing == sum(each is not None and each.owes for each in ledgers)
        for half in self.alive:
            ledger, peer = half.connection.ledger, half.peer
            if ledger is None or peer is None or peer.connection.ledger is None:
                continue
            if peer.is_alive:
                theirs = peer.connection.ledger
                allowed = max(FIRST_LIMIT, theirs.progress.limit)
                assert ledger.sent <= allowed, f"{half} may send more than its peer allows"

    def finish(self) -> None:
        """Let all connections come to their end, and check that they do, with every byte."""
        for side in Side:
            self.expel(side)
        self.settle()
        for half in self.alive:
            half.finish()
        for _ in range(200):
            for half in self.alive:
                half.take(LENGTH)
            self.settle()
            if not self.alive:
                break
        assert not self.alive, f"connections that do not end: {self.alive[:3]}"
        for half in self.halves:
            if half.cause is EndCause.COMPLETED and half.peer is not None:
                assert half.got == half.peer.written
            if half.transfer.outlives and not (half.transfer.excused or half.transfer.lost_an_end):
                assert half.cause is EndCause.COMPLETED
                assert half.peer is not None
        for end in self.ends.values():
            assert end.is_live
            assert not end.kept, "a connection is kept that nobody uses"
            assert not end.halves
            assert not end.session.connections
            assert not end.memory.size


def _disturb(world: World, dice: Random, *, restarts: bool, resets: bool) -> None:
    """Let something go wrong, or come back."""
    side, chance = dice.choice(list(Side)), dice.random()
    if chance < 0.07:
        world.cut(side, dice.choice(list(Cut)))
    elif chance < 0.08:
        world.restart_service()
    elif chance < 0.12:
        for link in world.links(side):
            link.block(blocked=dice.random() < 0.3)
    elif chance < 0.22:
        world.notice(side)
    elif chance < 0.45:
        world.connect(side)
    elif chance < 0.47:
        world.expel(side)
    elif restarts and chance < 0.473:
        world.restart(side)
    elif restarts and chance < 0.476:
        world.intrude(side)
    elif resets and chance < 0.479:
        world.give_up(side)
    elif resets and chance < 0.482:
        world.at(Side.DESTINATION).refuses = True
    elif resets and chance < 0.485 and world.alive:
        dice.choice(world.alive).reset()


def _use(half: Half, dice: Random) -> None:
    """Let a local program do something."""
    chance = dice.random()
    if chance < 0.3:
        half.take(dice.choice(SIZES))
    elif chance < 0.6:
        half.write(dice.choice(SIZES))
    elif chance < 0.8:
        half.send_again()
    elif not half.finished and half.written == half.length:
        half.finish()


def play(
    seed: int, *, cuts: int, connections: int, restarts: bool = False, resets: bool = False
) -> World:
    """Transfer both ways, over ``connections`` at a time, while links are cut at random moments."""
    dice, world = Random(seed), World()
    lengths = (0, 1, 5_000, 300_000, LENGTH)
    while world.cuts < cuts or world.alive:
        if world.cuts < cuts:
            if len(world.alive) < 2 * connections and dice.random() < 0.2:
                half = world.open(dice.choice(SERVICES))
                if half is not None:
                    half.length = dice.choice(lengths)
            _disturb(world, dice, restarts=restarts, resets=resets)
        else:
            for side in Side:
                world.expel(side)
            world.settle()
        for half in world.alive:
            if half.written == 0 and half.end.side is Side.DESTINATION:
                half.length = lengths[half.transfer.number % len(lengths)]
                half.is_slow = half.transfer.number % 3 == 0
            _use(half, dice)
        for _ in range(dice.randrange(20)):
            dice.choice((world.forward, world.deliver))(dice.choice(list(Side)))
    world.finish()
    return world
