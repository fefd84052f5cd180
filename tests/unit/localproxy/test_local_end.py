"""A local connection on real local ends: TCP sockets and streams within this process, and both
behind a bandwidth cap.

What a program on the other side sees and does is the same for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from support.network.sockets import reset
from support.tunnel.engine import Host
from support.waiting import until
from tailrace.localproxy.capped_end import Bandwidth, CappedEnd
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.in_process import new_streams
from tailrace.localproxy.local_connection import LocalConnection
from tailrace.localproxy.local_end import LocalEnd
from tailrace.localproxy.sockets import SocketEnd
from tailrace.wire import Side


class Program(Protocol):
    """What sits on the other side of a local end."""

    end: LocalEnd

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes:
        """Return some bytes, or none at the end of file."""

    def end_sending(self) -> None: ...

    def leave(self) -> None:
        """Close both halves."""

    def reset(self) -> None: ...

    def close(self) -> None: ...


class SocketProgram:
    """A plain socket at the other end of a TCP connection."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.sock = socket.create_connection(listening.getsockname())
            self.inner, _ = listening.accept()
        for sock in (self.sock, self.inner):
            sock.setblocking(False)
        self.inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        self._loop = asyncio.get_running_loop()
        self.end: LocalEnd = SocketEnd(self._loop, self.inner)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def receive(self) -> bytes:
        return await self._loop.sock_recv(self.sock, 65536)

    def end_sending(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def leave(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        reset(self.sock)

    def close(self) -> None:
        self.sock.close()
        self.inner.close()


class StreamProgram:
    """A reader and a writer within this process."""

    def __init__(self) -> None:
        self.end, (self.reader, self.writer) = new_streams(asyncio.get_running_loop())

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> bytes:
        return await self.reader.read(65536)

    def end_sending(self) -> None:
        self.writer.write_eof()

    def leave(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


class Rig:
    """A local connection and the program on the other side of its end."""

    def __init__(self, program: Program, side: Side) -> None:
        self.host = Host(asyncio.get_running_loop(), side)
        self.host.linger = 0.2
        self.host.stall_timeout = 0.3
        self.program = program
        self.local = LocalConnection(
            self.host, self.host.connection, "peer", lingers=side is Side.SOURCE
        )

    def attach(self) -> None:
        self.local.attach(self.program.end)

    def hear(self, payload: bytes) -> None:
        """Receive data from the tunnel; its memory is overwritten afterwards."""
        memory = bytearray(payload)
        self.local.data_received(memoryview(memory))
        memory[:] = bytes(len(memory))

    async def until_sent(self, data: bytes) -> None:
        await until(lambda: len(self.host.link.data) >= len(data), "data in the tunnel")
        assert self.host.link.data == data

    async def until_state(self, state: ConnectionState) -> None:
        await until(lambda: self.local.state is state, state.value)

    async def read_all(self) -> bytes:
        received = bytearray()
        while chunk := await self.program.receive():
            received += chunk
        return bytes(received)

    async def closed(self) -> None:
        await until(lambda: "closed" in self.host.events, "the end")

    @property
    def ended(self) -> int:
        return self.host.events.count("local ended")

    def close(self) -> None:
        self.local.abort()
        self.program.close()


@pytest.fixture(params=["socket", "streams", "capped socket", "capped streams"])
async def program(request: pytest.FixtureRequest) -> Program:
    program = SocketProgram() if "socket" in request.param else StreamProgram()
    if "capped" in request.param:
        program.end = CappedEnd(asyncio.get_running_loop(), program.end, Bandwidth(3_000_000))
    return program


@pytest.fixture
async def client(program: Program) -> AsyncIterator[Rig]:
    rig = Rig(program, Side.SOURCE)
    rig.attach()
    yield rig
    rig.close()


@pytest.fixture
async def application(program: Program) -> AsyncIterator[Rig]:
    rig = Rig(program, Side.DESTINATION)
    yield rig
    rig.close()


@pytest.fixture
async def tcp_client() -> AsyncIterator[Rig]:
    rig = Rig(SocketProgram(), Side.SOURCE)
    rig.attach()
    yield rig
    rig.close()


async def test_bytes_of_the_program_become_messages_in_order(client: Rig):
    data = os.urandom(300_000)
    await client.program.send(data)
    await client.until_sent(data)
    assert client.local.bytes_in == len(data)


async def test_a_full_link_stops_the_reading_and_a_free_one_resumes_it(client: Rig):
    client.host.outbound.detach()
    await client.program.send(b"hello")
    await client.until_state(ConnectionState.PARKED)
    assert client.host.link.data == b""
    client.host.outbound.attach(client.host.link.send)
    await client.until_sent(b"hello")
    await client.program.send(b" again")
    await client.until_sent(b"hello again")


async def test_a_paused_connection_is_not_read_and_loses_nothing(client: Rig):
    client.local.pause()
    await client.program.send(b"hello")
    await asyncio.sleep(0.05)
    assert client.host.link.data == b""
    client.local.resume()
    await client.until_sent(b"hello")


async def test_a_paused_connection_still_takes_what_it_receives(client: Rig):
    client.local.pause()
    client.hear(b"hello")
    assert await client.program.receive() == b"hello"


@pytest.mark.parametrize("side", list(Side))
async def test_the_end_of_a_paused_connection_is_noticed_when_it_is_resumed(
    program: Program, side: Side
):
    """It stands behind what was not read."""
    rig = Rig(program, side)
    rig.attach()
    rig.local.pause()
    await program.send(b"last words")
    program.end_sending()
    await asyncio.sleep(0.05)
    assert rig.local.state is ConnectionState.PAUSED
    rig.local.resume()
    await rig.until_sent(b"last words")
    await until(lambda: rig.local.state is not ConnectionState.OPEN, "the end")
    assert rig.ended == (0 if side is Side.SOURCE else 1)
    rig.close()


async def test_a_paused_connection_whose_program_broke_is_given_up_when_data_comes(client: Rig):
    client.local.pause()
    client.program.reset()
    while not client.ended:
        client.hear(b"hello")
        await asyncio.sleep(0)
    assert client.local.state is ConnectionState.CLOSED


async def test_what_the_end_does_not_take_is_copied_and_arrives_unharmed(client: Rig):
    """The sender's memory is overwritten right after each call, as the link's is."""
    expected = hashlib.sha256()
    for _ in range(200):
        frame = os.urandom(64_000)
        expected.update(frame)
        client.hear(frame)
    assert client.local.waiting == client.host.inbound.buffers.total > 0
    client.local.tunnel_ended()
    assert client.local.state is ConnectionState.FLUSHING
    received = await client.read_all()
    assert hashlib.sha256(received).digest() == expected.digest()
    assert client.host.inbound.buffers.total == 0


async def test_everything_received_is_delivered_before_the_end(client: Rig):
    client.hear(b"last words")
    client.local.tunnel_ended()
    assert await client.read_all() == b"last words"
    client.program.leave()
    await client.closed()
    assert client.local.state is ConnectionState.CLOSED


async def test_a_client_that_goes_on_sending_after_the_end_is_reset(client: Rig):
    client.local.tunnel_ended()
    assert await client.read_all() == b""
    with pytest.raises(OSError):
        while True:
            await client.program.send(bytes(1000))
            await asyncio.sleep(0)


async def test_a_half_closed_client_still_gets_its_answer(client: Rig):
    client.host.linger = 3600.0
    await client.program.send(b"request")
    client.program.end_sending()
    await client.until_sent(b"request")
    await client.until_state(ConnectionState.HALF_CLOSED)
    assert client.ended == 0
    client.hear(b"late answer")
    client.local.tunnel_ended()
    assert await client.read_all() == b"late answer"
    client.program.leave()
    await client.closed()


async def test_a_half_closed_client_is_given_up_after_the_linger_time(client: Rig):
    client.program.end_sending()
    await until(lambda: client.ended, "the end in the tunnel")
    assert await client.read_all() == b""
    client.program.leave()
    await client.closed()


async def test_a_half_closed_client_with_data_to_come_is_not_given_up(client: Rig):
    data = os.urandom(1_000_000)
    client.hear(data)
    await asyncio.sleep(0.05)
    assert client.local.waiting or isinstance(client.program, StreamProgram)
    client.program.end_sending()
    await client.until_state(ConnectionState.HALF_CLOSED)
    client.hear(data)
    await asyncio.sleep(3 * client.host.linger)
    assert client.local.state is ConnectionState.HALF_CLOSED
    received = b""
    while len(received) < 2 * len(data):
        received += await client.program.receive()
    assert received == data + data


async def test_a_client_that_closed_altogether_is_getting_no_answer(client: Rig):
    client.host.linger = 3600.0
    client.program.leave()
    await until(lambda: client.local.state is not ConnectionState.OPEN, "the end of file")
    if client.local.state is ConnectionState.HALF_CLOSED:
        client.hear(b"too late")
        client.local.end_linger()
    assert client.ended == 1
    await client.closed()


async def test_the_end_of_file_of_an_application_ends_the_connection_at_once(application: Rig):
    application.host.linger = 3600.0
    application.attach()
    await application.program.send(b"answer")
    application.program.end_sending()
    await until(lambda: application.ended, "the end")
    assert application.host.link.data == b"answer"
    assert await application.read_all() == b""


async def test_an_application_that_has_ended_still_gets_what_was_received(application: Rig):
    application.attach()
    data = os.urandom(2_000_000)
    application.hear(data)
    application.program.end_sending()
    assert await application.read_all() == data
    application.program.leave()
    await application.closed()


async def test_data_that_comes_while_dialing_waits(application: Rig):
    application.hear(b"early ")
    application.hear(b"bird")
    application.attach()
    application.local.tunnel_ended()
    assert await application.read_all() == b"early bird"


async def test_a_reset_by_the_program_is_passed_on(client: Rig):
    client.program.reset()
    await client.closed()
    assert client.ended == 1


async def test_a_program_that_vanishes_before_it_took_everything(client: Rig):
    client.hear(bytes(8_000_000))
    client.hear(bytes(8_000_000))
    assert client.local.waiting
    client.program.reset()
    await client.closed()
    assert client.ended == 1
    assert client.host.inbound.buffers.total == 0


async def test_an_ended_connection_whose_program_takes_nothing_is_given_up(client: Rig):
    for _ in range(200):
        client.hear(bytes(64_000))
    client.local.tunnel_ended()
    await client.closed()
    assert client.local.state is ConnectionState.CLOSED
    assert client.host.inbound.buffers.total == 0


async def test_abort_leaves_the_program_alone_with_what_it_has(client: Rig):
    client.hear(b"hello")
    client.local.abort()
    with contextlib.suppress(ConnectionResetError):
        assert await client.read_all() in (b"", b"hello")


async def test_a_reset_behind_much_data_is_passed_on(tcp_client: Rig, loop_kind: str):
    """More than one read's worth, which uvloop announces together with the reset, and once."""
    tcp_client.local.pause()
    data = os.urandom(64_512 + 1000)
    await tcp_client.program.send(data)
    tcp_client.program.reset()
    tcp_client.local.resume()
    async with asyncio.timeout(60):
        await tcp_client.closed()
    assert tcp_client.ended == 1
    assert tcp_client.host.link.data == data


async def test_a_reset_behind_parked_data_is_passed_on(tcp_client: Rig, loop_kind: str):
    tcp_client.host.outbound.detach()
    await tcp_client.program.send(os.urandom(100_000))
    await tcp_client.until_state(ConnectionState.PARKED)
    tcp_client.program.reset()
    tcp_client.host.outbound.attach(tcp_client.host.link.send)
    async with asyncio.timeout(60):
        await tcp_client.closed()
    assert tcp_client.ended == 1
    assert len(tcp_client.host.link.data) == 100_000


async def test_writing_to_a_vanished_client_ends_the_connection(tcp_client: Rig):
    tcp_client.local.pause()
    tcp_client.program.reset()
    while tcp_client.local.state is not ConnectionState.CLOSED:
        tcp_client.hear(b"x")
    assert tcp_client.ended == 1
