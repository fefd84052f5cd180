"""A scripted client of a service: every header field and every frame on command."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
from collections import deque
from collections.abc import Iterable
from typing import Final, Self

from conformance.messages import Message, Splitter, read
from conformance.progress import waiting
from support.network.frames import BINARY, CLOSE, PING, PONG, frame, read_frame
from tailrace.service.config import Endpoints

__all__ = ["Caller", "fields"]

Field = tuple[str, str]

SUBPROTOCOL: Final = "aws.iot.securetunneling-3.0"


def fields(
    token: str | None, client_token: str | None = None, subprotocol: str | None = SUBPROTOCOL
) -> list[Field]:
    """Return the header fields of an upgrade request; ``None`` leaves one out."""
    chosen = [
        ("Host", "127.0.0.1"),
        ("Upgrade", "websocket"),
        ("Connection", "upgrade"),
        ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
        ("Sec-WebSocket-Version", "13"),
    ]
    given = {
        "Sec-WebSocket-Protocol": subprotocol,
        "access-token": token,
        "client-token": client_token,
    }
    return chosen + [(name, value) for name, value in given.items() if value is not None]


class Caller:
    """One connection to the data endpoint of a service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._splitter = Splitter()
        self._messages: deque[bytes] = deque()
        self.head = ""
        """Status line and header fields of the answer to the upgrade request."""
        self.close_code: int | None = None
        self.frames: list[bytes] = []
        """Payloads of data frames, as they came."""

    @classmethod
    async def connect(cls, endpoints: Endpoints) -> Self:
        """Connect, with TLS that trusts the service only."""
        context = ssl.create_default_context(cafile=endpoints.ca_file)
        host, _, port = endpoints.data_endpoint.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), ssl=context))

    async def ask(
        self, header: Iterable[Field], side: str = "source", target: str = ""
    ) -> tuple[int, str]:
        """Send an upgrade request; return the status and the body of the answer."""
        target = target or f"/tunnel?local-proxy-mode={side}"
        lines = "".join(f"{name}: {value}\r\n" for name, value in header)
        self._writer.write(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
        waiting("the answer to an upgrade request")
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode("ascii")
        status = int(self.head.split(" ")[1])
        body = b"" if status == 101 else await self._reader.read()
        return status, body.decode()

    async def send(self, *pieces: bytes | str) -> None:
        """Send each piece (bytes, or hex) in a binary message of its own."""
        for piece in pieces:
            await self.send_frame(BINARY, bytes.fromhex(piece) if isinstance(piece, str) else piece)

    async def send_frame(self, opcode: int, payload: bytes = b"") -> None:
        """Send one frame of any kind."""
        self._writer.write(frame(opcode, payload, masked=True))
        await self._writer.drain()

    async def next(self) -> Message:
        """Return the next message."""
        waiting("a message from the service")
        while not self._messages:
            assert await self._take(), f"the service ended the link, code {self.close_code}"
        return read(self._messages.popleft())

    async def expect(self, raw: bytes | str) -> None:
        """Check the bytes of the next message."""
        wanted = read(bytes.fromhex(raw) if isinstance(raw, str) else raw)
        received = await self.next()
        assert received == wanted, f"{received} instead of {wanted}"

    async def over(self) -> int | None:
        """Read until the service ends the link; return the code of its close frame, if any."""
        waiting("the service to end the link")
        while await self._take():
            pass
        return self.close_code

    async def settled(self) -> list[Message]:
        """Wait until the service has dealt with everything sent; return what came meanwhile."""
        mark = os.urandom(8)
        await self.send_frame(PING, mark)
        waiting("the service's pong")
        while await self._take() != mark:
            pass
        found = [read(raw) for raw in self._messages]
        self._messages.clear()
        return found

    async def aclose(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self._writer.wait_closed()

    async def _take(self) -> bytes:
        """Take one frame; return the payload of a pong, or something true; empty at the end."""
        try:
            received = await read_frame(self._reader)
        except (OSError, EOFError, ssl.SSLError):
            return b""
        assert not received.masked, "a service masks no frames (RFC 6455 section 5.1)"
        if received.opcode == PONG:
            return received.payload
        if received.opcode == PING:
            await self.send_frame(PONG, received.payload)
        elif received.opcode == CLOSE:
            self.close_code = received.close_code
            await self.send_frame(CLOSE, received.payload)
        else:
            self.frames.append(received.payload)
            self._messages.extend(self._splitter.feed(received.payload))
        return b"a frame"
