"""A queue of bytes beside a plain buffer, and what it does not copy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.localproxy.byte_queue import ByteQueue, whole

LARGE = 32 * 1024
SIZES = st.one_of(st.integers(0, 100), st.integers(0, 3 * LARGE))
STEPS = st.one_of(
    st.tuples(st.sampled_from([bytes, bytearray, memoryview]), SIZES),
    st.tuples(st.sampled_from(["take", "into"]), st.integers(1, 3 * LARGE)),
    st.tuples(st.sampled_from(["all", "clear"]), st.just(0)),
)


@given(st.lists(STEPS, max_size=25))
def test_it_gives_what_it_was_given(steps: list[tuple[Any, int]]):
    queue, plain = ByteQueue(), bytearray()
    for number, (step, size) in enumerate(steps):
        match step:
            case "take":
                data = queue.take(size)
                assert len(data) <= size
                assert bool(data) is bool(plain)
                assert data == plain[: len(data)]
                del plain[: len(data)]
            case "into":
                buffer = memoryview(bytearray(size))
                taken = queue.take_into(buffer, size)
                assert buffer[:taken] == plain[:size]
                del plain[:size]
            case "all":
                assert queue.take_all() == plain
                plain.clear()
            case "clear":
                queue.clear()
                plain.clear()
            case _:
                data = bytes([number]) * size
                queue.put(step(data))
                plain += data
        assert len(queue) == len(plain)


def test_large_bytes_are_not_copied():
    queue = ByteQueue()
    large = bytes(LARGE)
    for data in (b"small", large, b"small"):
        queue.put(data)
    assert queue.take(LARGE) == b"small"
    assert queue.take(LARGE) is large
    queue.put(large)
    assert queue.take(LARGE) == b"small"
    assert queue.take(1) == large[:1]
    assert queue.take(LARGE) == large[1:]


def test_small_pieces_are_gathered():
    queue = ByteQueue()
    for _ in range(100):
        queue.put(b"ab")
    assert queue.take(150) == b"ab" * 75
    assert queue.take(150) == b"ab" * 25


@pytest.mark.parametrize("size", [10, LARGE])
def test_what_changes_later_was_copied(size: int):
    queue = ByteQueue()
    data = bytearray(b"a" * size)
    queue.put(data)
    queue.put(memoryview(data).cast("H"))
    data[:] = bytes(size)
    assert len(queue) == 2 * size
    assert queue.take_all() == b"a" * 2 * size


def test_what_is_no_bytes_is_refused():
    queue = ByteQueue()
    wrong: Any
    for wrong in ("text", 5, [1, 2]):
        with pytest.raises(TypeError):
            queue.put(wrong)
    assert not queue


def test_the_whole_of_a_view():
    data = bytes(10)
    assert whole(memoryview(data)) is data
    assert whole(memoryview(data)[1:]) == data[1:]
    assert whole(memoryview(bytearray(b"abc"))) == b"abc"
