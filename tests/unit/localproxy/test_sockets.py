from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from support.network.sockets import reset
from tailrace.localproxy.sockets import SocketEnd, tune, unacknowledged


def connected_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    return client, server


def test_tcp_sockets_send_small_writes_at_once_and_probe_the_other_end():
    client, server = connected_pair()
    with client, server:
        tune(client)
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


def test_unix_sockets_are_left_alone():
    one, other = socket.socketpair()
    with one, other:
        tune(one)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_unacknowledged_counts_what_the_other_kernel_has_not_taken():
    client, server = connected_pair()
    with client, server:
        client.setblocking(False)
        assert unacknowledged(client) == 0
        sent = 0
        try:
            while True:
                sent += client.send(bytes(65536))
        except BlockingIOError:
            pass
        assert 0 < unacknowledged(client) <= sent


def test_unacknowledged_is_unknown_on_a_closed_socket():
    client, server = connected_pair()
    server.close()
    client.close()
    assert unacknowledged(client) == 1


async def test_a_socket_is_a_local_end():
    loop = asyncio.get_running_loop()
    client, server = connected_pair()
    with client, server:
        server.setblocking(False)
        end = SocketEnd(loop, server)
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        with pytest.raises(BlockingIOError):
            end.recv_into(memoryview(bytearray(10)), 10)
        readable, writable = asyncio.Event(), asyncio.Event()
        end.start_reading(readable.set)
        end.start_writing(writable.set)
        await writable.wait()
        end.stop_writing()
        assert not readable.is_set()
        client.sendall(b"hello")
        await readable.wait()
        end.stop_reading()
        buffer = bytearray(10)
        assert end.recv_into(memoryview(buffer), 4) == 4
        assert bytes(buffer) == b"hell" + bytes(6)
        assert end.send(memoryview(b"an")) == 2
        assert end.sendmsg([memoryview(b"sw"), memoryview(b"er")]) == 4
        assert client.recv(100) == b"answer"
        assert end.unacknowledged() == 0
        end.shut_down()
        assert client.recv(100) == b""
        assert end.pending_error() == 0
        reset(client)
        assert end.pending_error() == errno.ECONNRESET
        end.close()
        assert server.fileno() == -1
        assert end.unacknowledged() == 1
