"""Connections, and the tasks that they belong to."""

import asyncio
import socket

import pytest

from support.waiting import until
from tailrace.testing.acceptor import Acceptor


def bound() -> socket.socket:
    listening = socket.socket()
    listening.setblocking(False)
    listening.bind(("127.0.0.1", 0))
    return listening


async def test_each_connection_has_a_task() -> None:
    served: list[bytes] = []

    async def serve(connection: socket.socket) -> None:
        with connection:
            served.append(await asyncio.get_running_loop().sock_recv(connection, 10))

    acceptor = Acceptor(serve)
    listening = bound()
    address = listening.getsockname()
    acceptor.listen(listening)
    assert acceptor.listens
    for word in (b"one", b"two"):
        with socket.create_connection(address) as client:
            client.sendall(word)
            await until(lambda word=word: word in served)
    acceptor.close()
    acceptor.close()
    assert not acceptor.listens
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    await acceptor.stop()


async def test_nothing_is_left_when_it_stops() -> None:
    """Neither a connection that is served, nor one whose task has not begun."""
    begun = asyncio.Event()

    async def serve(connection: socket.socket) -> None:
        begun.set()
        with connection:
            await asyncio.Event().wait()

    acceptor = Acceptor(serve)
    listening = bound()
    acceptor.listen(listening)
    acceptor._accept(listening)  # nobody there
    with socket.create_connection(listening.getsockname()) as first:
        await begun.wait()
        with socket.create_connection(listening.getsockname()) as second:
            acceptor._accept(listening)
            await acceptor.stop()
            assert first.recv(1) == second.recv(1) == b""
