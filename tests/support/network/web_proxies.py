"""Web proxies that really carry bytes, in the event loop of a test.

For proxies that misbehave there is ``ScriptedService(plain=True)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from support.network.applications import application
from support.network.sockets import hang_up
from tailrace.common.addresses import TCPAddress
from tailrace.common.secret import Secret
from tailrace.link.proxy.settings import WebProxy

__all__ = [
    "ESTABLISHED",
    "Greeting",
    "RunningWebProxy",
    "http_greeting",
    "proxy_server",
    "proxy_url",
    "pump",
    "socks_greeting",
]

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass
class RunningWebProxy:
    """A proxy of this loop."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    """What was asked: the head of a CONNECT, or ``user:password host:port`` of SOCKS5."""
    connections: int = 0
    ended: int = 0
    """Connections that are over, on both sides."""

    def settings(self, scheme: str, host: str = "127.0.0.1", user: str = "") -> WebProxy:
        """Return what a client of this proxy is given; ``user`` is ``name:password``."""
        name, _, password = user.partition(":")
        return WebProxy(scheme, host, self.port, name, Secret(password))


Greeting = Callable[[RunningWebProxy, asyncio.StreamReader, asyncio.StreamWriter], Any]


async def http_greeting(
    proxy: RunningWebProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
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
        proxy: RunningWebProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
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


@asynccontextmanager
async def proxy_server(
    greeting: Greeting = http_greeting,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[RunningWebProxy]:
    """A proxy in this loop that carries bytes both ways; TLS clients where ``tls`` is given."""
    proxy = RunningWebProxy()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections += 1
        try:
            where = await greeting(proxy, reader, writer)
            far_reader, far = await asyncio.open_connection(*where)
            try:
                await asyncio.gather(pump(reader, far), pump(far_reader, writer))
            finally:
                await hang_up(far)
        finally:
            await hang_up(writer)
            proxy.ended += 1

    async with application(serve, TCPAddress(host, 0), tls) as at:
        assert isinstance(at, TCPAddress)
        proxy.port = at.port
        yield proxy


def proxy_url(proxy: WebProxy) -> str:
    """Return the URL that names a web proxy, with its password."""
    user = ""
    if proxy.username:
        user = f"{quote(proxy.username, safe='')}:{quote(proxy.password.reveal(), safe='')}@"
    return proxy.place.replace("://", f"://{user}")
