from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from support.waiting import until
from tailrace.control import one_request as module
from tailrace.control.one_request import Answer, Fresh, OneRequest, ending

ANSWER = b"answer\n"


def to_a_line(request: bytes, is_all: bool) -> bytes | None:
    return ANSWER if is_all or b"\n" in request else None


@asynccontextmanager
async def served(answer: Answer = to_a_line) -> AsyncIterator[int]:
    """A server that answers requests of 64 bytes at most; gives its port."""
    clients: set[OneRequest] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: OneRequest(answer, 64, clients), "127.0.0.1", 0)
    async with ending(server, clients):
        yield server.sockets[0].getsockname()[1]
    await until(lambda: not clients, "the end of the clients")


async def ask(port: int, *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.usefixtures("loop_kind")
async def test_a_request_in_pieces():
    async with served() as port:
        assert await ask(port, b"what", b" is", b" it?\n") == ANSWER


@pytest.mark.usefixtures("loop_kind")
async def test_no_more_is_taken_than_a_request_may_have():
    async with served() as port:
        with suppress(ConnectionError):  # it was not read to its end
            assert await ask(port, b"x" * 1_000_000) == ANSWER


async def test_who_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    async with served() as port:
        with suppress(ConnectionError):
            assert await ask(port, b"sta") == b""


async def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    size = 50_000_000
    async with served(lambda request, is_all: size * b"x") as port:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"\n")
            await asyncio.sleep(0.1)
            sock.settimeout(60)
            received = 0
            with suppress(ConnectionError):
                while data := sock.recv(1_000_000):
                    received += len(data)
            assert received < size


async def test_there_is_an_end_to_clients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_MOST_CLIENTS", 2)
    async with served() as port:
        first = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.01)
        with suppress(ConnectionError):
            assert await ask(port, b"\n") == b""
        reader, writer = first[0]
        writer.write(b"\n")
        assert await reader.read() == ANSWER
        await until(reader.at_eof, "room")
        writer.close()
        assert await ask(port, b"\n") == ANSWER
        first[1][1].close()


def test_answers_are_not_made_more_often_than_needed(monkeypatch: pytest.MonkeyPatch):
    made: list[float] = []
    now = 0.0

    def make() -> bytes:
        made.append(now)
        return b"%d" % len(made)

    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    answer = Fresh(make)
    assert answer() == answer() == b"1"
    now = 0.2
    assert answer() == b"2"
    assert made == [0.0, 0.2]
