from __future__ import annotations

import asyncio
import errno
import signal
import socket
import subprocess
import sys

import pytest

from support.network.sockets import reset
from support.waiting import until
from tailrace.localproxy import sockets
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


async def test_pieces_are_sent_together_where_there_is_no_sendmsg(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(sockets, "_HAS_SENDMSG", False)
    client, server = connected_pair()
    with client, server:
        end = SocketEnd(asyncio.get_running_loop(), client)
        assert end.sendmsg([memoryview(b"one"), memoryview(b"two")]) == 6
        assert server.recv(10) == b"onetwo"


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


async def ends(family: str) -> tuple[SocketEnd, socket.socket]:
    ours, theirs = connected_pair() if family == "tcp" else socket.socketpair()
    ours.setblocking(False)
    return SocketEnd(asyncio.get_running_loop(), ours), theirs


@pytest.mark.parametrize("how", ["close", "shut_down"])
async def test_an_end_in_order_is_an_end_of_file(how: str):
    end, other = await ends("tcp")
    with other:
        assert end.send(memoryview(b"last words")) == 10
        getattr(end, how)()
        assert other.recv(100) == b"last words"
        assert other.recv(100) == b""
        end.close()


async def test_a_reset_follows_what_was_sent():
    """The kernel of the other end keeps what it has acknowledged for its reader."""
    end, other = await ends("tcp")
    with other:
        size = end.send(memoryview(bytes(60_000)))
        await until(lambda: not end.unacknowledged(), "the acknowledgement")
        end.reset()
        received = 0
        while received < size:
            received += len(other.recv(1000))
        with pytest.raises(ConnectionResetError):
            other.recv(1)


async def test_a_unix_socket_knows_no_reset_unless_something_was_not_read():
    end, other = await ends("unix")
    with other:
        end.send(memoryview(b"last words"))
        end.reset()
        assert other.recv(100) == b"last words"
        assert other.recv(100) == b""
    end, other = await ends("unix")
    with other:
        other.sendall(b"unread")
        end.reset()
        with pytest.raises(ConnectionResetError):
            other.recv(1)


def test_a_killed_process_leaves_a_reset():
    """The system closes its sockets, which must not look like an end in order."""
    code = (
        "import asyncio, os, signal, socket, sys\n"
        "from tailrace.localproxy.sockets import SocketEnd\n"
        "sock = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "end = SocketEnd(asyncio.new_event_loop(), sock)\n"
        "end.send(memoryview(b'half'))\n"
        "sock.recv(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        process = subprocess.Popen([sys.executable, "-c", code, port])
        with listening.accept()[0] as other:
            assert other.recv(100) == b"half"
            other.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                other.recv(100)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_one_that_has_closed_altogether_is_gone(family: str):
    end, other = await ends(family)
    assert not end.is_gone()
    other.shutdown(socket.SHUT_WR)
    assert not end.is_gone()
    other.close()
    await until(end.is_gone, "the close")
    end.close()


async def test_one_that_has_reset_is_gone():
    end, other = await ends("tcp")
    reset(other)
    assert end.is_gone()
    assert end.pending_error() == errno.ECONNRESET  # still to be told
    end.close()
