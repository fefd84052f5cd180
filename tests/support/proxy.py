"""Web proxies for tests: asyncio ones that really carry bytes, and Debian's tinyproxy.

For proxies that misbehave there is ``support.ws.ScriptedService(plain=True)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tailrace.common.secret import Secret
from tailrace.link.proxy.settings import WebProxy

HANG = 20.0
"""Seconds after which a wait counts as hung."""

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class RunningProxy:
    """A proxy of this loop."""

    port: int
    requests: list[str] = field(default_factory=list)
    """What was asked: the head of a CONNECT, or ``user:password host:port`` of SOCKS5."""
    connections: int = 0
    ended: int = 0
    """Connections that are over, on both sides."""

    def settings(self, scheme: str, host: str = "127.0.0.1", user: str = "") -> WebProxy:
        """Return what a client of this proxy is given; ``user`` is ``name:password``."""
        name, _, password = user.partition(":")
        return WebProxy(scheme, host, self.port, name, Secret(password))


Greeting = Callable[[RunningProxy, asyncio.StreamReader, asyncio.StreamWriter], Any]


async def http_greeting(
    proxy: RunningProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[str, int]:
    """Take a CONNECT and accept it; return where to."""
    prefix = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
    proxy.requests.append(prefix)
    method, where, _ = prefix.split("\r\n")[0].split(" ")
    assert method == "CONNECT"
    host, _, port = where.rpartition(":")
    writer.write(ESTABLISHED)
    return host.strip("[]"), int(port)


def socks_greeting(
    reply: bytes = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00", user: str = ""
) -> Greeting:
    """Speak SOCKS5 (RFC 1928, RFC 1929) and send ``reply`` in the end."""

    async def greet(
        proxy: RunningProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int]:
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        assert version == 5
        given = ""
        if not user:
            writer.write(b"\x05\x00")
        elif 2 not in methods:
            writer.write(b"\x05\xff")
            raise ConnectionAbortedError
        else:
            writer.write(b"\x05\x02")
            _, size = await reader.readexactly(2)
            name = (await reader.readexactly(size)).decode()
            (size,) = await reader.readexactly(1)
            given = f"{name}:{(await reader.readexactly(size)).decode()}"
            writer.write(b"\x01\x00" if given == user else b"\x01\x01")
            if given != user:
                proxy.requests.append(given)
                raise ConnectionAbortedError
        _, command, _, kind = await reader.readexactly(4)
        assert command == 1
        if kind == 3:
            (size,) = await reader.readexactly(1)
            host = (await reader.readexactly(size)).decode()
        else:
            size, family = {1: (4, socket.AF_INET), 4: (16, socket.AF_INET6)}[kind]
            host = socket.inet_ntop(family, await reader.readexactly(size))
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        proxy.requests.append(f"{given} {host}:{port}".strip())
        writer.write(reply)
        if reply[1:2] != b"\x00":
            raise ConnectionAbortedError
        return host, port

    return greet


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes one way until their end, and pass the end on."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    if writer.can_write_eof():
        with contextlib.suppress(OSError):
            writer.write_eof()
    else:
        writer.close()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def proxy_server(
    greeting: Greeting = http_greeting,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[RunningProxy]:
    """A proxy in this loop that carries bytes both ways; TLS clients where ``tls`` is given."""
    tasks: set[asyncio.Task[None]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections += 1
        far: asyncio.StreamWriter | None = None
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                where = await greeting(proxy, reader, writer)
                far_reader, far = await asyncio.open_connection(*where)
                await asyncio.gather(pump(reader, far), pump(far_reader, writer))
        finally:
            for each in (writer, far):
                if each is not None:
                    await hang_up(each)
            writers.discard(writer)
            proxy.ended += 1

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        writers.add(writer)
        task.add_done_callback(tasks.discard)

    options: dict[str, Any] = {"ssl": tls, "ssl_shutdown_timeout": 2} if tls else {}
    server = await asyncio.start_server(connected, host, 0, **options)
    proxy = RunningProxy(server.sockets[0].getsockname()[1])
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:  # of tasks that had not even begun
            writer.transport.abort()
        await server.wait_closed()


def loopback_has_ipv6() -> bool:
    """Tell whether this machine can talk to itself over IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not loopback_has_ipv6(), reason="this machine has no ::1")

needs_tinyproxy = pytest.mark.skipif(
    shutil.which("tinyproxy") is None,
    reason="tinyproxy is not installed (package tinyproxy-bin; `make apt`)",
)


@contextmanager
def tinyproxy(directory: Path, *directives: str) -> Iterator[WebProxy]:
    """Debian's tinyproxy in a process of its own, with more ``directives`` in its file."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    file = directory / "tinyproxy.conf"
    log = directory / "tinyproxy.log"
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 60", f'LogFile "{log}"', *directives]
    file.write_text("".join(f"{line}\n" for line in lines))
    process = subprocess.Popen(
        ["tinyproxy", "-d", "-c", str(file)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + HANG
        while not answers(port):
            assert process.poll() is None, log.read_text() if log.exists() else "no log"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield WebProxy("http", "127.0.0.1", port)
    finally:
        process.terminate()
        process.wait(HANG)


def answers(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
