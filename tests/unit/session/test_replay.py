"""What may have to be sent again: kept as it was, trimmed from the front, sent from anywhere."""

from __future__ import annotations

from functools import partial
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.session.books import keep, payload_of
from tailrace.session.ledger import Ledger
from tailrace.session.replay import (
    _LEAST_SHARE,
    _UNCOUNTED,
    MAX_KEPT,
    Block,
    ReplayBuffer,
    ReplayMemory,
)
from tailrace.wire import MAX_PAYLOAD, DataHeader, Progress

HEADER = DataHeader(1, "SSH", 7)


class Sender:
    """A connection that sends and keeps, without a limit."""

    def __init__(self, memory: ReplayMemory | None = None) -> None:
        self.memory = memory or ReplayMemory()
        self.ledger = Ledger("SSH", 1, 7, self.memory)
        self.ledger.room = self.ledger.limit = 1 << 40
        self.replay: ReplayBuffer = self.ledger.replay

    def send(self, data: bytes) -> None:
        self.ledger.room -= len(data)
        keep(self.ledger, HEADER.build(len(data)) + data, len(data))

    def count(self) -> int:
        """Count the small messages before they have used up what they may."""
        self.ledger.count_small()
        return self.ledger.small_room

    def trim(self, offset: int) -> None:
        self.replay.trim(offset, self.ledger.sent)

    def again(self, limit: int = MAX_PAYLOAD) -> list[bytes]:
        """Return what has to be sent again, turn by turn."""
        self.replay.rewind(self.ledger.sent)
        left, found = self.ledger.sent - self.replay.base, []
        while left:
            messages, size = self.replay.next(limit)
            found.append(payload_of(messages))
            assert len(found[-1]) == size
            left -= size
        return found


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=40),
            st.sampled_from([MAX_PAYLOAD, 64_507, 30_000]).map(lambda n: b"abc" * (n // 3)),
            st.floats(0, 1),
            st.just(None),
        ),
        max_size=12,
    ),
    st.sampled_from([7, 1000, MAX_PAYLOAD]),
)
def test_it_is_a_queue_of_bytes(steps: list[bytes | float | None], limit: int) -> None:
    sender = Sender()
    other = Sender(sender.memory)
    other.send(b"of another connection")
    kept, base = b"", 0
    for step in steps:
        if isinstance(step, bytes):
            sender.send(step)
            kept += step
        elif step is None:
            if sender.replay.tail:
                sender.count()
            assert b"".join(sender.again(limit)) == kept
        else:
            size = int(step * len(kept))
            base += size
            sender.trim(base)
            kept = kept[size:]
        assert sender.replay.base == base
        assert sender.memory.size >= 0
    assert b"".join(sender.again(limit)) == kept
    assert other.again() == [b"of another connection"]
    sender.replay.close()
    other.replay.close()
    assert sender.memory.size == 0


def test_a_turn_is_as_many_messages_as_fit_and_at_least_one() -> None:
    sender = Sender()
    for number in range(4):
        sender.send(bytes([number]) * 400)
    assert [len(part) for part in sender.again(900)] == [800, 800]
    assert [len(part) for part in sender.again(1)] == [400] * 4


def test_what_the_peer_has_of_a_message_is_not_sent_again() -> None:
    sender = Sender()
    sender.send(b"0123456789")
    sender.send(b"abc")
    sender.trim(4)
    assert b"".join(sender.again()) == b"456789abc"
    sender.trim(11)
    assert sender.again() == [b"bc"]


def test_tiny_messages_are_put_together() -> None:
    sender = Sender()
    for _ in range(5000):
        sender.send(b"k")
    sender.count()
    assert sender.memory.size < 5000 * len(HEADER.build(1)) // 10
    # Those that were counted together are one message.
    assert b"".join(sender.again()) == b"k" * 5000
    assert len(sender.again()) == len(sender.replay.pieces) == 2


def test_blocks_are_used_again_once_they_are_acknowledged() -> None:
    sender = Sender()
    sender.send(bytes(40_000))
    sender.send(b"small")
    sender.trim(39_999)
    (into,) = sender.memory.spare
    sender.trim(40_002)
    assert len(sender.memory.spare) == 2
    sender.send(bytes(50_000))
    assert sender.memory.spare == [into]
    assert b"".join(sender.again()) == b"all" + bytes(50_000)


