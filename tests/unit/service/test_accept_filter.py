"""The listening socket that turns connections away."""

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from support.waiting import HANG
from tailrace.service.accept_filter import AcceptedSocket, AcceptFilter


class Guard:
    """Lets in as many connections as it is told, and counts."""

    def __init__(self) -> None:
        self.left = 1_000_000
        self.hosts: list[str] = []
        self.shed = 0
        self.open: set[int] = set()

    def admit(self, host: str, connection: AcceptedSocket) -> bool:
        self.hosts.append(host)
        self.left -= 1
        if self.left >= 0:
            self.open.add(connection.fileno())
        return self.left >= 0

    def release(self, descriptor: int) -> None:
        self.open.remove(descriptor)

    def exhausted(self) -> None:
        self.shed += 1


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
def gate(guard: Guard) -> Iterator[AcceptFilter]:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    gate = AcceptFilter(listening, guard)
    gate.listen(1)
    yield gate
    gate.close()
    assert listening.fileno() == -1


def connect(gate: AcceptFilter) -> socket.socket:
    return socket.create_connection(gate.getsockname(), timeout=HANG)


def test_who_is_let_in_comes_through(gate: AcceptFilter, guard: Guard) -> None:
    with pytest.raises(BlockingIOError):
        gate.accept()
    with connect(gate) as client:
        accepted, address = gate.accept()
        with accepted:
            assert address == client.getsockname()
            assert guard.hosts == ["127.0.0.1"]
            assert guard.open == {accepted.fileno()}
            accepted.sendall(b"x")
            assert client.recv(1) == b"x"
    # Its end is told once.
    accepted.close()
    assert guard.open == set()


def test_who_is_not_is_closed_at_once(gate: AcceptFilter, guard: Guard) -> None:
    guard.left = 0
    clients = [connect(gate) for _ in range(70)]
    with pytest.raises(BlockingIOError):
        gate.accept()
    # Not all at once: others want their turn, too.
    assert len(guard.hosts) == 64
    with pytest.raises(BlockingIOError):
        gate.accept()
    assert len(guard.hosts) == 70
    for client in clients:
        assert client.recv(1) == b""
        client.close()


def test_a_queue_longer_than_the_batch(gate: AcceptFilter) -> None:
    """All of these fit in the queue of the system, though the loop asked for one."""
    clients = [connect(gate) for _ in range(20)]
    for client in clients:
        gate.accept()[0].close()
        client.close()


def test_other_faults_are_not_hidden(gate: AcceptFilter) -> None:
    gate._listening.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        gate.accept()


@pytest.fixture
def few_files() -> Iterator[Any]:
    """A way to take all file descriptors but a few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def take_all(leave: int = 0) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        while not leave:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(leave):
            os.close(taken.pop())

    yield take_all
    for number in taken:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_files(gate: AcceptFilter, guard: Guard, few_files: Any) -> None:
    clients = [connect(gate) for _ in range(3)]
    few_files()
    with pytest.raises(BlockingIOError):
        gate.accept()
    assert guard.shed == 3
    for client in clients:
        assert client.recv(1) == b""
        client.close()
    # With descriptors again, all is as before.
    with connect(gate):
        gate.accept()[0].close()


def test_the_spare_is_lost_and_found(gate: AcceptFilter, guard: Guard, few_files: Any) -> None:
    """Somebody else may take the descriptor in the moment it is free."""
    client = connect(gate)
    gate._give_up_spare()
    few_files()
    with pytest.raises(BlockingIOError):
        gate.accept()
    assert guard.shed == 0
    few_files(leave=2)
    gate.accept()[0].close()
    assert gate._spare is not None
    client.close()


async def test_event_loops_accept_through_it(gate: AcceptFilter, guard: Guard) -> None:
    guard.left = 1
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        served.set()

    listening: Any = gate
    server = await asyncio.start_server(serve, sock=listening, backlog=1)
    address = gate.getsockname()
    for _ in range(2):
        reader, writer = await asyncio.open_connection(*address)
        assert await asyncio.wait_for(reader.read(), HANG) == b""
        writer.close()
        await writer.wait_closed()
    assert served.is_set()
    assert len(guard.hosts) == 2
    server.close()
    await server.wait_closed()
