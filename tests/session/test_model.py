"""Two sessions against each other and against the rules, driven by Hypothesis.

Whatever clients, applications, the service and the network do in any order: every byte
arrives once, in order, on its own connection; what an end sends is legal; once nothing
is under way both ends have the same connections open; and only errors of the public tree
leave.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from support.oracles.protobuf import oracle_decode
from support.session.messages import bodies
from support.session.pair import ConnectionPair, End, Half, other
from support.session.playbook import Data, Playbook, Sent, Step, budget, effort, feed, service_ids
from tailrace.errors import LocalProtocolError, RemoteProtocolError, ServiceIdMismatch
from tailrace.session import V1, V2, V3, ConnectionEnded, ConnectionRequested, Dialect, Event
from tailrace.wire import (
    FLOW_MESSAGES,
    MAX_CONNECTION_ID,
    MAX_FRAME,
    MAX_STREAM_ID,
    Message,
    MessageType,
    Side,
    encode_delimited,
)

ROLES = st.sampled_from(Side)
PICKS = st.integers(0, 40)
SIZES = st.one_of(
    st.integers(1, 300), st.integers(1, 64_512), st.sampled_from([64_512, 1, 127, 128, 16_384])
)
FRAME_SIZES = st.one_of(st.just(MAX_FRAME), st.integers(1, MAX_FRAME), st.integers(1, 40))

ODDS = st.sampled_from([True, True, True, False])

Tunnel: TypeAlias = tuple[tuple[str, ...], Dialect | None, tuple[str, ...] | None]
TUNNELS: list[Tunnel] = [
    (("SSH1", "HTTP1", "VNC1"), None, None),
    (("SSH1", "HTTP1", "VNC1"), V3, ("VNC1", "SSH1", "HTTP1")),
    (("SSH1",), V3, ("",)),
    ((), V3, ("",)),
    (("SSH1", "HTTP1", "VNC1"), V2, None),
    (("SSH1",), V2, ("SSH1",)),
    (("SSH1",), V1, None),
    ((), V1, ("",)),
]


class Surprise(Enum):
    """What is to happen from inside a later event or delivery."""

    REFUSE = "the destination refuses the next request"
    REOPEN = "the source opens a connection when the next one ends"
    BREAK_SOURCE = "a client's socket fails with the next data"
    BREAK_DESTINATION = "an application's socket fails with the next data"


class Disaster(Enum):
    """What the service and the network can do."""

    RESET_STREAM = "reset one stream on both sides"
    RESET_SESSION = "reset the session on both sides"
    REPLACE_SOURCE = "the source comes back on a new link"
    REPLACE_DESTINATION = "the destination comes back on a new link"


class TunnelModel(RuleBasedStateMachine):
    """Everything that can happen to a tunnel."""

    fenced = True
    pair: ConnectionPair

    def __init__(self) -> None:
        super().__init__()
        self.calm = 0
        """Steps until the next disaster may come; most runs need time to get anywhere."""
        self.pause = 0

    @initialize(
        tunnel=st.sampled_from(TUNNELS),
        ready=ODDS,
        pause=st.sampled_from([0, 5, 10, 20]),
        passes_flow=ODDS,
    )
    def open_tunnel(self, tunnel: Tunnel, ready: bool, pause: int, passes_flow: bool) -> None:
        ids, dialect, configured = tunnel
        self.pair = ConnectionPair(ids, dialect, configured, self.fenced, passes_flow)
        self.pause = self.calm = pause
        if ready:
            self.pair.drain()

    def services(self) -> list[str]:
        """Services that can take a connection now."""
        session = self.pair.source.session
        return [name for name in session.service_ids if session.can_open(name)]

    def pick(self, side: Side, pick: int) -> tuple[End, Half] | None:
        """Choose one of an end's open connections."""
        end = self.pair.ends[side]
        halves = list(end.halves.values())
        return (end, halves[pick % len(halves)]) if halves else None

    # -- clients and applications

    @precondition(lambda self: self.services())
    @rule(
        picks=st.lists(PICKS, min_size=1, max_size=4),
        size=st.one_of(st.just(0), SIZES),
        arrives=st.booleans(),
    )
    def open(self, picks: list[int], size: int, arrives: bool) -> None:
        for pick in picks:
            half = self.open_one(pick)
            if half and size:
                self.pair.source.send(half, size)
        if arrives:
            self.move(1, MAX_FRAME)

    def open_one(self, pick: int) -> Half | None:
        services = self.services()
        return self.pair.source.open(services[pick % len(services)]) if services else None

    @precondition(lambda self: self.pair.source.halves)
    @rule(picks=st.lists(PICKS, min_size=1, max_size=4), size=SIZES)
    def send(self, picks: list[int], size: int) -> None:
        self.send_on(Side.SOURCE, picks, size)

    @precondition(lambda self: self.pair.destination.halves)
    @rule(picks=st.lists(PICKS, min_size=1, max_size=4), size=SIZES)
    def answer(self, picks: list[int], size: int) -> None:
        self.send_on(Side.DESTINATION, picks, size)

    def send_on(self, side: Side, picks: list[int], size: int) -> None:
        for pick in picks:
            if chosen := self.pick(side, pick):
                end, half = chosen
                end.send(half, size)

    @rule(side=ROLES, pick=PICKS, size=st.one_of(st.just(0), SIZES))
    def close(self, side: Side, pick: int, size: int) -> None:
        if chosen := self.pick(side, pick):
            end, half = chosen
            if size:
                end.send(half, size)
            end.close(half)

    @rule(side=ROLES, pick=PICKS, pause=ODDS)
    def pause_or_resume(self, side: Side, pick: int, pause: bool) -> None:
        """Whoever is paused may send for a while: it does not know yet."""
        if chosen := self.pick(side, pick):
            session, connection = chosen[0].session, chosen[1].connection
            (session.pause if pause else session.resume)(connection)

    @precondition(lambda self: self.pair.destination.halves)
    @rule(pick=PICKS)
    def refuse(self, pick: int) -> None:
        if (chosen := self.pick(Side.DESTINATION, pick)) and not chosen[1].sent:
            end, half = chosen
            end.refuse(half)

    @rule(surprise=st.sampled_from(Surprise), pick=PICKS)
    def prepare(self, surprise: Surprise, pick: int) -> None:
        if surprise is Surprise.REFUSE:
            self.pair.destination.refuse_next = 1
        elif surprise is Surprise.REOPEN:
            self.pair.source.reopen_on_end = True
        else:
            side = Side.SOURCE if surprise is Surprise.BREAK_SOURCE else Side.DESTINATION
            if chosen := self.pick(side, pick):
                chosen[1].breaks_on_data = True

    # -- the network

    @rule(side=ROLES, count=st.integers(1, 12))
    def forward(self, side: Side, count: int) -> None:
        self.pair.forward(side, count)

    @rule(side=ROLES, sizes=st.lists(FRAME_SIZES, min_size=1, max_size=8))
    def deliver(self, side: Side, sizes: list[int]) -> None:
        end = self.pair.ends[side]
        for size in sizes:
            if end.inbox:
                end.deliver(size)

    @rule(rounds=st.integers(1, 3), size=FRAME_SIZES)
    def move(self, rounds: int, size: int) -> None:
        """Move much of what is under way, in frames of up to ``size`` bytes."""
        for _ in range(rounds):
            for side in (Side.SOURCE, Side.DESTINATION):
                self.pair.forward(side, 20)
                self.deliver(other(side), [max(size, 8)] * 20)

    @rule()
    def drain(self) -> None:
        self.pair.drain()
        self.pair.check_agreement()

    # -- the service

    @precondition(lambda self: self.calm <= 0)
    @rule(disaster=st.sampled_from(Disaster), pick=PICKS, starts_under_way=st.integers(0, 2))
    def strike(self, disaster: Disaster, pick: int, starts_under_way: int) -> None:
        self.calm = self.pause
        for _ in range(starts_under_way):
            self.open_one(pick)
        active = self.pair.active
        if disaster is Disaster.RESET_SESSION:
            self.pair.reset_session()
        elif disaster is Disaster.RESET_STREAM and active:
            self.pair.reset_stream(active[pick % len(active)])
        elif disaster is Disaster.REPLACE_SOURCE and self.fenced:
            self.pair.replace(Side.SOURCE)
        elif disaster is Disaster.REPLACE_DESTINATION:
            self.pair.replace(Side.DESTINATION)

    # -- what always holds

    @invariant()
    def ends_know_their_connections(self) -> None:
        self.calm -= 1
        for end in self.pair.ends.values():
            assert set(end.halves) == set(end.session.connections)
            counted = sum(end.session.count(name) for name in end.session.service_ids)
            assert counted == len(end.halves)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.drain()
            self.pair.check_agreement()
            self.everything_moves_again()

    def everything_moves_again(self) -> None:
        """Whatever happened: the next client of each service gets through, both ways."""
        pair = self.pair
        pair.destination.refuse_next = 0
        pair.source.reopen_on_end = False
        for half in list(pair.source.halves.values()):
            pair.source.close(half)
        pair.drain()
        for name in pair.source.session.service_ids:
            half = pair.source.open(name)
            pair.source.send(half, 100)
            pair.drain()
            answer = half.transfer.halves[Side.DESTINATION]
            pair.destination.send(answer, 100)
            pair.drain()
            assert (half.received, answer.received) == (100, 100)
        # Each service has seen a start: whatever was left over has been replaced.
        pair.check_agreement(exactly=True)


