"""What connections carry, and how either end knows that it is right."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

__all__ = ["HEADER_SIZE", "Checker", "Header", "Way", "Work", "content"]

_PERIOD: Final = 1_048_573
"""Bytes after which the content repeats; a prime, so that a lost or doubled piece shows."""
_STEP: Final = 15_485_863
_BLOCK: Final = random.Random(6).randbytes(_PERIOD)
_TWICE: Final = memoryview(_BLOCK + _BLOCK)
_HEADER: Final = struct.Struct("!4sIIBII")
_MAGIC: Final = b"soak"

HEADER_SIZE: Final = _HEADER.size


class Way(IntEnum):
    """Directions of a connection."""

    UP = 0
    DOWN = 1


class Work(IntEnum):
    """What an application does for a connection."""

    MIRROR = 0
    """Answers as many bytes as come, as they come."""
    REPLY = 1
    """Takes all, then answers and closes: no version of the protocol carries a half-close."""
    SEND = 2
    """Sends all at once."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first bytes of every connection; says which one it is and what is to be done."""

    tunnel: int
    number: int
    """Of the connection, never given twice."""
    work: Work
    up: int
    down: int

    def encode(self) -> bytes:
        """Return the bytes."""
        return _HEADER.pack(_MAGIC, self.tunnel, self.number, self.work, self.up, self.down)

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Return what the bytes say.

        Raises:
            ValueError: they are no header.
        """
        magic, tunnel, number, work, up, down = _HEADER.unpack(data)
        if magic != _MAGIC:
            raise ValueError("not a header")
        return cls(tunnel, number, Work(work), up, down)


def content(number: int, way: Way, at: int, size: int) -> memoryview:
    """Return what a connection carries from ``at`` on, at most ``size`` bytes of it."""
    start = ((2 * number + way) * _STEP + at) % _PERIOD
    return _TWICE[start : start + min(size, _PERIOD)]


class Checker:
    """Holds received bytes of one way of a connection against what was sent."""

    __slots__ = ("_number", "_way", "received")

    def __init__(self, number: int, way: Way) -> None:
        self._number = number
        self._way = way
        self.received = 0

    def takes(self, data: bytes) -> bool:
        """Take the next bytes; return whether they are right."""
        at = 0
        while at < len(data):
            expected = content(self._number, self._way, self.received, len(data) - at)
            if data[at : at + len(expected)] != expected:
                return False
            at += len(expected)
            self.received += len(expected)
        return True
