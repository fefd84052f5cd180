"""MessageSplitter: any cutting of the byte stream gives the same messages."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.session.messages import load_vectors, messages
from tailrace.errors import DecodeError
from tailrace.wire.codec import decode, encode, encode_delimited
from tailrace.wire.framing import MessageSplitter
from tailrace.wire.messages import Message
from tailrace.wire.protocol import MAX_FRAME, MAX_MESSAGE, MAX_PAYLOAD

START = Message(2, 1, "SSH1", 1)
DATA = Message(1, 1, "SSH1", 1, b"hello")


def prefixed(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + body


def feed(splitter: MessageSplitter, frame: bytes) -> list[bytes]:
    """Feed one frame and copy the bodies, as their views die with the next step."""
    return [bytes(body) for body in splitter.feed(memoryview(frame))]


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cut a byte stream at the given places (modulo its length)."""
    places = sorted(place % (len(stream) + 1) for place in cuts)
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


@given(
    st.lists(messages().filter(encode), max_size=6),
    st.lists(st.integers(0, 3000), max_size=12),
)
@example([START, DATA], [])
@example([START, DATA], [1])
@example([START, DATA], [2])
@example([START, DATA], [14, 15])
@example([START, DATA], [7, 7, 7])
def test_any_cut_gives_the_same_messages(sent: list[Message], cuts: list[int]) -> None:
    stream = b"".join(map(encode_delimited, sent))
    splitter = MessageSplitter()
    received = []
    for frame in cut(stream, cuts):
        received += [decode(memoryview(body)) for body in feed(splitter, frame)]
    assert received == sent
    assert len(splitter.partial) == 0


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 5))
def test_frames_of_a_fixed_size(sent: list[bytes], size: int) -> None:
    stream = b"".join(map(prefixed, sent))
    splitter = MessageSplitter()
    received = []
    for at in range(0, len(stream), size):
        received += feed(splitter, stream[at : at + size])
    assert received == sent


def test_all_vectors_one_byte_for_each_frame() -> None:
    vectors = [vector for vector in load_vectors() if vector.message is not None]
    splitter = MessageSplitter()
    received = []
    for vector in vectors:
        for byte in vector.frame:
            received += [decode(memoryview(body)) for body in feed(splitter, bytes((byte,)))]
    assert received == [vector.message for vector in vectors]


def test_bodies_are_views_of_the_frame() -> None:
    frame = bytearray(encode_delimited(START) + encode_delimited(DATA) + b"\x00\x05abc")
    bodies = list(MessageSplitter().feed(memoryview(frame)))
    assert [body.obj is frame for body in bodies] == [True, True]
    payload = decode(bodies[1]).payload
    assert isinstance(payload, memoryview)
    assert payload.obj is frame


def test_only_the_straddling_message_is_copied() -> None:
    splitter = MessageSplitter()
    whole = encode_delimited(DATA)
    assert feed(splitter, whole[:9]) == []
    frame = bytearray(whole[9:] + whole)
    bodies = splitter.feed(memoryview(frame))
    straddling = next(bodies)
    assert straddling.obj is not frame
    assert bytes(straddling) == encode(DATA)
    behind = next(bodies)
    assert behind.obj is frame
    assert bytes(behind) == encode(DATA)
    assert next(bodies, None) is None


def test_what_is_partial_is_a_copy() -> None:
    splitter = MessageSplitter()
    whole = encode_delimited(DATA)
    first = bytearray(whole[:9])
    assert list(splitter.feed(memoryview(first))) == []
    first[:] = bytes(9)
    assert feed(splitter, whole[9:]) == [encode(DATA)]


def test_a_body_outlives_the_next_partial_message() -> None:
    # The straddling body is yielded while the splitter already starts a new buffer.
    splitter = MessageSplitter()
    whole = encode_delimited(DATA)
    feed(splitter, whole[:5])
    bodies = list(splitter.feed(memoryview(whole[5:] + whole[:7])))
    assert len(splitter.partial) == 7
    assert [bytes(body) for body in bodies] == [encode(DATA)]


