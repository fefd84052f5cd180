"""What may have to be sent again: kept once, trimmed from the front, read from anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.session.replay import MAX_KEPT, Block, ReplayBuffer, ReplayMemory
from tailrace.wire import MAX_PAYLOAD


def append(buffer: ReplayBuffer, data: bytes) -> None:
    """Keep a small piece, or a large one in a block of its own."""
    if len(data) < 1000:
        buffer.tail += data
        buffer.memory.size += len(data)
    else:
        block = buffer.memory.take()
        block.payload[: len(data)] = data
        buffer.keep(block, len(data))


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
            st.sampled_from([MAX_PAYLOAD, MAX_PAYLOAD - 5, 30_000]).map(
                lambda n: b"abc" * (n // 3)
            ),
            st.floats(0, 1),
        ),
        max_size=12,
    ),
    st.sampled_from([7, 1000, MAX_PAYLOAD]),
)
def test_it_is_a_queue_of_bytes(steps: list[bytes | float], limit: int) -> None:
    memory = ReplayMemory()
    buffer, other = ReplayBuffer(memory), ReplayBuffer(memory)
    append(other, b"of another connection")
    kept, base = b"", 0
    for step in steps:
        if isinstance(step, bytes):
            append(buffer, step)
            kept += step
        else:
            size = int(step * len(kept))
            base += size
            buffer.trim(base)
            kept = kept[size:]
        assert (buffer.base, memory.size) == (base, len(kept) + 21)
    if limit > 7 or len(kept) < 2000:
        assert read_all(buffer, limit) == kept
    assert buffer.read(base + len(kept), 10) == b""
    assert read_all(other, 100) == b"of another connection"


def test_single_bytes_share_their_memory() -> None:
    buffer = ReplayBuffer(ReplayMemory())
    for _ in range(5000):
        append(buffer, b"k")
    assert not buffer._pieces
    assert read_all(buffer, MAX_PAYLOAD) == b"k" * 5000


def test_blocks_are_used_again_once_they_are_acknowledged() -> None:
    memory = ReplayMemory()
    buffer = ReplayBuffer(memory)
    block = memory.take()
    buffer.keep(block, 40_000)
    append(buffer, b"small")
    assert memory.take() is not block
    buffer.trim(39_999)
    assert memory.take() is not block
    buffer.trim(40_002)
    assert memory.take() is block
    assert read_all(buffer, 100) == b"all"


def test_small_pieces_between_blocks_keep_their_place() -> None:
    buffer = ReplayBuffer(ReplayMemory())
    for piece in (b"a" * 2000, b"b" * 3, b"c" * 2000, b"d"):
        append(buffer, piece)
    assert read_all(buffer, 10_000) == b"a" * 2000 + b"b" * 3 + b"c" * 2000 + b"d"
    buffer.trim(2003)
    assert read_all(buffer, 10_000) == b"c" * 2000 + b"d"


def test_few_blocks_wait_to_be_used_again() -> None:
    memory = ReplayMemory(1000)
    for _ in range(100):
        memory.give_back(Block(1000))
    assert len(memory._spare) == 32


def test_a_block_has_room_for_a_header_and_a_payload() -> None:
    block = Block()
    assert len(block.payload) == MAX_PAYLOAD
    assert len(block.memory) == MAX_PAYLOAD + Block.GAP
    block.payload[0] = 7
    assert block.view[Block.GAP] == block.memory[Block.GAP] == 7
    assert len(ReplayMemory(100).take().payload) == 100


def test_full_memory_has_room_again_when_half_of_it_is_acknowledged() -> None:
    memory, told = ReplayMemory(), []
    buffer = ReplayBuffer(memory)
    memory.size = MAX_KEPT - 10
    memory.drop(5)
    memory.room_made()  # nobody wants to know
    memory.room_made = lambda: told.append(memory.size)
    buffer.memory.full = True
    memory.drop(memory.size - MAX_KEPT // 2 - 1)
    assert (memory.full, told) == (True, [])
    memory.drop(1)
    assert (memory.full, told) == (False, [MAX_KEPT // 2])
    memory.drop(1)
    assert len(told) == 1