def test_few_blocks_wait_to_be_used_again() -> None:
    sender = Sender()
    for _ in range(100):
        sender.send(bytes(MAX_PAYLOAD))
    sender.count()
    sender.trim(sender.ledger.sent - 1)
    assert len(sender.memory.spare) == 96
    sender.trim(sender.ledger.sent)
    assert len(sender.memory.spare) == 16


def test_a_block_has_room_for_a_header_and_a_payload() -> None:
    block = Block()
    assert len(block.payload) == MAX_PAYLOAD
    assert len(block.memory) == MAX_PAYLOAD + Block.GAP
    block.payload[0] = 7
    assert block.view[Block.GAP] == block.memory[Block.GAP] == 7
    assert len(ReplayMemory(100).take_block().payload) == 100


def test_less_is_kept_uncounted_at_first() -> None:
    sender = Sender()
    sender.send(b"x")
    assert sender.ledger.small_room == 16 * 1024 - len(HEADER.build(1)) - 1
    assert sender.count() == 4 * MAX_PAYLOAD


def test_large_messages_are_counted_at_once() -> None:
    sender = Sender()
    sender.send(b"small")
    assert sender.memory.size == 0
    sender.send(bytes(MAX_PAYLOAD))
    assert sender.memory.size == len(HEADER.build(5)) + 5 + MAX_PAYLOAD + Block.GAP


def test_shares_get_smaller_the_more_is_promised() -> None:
    memory = ReplayMemory()
    shares = [memory.promise(10**9, 0) for _ in range(12)]
    assert shares[:3] == [_UNCOUNTED // 2, _UNCOUNTED // 4, _UNCOUNTED // 8]
    assert shares[-1] == _LEAST_SHARE
    assert memory.promised == sum(shares)
    assert memory.promise(100, shares[0]) == 100
    assert memory.promise(0, 100) == 0
    assert memory.promised == sum(shares[1:])


def test_those_who_go_on_asking_get_equal_shares() -> None:
    memory = ReplayMemory()
    shares = [0] * 7
    for _ in range(100):
        shares = [memory.promise(10**9, each) for each in shares]
    assert max(shares) - min(shares) < _LEAST_SHARE
    assert sum(shares) <= _UNCOUNTED


@pytest.mark.parametrize("size", [64, 5000, 40_000, MAX_PAYLOAD])
@pytest.mark.parametrize("many", [1, 3, 200])
def test_no_more_is_kept_than_may_be(many: int, size: int) -> None:
    memory = ReplayMemory()
    full = []
    memory.filled = partial(full.append, True)
    senders = [Sender(memory) for _ in range(many)]
    payload = bytes(size)
    for each in cycle(senders):
        if full:
            break
        # A turn's worth, as long as it is read.
        for _ in range(-(-MAX_PAYLOAD // size)):
            each.send(payload)
    kept = sum(each.ledger.kept for each in senders)
    assert MAX_KEPT // 2 < kept <= MAX_KEPT + _UNCOUNTED + many * _LEAST_SHARE + MAX_PAYLOAD


def test_what_was_promised_is_given_back_once_all_is_acknowledged() -> None:
    sender = Sender()
    sender.send(bytes(5000))
    sender.ledger.acknowledged(Progress(4999, 0, fin_seen=False))
    assert sender.memory.promised
    assert sender.ledger.small_room
    sender.ledger.acknowledged(Progress(5000, 0, fin_seen=False))
    assert not sender.memory.promised
    assert not sender.ledger.small_room
    sender.send(b"x")
    assert sender.memory.promised
    sender.replay.close()
    assert not sender.memory.promised


def test_full_memory_has_room_again_when_half_of_it_is_acknowledged() -> None:
    memory = ReplayMemory()
    memory.count(MAX_KEPT + 1)  # nobody wants to know
    memory.count(-MAX_KEPT)
    told: list[str] = []
    memory.filled, memory.room_made = lambda: told.append("full"), lambda: told.append("room")
    memory.count(MAX_KEPT - 1)
    assert told == []
    memory.count(1)
    memory.count(1)
    memory.count(-MAX_KEPT // 2)
    assert told == ["full"]
    memory.count(-2)
    memory.count(-2)
    assert told == ["full", "room"]