class UnfencedTunnelModel(TunnelModel):
    """The same with a service that drops nothing: late messages reach the other end."""

    fenced = False


# Shrinking a failure of the model takes longer than the usual guard against hangs allows.
pytestmark = pytest.mark.timeout(600 * max(1, effort()))

TestTunnel = TunnelModel.TestCase
TestTunnel.settings = budget(200)

TestUnfencedTunnel = UnfencedTunnelModel.TestCase
TestUnfencedTunnel.settings = budget(120)


# -- anything at all -----------------------------------------------------------------------

NAMES = st.sampled_from(["", "SSH1", "HTTP1", "VNC1", "a" * 129])
MESSAGES = st.builds(
    Message,
    type=st.sampled_from(
        [1, 1, 1, 2, 2, 3, 4, 5, 6, 6, 7, 7, 0, 99, -1, 1001, 1001, 1002, 1003, 1004]
    ),
    stream_id=st.sampled_from([1, 1, 1, 2, 3, 0, -1, MAX_STREAM_ID]),
    service_id=NAMES,
    connection_id=st.sampled_from([0, 1, 1, 2, 3, MAX_CONNECTION_ID]),
    payload=st.binary(max_size=20),
    available_service_ids=st.lists(NAMES, max_size=3).map(tuple),
    ignorable=st.booleans(),
)
ACTIONS = ["open", "send", "reset", "refuse", "pause", "resume", "reset all"]
STEPS = st.lists(
    st.one_of(
        st.lists(MESSAGES, min_size=1, max_size=4),
        st.tuples(st.sampled_from(ACTIONS), PICKS),
    ),
    max_size=25,
)


