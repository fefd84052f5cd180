"""A box on the way from a proxy to the service, which can drop or slow what goes through it.

It forwards TCP connections and does not change, reorder or make up bytes: TCP does not, and TLS
would notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from ..localproxy.settings import ProxySettings
from .acceptor import Acceptor

__all__ = ["Middlebox", "middlebox"]

_CHUNK: Final = 256 * 1024
_SLOW_CHUNK: Final = 8 * 1024
_LATENESS: Final = 0.05
"""Seconds of a late wake-up that are made up for."""
_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER."""


class _Pace:
    """When the next piece is due at some rate."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due = 0.0

    async def wait(self, size: int, rate: float) -> None:
        """Wait until ``size`` more bytes have had their time."""
        clock = asyncio.get_running_loop().time
        self._due = max(self._due, clock() - _LATENESS) + size / rate
        await asyncio.sleep(max(0.0, self._due - clock()))


class Middlebox:
    """Forwards TCP connections to ``target``, at ``rate`` bytes a second at most.

    ``target``, ``rate`` and ``delay`` may be changed at any time; the latter two count for
    connections that are open, too.

    Args:
        host: where connections are forwarded to.
        port: likewise.
        listen_host: address or name to listen on, at a free port.
        rate: bytes a second of one connection; ``None``: no limit.
        each_way: whether ``rate`` is for each direction, or for both together.
    """

    def __init__(
        self,
        host: str,
        port: int,
        listen_host: str,
        rate: float | None = None,
        *,
        each_way: bool = True,
    ) -> None:
        self.target = host, port
        """Where the next connection is forwarded to."""
        self.rate = rate
        self.delay = 0.0
        """Seconds that each piece waits before it goes on."""
        self._each_way = each_way
        self._listen_host = listen_host
        self._writers: set[asyncio.StreamWriter] = set()
        self._acceptor = Acceptor(self._forward)
        self._open = asyncio.Event()
        self._open.set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._finished: set[asyncio.StreamWriter] = set()
        self._reserved: socket.socket | None = None
        """Keeps the port while nothing listens at it."""
        self.passed = 0
        """Connections that came so far."""

    async def start(self, port: int = 0) -> None:
        """Listen at ``port``, 0: a free one.

        Raises:
            OSError: the address cannot be bound.
        """
        self._reserved = await self._bind(port)
        try:
            await self.accept()
        except BaseException:
            self._reserved.close()
            raise

    @property
    def port(self) -> int:
        """Where to connect instead of the service."""
        assert self._reserved is not None
        return int(self._reserved.getsockname()[1])

    def behind(self, settings: ProxySettings) -> ProxySettings:
        """Return the settings with this box in front of the service."""
        return replace(settings, host=self._listen_host, port=self.port)

    async def accept(self) -> None:
        """Accept connections again after :meth:`refuse`."""
        if self.refuses:
            self._acceptor.listen(await self._bind(self.port))

    def refuse(self) -> None:
        """Listen no more: new connections are refused, those that are open go on."""
        self._acceptor.close()

    @property
    def refuses(self) -> bool:
        """Whether new connections are refused."""
        return not self._acceptor.listens

    def cut(self) -> None:
        """Reset every connection, as a box that has forgotten about them does."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            writer.transport.abort()

    def finish(self) -> None:
        """End every connection in order, as far as TCP can tell; what comes later is lost."""
        for writer in self._writers - self._finished:
            if not writer.transport.is_closing():
                self._finished.add(writer)
                writer.write_eof()

    def swallow(self) -> None:
        """Let nothing through and tell nobody, until :meth:`release`: a black hole."""
        self._flows.clear()

    def release(self) -> None:
        """Let through again what comes, and what has piled up."""
        self._flows.set()

    @property
    def swallows(self) -> bool:
        """Whether nothing is let through."""
        return not self._flows.is_set()

    @property
    def connected(self) -> int:
        """Connections that go all the way now."""
        return len(self._writers) // 2

    def close_road(self) -> None:
        """Drop every connection, and let no new one through until :meth:`open_road`."""
        self._open.clear()
        self.cut()

    def open_road(self) -> None:
        """Let connections through, those that wait already too."""
        self._open.set()

    async def stop(self) -> None:
        """Drop everything; does nothing to a box that was never started."""
        if self._reserved is None:
            return
        self._acceptor.close()
        self.cut()
        await self._acceptor.stop()
        self._reserved.close()

    async def _bind(self, port: int) -> socket.socket:
        found = await asyncio.get_running_loop().getaddrinfo(
            self._listen_host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setblocking(False)
            # Both, so that one that does not listen can keep the port for one that does.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
        return bound

    async def _forward(self, connection: socket.socket) -> None:
        self.passed += 1
        reader, writer = await asyncio.open_connection(sock=connection)
        self._writers.add(writer)
        try:
            await self._open.wait()
            await self._flows.wait()
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            await self._drop(writer)
            return
        except asyncio.CancelledError:
            await self._drop(writer)
            raise
        self._writers.add(far_writer)
        up = _Pace()
        down = _Pace() if self._each_way else up
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, up), self._pump(far_reader, writer, down)
            )
        finally:
            await self._drop(writer)
            await self._drop(far_writer)

    @property
    def _chunk(self) -> int:
        """Bytes that go on at once; on a slow link, those of an eighth of a second."""
        return max(512, min(_SLOW_CHUNK, int(self.rate / 8))) if self.rate else _CHUNK

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pace: _Pace
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(self._chunk):
                if self.rate:
                    await pace.wait(len(data), self.rate)
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flows.wait()
                if writer not in self._finished:
                    writer.write(data)
                    await writer.drain()
        # A black hole tells nobody of the end either.
        await self._flows.wait()
        writer.close()

    async def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        self._finished.discard(writer)
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def middlebox(
    settings: ProxySettings, listen_host: str = "127.0.0.1", rate: float | None = None
) -> AsyncIterator[Middlebox]:
    """A box in front of the service of ``settings``."""
    box = Middlebox(settings.host, settings.port, listen_host, rate)
    await box.start()
    try:
        yield box
    finally:
        await box.stop()
