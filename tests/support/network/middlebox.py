"""A box on the way from a proxy to the service, which can drop or slow what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from support.network.sockets import reset_on_close
from tailrace.localproxy.settings import ProxySettings

__all__ = ["Middlebox", "middlebox"]

_CHUNK = 256 * 1024
_SLOW_CHUNK = 8 * 1024


class Middlebox:
    """Forwards TCP connections to one address, each way at ``rate`` bytes a second at most.

    ``rate`` and ``delay`` may be changed at any time, for connections that are open too.
    """

    def __init__(self, host: str, port: int, listen_host: str, rate: float | None = None) -> None:
        self.rate = rate
        self.delay = 0.0
        """Seconds that each piece waits before it goes on."""
        self._target = (host, port)
        self._listen_host = listen_host
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._finished: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.passed = 0
        """Connections that came so far."""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._came, self._listen_host, 0)

    @property
    def port(self) -> int:
        """Where to connect instead of the service."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def behind(self, settings: ProxySettings) -> ProxySettings:
        """Return the settings with this box in front of the service."""
        return replace(settings, host=self._listen_host, port=self.port)

    def cut(self) -> None:
        """Reset every connection, as a box that has forgotten about them does."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                reset_on_close(sock)
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
        if self._server is None:
            return
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._writers):
            # Of a connection whose task was cancelled before it began.
            await self._drop(writer)
        await self._server.wait_closed()

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.get_running_loop().create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.passed += 1
        self._writers.add(writer)
        try:
            await self._open.wait()
            await self._flows.wait()
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            await self._drop(writer)
            return
        except asyncio.CancelledError:
            await self._drop(writer)
            raise
        self._writers.add(far_writer)
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            await self._drop(writer)
            await self._drop(far_writer)

    @property
    def _chunk(self) -> int:
        """Bytes that go on at once; on a slow link, those of an eighth of a second."""
        return max(512, min(_SLOW_CHUNK, int(self.rate / 8))) if self.rate else _CHUNK

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        due = 0.0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(self._chunk):
                if self.rate:
                    # What a late wake-up costs is made up for, up to a bound.
                    due = max(due, clock() - 0.05) + len(data) / self.rate
                    await asyncio.sleep(max(0.0, due - clock()))
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flows.wait()
                if writer not in self._finished:
                    writer.write(data)
                    await writer.drain()
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