@given(st.lists(st.integers(1, MAX_FRAME), min_size=1, max_size=8))
def test_at_most_one_message_is_partial(sizes: list[int]) -> None:
    longest = prefixed(bytes(MAX_MESSAGE))
    stream = memoryview(longest * 3)
    splitter = MessageSplitter()
    at = completed = 0
    for size in sizes:
        frame = stream[at : at + size]
        at += len(frame)
        completed += len([len(body) for body in splitter.feed(frame)])
        assert len(splitter.partial) < len(longest)
        assert completed * len(longest) + len(splitter.partial) == at


def test_the_longest_message_in_small_frames() -> None:
    message = Message(1, 1, "SSH1", 1, bytes(range(256)) * (MAX_PAYLOAD // 256))
    whole = encode_delimited(message)
    splitter = MessageSplitter()
    received = []
    # 4096-byte fragments are what the C++ proxy sends.
    for at in range(0, len(whole), 4096):
        received += [decode(memoryview(body)) for body in feed(splitter, whole[at : at + 4096])]
    assert received == [message]


def test_empty_frames_change_nothing() -> None:
    splitter = MessageSplitter()
    assert feed(splitter, b"") == []
    whole = encode_delimited(START)
    for at, byte in enumerate(whole):
        assert len(splitter.partial) == at
        assert feed(splitter, b"") == []
        bodies = feed(splitter, bytes((byte,)))
    assert bodies == [encode(START)]
    assert len(splitter.partial) == 0


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([b"\x00\x00"], id="alone"),
        pytest.param([b"\x00\x00\x00\x04\x08\x02\x10\x01"], id="before a message"),
        pytest.param([b"\x00", b"\x00"], id="across frames"),
        pytest.param([b"\x00", b"\x00\x00\x04\x08\x02\x10\x01"], id="across frames, with more"),
    ],
)
def test_length_0_is_refused(frames: list[bytes]) -> None:
    splitter = MessageSplitter()
    for frame in frames[:-1]:
        assert feed(splitter, frame) == []
    with pytest.raises(DecodeError, match="length prefix is 0"):
        feed(splitter, frames[-1])


def test_messages_before_a_length_of_0_are_delivered() -> None:
    bodies = MessageSplitter().feed(memoryview(encode_delimited(START) + b"\x00\x00"))
    assert bytes(next(bodies)) == encode(START)
    with pytest.raises(DecodeError):
        next(bodies)


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6),
    st.lists(st.integers(0, 200), max_size=10),
)
@example([b"a"], [1])
@example([b"abc"], [2])
@example([b"abc", b"d"], [1, 1, 4])
def test_whole_messages_with_their_prefixes(sent: list[bytes], cuts: list[int]) -> None:
    """As a relay does it: the straddling message first, then those that lie in the frame."""
    stream = b"".join(map(prefixed, sent))
    splitter = MessageSplitter()
    passed = bytearray()
    for frame in cut(stream, cuts):
        start = 0
        if splitter.partial:
            held = len(splitter.partial)
            message, start = splitter.complete(memoryview(frame))
            if message is None:
                assert start == len(frame)
                assert len(splitter.partial) == held + start
                continue
            assert len(splitter.partial) == 0
            assert len(message) == held + start
            passed += message
        for body in splitter.feed(memoryview(frame)[start:]):
            passed += prefixed(bytes(body))
    assert passed == stream


def test_a_completed_message_may_be_kept() -> None:
    splitter = MessageSplitter()
    whole = encode_delimited(DATA)
    feed(splitter, whole[:5])
    frame = bytearray(whole[5:])
    message, taken = splitter.complete(memoryview(frame))
    frame[:] = bytes(len(frame))
    feed(splitter, whole[:7])
    assert message is not None
    assert bytes(message) == whole
    assert taken == len(frame)


@pytest.mark.parametrize("stop_behind", [1, 2, 3])
def test_a_caller_may_stop_behind_any_message_and_come_back(stop_behind: int) -> None:
    splitter = MessageSplitter()
    bodies = [b"one", b"two", b"three"]
    frame = memoryview(b"".join(map(prefixed, bodies)) + b"\x00")
    at = 0
    for number, body in enumerate(splitter.feed(frame), 1):
        at += 2 + len(body)
        if number == stop_behind:
            break
    assert len(splitter.partial) == 0
    assert feed(splitter, bytes(frame[at:])) == bodies[stop_behind:]
    assert len(splitter.partial) == 1
