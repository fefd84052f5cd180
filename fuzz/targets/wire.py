"""Messages, frames and what recognises them: bytes that the service or the peer sends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hypothesis import strategies as st

from support.oracles.protobuf import OracleError, oracle_decode
from support.session.messages import bodies, load_vectors, messages
from tailrace.errors import DecodeError, LocalProtocolError
from tailrace.wire import (
    MAX_MESSAGE,
    MAX_PAYLOAD,
    ConnectionIndex,
    DataKey,
    Message,
    MessageSplitter,
    MessageType,
    decode,
    encode,
    encode_delimited,
)

from ..checks import cuts, pieces
from ..mutate import mutated, vary_bytes, vary_item
from ..target import Target

__all__ = ["CODEC", "FAST_PATH", "FRAMING", "SEEDS", "data_bodies"]

SEEDS: Final = tuple(vector.frame[2:] for vector in load_vectors())
"""The bodies of ``tests/vectors/messages.json``, valid ones and others."""

_SMALL: Final = tuple(seed for seed in SEEDS if len(seed) < 512)
_WORDS: Final = (
    b"\x08\x01",
    b"\x10\x01",
    b"\x22\x05hello",
    b"\x2a\x04SSH1",
    b"\x32\x04SSH1",
    b"\x38\x01",
    b"\x18\x01",
    b"\x80\x80\x80\x80\x10",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x43\x44",
    b"\x0b",
    b"\x0c",
)


def _any_body() -> st.SearchStrategy[bytes]:
    return st.one_of(
        mutated(_SMALL, _WORDS),
        mutated(SEEDS, _WORDS).map(lambda body: body[:MAX_MESSAGE]),
        bodies(),
        st.binary(max_size=64),
    )


# -- codec ---------------------------------------------------------------------------------


def _plain(message: Message) -> Message:
    return message._replace(payload=bytes(message.payload))


def _check_codec(body: bytes) -> None:
    try:
        expected: Message | None = oracle_decode(body)
    except OracleError:
        expected = None
    try:
        message = _plain(decode(memoryview(body)))
    except DecodeError as error:
        # Stricter than protobuf in three points, see wire/codec.py.
        stricter = ("exceeds", "nested too deeply", "field number 0")
        assert expected is None or any(point in str(error) for point in stricter), error
        raise
    assert message == expected
    assert _strictly(body) in (message, None)
    try:
        again = encode(message)
    except LocalProtocolError:
        # A negative number takes more bytes than a peer may have used for it.
        assert len(body) > MAX_MESSAGE - 64
        return
    assert _plain(decode(memoryview(again), strict=True)) == message


def _strictly(body: bytes) -> Message | None:
    try:
        return _plain(decode(memoryview(body), strict=True))
    except DecodeError as error:
        assert "unknown field" in str(error)
        return None


CODEC: Final = Target(
    "codec",
    "one message, next to protobuf's own library",
    _any_body(),
    _check_codec,
    (DecodeError,),
    SEEDS,
    vary_bytes,
)


# -- framing -------------------------------------------------------------------------------

_Stream = tuple[bytes, list[int]]


def _split(parts: Iterable[bytes]) -> tuple[list[bytes], bool, int]:
    """Return the bodies in a stream, whether it could be followed, and what is held back."""
    splitter = MessageSplitter()
    found: list[bytes] = []
    try:
        for part in parts:
            for body in splitter.feed(memoryview(part)):
                found.append(bytes(body))
    except DecodeError:
        return found, False, 0
    return found, True, len(splitter.partial)


def _reference_split(stream: bytes) -> tuple[list[bytes], bool, int]:
    found: list[bytes] = []
    while len(stream) >= 2:
        size = int.from_bytes(stream[:2], "big")
        if not size:
            return found, False, 0
        if len(stream) < 2 + size:
            break
        found.append(stream[2 : 2 + size])
        stream = stream[2 + size :]
    return found, True, len(stream)


def _check_framing(value: _Stream) -> None:
    stream, sizes = value
    expected = _reference_split(stream)
    assert _split([stream]) == expected
    assert _split(pieces(stream, sizes)) == expected
    if not expected[1]:
        raise DecodeError("length prefix is 0")


def _prefixed(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + body


_FRAMES: Final = st.lists(
    st.one_of(
        st.binary(max_size=300).map(_prefixed),
        st.sampled_from([_prefixed(seed) for seed in SEEDS]),
        st.binary(max_size=4),
    ),
    max_size=8,
).map(b"".join)

FRAMING: Final = Target(
    "framing",
    "messages in frames that are cut anywhere",
    st.tuples(_FRAMES, cuts()),
    _check_framing,
    (DecodeError,),
    tuple((_prefixed(seed), [1, 7]) for seed in SEEDS),
    lambda value, random: (vary_bytes(value[0], random), value[1]),
)


# -- fast path -----------------------------------------------------------------------------


def data_bodies() -> st.SearchStrategy[bytes]:
    """DATA messages of a few connections, as peers write them and as nobody should."""
    connections = st.builds(
        Message,
        type=st.just(MessageType.DATA),
        stream_id=st.sampled_from([1, 2, 200, -1]),
        service_id=st.sampled_from(["", "SSH1", "x" * 128]),
        connection_id=st.sampled_from([0, 1, 2, 300, 2**32 - 1]),
    )
    payloads = st.one_of(
        st.binary(max_size=4),
        st.integers(1, MAX_PAYLOAD).map(bytes),
        st.sampled_from([1, 126, 127, 128, 129, 16_383, 16_384, MAX_PAYLOAD]).map(bytes),
    )
    return st.builds(_data_body, connections, payloads, st.integers(0, 2), st.booleans())


def _data_body(message: Message, payload: bytes, padding: int, ascends: bool) -> bytes:
    size = len(payload)
    length = bytearray()
    while size > 0x7F or padding:
        length.append(size & 0x7F | 0x80)
        padding -= size <= 0x7F
        size >>= 7
    field = b"\x22" + bytes((*length, size)) + payload
    if not ascends:
        return encode(message) + field
    start = encode(Message(message.type, message.stream_id))
    return start + field + encode(message)[len(start) :]


def _check_fast_path(bodies_: tuple[bytes, ...]) -> None:
    """Whatever the index has been told, it says of a body what decoding it says."""
    index: ConnectionIndex[tuple[int, str, int]] = ConnectionIndex()
    keys: list[tuple[DataKey, memoryview]] = []
    for body in bodies_:
        view = memoryview(body)
        try:
            message: Message | None = decode(view)
        except DecodeError:
            message = None
        known = index.find(view)
        if len(body) <= MAX_MESSAGE:
            only = index.find_only(memoryview(len(body).to_bytes(2, "big") + body))
            assert only == (known and (known[0], known[1] + 2, known[2] + 2))
        if known is not None:
            assert message is not None, "a message was recognised that is none"
            assert message.type == MessageType.DATA
            assert known[0] == _address(message)
            assert view[known[1] : known[2]] == message.payload
        elif message is not None and message.type == MessageType.DATA:
            key = index.add(view, message, _address(message))
            if key:
                keys.append((key, view))
                assert index.find(view) is not None
        if len(keys) > 4:
            index.remove(keys.pop(0)[0])
    for key, _ in keys:
        index.remove(key)
    assert all(index.find(view) is None for _, view in keys)


def _address(message: Message) -> tuple[int, str, int]:
    return message.stream_id, message.service_id, message.connection_id


_DATA_SEEDS: Final = [encode(Message(MessageType.DATA, 1, "SSH1", 1, b"x" * n)) for n in (1, 200)]

FAST_PATH: Final = Target(
    "fastpath",
    "data messages recognised by what surrounds the payload, next to the codec",
    st.lists(
        st.one_of(data_bodies(), mutated([*_DATA_SEEDS, *_SMALL], _WORDS), messages().map(encode)),
        max_size=12,
    ).map(tuple),
    _check_fast_path,
    (),
    tuple((seed, seed) for seed in (*_DATA_SEEDS, *SEEDS)),
    lambda value, random: vary_item(value, vary_bytes, random),
)

assert encode_delimited(Message(MessageType.DATA, 1)) == _prefixed(encode(Message(1, 1)))
