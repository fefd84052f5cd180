"""Bytes on their way through this process, in order and copied as little as can be.

A large piece stays the object that it is: it is kept, and taken, without a copy. One buffer for all
would cost two copies, and grow and shrink by memory that the system gives page by page and takes
back, which costs as much again. Small pieces are gathered, so that neither an object is kept nor a
call needed for each of them.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["ByteQueue", "whole"]

_LARGE: Final = 32 * 1024
"""Bytes from which on a piece is kept as it is."""


def whole(view: memoryview) -> bytes:
    """Return the bytes of a view, without a copy where it shows all of a ``bytes`` object."""
    shown = view.obj
    return shown if type(shown) is bytes and len(shown) == len(view) else bytes(view)


class ByteQueue:
    """First in, first out."""

    __slots__ = ("_gathered", "_large", "_size")

    def __init__(self) -> None:
        self._large: deque[memoryview] = deque()
        """Come first; the first one may have been taken in part."""
        self._gathered = bytearray()
        """Small pieces behind them."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes at the end; what is not of type ``bytes`` is copied, as it may change."""
        view = memoryview(data)
        self._size += view.nbytes
        if view.nbytes < _LARGE:
            self._gathered += view
            return
        if self._gathered:
            self._large.append(memoryview(bytes(self._gathered)))
            self._gathered.clear()
        self._large.append(view if type(data) is bytes else memoryview(bytes(view)))

    def take(self, limit: int) -> bytes:
        """Remove and return at least one byte, if there is one, and at most ``limit``.

        Large pieces come one by one.
        """
        if self._large:
            piece = self._large[0]
            if len(piece) <= limit:
                self._large.popleft()
            else:
                self._large[0] = piece[limit:]
                piece = piece[:limit]
            self._size -= len(piece)
            return whole(piece)
        data = bytes(memoryview(self._gathered)[:limit])
        del self._gathered[:limit]
        self._size -= len(data)
        return data

    def take_all(self) -> bytes:
        """Remove and return everything."""
        data = b"".join((*self._large, self._gathered))
        self.clear()
        return data

    def take_into(self, buffer: memoryview, limit: int) -> int:
        """Move as many bytes as there are, at most ``limit``, and return how many."""
        size = 0
        while self._large and size < limit:
            piece = self._large[0]
            if len(piece) <= limit - size:
                self._large.popleft()
            else:
                self._large[0] = piece[limit - size :]
                piece = piece[: limit - size]
            buffer[size : size + len(piece)] = piece
            size += len(piece)
        if self._gathered and size < limit:
            rest = min(len(self._gathered), limit - size)
            buffer[size : size + rest] = memoryview(self._gathered)[:rest]
            del self._gathered[:rest]
            size += rest
        self._size -= size
        return size

    def clear(self) -> None:
        """Remove all."""
        self._large.clear()
        self._gathered.clear()
        self._size = 0
