"""A service that refuses every link, for as long as a test wants it to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from .acceptor import Acceptor

__all__ = ["refusing_service"]

_REQUEST_SECONDS: Final = 10.0
_LARGEST_REQUEST: Final = 64 * 1024


@asynccontextmanager
async def refusing_service(status: int, tls: ssl.SSLContext) -> AsyncIterator[tuple[str, int]]:
    """Answer every upgrade request with ``status``; yields host and port.

    ``tls`` is what the service shows to its clients.
    """
    reason = HTTPStatus(status).phrase
    response = f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def answer(connection: socket.socket) -> None:
        failures = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        with contextlib.suppress(*failures):
            async with asyncio.timeout(_REQUEST_SECONDS), _streams(connection, tls) as streams:
                reader, writer = streams
                await reader.readuntil(b"\r\n\r\n")
                writer.write(response.encode())
                await writer.drain()

    acceptor = Acceptor(answer)
    bound = socket.create_server(("127.0.0.1", 0))
    bound.setblocking(False)
    host, port = bound.getsockname()
    acceptor.listen(bound)
    try:
        yield host, port
    finally:
        await acceptor.stop()


@asynccontextmanager
async def _streams(
    connection: socket.socket, tls: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Do the handshake; close the connection in the end, and whenever this is cancelled."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(_LARGEST_REQUEST)
    protocol = asyncio.StreamReaderProtocol(reader)
    plain, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
    try:
        transport = await loop.start_tls(plain, protocol, tls, server_side=True)
        assert transport is not None
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            yield reader, writer
            writer.close()
            await writer.wait_closed()
        finally:
            transport.abort()
    finally:
        plain.abort()
