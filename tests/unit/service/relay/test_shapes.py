"""Recognising DATA messages, with the codec as the judge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import DecodeError
from tailrace.service.relay.shapes import DataShape
from tailrace.wire import MAX_PAYLOAD, DataHeader, Message, MessageType, decode, encode

SIZES = [4, 127, 128, 129, 16_383, 16_384, 60_000, MAX_PAYLOAD]


def ascending(payload: bytes, stream: int = 1, service: str = "SSH", connection: int = 1) -> bytes:
    return encode(Message(MessageType.DATA, stream, service, connection, payload))


def payload_last(
    payload: bytes, stream: int = 1, service: str = "SSH", connection: int = 1
) -> bytes:
    return DataHeader(stream, service, connection).build(len(payload))[2:] + payload


def learn(body: bytes) -> DataShape | None:
    view = memoryview(body)
    return DataShape.learn(view, decode(view, strict=True))


@pytest.mark.parametrize("write", [ascending, payload_last])
@pytest.mark.parametrize(
    "routing", [(1, "SSH", 1), (300, "", 0), (2**31 - 1, "a" * 128, 2**32 - 1)]
)
def test_only_the_payload_may_differ(write: type, routing: tuple[int, str, int]) -> None:
    shape = learn(write(b"some payload", *routing))
    assert shape is not None
    for size in SIZES:
        assert shape.matches(memoryview(write(b"\x22" * size, *routing)))
    stream, service, connection = routing
    for other in ((1234, service, connection), (stream, "x", connection), (stream, service, 99)):
        assert not shape.matches(memoryview(write(b"some payload", *other)))


def test_other_orders_are_not_learned() -> None:
    connection_first = bytes.fromhex("080138012205") + b"hello" + bytes.fromhex("1001")
    assert learn(connection_first) is None


def test_too_long_and_truncated_payloads() -> None:
    shape = learn(payload_last(b"some payload"))
    assert shape is not None
    good = payload_last(b"x" * MAX_PAYLOAD)
    assert shape.matches(memoryview(good))
    prefix = good[: good.index(b"\x80\xf8\x03")]
    assert not shape.matches(memoryview(prefix + b"\x81\xf8\x03" + b"x" * (MAX_PAYLOAD + 1)))
    assert not shape.matches(memoryview(prefix + b"\x80\x80\x80\x01" + b"x" * 10))
    for cut in range(len(prefix) + 8):
        assert not shape.matches(memoryview(good[:cut]))


@given(
    write=st.sampled_from([ascending, payload_last]),
    payload=st.binary(min_size=3, max_size=200),
    cuts=st.lists(st.tuples(st.integers(0, 220), st.integers(0, 255)), max_size=3),
    tail=st.binary(max_size=6),
)
def test_what_is_recognised_decodes_to_the_same(
    write: type, payload: bytes, cuts: list[tuple[int, int]], tail: bytes
) -> None:
    shape = learn(write(b"some payload"))
    assert shape is not None
    body = bytearray(write(payload) + tail)
    for at, value in cuts:
        body[at % len(body)] = value
    if not shape.matches(memoryview(body)):
        return
    try:
        message = decode(memoryview(body), strict=True)
    except DecodeError:
        pytest.fail("a message was recognised that cannot be decoded")
    assert message[:4] == (MessageType.DATA, 1, "SSH", 1)
    assert message.available_service_ids == ()