def act(book: Playbook, action: str, pick: int) -> None:
    """Do one thing the owner may do."""
    session = book.session
    connections = [*book.requested, *session.connections]
    if action == "open":
        names = ["", "SSH1", "HTTP1"]
        session.open(names[pick % len(names)])
    elif action == "reset all":
        session.reset_all()
    elif connections:
        connection = connections[pick % len(connections)]
        if action == "send":
            connection.data_header(pick)
        elif action == "reset":
            session.reset(connection)
        elif action == "pause":
            session.pause(connection)
        elif action == "resume":
            session.resume(connection)
        else:
            session.refuse(connection)


@budget(200)
@given(
    side=ROLES,
    dialect=st.sampled_from([None, V1, V2, V3]),
    ids=st.sampled_from([(), ("SSH1",), ("SSH1", "HTTP1")]),
    steps=STEPS,
    eager=st.booleans(),
    may_pause=st.booleans(),
)
def test_no_message_raises_anything_but_the_documented_errors(
    side: Side,
    dialect: Dialect | None,
    ids: tuple[str, ...],
    steps: list[list[Message] | tuple[str, int]],
    eager: bool,
    may_pause: bool,
) -> None:
    book = Playbook(side, None, dialect, may_pause=may_pause)

    def react(event: Event) -> None:
        if isinstance(event, ConnectionRequested):
            book.session.refuse(event.connection)
        elif isinstance(event, ConnectionEnded) and side is Side.SOURCE:
            name = event.connection.service_id
            if book.session.can_open(name):
                book.session.open(name)

    if eager:
        book.react = react
    try:
        feed(book.session, encode_delimited(service_ids(*ids)))
        for step in steps:
            if isinstance(step, list):
                feed(book.session, b"".join(map(encode_delimited, step)))
            else:
                try:
                    act(book, *step)
                except LocalProtocolError:
                    continue
    except (RemoteProtocolError, ServiceIdMismatch):
        pass
    book.session.link_lost()
    assert book.session.connections == []
    check_sent(side, book.steps, may_pause)


def check_sent(side: Side, steps: list[Step], may_pause: bool) -> None:
    """Check what no peer can talk an end into."""
    allowed = {MessageType.STREAM_RESET, MessageType.CONNECTION_RESET}
    if may_pause:
        allowed |= FLOW_MESSAGES
    if side is Side.SOURCE:
        allowed |= {MessageType.STREAM_START, MessageType.CONNECTION_START}
    for step in steps:
        if isinstance(step, Sent):
            sent = oracle_decode(step.frame[2:])
            assert sent.type in allowed
            assert sent.stream_id > 0
        elif isinstance(step, Data):
            assert step.payload


@budget(25)
@given(
    side=ROLES,
    frames=st.lists(st.one_of(st.binary(min_size=1), bodies().filter(len)), max_size=8),
)
def test_no_bytes_raise_anything_but_the_documented_errors(side: Side, frames: list[bytes]) -> None:
    book = Playbook(side)
    try:
        for body in frames:
            feed(book.session, len(body).to_bytes(2, "big") + body)
    except (RemoteProtocolError, ServiceIdMismatch):
        pass
    book.session.link_lost()


@budget(80)
@given(
    side=ROLES,
    messages=st.lists(MESSAGES, max_size=12),
    cuts=st.lists(st.integers(0, 600), max_size=12),
)
def test_the_cutting_into_frames_makes_no_difference(
    side: Side, messages: list[Message], cuts: list[int]
) -> None:
    sent = [service_ids("SSH1", "HTTP1"), *messages]
    stream = b"".join(map(encode_delimited, sent))
    places = sorted(place % (len(stream) + 1) for place in cuts)
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    whole, split = Playbook(side), Playbook(side)
    outcomes = []
    for book, frames in ((whole, [stream]), (split, pieces)):
        try:
            for piece in frames:
                feed(book.session, piece)
        except (RemoteProtocolError, ServiceIdMismatch) as error:
            outcomes.append(str(error))
        else:
            outcomes.append("")
    assert outcomes[0] == outcomes[1]
    assert whole.steps == split.steps
