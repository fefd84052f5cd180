"""Both ends of a tunnel: frames and requests in any order, and links that are cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Final

from hypothesis import strategies as st

from support.oracles.protobuf import oracle_decode
from support.session.survivors import play
from tailrace.errors import RemoteProtocolError, ServiceIdMismatch
from tailrace.session import (
    V1,
    V2,
    V3,
    Connection,
    ConnectionEnded,
    ConnectionPaused,
    ConnectionRequested,
    ConnectionResumed,
    Dialect,
    EndCause,
    Event,
    Session,
    TunnelReady,
)
from tailrace.wire import (
    FLOW,
    FLOW_MESSAGES,
    MAX_CONNECTION_ID,
    MAX_MESSAGE,
    MAX_STREAM_ID,
    NO_CAPABILITIES,
    NOBODY,
    RESUME,
    RESUME_MESSAGES,
    Capabilities,
    Capability,
    Message,
    MessageType,
    Place,
    Progress,
    SessionOffer,
    Side,
    encode_delimited,
    encode_fin,
    encode_offer,
    encode_progress,
)

from ..checks import cuts, pieces
from ..mutate import mutated, vary_bytes, vary_item
from ..target import Target
from .wire import SEEDS

__all__ = ["SESSION_DESTINATION", "SESSION_SOURCE", "SURVIVAL"]

_NAMES: Final = ("SSH1", "WEB1")
_ME: Final = b"m" * 16


class _Request(Enum):
    """What the room above may ask a session for."""

    OPEN = "open a connection"
    RESET = "reset a connection"
    REFUSE = "refuse a connection"
    PAUSE = "pause a connection"
    RESUME = "resume a connection"
    FINISH = "end the half that a connection sends"
    SETTLE = "send what is due for a connection"
    RESET_ALL = "reset all connections"
    GIVE_UP = "end the connections that wait"
    LOSE = "the link is lost"


@dataclass(frozen=True, slots=True)
class _Ask:
    request: _Request
    pick: int


@dataclass(frozen=True, slots=True)
class _Play:
    """One life of a session."""

    configured: tuple[str, ...] | None
    dialect: Dialect | None
    capabilities: Capabilities
    steps: tuple[bytes | _Ask, ...]
    sizes: list[int]


class _Room:
    """The room above: writes everything down and holds the session to its promises."""

    def __init__(self, side: Side, play: _Play) -> None:
        self.log: list[object] = []
        self.open: dict[Connection, str] = {}
        self._role = side
        resumes = Capability.RESUME in play.capabilities and play.dialect in (None, V3)
        session_id = _ME if resumes else None
        self.session = Session(side, self, play.configured, play.dialect, session_id)
        self.session.capabilities = play.capabilities

    def event_occurred(self, event: Event) -> None:
        match event:
            case ConnectionRequested(connection):
                assert self._role is Side.DESTINATION
                self.adopt(connection)
            case ConnectionEnded(connection, _, failure):
                assert failure.isprintable()
                assert len(failure) <= 200
                assert self.open.pop(connection), "ended twice, or never begun"
                assert not connection.is_open
            case ConnectionPaused(connection) | ConnectionResumed(connection):
                assert connection in self.open
                assert connection.is_paused is isinstance(event, ConnectionPaused)
            case TunnelReady(names):
                assert names
            case _:
                pass
        self.log.append(repr(event))

    def send_control(self, frame: bytes) -> None:
        assert int.from_bytes(frame[:2], "big") == len(frame) - 2
        message = oracle_decode(frame[2:])
        assert message.type != MessageType.DATA
        assert message.ignorable is (message.type in FLOW_MESSAGES | RESUME_MESSAGES)
        assert self.session.capabilities or not (message.ignorable or message.payload)
        assert self.session.survives or message.type not in RESUME_MESSAGES
        assert message.stream_id > 0 or message.type == MessageType.SESSION_OFFER
        self.log.append(frame)

    def adopt(self, connection: Connection) -> None:
        assert connection not in self.open
        assert connection.is_open
        self.open[connection] = repr(connection)
        connection.sink = _Sink(self, connection)

    def ask(self, ask: _Ask) -> None:
        session = self.session
        names = session.service_ids
        connections = session.connections
        match ask.request:
            case _Request.OPEN if names and self._role is Side.SOURCE:
                name = names[ask.pick % len(names)]
                if session.can_open(name):
                    self.adopt(session.open(name))
            case _Request.RESET | _Request.REFUSE if connections:
                connection = connections[ask.pick % len(connections)]
                del self.open[connection]
                if ask.request is _Request.RESET or self._role is Side.SOURCE:
                    session.reset(connection, "it broke" if ask.pick % 2 else "")
                else:
                    session.refuse(connection, "it broke" if ask.pick % 2 else "")
                assert not connection.is_open
            case _Request.PAUSE | _Request.RESUME if connections:
                connection = connections[ask.pick % len(connections)]
                if ask.request is _Request.PAUSE:
                    session.pause(connection)
                    may_ask = connection.can_pause and not connection.is_awaited
                    assert connection.pauses_peer is may_ask
                else:
                    session.resume(connection)
                    assert not connection.pauses_peer
            case _Request.FINISH | _Request.SETTLE if connections:
                connection = connections[ask.pick % len(connections)]
                if ask.request is _Request.FINISH:
                    session.finish(connection)
                else:
                    session.settle(connection)
            case _Request.GIVE_UP:
                session.give_up()
                assert all(connection.ledger is None for connection in self.open)
            case _Request.LOSE:
                session.link_lost()
                assert all(connection.is_awaited for connection in self.open)
                assert session.closed is not session.survives
            case _Request.RESET_ALL if self._role is Side.DESTINATION:
                for connection in connections:
                    if connection.is_open:
                        del self.open[connection]
                        session.reset(connection)
                assert not self.open
            case _:
                pass

    def check(self) -> None:
        assert set(self.session.connections) == set(self.open)
        for connection in self.open:
            assert connection.data_header(1)[-2:] == b"\x22\x01"


class _Sink:
    def __init__(self, room: _Room, connection: Connection) -> None:
        self._room = room
        self._connection = connection

    def data_received(self, payload: memoryview) -> None:
        assert self._connection in self._room.open, "data for a connection that has ended"
        assert payload
        self._room.log.append((repr(self._connection), bytes(payload)))
        counts = self._connection.counts
        counts.received += len(payload)
        if counts.received >= counts.ack_at:
            self._room.session.mark_reached(self._connection)


def _live(side: Side, play: _Play, cut: bool) -> tuple[list[object], Exception | None]:
    """Live one life; return all that happened, and the error that ended it."""
    room = _Room(side, play)
    for step in play.steps:
        if isinstance(step, _Ask):
            room.ask(step)
        else:
            try:
                _receive(room.session, pieces(step, play.sizes) if cut else (step,))
            except (RemoteProtocolError, ServiceIdMismatch) as error:
                room.session.link_lost(EndCause.PROTOCOL_ERROR)
                room.check()
                return [*room.log, str(error)], error
        room.check()
        if room.session.closed:
            break  # nothing comes from a link that is lost
    return room.log, None


def _receive(session: Session, parts: Iterable[bytes]) -> None:
    for part in parts:
        memory = bytearray(part)
        with memoryview(memory) as view:
            session.receive_frame(view)
        # The links use their memory again: a view that was kept shows.
        memory[:] = b"\xee" * len(memory)


def _check(side: Side, play: _Play) -> None:
    whole, error = _live(side, play, cut=False)
    assert _live(side, play, cut=True)[0] == whole, "frames must not matter"
    if error is not None:
        raise error


# -- inputs ----------------------------------------------------------------------------------

_MESSAGES: Final = st.builds(
    Message,
    type=st.sampled_from([1, 1, 1, 2, 2, 3, 4, 6, 6, 7, 0, 5, 9, *range(1001, 1008)]),
    stream_id=st.sampled_from([1, 1, 1, 2, 3, 0, -1, MAX_STREAM_ID]),
    service_id=st.sampled_from(["SSH1", "SSH1", "", "WEB1", "NONE"]),
    connection_id=st.sampled_from([1, 1, 0, 2, 3, MAX_CONNECTION_ID]),
    payload=st.binary(max_size=40) | st.sampled_from([b"", b"x" * 127, b"y" * 20_000]),
    available_service_ids=st.sampled_from([(), (), ("SSH1",), _NAMES, ("x" * 200,)]),
    ignorable=st.booleans(),
)
_PLACES: Final = st.lists(
    st.builds(
        Place,
        st.sampled_from(_NAMES),
        st.sampled_from([1, 1, 2]),
        st.integers(1, 3),
        st.builds(Progress, st.integers(0, 3), st.sampled_from([3, 262_144]), st.booleans()),
    ),
    max_size=3,
)
_OFFERS: Final = st.builds(
    SessionOffer,
    sender=st.sampled_from([b"y" * 16, b"y" * 16, b"o" * 16]),
    peer=st.sampled_from([_ME, _ME, NOBODY]),
    nonce=st.integers(1, 3),
    peer_nonce=st.integers(0, 3),
    highest=st.fixed_dictionaries({name: st.integers(0, 3) for name in _NAMES}),
    places=_PLACES,
    more=st.booleans(),
).map(lambda offer: b"".join(encode_offer(offer)))
_RESUMING: Final = st.one_of(
    _OFFERS.map(lambda payload: Message(MessageType.SESSION_OFFER, payload=payload)),
    _OFFERS.map(lambda payload: Message(MessageType.SESSION_OFFER, payload=payload)),
    st.sampled_from([b"flow, resume", b"flow, resume", b"flow", b""]).map(
        lambda payload: Message(MessageType.PEER_JOINED, payload=payload)
    ),
    st.just(Message(MessageType.PEER_LEFT)),
    st.builds(
        Message,
        type=st.sampled_from([MessageType.CONNECTION_ACK, MessageType.CONNECTION_FIN]),
        stream_id=st.sampled_from([1, 1, 2]),
        service_id=st.sampled_from(_NAMES),
        connection_id=st.integers(0, 3),
        payload=st.sampled_from(
            [encode_progress(Progress(0, 9, fin_seen=False)), encode_fin(0), encode_fin(1)]
        ),
    ),
).map(lambda message: encode_delimited(message._replace(ignorable=True)))
_ANNOUNCED: Final = st.sampled_from([(), ("SSH1",), _NAMES, ("SSH1", "SSH1")]).map(
    lambda names: encode_delimited(Message(MessageType.SERVICE_IDS, available_service_ids=names))
)
_SEED_FRAMES: Final = [len(seed).to_bytes(2, "big") + seed for seed in SEEDS if len(seed) < 512]


def _with_prefix(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + body


_ASKS: Final = st.builds(_Ask, st.sampled_from(_Request), st.integers(0, 5))
_FRAMES: Final = st.one_of(
    _RESUMING,
    _RESUMING,
    st.lists(_MESSAGES.map(encode_delimited), min_size=1, max_size=6).map(b"".join),
    st.lists(_MESSAGES.map(encode_delimited), min_size=1, max_size=6).map(b"".join),
    mutated([seed for seed in SEEDS if len(seed) < 512]).map(
        lambda body: _with_prefix(body[:MAX_MESSAGE])
    ),
    mutated(_SEED_FRAMES),
)
_CAPABILITIES: Final = st.sampled_from([NO_CAPABILITIES, FLOW, FLOW | RESUME, FLOW | RESUME])
_DIALECTS: Final[tuple[Dialect | None, ...]] = (None, V1, V2, V3)


@st.composite
def _plays(draw: st.DrawFn) -> _Play:
    configured = draw(st.sampled_from([None, ("",), ("SSH1",), _NAMES]))
    dialect = draw(st.sampled_from(_DIALECTS))
    steps = draw(st.lists(st.one_of(_FRAMES, _FRAMES, _ASKS), max_size=20))
    first = [draw(_ANNOUNCED)] if draw(st.sampled_from([True, True, True, False])) else []
    capabilities = draw(_CAPABILITIES)
    if capabilities == FLOW | RESUME and draw(st.booleans()):
        agreed = SessionOffer(b"y" * 16, _ME, 1, 1)
        (payload,) = encode_offer(agreed)
        offer = Message(MessageType.SESSION_OFFER, payload=payload, ignorable=True)
        first.append(encode_delimited(offer))
    return _Play(configured, dialect, capabilities, (*first, *steps), draw(cuts()))


_CORPUS: Final = (
    _Play(None, None, NO_CAPABILITIES, tuple(_SEED_FRAMES[:1]), [1]),
    *(
        _Play(
            None,
            None,
            FLOW,
            (
                encode_delimited(Message(MessageType.SERVICE_IDS, available_service_ids=("SSH1",))),
                _Ask(_Request.OPEN, 0),
                frame,
                frame,
            ),
            [1, 3],
        )
        for frame in _SEED_FRAMES
    ),
)


def _vary_step(step: bytes | _Ask, random: Random) -> bytes | _Ask:
    if isinstance(step, _Ask):
        return _Ask(random.choice(tuple(_Request)), random.randrange(6))
    if random.randrange(2) and len(step) > 2:
        return _with_prefix(vary_bytes(step[2:], random)[:MAX_MESSAGE])
    return vary_bytes(step, random)


def _vary(play: _Play, random: Random) -> _Play:
    return replace(play, steps=vary_item(play.steps, _vary_step, random))


_ALLOWED: Final = (RemoteProtocolError, ServiceIdMismatch)

SESSION_SOURCE: Final = Target(
    "session-source",
    "a source: frames and requests in any order, frames cut anywhere",
    _plays(),
    lambda play: _check(Side.SOURCE, play),
    _ALLOWED,
    _CORPUS,
    _vary,
)

SESSION_DESTINATION: Final = Target(
    "session-destination",
    "a destination: frames and requests in any order, frames cut anywhere",
    _plays(),
    lambda play: _check(Side.DESTINATION, play),
    _ALLOWED,
    _CORPUS,
    _vary,
)


def _survive(seed: int) -> None:
    """Cut the links between two ends at random moments; the world checks every byte."""
    play(seed, cuts=10, connections=3, restarts=seed % 3 > 0, resets=seed % 3 > 1)


SURVIVAL: Final = Target(
    "survival",
    "two ends over links that are cut at any moment, each end and the service restarted",
    st.integers(0, 2**32 - 1),
    _survive,
    (),
    (0, 1, 2),
    lambda _, random: random.randrange(2**32),
)
