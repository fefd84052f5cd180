"""An MQTT broker that does what a test tells it, right or wrong.

A test writes one coroutine, which is run for each connection and reads and sends packets. The
packets are put together here, not by the package's codec, so that a mistake there is not made
twice.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

__all__ = ["BrokerPeer", "ConnectPacket", "ScriptedBroker", "message", "packet", "scripted_broker"]

CONNECT, SUBSCRIBE, PUBLISH, PUBACK, PUBREC, PUBCOMP, PINGREQ, DISCONNECT = (
    0x10,
    0x82,
    0x30,
    0x40,
    0x50,
    0x70,
    0xC0,
    0xE0,
)


def packet(first: int, body: bytes = b"") -> bytes:
    """Return a packet; section 2.2 of MQTT 3.1.1."""
    size, length = len(body), b""
    while True:
        size, digit = divmod(size, 128)
        length += bytes((digit | (128 if size else 0),))
        if not size:
            return bytes((first,)) + length + body


def message(
    topic: str | bytes,
    payload: bytes = b"",
    *,
    qos: int = 0,
    packet_id: int = 1,
    retain: bool = False,
    dup: bool = False,
) -> bytes:
    """Return PUBLISH; section 3.3."""
    name = topic if isinstance(topic, bytes) else topic.encode()
    body = len(name).to_bytes(2, "big") + name
    if qos:
        body += packet_id.to_bytes(2, "big")
    return packet(PUBLISH | dup << 3 | qos << 1 | retain, body + payload)


@dataclass(frozen=True)
class ConnectPacket:
    """What a client said of itself."""

    client_id: str
    keep_alive: int
    clean_session: bool
    user: str | None
    password: str | None


def _parse_connect(body: bytes) -> ConnectPacket:
    assert body[:7] == b"\0\x04MQTT\x04", body
    flags, keep_alive, rest = body[7], int.from_bytes(body[8:10], "big"), body[10:]
    assert not flags & 0x3D, "no will, and no reserved flag"
    texts = []
    while rest:
        end = 2 + int.from_bytes(rest[:2], "big")
        texts.append(rest[2:end].decode())
        rest = rest[end:]
    client_id = texts.pop(0)
    user = texts.pop(0) if flags & 0x80 else None
    password = texts.pop(0) if flags & 0x40 else None
    assert not texts
    return ConnectPacket(client_id, keep_alive, bool(flags & 2), user, password)


class BrokerPeer:
    """The broker's side of one connection."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        """Connections before this one."""
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self) -> tuple[int, bytes]:
        """Return first byte and body of the next packet."""
        first = (await self.reader.readexactly(1))[0]
        size = shift = 0
        while True:
            digit = (await self.reader.readexactly(1))[0]
            size |= (digit & 127) << shift
            shift += 7
            if digit < 128:
                return first, await self.reader.readexactly(size)

    async def expect(self, first: int) -> bytes:
        """Return the body of the next packet, which is of this kind."""
        found, body = await self.read()
        assert found == first, (found, body)
        return body

    async def connect(self, code: int = 0, *, session_present: bool = False) -> ConnectPacket:
        """Take CONNECT and answer with CONNACK."""
        client = _parse_connect(await self.expect(CONNECT))
        self.send(packet(0x20, bytes((session_present, code))))
        return client

    async def subscribe(self, code: int = 1) -> str:
        """Take SUBSCRIBE and answer with SUBACK; return the topic."""
        body = await self.expect(SUBSCRIBE)
        assert body[-1] == 1, "QoS 1 is asked for"
        self.send(packet(0x90, body[:2] + bytes((code,))))
        size = int.from_bytes(body[2:4], "big")
        assert len(body) == 5 + size
        return body[4:-1].decode()

    async def begin(self) -> ConnectPacket:
        """Take a subscriber in."""
        client = await self.connect()
        await self.subscribe()
        return client

    async def to_end(self) -> bytes:
        """Return all that comes until the client closes the connection."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def abort(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()


Script = Callable[[BrokerPeer], Awaitable[None]]


class ScriptedBroker:
    """Runs the script; ``failures`` are its exceptions, but for those of ended connections."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.failures: list[BaseException] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = BrokerPeer(self.connections, reader, writer)
        self.connections += 1
        try:
            await self._script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as error:
            self.failures.append(error)
        finally:
            writer.close()


@asynccontextmanager
async def scripted_broker(
    script: Script, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedBroker]:
    """A broker on a free port of 127.0.0.1; what failed in its script fails the test."""
    broker = ScriptedBroker(script)
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0, ssl=tls)
    broker.port = server.sockets[0].getsockname()[1]
    try:
        yield broker
    finally:
        server.close()
        await server.wait_closed()
    assert not broker.failures, broker.failures
