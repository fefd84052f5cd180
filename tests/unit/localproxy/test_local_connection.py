from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from tailrace.localproxy.local_connection import ConnectionState, LocalConnection, ReadBuffer
from tailrace.session import Connection, Stream
from tailrace.wire import MessageSplitter, decode


class Host:
    """A tunnel that collects what a connection sends, and can be full."""

    linger = 0.2
    stall_timeout = 0.3

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.read_buffer = ReadBuffer()
        self.full = False
        self.limit = len(self.read_buffer.payload)
        self.turns = 0
        self.turn_size = 0
        self.parked: list[LocalConnection] = []
        self.sent = bytearray()
        self.buffered = 0
        self.ended = 0
        self.gone = asyncio.Event()
        self.changed = asyncio.Event()
        self._splitter = MessageSplitter()

    def allowance(self, connection: LocalConnection) -> int:
        if self.full:
            self.parked.append(connection)
            return 0
        return self.limit

    def turn_taken(self, connection: LocalConnection, size: int) -> None:
        self.turns += 1
        self.turn_size = size
        if self.full:
            self.parked.append(connection)
        else:
            connection.resume_reading()

    def send_data(self, message: memoryview) -> None:
        for body in self._splitter.feed(message):
            self.sent += decode(body).payload
        self.changed.set()

    def fill(self, message: memoryview) -> None:
        """Send, and be full from then on."""
        Host.send_data(self, message)
        self.full = True

    def data_buffered(self, connection: LocalConnection, size: int) -> None:
        self.buffered += size

    def data_taken(self, connection: LocalConnection, size: int) -> None:
        self.buffered -= size

    def half_closed(self, connection: LocalConnection) -> None:
        assert connection.state is ConnectionState.HALF_CLOSED

    def local_ended(self, connection: LocalConnection) -> None:
        connection.connection.is_open = False
        self.ended += 1
        self.changed.set()

    def delivered(self, connection: LocalConnection) -> None:
        assert connection.waiting == 0

    def closed(self, connection: LocalConnection) -> None:
        self.buffered -= connection.waiting
        self.gone.set()

    async def until_sent(self, size: int) -> None:
        while len(self.sent) < size:
            self.changed.clear()
            await self.changed.wait()


class Rig:
    """A local connection on one end of a real TCP connection, a plain socket on the other."""

    def __init__(self, host: Host, lingers: bool) -> None:
        self.host = host
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.peer = socket.create_connection(listening.getsockname())
            self.sock, _ = listening.accept()
        for sock in (self.peer, self.sock):
            sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        stream = Stream("SSH", "SSH")
        stream.begin(1)
        self.inner: Connection = stream.add(1, has_connection_id=True)
        self.local = LocalConnection(host, self.inner, "peer", lingers)

    def attach(self) -> None:
        self.local.attach(self.sock)

    async def read_all(self) -> bytes:
        received = bytearray()
        while chunk := await self.host.loop.sock_recv(self.peer, 65536):
            received += chunk
        return bytes(received)

    def close(self) -> None:
        self.local.abort()
        self.sock.close()
        self.peer.close()


@pytest.fixture
async def client() -> AsyncIterator[Rig]:
    rig = Rig(Host(), lingers=True)
    rig.attach()
    yield rig
    rig.close()


@pytest.fixture
async def application() -> AsyncIterator[Rig]:
    rig = Rig(Host(), lingers=False)
    yield rig
    rig.close()


async def test_bytes_from_the_socket_become_messages_in_order(client: Rig):
    data = os.urandom(300_000)
    await client.host.loop.sock_sendall(client.peer, data)
    await client.host.until_sent(len(data))
    assert bytes(client.host.sent) == data
    assert client.local.bytes_in == len(data)


