"""What may have to be sent again: kept once, trimmed from the front, read from anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.session.replay import ReplayBuffer
from tailrace.wire import MAX_PAYLOAD


def append(buffer: ReplayBuffer, data: bytes) -> None:
    memory = bytearray(data)
    buffer.append(memoryview(memory))
    memory[:] = bytes(len(memory))  # it is the sender's, and is used again


def read_all(buffer: ReplayBuffer, limit: int) -> bytes:
    found, at = b"", buffer.base
    while piece := buffer.read(at, limit):
        assert len(piece) <= limit
        found += piece
        at += len(piece)
    return found


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=40),
            st.sampled_from([MAX_PAYLOAD, MAX_PAYLOAD - 5, 30_000]).map(lambda n: b"ab" * (n // 2)),
            st.floats(0, 1),
        ),
        max_size=12,
    ),
    st.sampled_from([7, 1000, MAX_PAYLOAD]),
)
def test_it_is_a_queue_of_bytes(steps: list[bytes | float], limit: int) -> None:
    buffer, kept, base = ReplayBuffer(), b"", 0
    for step in steps:
        if isinstance(step, bytes):
            append(buffer, step)
            kept += step
        else:
            size = int(step * len(kept))
            base += size
            buffer.trim(base)
            kept = kept[size:]
        assert (buffer.base, buffer.end, len(buffer)) == (base, base + len(kept), len(kept))
    if limit > 7 or len(kept) < 2000:
        assert read_all(buffer, limit) == kept
    assert buffer.read(buffer.end, 10) == b""


def test_single_bytes_share_their_memory() -> None:
    """The window bounds memory, whatever the size of the pieces."""
    buffer = ReplayBuffer()
    for _ in range(3 * MAX_PAYLOAD):
        append(buffer, b"k")
    assert len(buffer._blocks) == 3
    assert read_all(buffer, MAX_PAYLOAD) == b"k" * (3 * MAX_PAYLOAD)


def test_what_is_acknowledged_takes_no_memory() -> None:
    buffer = ReplayBuffer()
    append(buffer, bytes(MAX_PAYLOAD))
    append(buffer, bytes(MAX_PAYLOAD))
    buffer.trim(MAX_PAYLOAD + 1)
    assert len(buffer._blocks) == 1
    buffer.trim(buffer.end)
    assert not buffer._blocks
