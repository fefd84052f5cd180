from __future__ import annotations

import socket

from tailrace.localproxy.sockets import tune, unacknowledged


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
