"""DATA messages that were sent for a connection and that the peer has not acknowledged.

Most of them are never looked at again, so keeping them must cost next to nothing. They are kept as
they were sent, header and all. A large one stays in the block that it was read into, and the next
read takes another block. Small ones are copied behind one another, and put together if they are
tiny; what memory those take is counted a good many at a time. Where each begins is found out only
when they have to be sent again.

Offsets count the payload bytes of the connection from its first. Invariant: the pieces, and the
tail behind them, hold whole messages; ``base`` lies in the first piece, or in the tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from ..wire import MAX_PAYLOAD, DataHeader

__all__ = ["LARGE", "MAX_KEPT", "Block", "ReplayBuffer", "ReplayMemory"]

LARGE: Final = 32 * 1024
"""Bytes of payload from which on a message stays in its block, of which it then fills half."""
MAX_KEPT: Final = 24 * 1024 * 1024
"""Bytes that the connections of a tunnel may keep together, as far as they are counted; above that
none is read."""
_LOW: Final = MAX_KEPT // 2
_UNCOUNTED: Final = 8 * 1024 * 1024
"""Bytes of small messages that are kept uncounted, of all connections together, but for the
smallest shares."""
_LEAST_SHARE: Final = 8 * 1024
_FIRST_SHARE: Final = 16 * 1024
_MOST_SHARE: Final = 4 * MAX_PAYLOAD
"""The same of one connection."""
_TINY: Final = 4
"""Bytes that are kept for each byte of payload, at which messages are put together."""
_SPARE: Final = 96
"""Blocks that wait to be read into again: as many as an acknowledgement or two may free."""
_SPARE_IDLE: Final = 16
"""The same while nothing is kept."""


def _nothing() -> None:
    """Do nothing."""


class Block:
    """Memory for one DATA message; the gap in front of the payload takes its header."""

    __slots__ = ("memory", "payload", "view")

    GAP: Final = DataHeader.MAX_SIZE

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self.memory = bytearray(self.GAP + max_payload)
        self.view = memoryview(self.memory)
        self.payload = self.view[self.GAP :]


class ReplayMemory:
    """What all connections of a tunnel keep, in bytes, and the blocks that are free."""

    __slots__ = (
        "_full",
        "_max_payload",
        "filled",
        "owing",
        "promised",
        "room_made",
        "size",
        "spare",
    )

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_payload = max_payload
        self._full = False
        self.spare: list[Block] = []
        """Blocks to read into, before another one is made."""
        self.size = 0
        """Bytes that are kept and counted."""
        self.promised = 0
        """Bytes of small messages that connections may keep uncounted."""
        self.owing = 0
        """Connections for which something has come lately, and which owe acknowledgements of it."""
        self.filled: Callable[[], None] = _nothing
        """Called when as much is kept as may be."""
        self.room_made: Callable[[], None] = _nothing
        """Called when only half as much is kept again."""

    def take_block(self) -> Block:
        """Return a block to read into."""
        return self.spare.pop() if self.spare else Block(self._max_payload)

    def promise(self, most: int, before: int) -> int:
        """Return how many bytes of small messages, of ``most``, a connection may keep uncounted.

        That takes the place of what it was promised ``before``. Half of what there is goes to each
        that asks, so that others find something, and several who go on asking get equal shares.
        """
        self.promised -= before
        share = min(most, max(_LEAST_SHARE, (_UNCOUNTED - self.promised) // 2))
        self.promised += share
        return share

    def count(self, size: int) -> None:
        """Count ``size`` bytes more, or less where it is negative."""
        self.size += size
        if self.size > MAX_KEPT and not self._full:
            self._full = True
            self.filled()
        elif self._full and self.size <= _LOW:
            self._full = False
            self.room_made()
        del self.spare[_SPARE if self.size else _SPARE_IDLE :]


_Piece: TypeAlias = tuple[memoryview, int, Block | None]
"""Whole messages, the offset behind their payload, and the block of a large one."""


class ReplayBuffer:
    """What has been sent in one direction of a connection and may have to be sent again.

    Small messages are kept by adding them to :attr:`tail`, and a large one with :meth:`keep`. Call
    :meth:`count` as soon as there is more in small ones than that has promised.
    """

    __slots__ = (
        "_again",
        "_dropped",
        "_header",
        "_promised",
        "base",
        "memory",
        "pieces",
        "tail",
    )

    def __init__(self, memory: ReplayMemory, header: DataHeader) -> None:
        self.memory = memory
        self.base = 0
        """The offset up to which everything is acknowledged."""
        self.tail = bytearray()
        """The latest small messages."""
        # Lists, as thousands of connections keep nothing most of the time: an empty deque takes 760
        # bytes.
        self.pieces: list[_Piece] = []
        """What comes before them."""
        self._header = header
        self._promised = 0
        """Bytes of the tail that may be kept uncounted."""
        self._dropped = 0
        """The offset of the first byte that is kept."""
        self._again: list[memoryview] = []
        """What has to be sent again on this link, last first."""

    def keep(self, block: Block, message: memoryview, size: int, end: int) -> int:
        """Keep a large message in its block, with ``size`` bytes of payload up to ``end``.

        Return as :meth:`count`: small ones are counted, too.
        """
        if self.tail:
            self._end_tail(end - size)
        self.pieces.append((message, end, block))
        self.memory.count(len(block.memory))
        return self._promised

    def _end_tail(self, end: int) -> None:
        """Make a piece of the small messages, and count it; ``end`` is the offset behind them."""
        tail, self.tail = memoryview(self.tail), bytearray()
        start = self.pieces[-1][1] if self.pieces else self._dropped
        kept = self._joined(tail) if len(tail) > _TINY * (end - start) else tail
        self.pieces.append((kept, end, None))
        self.memory.count(len(kept))

    def _joined(self, messages: memoryview, skipped: int = 0) -> memoryview:
        """Return the payload of messages, but for its first bytes, in as few as possible."""
        payload = bytearray()
        at = 0
        for size, paid in self._walk(messages):
            at += size
            payload += messages[at - paid : at]
        joined = bytearray()
        for at in range(skipped, len(payload), MAX_PAYLOAD):
            part = payload[at : at + MAX_PAYLOAD]
            joined += self._header.build(len(part)) + part
        return memoryview(joined)

    def count(self, end: int) -> int:
        """Count the tail, which ends at offset ``end``; return how long the next one may be.

        That is given back when everything is acknowledged, and then a first share is enough for
        most.
        """
        if not self._promised:
            self._promised = self.memory.promise(_FIRST_SHARE, 0)
            left = self._promised - len(self.tail)
            if left >= 0:
                return left
        self._end_tail(end)
        self._promised = self.memory.promise(_MOST_SHARE, self._promised)
        return self._promised

    def trim(self, offset: int, end: int) -> None:
        """Drop what is acknowledged: everything before ``offset`` (base..end).

        ``end`` is the offset behind the last byte.
        """
        spare = self.memory.spare
        freed = dropped = 0
        for piece in self.pieces:
            if piece[1] > offset:
                break
            self._dropped = piece[1]
            freed += _size(piece)
            dropped += 1
            if piece[2] is not None:
                spare.append(piece[2])
        del self.pieces[:dropped]
        self.base = offset
        if offset == end:
            self.tail = bytearray()
            self._dropped = end
            self._promised = self.memory.promise(0, self._promised)
        self.memory.count(-freed)

    def rewind(self, end: int) -> None:
        """Begin to send again what is not acknowledged; ``end`` is the offset behind it."""
        if self.tail:
            self._end_tail(end)
        self._again = [view for view, *_ in reversed(self.pieces)]
        if self.base > self._dropped:
            self._again[-1] = self._joined(self._again[-1], self.base - self._dropped)

    def next(self, limit: int) -> tuple[memoryview, int]:
        """Return the next messages to be sent again, and how much payload they have.

        That is at least one message, and as many as there are in ``limit`` bytes.
        """
        first = self._again[-1]
        taken = paid = 0
        for size, payload in self._walk(first):
            if taken and taken + size > limit:
                break
            taken += size
            paid += payload
        if taken == len(first):
            self._again.pop()
        else:
            self._again[-1] = first[taken:]
        return first[:taken], paid

    def _walk(self, view: memoryview) -> Iterator[tuple[int, int]]:
        """Yield the size of each message, and of its payload."""
        at, payload_size = 0, self._header.payload_size
        while at < len(view):
            body = view[at] << 8 | view[at + 1]
            yield body + 2, payload_size(body)
            at += body + 2

    def close(self) -> None:
        """Keep nothing any more."""
        freed = sum(map(_size, self.pieces))
        self.pieces.clear()
        self.tail = bytearray()
        self._again.clear()
        self._promised = self.memory.promise(0, self._promised)
        self.memory.count(-freed)


def _size(piece: _Piece) -> int:
    """Return the bytes of memory that a piece takes."""
    view, _, block = piece
    return len(view) if block is None else len(block.memory)
