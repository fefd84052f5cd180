"""Both ends of a tunnel: frames from outside, requests of the room above, in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Final

from hypothesis import strategies as st

from support.oracles.protobuf import oracle_decode
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
    Message,
    MessageType,
    Side,
    encode_delimited,
)

from ..checks import cuts, pieces
from ..mutate import mutated, vary_bytes, vary_item
from ..target import Target
from .wire import SEEDS

__all__ = ["SESSION_DESTINATION", "SESSION_SOURCE"]

_NAMES: Final = ("SSH1", "WEB1")


class _Request(Enum):
    """What the room above may ask a session for."""

    OPEN = "open a connection"
    RESET = "reset a connection"
    REFUSE = "refuse a connection"
    PAUSE = "pause a connection"
    RESUME = "resume a connection"
    RESET_ALL = "reset all connections"
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
    may_pause: bool
    steps: tuple[bytes | _Ask, ...]
    sizes: list[int]


class _Room:
    """The room above: writes everything down and holds the session to its promises."""

    def __init__(self, side: Side, play: _Play) -> None:
        self.log: list[object] = []
        self.open: dict[Connection, str] = {}
        self._role = side
        self.session = Session(side, self, play.configured, play.dialect)
        if play.may_pause:
            self.session.capabilities = FLOW

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
        assert message.ignorable is (message.type in FLOW_MESSAGES)
        assert self.session.capabilities or not (message.ignorable or message.payload)
        assert message.stream_id > 0
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
                    assert connection.pauses_peer is connection.can_pause
                else:
                    session.resume(connection)
                    assert not connection.pauses_peer
            case _Request.LOSE:
                session.link_lost()
                assert not self.open
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
                room.session.link_lost()
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
    type=st.sampled_from([1, 1, 1, 2, 2, 3, 4, 6, 6, 7, 0, 5, 9, 1001, 1002, 1003, 1004]),
    stream_id=st.sampled_from([1, 1, 1, 2, 3, 0, -1, MAX_STREAM_ID]),
    service_id=st.sampled_from(["SSH1", "SSH1", "", "WEB1", "NONE"]),
    connection_id=st.sampled_from([1, 1, 0, 2, 3, MAX_CONNECTION_ID]),
    payload=st.binary(max_size=40) | st.sampled_from([b"", b"x" * 127, b"y" * 20_000]),
    available_service_ids=st.sampled_from([(), (), ("SSH1",), _NAMES, ("x" * 200,)]),
    ignorable=st.booleans(),
)
_ANNOUNCED: Final = st.sampled_from([(), ("SSH1",), _NAMES, ("SSH1", "SSH1")]).map(
    lambda names: encode_delimited(Message(MessageType.SERVICE_IDS, available_service_ids=names))
)
_SEED_FRAMES: Final = [len(seed).to_bytes(2, "big") + seed for seed in SEEDS if len(seed) < 512]


def _with_prefix(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + body


_ASKS: Final = st.builds(_Ask, st.sampled_from(_Request), st.integers(0, 5))
_FRAMES: Final = st.one_of(
    st.lists(_MESSAGES.map(encode_delimited), min_size=1, max_size=6).map(b"".join),
    st.lists(_MESSAGES.map(encode_delimited), min_size=1, max_size=6).map(b"".join),
    mutated([seed for seed in SEEDS if len(seed) < 512]).map(
        lambda body: _with_prefix(body[:MAX_MESSAGE])
    ),
    mutated(_SEED_FRAMES),
)
_DIALECTS: Final[tuple[Dialect | None, ...]] = (None, V1, V2, V3)


@st.composite
def _plays(draw: st.DrawFn) -> _Play:
    configured = draw(st.sampled_from([None, ("",), ("SSH1",), _NAMES]))
    dialect = draw(st.sampled_from(_DIALECTS))
    steps = draw(st.lists(st.one_of(_FRAMES, _FRAMES, _ASKS), max_size=20))
    first = [draw(_ANNOUNCED)] if draw(st.sampled_from([True, True, True, False])) else []
    return _Play(configured, dialect, draw(st.booleans()), (*first, *steps), draw(cuts()))


_CORPUS: Final = (
    _Play(None, None, False, tuple(_SEED_FRAMES[:1]), [1]),
    *(
        _Play(
            None,
            None,
            True,
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
