"""What connections carry, and how either end knows that it is right."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bench.load import content as streams

__all__ = ["HEADER_SIZE", "Checker", "Header", "Way", "Work", "content"]

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
    """Takes all up to the end of file, then answers and closes."""
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
    return streams.content(2 * number + way, at, size)


class Checker(streams.Checker):
    """Holds received bytes of one way of a connection against what was sent."""

    __slots__ = ()

    def __init__(self, number: int, way: Way) -> None:
        super().__init__(2 * number + way)