async def test_a_full_link_stops_the_reading_and_a_free_one_resumes_it(client: Rig):
    client.host.full = True
    await client.host.loop.sock_sendall(client.peer, b"hello")
    while not client.host.parked:
        await asyncio.sleep(0)
    assert client.host.parked == [client.local]
    assert client.host.sent == b""
    client.host.full = False
    client.local.take_turn()
    assert client.host.sent == b"hello"
    assert (client.host.turns, client.host.turn_size) == (1, 5)
    await client.host.loop.sock_sendall(client.peer, b" again")
    await client.host.until_sent(11)
    assert client.host.sent == b"hello again"


async def test_a_turn_reads_as_much_as_is_allowed_and_the_link_may_be_full_again(client: Rig):
    client.host.full = True
    await client.host.loop.sock_sendall(client.peer, b"hello")
    while not client.host.parked:
        await asyncio.sleep(0)
    client.host.limit = 3
    client.host.send_data, send = client.host.fill, client.host.send_data
    client.host.full = False
    client.local.take_turn()
    assert client.host.sent == b"hel"
    assert client.host.parked == [client.local, client.local]
    client.host.send_data = send
    client.host.full = False
    client.local.take_turn()
    assert client.host.sent == b"hello"


async def test_a_paused_connection_is_not_read_and_loses_nothing(client: Rig):
    client.local.pause()
    assert client.local.state is ConnectionState.PAUSED
    client.local.pause()
    client.local.resume_reading()
    client.local.take_turn()
    await client.host.loop.sock_sendall(client.peer, b"hello")
    await asyncio.sleep(0.05)
    assert client.host.sent == b""
    assert client.host.turns == 0
    client.local.resume()
    client.local.resume()
    await client.host.until_sent(5)
    assert client.local.state is ConnectionState.OPEN


async def test_a_paused_connection_still_takes_what_it_receives(client: Rig):
    client.local.pause()
    client.local.data_received(memoryview(b"hello"))
    assert await client.host.loop.sock_recv(client.peer, 100) == b"hello"


@pytest.mark.parametrize("lingers", [True, False])
async def test_the_end_of_a_paused_connection_is_noticed_when_it_is_resumed(lingers: bool):
    """It stands behind what was not read."""
    rig = Rig(Host(), lingers)
    rig.attach()
    rig.local.pause()
    await rig.host.loop.sock_sendall(rig.peer, b"last words")
    rig.peer.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.05)
    assert rig.local.state is ConnectionState.PAUSED
    rig.local.resume()
    await rig.host.until_sent(10)
    while rig.local.state is ConnectionState.OPEN:
        await asyncio.sleep(0)
    assert rig.host.sent == b"last words"
    assert rig.host.ended == (0 if lingers else 1)
    rig.close()


async def test_a_paused_connection_whose_local_end_broke_is_given_up_when_data_comes(client: Rig):
    client.local.pause()
    client.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.peer.close()
    while not client.host.ended:
        client.local.data_received(memoryview(b"hello"))
        await asyncio.sleep(0)
    assert client.local.state is ConnectionState.CLOSED


async def test_a_paused_connection_that_ends_in_the_tunnel_delivers_what_it_has(client: Rig):
    client.local.pause()
    client.local.data_received(memoryview(b"last words"))
    client.local.tunnel_ended()
    assert await client.read_all() == b"last words"


async def test_a_half_closed_connection_has_nothing_to_pause(client: Rig):
    client.peer.shutdown(socket.SHUT_WR)
    while client.local.state is ConnectionState.OPEN:
        await asyncio.sleep(0)
    client.local.pause()
    client.local.resume()
    assert client.local.state is ConnectionState.HALF_CLOSED


async def test_an_application_may_be_paused_while_it_is_dialed(application: Rig):
    application.inner.is_paused = True
    application.local.pause()
    application.attach()
    assert application.local.state is ConnectionState.PAUSED
    await application.host.loop.sock_sendall(application.peer, b"hello")
    await asyncio.sleep(0.05)
    assert application.host.sent == b""
    application.inner.is_paused = False
    application.local.resume()
    await application.host.until_sent(5)


async def test_a_turn_with_nothing_to_say(client: Rig):
    client.local._stop_reading()
    client.local.take_turn()
    assert (client.host.turns, client.host.turn_size) == (1, 0)
    client.local.take_turn()  # it reads already
    assert client.host.turns == 1
    await client.host.loop.sock_sendall(client.peer, b"hello")
    await client.host.until_sent(5)


