"""An HTTPS server that answers one request after the other as a test tells it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from support.network.certificates import Certificates
from support.network.sockets import hang_up

__all__ = ["Close", "Hang", "Reset", "ScriptedHTTPS", "answer", "scripted_https"]


@dataclass(frozen=True)
class Close:
    """Send this and close the connection."""

    data: bytes = b""


@dataclass(frozen=True)
class Reset:
    """Send this and drop the connection."""

    data: bytes = b""


@dataclass(frozen=True)
class Hang:
    """Send this, and no more until the client goes."""

    data: bytes = b""


def answer(document: Any = None, status: int = 200, *lines: str) -> bytes:
    """Return a response with a JSON body."""
    body = json.dumps({} if document is None else document).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


class ScriptedHTTPS:
    """What a server is to answer, and what it has seen."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: list[bytes | Close | Hang | Reset] = []
        """For the next requests; after the last one, an empty object."""
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        """Set when a connection has ended."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(length))
                self.asked.set()
                told = self.answers.pop(0) if self.answers else answer()
                writer.write(told if isinstance(told, bytes) else told.data)
                match told:
                    case Close():
                        return
                    case Reset():
                        await writer.drain()
                        writer.transport.abort()
                        return
                    case Hang():
                        await reader.read()
                        return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            self.left.set()
            await hang_up(writer, 1.0)


@asynccontextmanager
async def scripted_https(certificates: Certificates) -> AsyncIterator[ScriptedHTTPS]:
    """A server on loopback."""
    scripted = ScriptedHTTPS(0)
    server = await asyncio.start_server(
        scripted.serve, "127.0.0.1", 0, ssl=certificates.server_context()
    )
    async with server:
        scripted.port = server.sockets[0].getsockname()[1]
        yield scripted
    while scripted.open:
        scripted.left.clear()
        await scripted.left.wait()
