"""WebSocket frames (RFC 6455), read and written by hand: right or wrong, as a test likes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Final

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Frame",
    "close_frame",
    "frame",
    "joined",
    "read_frame",
    "receive_frame",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_FIN: Final = 0x80
_MASKED: Final = 0x80


@dataclass(frozen=True)
class Frame:
    """One frame, unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    masked: bool = True

    @property
    def close_code(self) -> int:
        """The code of a close frame, 1005 for one without."""
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else 1005


def frame(opcode: int, payload: bytes = b"", fin: bool = True, *, masked: bool = False) -> bytes:
    """Return one frame of a server, or of a client with a mask of zeros."""
    first, bit = opcode | (_FIN if fin else 0), _MASKED if masked else 0
    size = len(payload)
    if size < 126:
        length = struct.pack("!BB", first, bit | size)
    elif size < 65536:
        length = struct.pack("!BBH", first, bit | 126, size)
    else:
        length = struct.pack("!BBQ", first, bit | 127, size)
    return length + (bytes(4) if masked else b"") + payload


def close_frame(code: int | None = None, reason: str = "", *, masked: bool = False) -> bytes:
    """Return a close frame."""
    payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
    return frame(CLOSE, payload, masked=masked)


def joined(frames: Iterable[Frame]) -> bytes:
    """Return the payload of data frames as one stream."""
    return b"".join(each.payload for each in frames)


def receive_frame(receive: Callable[[int], bytes]) -> Frame:
    """Read one frame; ``receive`` returns exactly as many bytes as it is asked for."""
    parser = _parse()
    wanted = next(parser)
    while True:
        try:
            wanted = parser.send(receive(wanted))
        except StopIteration as done:
            return done.value


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Read one frame from a stream."""
    parser = _parse()
    wanted = next(parser)
    while True:
        data = await reader.readexactly(wanted)
        try:
            wanted = parser.send(data)
        except StopIteration as done:
            return done.value


def _parse() -> Generator[int, bytes, Frame]:
    """Yield how many bytes come next, be sent them, and return the frame."""
    first, second = yield 2
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", (yield 2))
    elif size == 127:
        (size,) = struct.unpack("!Q", (yield 8))
    masked = bool(second & _MASKED)
    mask = (yield 4) if masked else b""
    payload = yield size
    return Frame(first & 0x0F, _unmasked(payload, mask), bool(first & _FIN), masked)


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    if not any(mask):
        return payload
    size = len(payload)
    repeated = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(payload, "big") ^ repeated).to_bytes(size, "big")