async def test_what_the_socket_does_not_take_is_copied_and_arrives_unharmed(client: Rig):
    """The sender's memory is overwritten right after each call, as the link's is."""
    expected = hashlib.sha256()
    frame = bytearray(64_000)
    for _ in range(200):
        frame[:] = os.urandom(len(frame))
        expected.update(frame)
        client.local.data_received(memoryview(frame))
        frame[:] = bytes(len(frame))
    assert client.local.waiting == client.host.buffered > 0
    client.local.tunnel_ended()
    assert client.local.state is ConnectionState.FLUSHING
    received = await client.read_all()
    assert hashlib.sha256(received).digest() == expected.digest()
    assert client.host.buffered == 0


async def test_everything_received_is_delivered_before_the_socket_closes(client: Rig):
    client.local.data_received(memoryview(b"last words"))
    client.local.tunnel_ended()
    assert await client.read_all() == b"last words"
    client.peer.close()
    await client.host.gone.wait()
    assert client.local.state is ConnectionState.CLOSED


async def test_a_client_that_goes_on_sending_after_the_end_is_reset(client: Rig):
    client.local.tunnel_ended()
    assert await client.read_all() == b""
    with pytest.raises(OSError):
        while True:
            await client.host.loop.sock_sendall(client.peer, bytes(1000))
            await asyncio.sleep(0)


async def test_a_half_closed_client_still_gets_its_answer(client: Rig):
    await client.host.loop.sock_sendall(client.peer, b"request")
    client.peer.shutdown(socket.SHUT_WR)
    await client.host.until_sent(7)
    while client.local.state is not ConnectionState.HALF_CLOSED:
        await asyncio.sleep(0)
    assert client.host.ended == 0
    client.local.data_received(memoryview(b"late answer"))
    client.local.tunnel_ended()
    assert await client.read_all() == b"late answer"
    await client.host.gone.wait()


async def test_a_half_closed_client_is_given_up_after_the_linger_time(client: Rig):
    client.peer.shutdown(socket.SHUT_WR)
    await client.host.gone.wait()
    assert client.host.ended == 1
    assert await client.read_all() == b""


async def test_the_linger_can_be_cut_short(client: Rig):
    client.host.linger = 3600.0
    client.peer.shutdown(socket.SHUT_WR)
    while client.local.state is not ConnectionState.HALF_CLOSED:
        await asyncio.sleep(0)
    client.local.end_linger()
    assert client.host.ended == 1
    await client.host.gone.wait()


async def test_the_linger_is_not_cut_short_while_the_answer_comes(client: Rig):
    client.peer.shutdown(socket.SHUT_WR)
    while client.local.state is not ConnectionState.HALF_CLOSED:
        await asyncio.sleep(0)
    client.local.data_received(memoryview(b"the answer"))
    client.local.end_linger()
    assert client.local.state is ConnectionState.HALF_CLOSED
    assert await client.read_all() == b"the answer"


async def test_a_client_that_closed_altogether_is_getting_no_answer(client: Rig):
    client.host.linger = 3600.0
    client.peer.close()
    while client.local.state is not ConnectionState.HALF_CLOSED:
        await asyncio.sleep(0)
    client.local.data_received(memoryview(b"too late"))
    client.local.end_linger()
    assert client.host.ended == 1
    await client.host.gone.wait()


async def test_end_linger_does_nothing_to_a_live_connection(client: Rig):
    client.local.end_linger()
    assert client.local.state is ConnectionState.OPEN


async def test_the_end_of_file_of_an_application_ends_the_connection_at_once(application: Rig):
    application.host.linger = 3600.0
    application.attach()
    await application.host.loop.sock_sendall(application.peer, b"answer")
    application.peer.shutdown(socket.SHUT_WR)
    await application.host.gone.wait()
    assert application.host.sent == b"answer"
    assert application.host.ended == 1


