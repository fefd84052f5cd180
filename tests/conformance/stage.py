"""A scripted tunnel service in the event loop: every frame, drop and silence on command.

Frames and certificates are those of ``support.network``; there a script is a thread, here it
is a coroutine that also drives the clients and applications of its scenario.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from conformance.messages import DATA, Message, Splitter, read, service_ids
from conformance.progress import waiting
from support.network.frames import BINARY, CLOSE, PING, PONG, Frame, close_frame, frame, read_frame
from support.network.scripted_service import Request

__all__ = ["Link", "Stage"]

_TLS_TIMEOUT: Final = 20.0
_CLOSE_TIMEOUT: Final = 2.0


def _bytes(piece: bytes | str) -> bytes:
    return bytes.fromhex(piece) if isinstance(piece, str) else piece


class Link:
    """One TCP connection of a local proxy, from accept to end."""

    def __init__(self, sock: socket.socket, number: int, context: ssl.SSLContext | None) -> None:
        self.number = number
        """0 for the first connection of the stage."""
        self.request: Request
        self.frames: list[Frame] = []
        """Data frames, as they came."""
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.close_code: int | None = None
        """Code of the proxy's close frame, 1005 for one without."""
        self.gone = False
        """Whether the proxy has ended the connection."""
        self.answers_pings = True
        self.pace = 0.0
        """Seconds to wait before each frame is read."""
        self._sock = sock
        self._context = context
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None] | None = None
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._changed = asyncio.Event()
        self._fault: AssertionError | None = None
        self._splitter = Splitter()
        self._messages: deque[bytes] = deque()

    # -- before the upgrade ----------------------------------------------------------

    async def begin(self, context: ssl.SSLContext | None = None) -> None:
        """Do the TLS handshake, where the stage has TLS.

        Raises:
            OSError: the proxy did not complete it.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2**18, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        context = context or self._context
        options: dict[str, Any] = {"ssl_handshake_timeout": _TLS_TIMEOUT} if context else {}
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, self._sock, ssl=context, **options
        )
        self._reader = reader
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)

    async def head(self) -> list[str]:
        """Read the lines of one HTTP request."""
        return (await self._head())[:-4].decode("ascii").split("\r\n")

    async def _head(self) -> bytes:
        waiting(f"an HTTP request on connection {self.number + 1}")
        return await self._reader.readuntil(b"\r\n\r\n")

    async def read_request(self) -> Request:
        """Read the upgrade request."""
        self.request = Request.parse(await self._head())
        return self.request

    async def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def accept(self, first_bytes: bytes = b"", **changes: Any) -> None:
        """Accept the upgrade; ``changes`` are those of ``Request.answer``."""
        await self.write(self.request.answer(**changes) + first_bytes)
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def refuse(self, status: str, body: str = "", more: str = "") -> None:
        """Answer the upgrade with another status, and end the connection."""
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        await self.write(head.encode() + body.encode())
        self._writer.close()

    def hang_up(self) -> None:
        """End the connection in order, on the level of TLS too."""
        self._writer.close()

    def take_over(self, context: ssl.SSLContext) -> None:
        """Use TLS from now on: this connection was one to a web proxy."""
        self._context = context

    async def start_tls(self) -> None:
        """Go on with TLS inside what was plain until now."""
        waiting("TLS through the web proxy")
        loop = asyncio.get_running_loop()
        plain = self._writer.transport
        reader = asyncio.StreamReader(limit=2**18, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        assert self._context is not None
        transport = await loop.start_tls(plain, protocol, self._context, server_side=True)
        assert transport is not None
        protocol.connection_made(transport)
        self._reader = reader
        # The plain one would close the transport when it is collected.
        self._plain_writer = self._writer
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)

    # -- to the proxy ------------------------------------------------------------------

    async def send(self, *pieces: bytes | str) -> None:
        """Send each piece (bytes, or hex) in a binary message of its own."""
        for piece in pieces:
            self._writer.write(frame(BINARY, _bytes(piece)))
            await self._writer.drain()

    async def send_together(self, *pieces: bytes | str) -> None:
        """Send all pieces in one binary message."""
        await self.send(b"".join(map(_bytes, pieces)))

    async def send_bytewise(self, piece: bytes | str) -> None:
        """Send each byte in a binary message of its own."""
        await self.send(*(bytes([byte]) for byte in _bytes(piece)))

    async def send_frame(self, opcode: int, payload: bytes = b"", fin: bool = True) -> None:
        """Send one frame of any kind."""
        await self.write(frame(opcode, payload, fin))

    async def close(self, code: int | None, reason: str = "") -> None:
        """Send a close frame."""
        await self.write(close_frame(code, reason))

    def drop(self) -> None:
        """Cut the TCP connection without another word."""
        self._writer.transport.abort()

    # -- from the proxy ------------------------------------------------------------------

    def hold(self) -> None:
        """Read nothing until :meth:`go_on`."""
        self._may_read.clear()

    def go_on(self) -> None:
        self._may_read.set()

    async def next(self) -> Message:
        """Return the next message."""
        waiting("the proxy's next message")
        await self.until(lambda: bool(self._messages), "the proxy's next message")
        return read(self._messages.popleft())

    async def expect(self, raw: bytes | str) -> Message:
        """Check the next message: byte by byte, but for the order of fields in DATA.

        An implementation that writes headers in front of payloads puts the payload last,
        as protobuf allows.
        """
        wanted = read(_bytes(raw))
        await self.until(lambda: bool(self._messages), f"{wanted} from the proxy")
        received = read(self._messages.popleft())
        if wanted.kind == DATA and len(received.raw) == len(wanted.raw):
            same = received[:5] == wanted[:5]
        else:
            same = received.raw == wanted.raw
        assert same, (
            f"{received} ({received.raw[:40].hex()}) instead of {wanted} ({wanted.raw[:40].hex()})"
        )
        return received

    async def find(self, *kinds: int) -> Message:
        """Return the next message of these kinds, dropping others."""
        while True:
            waiting(f"a message of type {' or '.join(map(str, kinds))} from the proxy")
            await self.until(lambda: bool(self._messages))
            received = read(self._messages.popleft())
            if received.kind in kinds:
                return received

    def pending(self) -> list[Message]:
        """Return the messages that came and were not asked for, and forget them."""
        found = [read(raw) for raw in self._messages]
        self._messages.clear()
        return found

    async def until(self, condition: Callable[[], bool], what: str = "") -> None:
        """Wait until something received makes the condition true."""
        if what:
            waiting(what)
        while not condition():
            if self._fault is not None:
                raise self._fault
            assert not self.gone, f"the link ended while waiting for: {what or 'a message'}"
            self._changed.clear()
            await self._changed.wait()

    async def over(self) -> int | None:
        """Wait until the proxy has ended the link; return the code of its close frame, if any."""
        waiting("the end of the link")
        while not self.gone:
            self._changed.clear()
            await self._changed.wait()
        return self.close_code

    async def settled(self) -> None:
        """Wait until the proxy has dealt with everything sent so far: it answers pings.

        Two, one after the other: the first may be answered as soon as it is parsed, before
        what came in the same read has had its effect.
        """
        for _ in range(2):
            mark = f"mark {len(self.pongs)}".encode()
            await self.send_frame(PING, mark)
            await self.until(lambda mark=mark: mark in self.pongs, "the answer to a ping")

    async def aclose(self) -> None:
        """Drop everything."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if hasattr(self, "_writer"):
            self._writer.transport.abort()
            with contextlib.suppress(OSError, ssl.SSLError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._writer.wait_closed()
        else:
            self._sock.close()

    async def _read(self) -> None:
        try:
            while True:
                await self._may_read.wait()
                if self.pace:
                    await asyncio.sleep(self.pace)
                received = await read_frame(self._reader)
                assert received.masked, "a client masks its frames (RFC 6455 section 5.1)"
                self._take(received)
                self._changed.set()
        except (OSError, EOFError, ssl.SSLError):
            pass
        except AssertionError as fault:
            self._fault = fault
        self.gone = True
        self._changed.set()

    def _take(self, received: Frame) -> None:
        if received.opcode == PING:
            self.pings.append(received.payload)
            if self.answers_pings:
                self._writer.write(frame(PONG, received.payload))
        elif received.opcode == PONG:
            self.pongs.append(received.payload)
        elif received.opcode == CLOSE:
            self.close_code = received.close_code
            self._writer.write(frame(CLOSE, received.payload))
        else:
            self.frames.append(received)
            self._messages.extend(self._splitter.feed(received.payload))


class Stage:
    """Listens on loopback and hands connections to the script, one by one."""

    def __init__(
        self, context: ssl.SSLContext | None, host: str, port: int, name: str, buffer: int
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=1024)
        if buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._listener.setblocking(False)
        self._context = context
        self._links: list[Link] = []
        self.port: int = self._listener.getsockname()[1]
        self.host = f"[{name or host}]" if ":" in (name or host) else name or host

    @property
    def endpoint(self) -> str:
        """What a local proxy is given with ``-e``."""
        return f"{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """TCP connections accepted so far."""
        return len(self._links)

    async def call(self) -> Link:
        """Return the next TCP connection, untouched."""
        waiting(f"connection {self.connections + 1} to the service")
        sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(sock, self.connections, self._context)
        self._links.append(link)
        return link

    async def asked(self) -> Link:
        """Return the next connection, its upgrade request read."""
        link = await self.call()
        await link.begin()
        await link.read_request()
        return link

    async def link(self, **changes: Any) -> Link:
        """Return the next connection, its upgrade accepted."""
        link = await self.asked()
        await link.accept(**changes)
        return link

    async def tunnel(self, *ids: str, **changes: Any) -> Link:
        """Return the next connection, upgraded and told the service ids."""
        link = await self.link(**changes)
        await link.send(service_ids(*ids))
        return link

    def stop_listening(self) -> None:
        """Refuse further connections."""
        self._listener.close()

    async def aclose(self) -> None:
        """Drop everything."""
        self._listener.close()
        for link in self._links:
            await link.aclose()
