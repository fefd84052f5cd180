"""Bytes that were sent for a connection and that the peer has not acknowledged.

Most of them are never looked at again, so keeping them must cost next to nothing. What was read in
one large piece stays in the block that it was read into, and the next read takes another block.
Smaller pieces are copied behind one another, so that a connection that sends single bytes takes no
more memory than they do. An acknowledgement drops whole blocks, which are read into again.

Offsets count from the first byte of the connection. Invariant: the pieces, and the tail behind
them, hold the bytes from ``base - skipped`` on, where what is skipped lies in the first of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from ..wire import MAX_PAYLOAD, DataHeader

__all__ = ["LARGE", "MAX_KEPT", "Block", "ReplayBuffer", "ReplayMemory"]

LARGE: Final = 32 * 1024
"""Bytes from which on a piece stays in its block, of which it then fills half."""
MAX_KEPT: Final = 32 * 1024 * 1024
"""Bytes that the connections of a tunnel may keep together; above that, none is read."""
_LOW: Final = MAX_KEPT // 2
_SPARE: Final = 32
"""Blocks that wait to be read into again."""


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

    __slots__ = ("_max_payload", "_spare", "full", "room_made", "size", "users")

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_payload = max_payload
        self._spare: list[Block] = []
        self.size = 0
        """Bytes that are kept."""
        self.full = False
        """Whether :attr:`size` was over its mark, and has not come down to half of it since."""
        self.room_made: Callable[[], None] = _nothing
        """Called when it is not full any more."""
        self.users = 0
        """Connections that keep something, or may."""

    @property
    def share(self) -> int:
        """Bytes that each connection may keep if all keep the same."""
        return MAX_KEPT // (self.users or 1)

    def take(self) -> Block:
        """Return a block to read into."""
        return self._spare.pop() if self._spare else Block(self._max_payload)

    def give_back(self, block: Block) -> None:
        """Take back a block that nobody looks at any more."""
        if len(self._spare) < _SPARE:
            self._spare.append(block)

    def drop(self, size: int) -> None:
        """Count ``size`` bytes less."""
        self.size -= size
        if self.full and self.size <= _LOW:
            self.full = False
            self.room_made()


_Piece: TypeAlias = Block | bytearray


class ReplayBuffer:
    """What has been sent in one direction of a connection and may have to be sent again.

    To keep a small piece, add it to :attr:`tail` and its size to the ``size`` of :attr:`memory`.
    """

    __slots__ = ("_pieces", "_skipped", "base", "memory", "tail")

    def __init__(self, memory: ReplayMemory) -> None:
        self.memory = memory
        self.base = 0
        """The offset up to which everything is acknowledged."""
        self.tail = bytearray()
        """The latest small pieces."""
        self._pieces: deque[tuple[_Piece, int]] = deque()
        """Blocks, and small pieces between them, with their sizes."""
        self._skipped = 0

    def keep(self, block: Block, size: int) -> None:
        """Keep the first ``size`` bytes of a block, which is not to be changed from now on."""
        if self.tail:
            self._pieces.append((self.tail, len(self.tail)))
            self.tail = bytearray()
        self._pieces.append((block, size))
        self.memory.size += size

    def trim(self, offset: int) -> None:
        """Drop what is acknowledged: everything before ``offset``, which is not below ``base``."""
        memory, pieces = self.memory, self._pieces
        size = offset - self.base
        self.base = offset
        at = self._skipped + size
        while pieces and pieces[0][1] <= at:
            piece, length = pieces.popleft()
            at -= length
            if isinstance(piece, Block):
                memory.give_back(piece)
        if not pieces:
            del self.tail[:at]
            at = 0
        self._skipped = at
        memory.drop(size)

    def read(self, offset: int, limit: int) -> bytes:
        """Return 1 to ``limit`` bytes from ``offset`` on, which is not below ``base``.

        There are none at the end.
        """
        at = self._skipped + offset - self.base
        for piece, length in self._pieces:
            if at < length:
                data = piece.payload if isinstance(piece, Block) else piece
                return bytes(data[at : min(at + limit, length)])
            at -= length
        return bytes(self.tail[at : at + limit])
