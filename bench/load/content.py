"""The bytes that bulk transfers carry, and how either end knows that they are right."""

from __future__ import annotations

import hashlib
import random
from typing import Final

__all__ = ["CHUNK", "PERIOD", "Content", "digest_of", "slice_of"]

PERIOD: Final = 1_048_573
"""Bytes after which the content repeats; a prime, so that a lost or doubled piece shows."""

CHUNK: Final = 256 * 1024
"""Most bytes that one system call moves."""

_BLOCK: Final = random.Random(1).randbytes(PERIOD)
_TWICE: Final = memoryview(_BLOCK + _BLOCK)


def slice_of(stream: int, at: int, size: int) -> memoryview:
    """Return the content of a stream from ``at`` on, at most ``size`` and :data:`CHUNK` bytes."""
    start = (at + stream * 7919) % PERIOD
    return _TWICE[start : start + min(size, CHUNK)]


def digest_of(stream: int, size: int) -> bytes:
    """Return the SHA-256 of the first ``size`` bytes of a stream."""
    hashed = hashlib.sha256()
    at = 0
    while at < size:
        piece = slice_of(stream, at, size - at)
        hashed.update(piece)
        at += len(piece)
    return hashed.digest()


class Content:
    """Checks received bytes of one stream, at the cost of a hash."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._size = 0

    def update(self, piece: memoryview) -> None:
        """Take the next bytes."""
        self._hash.update(piece)
        self._size += len(piece)

    @property
    def is_right(self) -> bool:
        """Whether all bytes so far are those of the stream, in order."""
        return self._hash.digest() == digest_of(self._stream, self._size)
