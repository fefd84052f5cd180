"""TCP applications and their clients, which know what bytes to expect."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.network.sockets import Streams, hang_up
from support.waiting import HANG
from tailrace.common.addresses import LocalAddress, TCPAddress, UnixAddress

__all__ = [
    "Handler",
    "Server",
    "application",
    "check_closed",
    "check_echo",
    "check_refused",
    "client",
    "echo",
    "exchange",
    "mirror",
    "noise",
    "read_to_the_end",
]

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ANY_PORT = TCPAddress("127.0.0.1", 0)

_STREAM_LIMIT = 1024 * 1024


class Server:
    """A listening application; each of its connections has a task."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._server: asyncio.Server
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(
        self, at: LocalAddress = ANY_PORT, tls: ssl.SSLContext | None = None
    ) -> LocalAddress:
        """Listen; port 0 picks one. Returns the address."""
        options: dict[str, Any] = {"limit": _STREAM_LIMIT}
        if tls is not None:
            options |= {"ssl": tls, "ssl_shutdown_timeout": 2}
        if isinstance(at, UnixAddress):
            self._server = await asyncio.start_unix_server(self._connected, at.path, **options)
            return at
        self._server = await asyncio.start_server(
            self._connected, at.host, at.port, backlog=1024, **options
        )
        return TCPAddress(at.host, self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._tasks)

    async def stop(self) -> None:
        """End the application and its connections."""
        self._server.close()
        left = dict(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for writer in left.values():
            if not writer.is_closing():  # its task was cancelled before it began
                writer.transport.abort()
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that has gone is no fault of the application.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                await self._handler(reader, writer)
            finally:
                await hang_up(writer)


@asynccontextmanager
async def application(
    handler: Handler, at: LocalAddress = ANY_PORT, tls: ssl.SSLContext | None = None
) -> AsyncIterator[LocalAddress]:
    """A listening application; port 0 picks one. Gives its address."""
    server = Server(handler)
    address = await server.start(at, tls)
    try:
        yield address
    finally:
        await server.stop()


@asynccontextmanager
async def client(at: LocalAddress) -> AsyncIterator[Streams]:
    """A client's connection."""
    if isinstance(at, UnixAddress):
        reader, writer = await asyncio.open_unix_connection(at.path, limit=_STREAM_LIMIT)
    else:
        reader, writer = await asyncio.open_connection(at.host, at.port, limit=_STREAM_LIMIT)
    try:
        yield reader, writer
    finally:
        await hang_up(writer)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An application that sends back what comes in."""
    while data := await reader.read(_STREAM_LIMIT):
        writer.write(data)
        await writer.drain()


async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An application for :func:`exchange`: takes all, answers its SHA-256 and it backwards."""
    (size,) = struct.unpack("!Q", await reader.readexactly(8))
    payload = await reader.readexactly(size)
    writer.write(hashlib.sha256(payload).digest() + payload[::-1])
    await writer.drain()
    await reader.read()


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes without a pattern, the same ones for the same arguments."""
    return random.Random(seed).randbytes(size)


async def exchange(at: LocalAddress, size: int, seed: int = 0) -> None:
    """Send ``size`` bytes to :func:`mirror` and check by SHA-256 what arrives on either side."""
    payload = noise(size, seed)
    async with asyncio.timeout(HANG), client(at) as (reader, writer):
        writer.write(struct.pack("!Q", size) + payload)
        await writer.drain()
        assert await reader.readexactly(32) == hashlib.sha256(payload).digest()
        answer = await reader.readexactly(size)
    assert hashlib.sha256(answer).digest() == hashlib.sha256(payload[::-1]).digest()


async def check_echo(streams: Streams, text: bytes) -> None:
    """Send ``text`` and expect it back."""
    reader, writer = streams
    writer.write(text)
    async with asyncio.timeout(HANG):
        assert await reader.readexactly(len(text)) == text


async def read_to_the_end(streams: Streams) -> bytes:
    """Return what comes until the other side ends the connection, in order or not."""
    received = b""
    async with asyncio.timeout(HANG):
        with contextlib.suppress(ConnectionError):
            while data := await streams[0].read(_STREAM_LIMIT):
                received += data
    return received


async def check_closed(streams: Streams) -> None:
    """Expect the other side to end the connection without another word."""
    assert await read_to_the_end(streams) == b""


async def check_refused(at: LocalAddress) -> None:
    """Expect a connection to be reset at once, maybe before this loop has seen it open."""
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(HANG), client(at) as (reader, _):
            assert await reader.read(1) == b""
