"""Bytes that were sent for a connection and that the peer has not acknowledged.

They are kept as they came, in blocks, because most of them are never looked at again: appending
is the one copy that they cost, and an acknowledgement drops whole blocks. Small pieces fill up the
latest block, so that a connection that sends single bytes takes no more memory than its window.

Offsets count from the first byte of the connection. Invariant: the blocks hold the bytes
``base - skipped .. end``, where what is skipped lies in the first block.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..wire import MAX_PAYLOAD

__all__ = ["ReplayBuffer"]

_BLOCK: Final = MAX_PAYLOAD
"""Bytes of a block, which is as much as a message holds."""


class ReplayBuffer:
    """What has been sent in one direction of a connection and may have to be sent again."""

    __slots__ = ("_blocks", "_last", "_room", "_skipped", "base", "end")

    def __init__(self) -> None:
        self.base = 0
        """The offset up to which everything is acknowledged."""
        self.end = 0
        """The offset behind the last byte."""
        self._blocks: deque[bytearray] = deque()
        self._skipped = 0
        self._last = bytearray()
        """The latest block, if it is among them."""
        self._room = 0
        """Bytes that may still be added to it."""

    def __len__(self) -> int:
        """Return the number of bytes that are not acknowledged."""
        return self.end - self.base

    def append(self, data: memoryview) -> None:
        """Keep a copy of ``data`` (at most 64,512 bytes)."""
        size = len(data)
        self.end += size
        self._room -= size
        if self._room >= 0:
            self._last += data
        else:
            self._last = bytearray(data)
            self._room = _BLOCK - size
            self._blocks.append(self._last)

    def trim(self, offset: int) -> None:
        """Drop what is acknowledged: everything before ``offset`` (base..end)."""
        assert self.base <= offset <= self.end
        at = self._skipped + offset - self.base
        blocks = self._blocks
        while blocks and len(blocks[0]) <= at:
            at -= len(blocks.popleft())
        if not blocks:
            self._last = bytearray()
            self._room = 0
        self._skipped = at
        self.base = offset

    def read(self, offset: int, limit: int) -> bytes:
        """Return 1 to ``limit`` bytes from ``offset`` (base..end); none at the end."""
        assert self.base <= offset <= self.end
        at = self._skipped + offset - self.base
        for block in self._blocks:
            if at < len(block):
                return bytes(block[at : at + limit])
            at -= len(block)
        return b""
