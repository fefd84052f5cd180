"""Recognising messages by what surrounds their payload, with the codec as the judge."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.session.messages import varint
from tailrace.common.extension import load
from tailrace.errors import DecodeError
from tailrace.wire import (
    MAX_PAYLOAD,
    ConnectionIndex,
    DataHeader,
    DataKey,
    Message,
    MessageType,
    decode,
    encode,
)

SIZES = [1, 2, 126, 127, 128, 129, 16_383, 16_384, 60_000, MAX_PAYLOAD]
ROUTINGS = [(1, "SSH", 1), (300, "", 0), (2**31 - 1, "a" * 128, 2**32 - 1)]


def payload_last(
    payload: bytes, stream: int = 1, service: str = "SSH", connection: int = 1
) -> bytes:
    return DataHeader(stream, service, connection).build(len(payload))[2:] + payload


def ascending(payload: bytes, stream: int = 1, service: str = "SSH", connection: int = 1) -> bytes:
    return encode(Message(MessageType.DATA, stream, service, connection, payload))


def acknowledging(
    payload: bytes, stream: int = 1, service: str = "SSH", connection: int = 1
) -> bytes:
    kind = MessageType.CONNECTION_ACK
    return encode(Message(kind, stream, service, connection, payload, ignorable=True))


def delimited(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + body


FORMS = [payload_last, ascending, acknowledging]
each_form = pytest.mark.parametrize("write", FORMS)

Write = Callable[..., bytes]


def add(index: ConnectionIndex[str], body: bytes, value: str) -> DataKey | None:
    view = memoryview(body)
    return index.add(view, decode(view), value)


def found(index: ConnectionIndex[str], body: bytes) -> tuple[str, bytes] | None:
    hit = index.find(memoryview(body))
    # The same goes for the frame that is this message alone.
    only = index.find_only(memoryview(delimited(body)))
    assert only == (None if hit is None else (hit[0], hit[1] + 2, hit[2] + 2))
    if fast := load():  # which looks into the same index
        assert fast.Heads(index).look_up(body) == hit
    return None if hit is None else (hit[0], body[hit[1] : hit[2]])


@each_form
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("first", SIZES)
def test_only_the_payload_may_differ(
    write: Write, routing: tuple[int, str, int], first: int
) -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    assert add(index, write(bytes(first), *routing), "it")
    for size in SIZES:
        payload = b"\x22" * size
        assert found(index, write(payload, *routing)) == ("it", payload)
    stream, service, connection = routing
    for other in ((1234, service, connection), (stream, "x", connection), (stream, service, 99)):
        assert found(index, write(b"some payload", *other)) is None


@each_form
def test_connections_are_told_apart(write: Write) -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    for number in (1, 2, 127, 128, 20_000):
        assert add(index, write(b"hello", connection=number), f"c{number}")
    for number in (1, 2, 127, 128, 20_000):
        assert found(index, write(b"x", connection=number)) == (f"c{number}", b"x")
    assert found(index, write(b"x", connection=3)) is None


def test_both_forms_and_several_connections_at_the_same_time() -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    routings = [(stream, service, n) for stream in (1, 2) for service in ("", "b") for n in (0, 7)]
    for write in FORMS:
        for routing in routings:
            add(index, write(b"hello", *routing), repr(routing))
    for write in FORMS:
        for routing in routings:
            assert found(index, write(b"x" * 200, *routing)) == (repr(routing), b"x" * 200)


@each_form
def test_what_is_removed_is_unknown(write: Write) -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    one, other = write(b"hello"), write(b"hello", connection=2)
    key = add(index, one, "it")
    add(index, other, "other")
    for gone in (key, key, None, (b"", b"")):
        index.remove(gone)
        assert found(index, one) is None
        assert found(index, other) == ("other", b"hello")
    assert add(index, one, "again") == key
    assert found(index, one) == ("again", b"hello")
    assert found(index, other) == ("other", b"hello")
    index.remove(key)
    assert len(index.prefixes) == 1
    index.clear()
    index.remove(key)
    # Not even when the size of the prefix is tried again.
    add(index, write(b"hello", connection=3), "third")
    assert found(index, one) is found(index, other) is None


@pytest.mark.parametrize(
    "body",
    [
        encode(Message(MessageType.DATA, 1, "SSH", 1)),
        bytes.fromhex("080110012200"),
        bytes.fromhex("08011001220568656c6c6f1801"),
        bytes.fromhex("08011001220568656c6c6f38012a03535348"),
        bytes.fromhex("0801380122056865 6c6c6f1001"),
        bytes.fromhex("08011001220168220568656c6c6f"),
        bytes.fromhex("080110012285000a0a0a0a0a"),
        bytes.fromhex("088100 10012205 68656c6c6f"),
    ],
    ids=[
        "no payload",
        "empty payload",
        "another field",
        "descending tail",
        "connection first",
        "two payloads",
        "a length too long",
        "a type too long",
    ],
)
def test_other_forms_are_not_remembered(body: bytes) -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    assert add(index, body, "it") is None
    assert found(index, body) is None


def test_prefixes_of_many_sizes_are_not_worth_it() -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    keys = [add(index, payload_last(b"hello", service="s" * size), "x") for size in range(1, 12)]
    assert [bool(key) for key in keys] == [True] * 8 + [False] * 3
    # Those of a size that is tried already are welcome.
    assert add(index, payload_last(b"hello", service="t"), "y")
    assert found(index, payload_last(b"hello", service="t")) == ("y", b"hello")
    # What was forgotten makes room.
    index.clear()
    assert add(index, payload_last(b"hello", service="s" * 11), "x")


@given(
    write=st.sampled_from(FORMS),
    payload=st.binary(min_size=1, max_size=300),
    changes=st.lists(st.tuples(st.integers(0, 320), st.integers(0, 255)), max_size=3),
    tail=st.binary(max_size=6),
    cut=st.integers(0, 12),
)
def test_what_is_recognised_decodes_to_the_same(
    write: Write, payload: bytes, changes: list[tuple[int, int]], tail: bytes, cut: int
) -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    known = write(b"some payload")
    add(index, known, "it")
    body = bytearray(write(payload) + tail)
    for at, value in changes:
        body[at % len(body)] = value
    del body[len(body) - cut :]
    hit = found(index, bytes(body))
    if hit is None:
        return
    try:
        message = decode(memoryview(body), strict=True)
    except DecodeError:
        pytest.fail("a message was recognised that cannot be decoded")
    assert message._replace(payload=b"some payload") == decode(memoryview(known))
    assert message.payload == hit[1]


@each_form
def test_a_payload_that_is_too_long_or_empty_is_left_to_the_decoder(write: Write) -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    key = add(index, write(b"hello"), "it")
    assert key is not None
    prefix, tail = key
    for size, known in ((MAX_PAYLOAD, True), (MAX_PAYLOAD + 1, False), (1, True), (0, False)):
        body = prefix + varint(size) + bytes(size) + tail
        assert (found(index, body) is not None) is known


@each_form
def test_lengths_written_longer_than_needed(write: Write) -> None:
    """Protobuf reads them, up to three bytes are recognised, and none is read wrongly."""
    index: ConnectionIndex[str] = ConnectionIndex()
    key = add(index, write(b"hello"), "it")
    assert key is not None
    prefix, tail = key
    for length, known in (
        (b"\x03", True),
        (b"\x83\x00", True),
        (b"\x83\x80\x00", True),
        (b"\x83\x80\x80\x00", False),
    ):
        body = prefix + length + b"abc" + tail
        assert found(index, body) == (("it", b"abc") if known else None)


@each_form
def test_messages_that_are_cut_off(write: Write) -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    add(index, write(b"hello"), "it")
    for size in (1, 200, MAX_PAYLOAD):
        body = write(b"x" * size)
        assert found(index, body) is not None
        for cut in {*range(min(len(body), 40)), len(body) - 1}:
            assert found(index, body[:cut]) is None


@each_form
def test_a_frame_like_the_one_before_is_found_only_as_long_as_that_is(write: Write) -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    body = write(b"hello")
    frame, other = (memoryview(delimited(write(b"hallo", connection=n))) for n in (1, 2))

    def values() -> list[str | None]:
        hits = [index.find_only(each) for each in (frame, frame, other, frame)]
        return [hit and hit[0] for hit in hits]

    assert values() == [None] * 4
    key = add(index, body, "one")
    assert values() == ["one", "one", None, "one"]
    add(index, body, "two")
    assert values() == ["two", "two", None, "two"]
    add(index, write(b"hello", connection=2), "other")
    assert values() == ["two", "two", "other", "two"]
    index.remove(key)
    assert values() == [None, None, "other", None]
    index.clear()
    assert values() == [None] * 4


@each_form
def test_a_frame_that_is_not_just_one_message(write: Write) -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    add(index, write(b"hello"), "it")
    one = delimited(write(b"x" * 300))
    assert index.find_only(memoryview(one)) is not None
    for frame in (b"", one[:1], one[:-1], one + b"\0", one + one, one[2:], b"\0" + one):
        assert index.find_only(memoryview(frame)) is None


def test_bytes_that_can_be_written_to() -> None:
    index: ConnectionIndex[str] = ConnectionIndex()
    body = memoryview(bytearray(ascending(b"hello")))
    assert index.add(body, decode(body), "it")
    assert index.find(body) == ("it", 6, 11)
