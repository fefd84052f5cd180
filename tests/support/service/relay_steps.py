"""Made-up traffic of two clients: mostly data of known connections, and all that comes between.

Acknowledgements, too, may be recognised.
"""

from __future__ import annotations

from hypothesis import strategies as st

from support.network.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from support.service.memory_links import Advance, Bytes, Full, Join, Leave, Step, Turn
from tailrace.wire import DataHeader, Message, MessageType, Side, encode, encode_delimited

__all__ = ["relay_steps"]

_SIDES = st.sampled_from(Side)
_SIZES = st.one_of(st.integers(1, 40), st.sampled_from((127, 128, 5000, 16_384, 64_512)))
_NAMED = ((1, "A", 1), (1, "A", 2), (1, "B", 1), (2, "B", 1))
_UNNAMED = ((1, "", 0), (2, "", 0))


def _ours(routing: tuple[int, str, int], size: int) -> bytes:
    return DataHeader(*routing).build(size) + bytes(i & 0xFF for i in range(size))


def _ascending(routing: tuple[int, str, int], size: int) -> bytes:
    stream_id, service_id, connection_id = routing
    start = encode(Message(MessageType.DATA, stream_id))
    payload = DataHeader(1, "", 0).build(size)[2 + len(start) :] + bytes(size)
    body = start + payload + encode(Message(0, 0, service_id, connection_id))
    return len(body).to_bytes(2, "big") + body


def _acknowledging(routing: tuple[int, str, int], size: int) -> bytes:
    kind = MessageType.CONNECTION_ACK
    return encode_delimited(Message(kind, *routing, bytes(size), ignorable=True))


_FORMS = st.sampled_from((_ours, _ours, _ascending, _acknowledging))


def _message(kind: MessageType, routing: tuple[int, str, int]) -> bytes:
    ignorable = kind >= MessageType.CONNECTION_PAUSE
    return encode_delimited(Message(kind, *routing, ignorable=ignorable))


def _start(routing: tuple[int, str, int]) -> Bytes:
    message = _message(MessageType.STREAM_START, routing)
    return Bytes(Side.SOURCE, frame(BINARY, message, masked=True))


_KINDS = st.sampled_from(
    (
        MessageType.STREAM_RESET,
        MessageType.STREAM_START,
        MessageType.CONNECTION_RESET,
        MessageType.CONNECTION_START,
        MessageType.CONNECTION_PAUSE,
        MessageType.CONNECTION_RESUME,
        MessageType.SESSION_OFFER,
        MessageType.CONNECTION_ACK,
        MessageType.CONNECTION_FIN,
    )
)
_ODD = st.one_of(
    st.binary(max_size=40),
    st.just(encode_delimited(Message(99, 1, ignorable=True))),
    st.just(encode_delimited(Message(MessageType.SESSION_RESET))),
    st.just(b"\0\0"),
)
_PONGS = st.sampled_from((b"", b"0", b"1", b"2", b"w1", b"w2", b"w3", b"w9"))


class _Traffic:
    """What the clients of one tunnel send; ``wild`` ones break the rules, too."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self.routings = draw(st.sampled_from((_NAMED, _NAMED, _UNNAMED)))
        self._routings = st.sampled_from(self.routings)
        self._wild = draw(st.sampled_from((False, False, True)))

    def step(self) -> Step:
        draw = self._draw
        match draw(st.integers(0, 15)):
            case 0:
                return Full(draw(_SIDES), draw(st.booleans()))
            case 1:
                return Advance(draw(st.sampled_from((0.001, 0.1, 3.0, 700.0))))
            case 2:
                return draw(st.sampled_from((Join, Leave)))(draw(_SIDES))
            case 3:
                return _start(draw(self._routings))
            case 4 | 5:
                return Turn(draw(st.integers(1, 3)))
        frames = [self._frames() for _ in range(draw(st.integers(1, 4)))]
        reads = draw(st.lists(st.sampled_from((1, 2, 7, 100, 2048)), max_size=4))
        return Bytes(draw(_SIDES), b"".join(frames), tuple(reads))

    def _frames(self) -> bytes:
        draw = self._draw
        match draw(st.integers(0, 10 if self._wild else 8)):
            case 6:  # several messages in a frame
                batch = [self._message() for _ in range(draw(st.integers(0, 5)))]
                times = draw(st.sampled_from((1, 1, 1, 30)))
                return frame(BINARY, b"".join(batch) * times, masked=True)
            case 7:  # messages that straddle frames, or fragments
                both = self._message() + self._message()
                at, fragments = draw(st.integers(0, len(both))), draw(st.booleans())
                between = draw(st.sampled_from((b"", frame(PING, b"?", masked=True))))
                rest = CONTINUATION if fragments else BINARY
                return (
                    frame(BINARY, both[:at], fin=not fragments, masked=True)
                    + between
                    + frame(rest, both[at:], masked=True)
                )
            case 8:
                return frame(draw(st.sampled_from((PING, PONG, PONG))), draw(_PONGS), masked=True)
            case 9 | 10:
                kinds = (BINARY, BINARY, BINARY, CONTINUATION, TEXT, CLOSE, 0x40 | BINARY)
                payload = draw(_ODD)[: draw(st.integers(0, 100))]
                is_last = draw(st.sampled_from((True, True, False)))
                return frame(draw(st.sampled_from(kinds)), payload, fin=is_last, masked=True)
        form, routing = draw(_FORMS), draw(self._routings)  # one connection, which is soon known
        sizes = draw(st.lists(_SIZES, min_size=1, max_size=8))
        return b"".join(frame(BINARY, form(routing, size), masked=True) for size in sizes)

    def _message(self) -> bytes:
        draw = self._draw
        if draw(st.integers(0, 3)):
            return draw(_FORMS)(draw(self._routings), draw(_SIZES))
        return _message(draw(_KINDS), draw(self._routings))


@st.composite
def relay_steps(draw: st.DrawFn) -> tuple[Step, ...]:
    """Return the steps of a tunnel, which begins with both clients and all streams."""
    traffic = _Traffic(draw)
    joined = [Join(side, draw(st.booleans())) for side in Side]
    starts = [_start(routing) for routing in traffic.routings]
    return (*joined, *starts, *(traffic.step() for _ in range(draw(st.integers(0, 15)))))
