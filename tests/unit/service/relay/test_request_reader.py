"""The first bytes of a connection, in pieces of any size, over sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiofastnet
import pytest

from support.waiting import HANG
from tailrace.service.relay.handshake import RequestLine
from tailrace.service.relay.request_reader import RequestReader


class Websocket(asyncio.BufferedProtocol):
    """In place of picows' protocol: echoes what it is given, in capitals."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.lost = asyncio.get_running_loop().create_future()
        self._buffer = bytearray(64)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self._transport.write(bytes(self._buffer[:nbytes]).upper())

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


class Served:
    """A listener, and what it has seen."""

    def __init__(self) -> None:
        self.lines: list[RequestLine | None] = []
        self.websockets: list[Websocket] = []
        self.port = 0

    def make_websocket(self, peer: Any) -> Websocket:
        self.websockets.append(Websocket(peer))
        return self.websockets[-1]

    def answer(self, line: RequestLine | None) -> bytes | None:
        self.lines.append(line)
        if line is None:
            return b"bad"
        return b"well" if line.target == "/healthz" else None


@asynccontextmanager
async def listening(fast: bool = True) -> AsyncIterator[Served]:
    served = Served()
    loop = asyncio.get_running_loop()

    def factory() -> RequestReader:
        return RequestReader(served.make_websocket, served.answer)

    if fast:
        server = await aiofastnet.create_server(loop, factory, "127.0.0.1", 0)
    else:
        server = await loop.create_server(factory, "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        async with asyncio.timeout(HANG):
            for websocket in served.websockets:
                await websocket.lost


async def exchange(port: int, data: bytes, wanted: int, *, piece: int = 0) -> bytes:
    """Send ``data``; return ``wanted`` bytes, or all that come until the end for 0."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(HANG):
            for start in range(0, len(data), piece or len(data)):
                writer.write(data[start : start + (piece or len(data))])
                await writer.drain()
                await asyncio.sleep(0)
            return await (reader.readexactly(wanted) if wanted else reader.read())
    finally:
        writer.transport.abort()


UPGRADE = b"GET /tunnel HTTP/1.1\r\nHost: x\r\n\r\nframes"
HEALTH = b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("piece", [0, 1, 7, 24])
async def test_an_upgrade_goes_to_the_websocket(fast: bool, piece: int, loop_kind: str) -> None:
    async with listening(fast) as served:
        answer = await exchange(served.port, UPGRADE, len(UPGRADE), piece=piece)
        assert answer == UPGRADE.upper()
        assert served.lines == [RequestLine("GET", "/tunnel", "HTTP/1.1")]
        assert served.websockets[0].peer[0] == "127.0.0.1"


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("piece", [0, 1, 7])
async def test_others_are_answered_when_their_head_is_there(
    fast: bool, piece: int, loop_kind: str
) -> None:
    async with listening(fast) as served:
        assert await exchange(served.port, HEALTH, 0, piece=piece) == b"well"
        assert served.lines == [RequestLine("GET", "/healthz", "HTTP/1.0")]


async def test_what_is_no_request() -> None:
    async with listening() as served:
        assert await exchange(served.port, b"\0garbage\r\n\r\n", 0) == b"bad"
        assert served.lines == [None]


async def test_a_head_without_an_end_is_answered_all_the_same() -> None:
    async with listening() as served:
        data = b"GET /healthz HTTP/1.1\r\nx: "
        assert await exchange(served.port, data + bytes(4096 - len(data)), 0) == b"well"


async def test_a_line_without_an_end_is_left_to_the_websocket() -> None:
    async with listening() as served:
        data = b"g" * 4097
        assert await exchange(served.port, data, len(data)) == data.upper()
        assert served.lines == []


async def test_what_follows_an_answer_is_not_looked_at() -> None:
    async with listening() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(HEALTH + b"x" * 10_000)
        async with asyncio.timeout(HANG):
            assert await reader.read(4) == b"well"
        writer.transport.abort()
        async with asyncio.timeout(HANG):
            await served.websockets[0].lost
        assert len(served.lines) == 1
