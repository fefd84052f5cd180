"""The bytes that streams carry, and how either end knows that they are right."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["Checker", "content"]

_PERIOD: Final = 1_048_573
"""Bytes after which the content repeats; a prime, so that a lost or doubled piece shows."""
_STEP: Final = 15_485_863
_BLOCK: Final = random.Random(6).randbytes(_PERIOD)
_TWICE: Final = memoryview(_BLOCK + _BLOCK)


def content(stream: int, at: int, size: int) -> memoryview:
    """Return what a stream carries from ``at`` on, at most ``size`` bytes of it."""
    start = (stream * _STEP + at) % _PERIOD
    return _TWICE[start : start + min(size, _PERIOD)]


class Checker:
    """Holds received bytes of one stream against what was sent."""

    __slots__ = ("_stream", "received")

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self.received = 0

    def takes(self, data: bytes | memoryview) -> bool:
        """Take the next bytes; return whether they are right."""
        at = 0
        while at < len(data):
            expected = content(self._stream, self.received, len(data) - at)
            if data[at : at + len(expected)] != expected:
                return False
            at += len(expected)
            self.received += len(expected)
        return True
