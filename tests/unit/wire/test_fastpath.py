"""Recognising DATA messages by their heads, with the codec as the judge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import DecodeError
from tailrace.wire import MAX_PAYLOAD, DataHeader, Message, MessageType, PrefixIndex, decode, encode

SIZES = [1, 2, 126, 127, 128, 129, 16_383, 16_384, 60_000, MAX_PAYLOAD]


def payload_last(
    payload: bytes, stream: int = 1, service: str = "SSH", connection: int = 1
) -> bytes:
    return DataHeader(stream, service, connection).build(len(payload))[2:] + payload


def add(index: PrefixIndex[str], body: bytes, value: str) -> bytes:
    view = memoryview(body)
    return index.add(view, decode(view), value)


def found(index: PrefixIndex[str], body: bytes) -> tuple[str, bytes] | None:
    hit = index.find(memoryview(body))
    assert index.knows(memoryview(body)) is (hit is not None)
    return None if hit is None else (hit[0], bytes(hit[1]))


@pytest.mark.parametrize(
    "routing", [(1, "SSH", 1), (300, "", 0), (2**31 - 1, "a" * 128, 2**32 - 1)]
)
@pytest.mark.parametrize("first", SIZES)
def test_only_the_payload_may_differ(routing: tuple[int, str, int], first: int) -> None:
    index: PrefixIndex[str] = PrefixIndex()
    assert add(index, payload_last(bytes(first), *routing), "it")
    for size in SIZES:
        payload = b"\x22" * size
        assert found(index, payload_last(payload, *routing)) == ("it", payload)
    stream, service, connection = routing
    for other in ((1234, service, connection), (stream, "x", connection), (stream, service, 99)):
        assert found(index, payload_last(b"some payload", *other)) is None


def test_connections_are_told_apart() -> None:
    index: PrefixIndex[str] = PrefixIndex()
    for number in (1, 2, 127, 128, 20_000):
        assert add(index, payload_last(b"hello", connection=number), f"c{number}")
    for number in (1, 2, 127, 128, 20_000):
        assert found(index, payload_last(b"x", connection=number)) == (f"c{number}", b"x")
    assert found(index, payload_last(b"x", connection=3)) is None


def test_what_is_removed_is_unknown() -> None:
    index: PrefixIndex[str] = PrefixIndex()
    prefix = add(index, payload_last(b"hello"), "it")
    assert len(index) == 1
    index.remove(prefix)
    index.remove(prefix)
    index.remove(b"")
    assert len(index) == 0
    add(index, payload_last(b"hello"), "it")
    index.clear()
    assert len(index) == 0
    assert found(index, payload_last(b"hello")) is None
    assert found(index, payload_last(b"hello")) is None


@pytest.mark.parametrize(
    "body",
    [
        encode(Message(MessageType.DATA, 1, "SSH", 1, b"payload before the service id")),
        encode(Message(MessageType.DATA, 1, "SSH", 1)),
        bytes.fromhex("08011001220568656c6c6f1801"),
        bytes.fromhex("08011001220168220568656c6c6f"),
        bytes.fromhex("080110012285000a0a0a0a0a"),
    ],
    ids=["payload first", "no payload", "another field", "two payloads", "a length too long"],
)
def test_other_forms_are_not_remembered(body: bytes) -> None:
    index: PrefixIndex[str] = PrefixIndex()
    assert add(index, body, "it") == b""
    assert len(index) == 0


def test_heads_of_many_sizes_are_not_worth_it() -> None:
    index: PrefixIndex[str] = PrefixIndex()
    prefixes = [
        add(index, payload_last(b"hello", service="s" * size), "x") for size in range(1, 12)
    ]
    assert [bool(prefix) for prefix in prefixes] == [True] * 8 + [False] * 3


@given(
    payload=st.binary(min_size=1, max_size=300),
    changes=st.lists(st.tuples(st.integers(0, 320), st.integers(0, 255)), max_size=3),
    tail=st.binary(max_size=6),
    cut=st.integers(0, 12),
)
def test_what_is_recognised_decodes_to_the_same(
    payload: bytes, changes: list[tuple[int, int]], tail: bytes, cut: int
) -> None:
    index: PrefixIndex[str] = PrefixIndex()
    add(index, payload_last(b"some payload"), "it")
    body = bytearray(payload_last(payload) + tail)
    for at, value in changes:
        body[at % len(body)] = value
    del body[len(body) - cut :]
    hit = found(index, bytes(body))
    if hit is None:
        return
    try:
        message = decode(memoryview(body))
    except DecodeError:
        pytest.fail("a message was recognised that cannot be decoded")
    assert message[:4] == (MessageType.DATA, 1, "SSH", 1)
    assert message.payload == hit[1]
    assert message.available_service_ids == ()


def test_a_payload_that_is_too_long_is_left_to_the_decoder() -> None:
    index: PrefixIndex[str] = PrefixIndex()
    prefix = add(index, payload_last(b"hello"), "it")
    size = MAX_PAYLOAD + 1
    length = bytes((size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14))
    assert found(index, prefix + length + bytes(size)) is None