async def test_an_application_that_has_ended_still_gets_what_was_received(application: Rig):
    application.attach()
    data = os.urandom(2_000_000)
    application.local.data_received(memoryview(data))
    application.peer.shutdown(socket.SHUT_WR)
    assert await application.read_all() == data
    await application.host.gone.wait()


async def test_a_reset_by_the_local_end_is_passed_on(client: Rig):
    client.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.peer.close()
    await client.host.gone.wait()
    assert client.host.ended == 1


async def test_a_reset_behind_much_data_is_passed_on(client: Rig, loop_kind: str):
    """More than one read's worth, which uvloop announces together with the reset, and once."""
    client.local._stop_reading()
    data = os.urandom(len(client.host.read_buffer.payload) + 1000)
    await client.host.loop.sock_sendall(client.peer, data)
    client.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.peer.close()
    client.local.resume_reading()
    async with asyncio.timeout(60):
        await client.host.gone.wait()
    assert client.host.ended == 1
    assert client.host.sent == data


async def test_a_reset_behind_parked_data_is_passed_on(client: Rig, loop_kind: str):
    client.host.full = True
    await client.host.loop.sock_sendall(client.peer, os.urandom(100_000))
    while not client.host.parked:
        await asyncio.sleep(0)
    client.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.peer.close()
    client.host.full = False
    client.local.take_turn()
    async with asyncio.timeout(60):
        await client.host.gone.wait()
    assert client.host.ended == 1
    assert len(client.host.sent) == 100_000


async def test_writing_to_a_vanished_client_ends_the_connection(client: Rig):
    client.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.local._stop_reading()
    client.peer.close()
    while client.local.state is not ConnectionState.CLOSED:
        client.local.data_received(memoryview(b"x"))
    assert client.host.ended == 1


async def test_a_client_that_vanishes_before_it_took_everything(client: Rig):
    client.local.data_received(memoryview(bytes(8_000_000)))
    assert client.local.waiting
    client.local._stop_reading()
    client.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.peer.close()
    await client.host.gone.wait()
    assert client.host.ended == 1
    assert client.host.buffered == 0


async def test_a_half_closed_client_with_data_to_come_is_not_given_up(client: Rig):
    """However slow it is: the linger time is for silence."""
    data = os.urandom(1_000_000)
    client.local.data_received(memoryview(data))
    client.peer.shutdown(socket.SHUT_WR)
    while client.local.state is not ConnectionState.HALF_CLOSED:
        await asyncio.sleep(0)
    await asyncio.sleep(3 * client.host.linger)
    assert client.local.state is ConnectionState.HALF_CLOSED
    assert await client.read_all() == data


async def test_data_that_comes_while_dialing_waits_for_the_socket(application: Rig):
    application.local.data_received(memoryview(b"early "))
    application.local.data_received(memoryview(b"bird"))
    assert application.local.waiting == application.host.buffered == 10
    application.attach()
    application.local.tunnel_ended()
    assert await application.read_all() == b"early bird"


async def test_a_connection_that_ended_while_dialing_is_still_delivered(application: Rig):
    application.local.data_received(memoryview(b"fire and forget"))
    application.local.tunnel_ended()
    assert application.local.state is ConnectionState.FLUSHING
    application.attach()
    assert await application.read_all() == b"fire and forget"


async def test_an_ended_connection_whose_local_end_takes_nothing_is_given_up(client: Rig):
    client.local.data_received(memoryview(bytes(8_000_000)))
    client.local.tunnel_ended()
    await client.host.gone.wait()
    assert client.local.state is ConnectionState.CLOSED
    assert client.host.buffered == 0


async def test_abort_closes_once(client: Rig):
    client.local.abort()
    client.host.gone.clear()
    client.local.abort()
    assert not client.host.gone.is_set()
    assert "closed" in repr(client.local)


def test_the_gap_takes_the_longest_header():
    buffer = ReadBuffer(1000)
    assert len(buffer.payload) == 1000
    assert len(buffer.memory) == 1000 + ReadBuffer.GAP
