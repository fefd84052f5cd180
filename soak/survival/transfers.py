"""Transfers both ways at the same time, whose SHA-256 either end knows."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from support.network.applications import Server
from support.network.sockets import hang_up
from tailrace.common.addresses import TCPAddress

__all__ = ["Application", "Transfer", "TransferFault"]

_CHUNK: Final = 64 * 1024
_GLANCE: Final = 0.05
_HEAD: Final = 16
_DIGEST: Final = hashlib.sha256().digest_size


class TransferFault(Exception):
    """Other bytes have come than were sent, or not all of them."""


async def _content(seed: int, size: int, most: Callable[[], int]) -> AsyncIterator[bytes]:
    """Yield ``size`` bytes, the same for the same seed, as far as ``most`` allows."""
    dice, at = random.Random(seed), 0
    while at < size:
        while at >= most():
            await asyncio.sleep(_GLANCE)
        piece = dice.randbytes(min(_CHUNK, size - at, most() - at))
        at += len(piece)
        yield piece


async def _send(
    writer: asyncio.StreamWriter, seed: int, size: int, most: Callable[[], int]
) -> bytes:
    digest = hashlib.sha256()
    async for piece in _content(seed, size, most):
        digest.update(piece)
        writer.write(piece)
        await writer.drain()
    return digest.digest()


async def _receive(reader: asyncio.StreamReader, size: int, note: Callable[[int], None]) -> bytes:
    digest, left = hashlib.sha256(), size
    while left:
        data = await reader.read(min(_CHUNK, left))
        if not data:
            raise TransferFault(f"the end came {left} bytes early")
        digest.update(data)
        left -= len(data)
        note(len(data))
    return digest.digest()


@dataclass(slots=True)
class Transfer:
    """``size`` bytes each way. Both ends half-close and then tell the digest of what has come."""

    size: int
    most: Callable[[], int]
    """How many of them may have been sent by now."""
    up: int = 0
    """Bytes that the application has got."""
    down: int = 0
    done: bool = False

    async def run(self, port: int, numbers: dict[int, Transfer], number: int) -> None:
        """Make the transfer from the side of the client.

        Raises:
            TransferFault: it went wrong.
            OSError: it was cut.
        """
        numbers[number] = self
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_CHUNK)
        try:
            writer.write(number.to_bytes(_HEAD, "big"))
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(_send(writer, 2 * number, self.size, self.most))
                receiving = group.create_task(_receive(reader, self.size, self._came_down))
            writer.write(receiving.result())
            writer.write_eof()
            answer = await reader.read(-1)
            if answer != sending.result():
                raise TransferFault(f"transfer {number}: {len(answer)} bytes, or another digest")
            self.done = True
        finally:
            await hang_up(writer)

    def _came_down(self, size: int) -> None:
        self.down += size

    def came_up(self, size: int) -> None:
        """Note what the application has got."""
        self.up += size


@dataclass(slots=True)
class Application:
    """The other end of all transfers."""

    numbers: dict[int, Transfer] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    _server: Server = field(init=False)

    async def start(self) -> TCPAddress:
        """Listen; return where."""
        self._server = Server(self._serve)
        address = await self._server.start()
        assert isinstance(address, TCPAddress)
        return address

    async def stop(self) -> None:
        """End, and all transfers."""
        await self._server.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = int.from_bytes(await reader.readexactly(_HEAD), "big")
        transfer = self.numbers[number]
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(
                    _send(writer, 2 * number + 1, transfer.size, transfer.most)
                )
                receiving = group.create_task(_receive(reader, transfer.size, transfer.came_up))
            told = await reader.read(-1)
            if told != sending.result():
                raise TransferFault(f"{len(told)} bytes, or another digest")
            writer.write(receiving.result())
            writer.write_eof()
        except* (TransferFault, OSError) as errors:
            self.faults.append(f"transfer {number}, at the application: {errors.exceptions[0]}")
