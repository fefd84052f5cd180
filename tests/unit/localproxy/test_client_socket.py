from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.network.sockets import reset
from support.waiting import until
from tailrace.localproxy import client_socket
from tailrace.localproxy.client_socket import is_closed

FAMILIES = pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)


@contextmanager
def pair(
    family: int = socket.AF_INET, host: str = "127.0.0.1"
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client and the socket that it was accepted with."""
    with socket.socket(family) as listening:
        listening.bind((host, 0))
        listening.listen()
        with socket.create_connection(listening.getsockname()[:2]) as client:
            server, _ = listening.accept()
            with server:
                yield client, server


@FAMILIES
async def test_a_close_is_told_from_a_half_close(family: int, host: str):
    with pair(family, host) as (client, server):
        assert not is_closed(server)
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        assert not is_closed(server)
        client.close()
        await until(lambda: is_closed(server), "the close")


@FAMILIES
async def test_a_close_at_once(family: int, host: str):
    with pair(family, host) as (client, server):
        client.close()
        assert server.recv(1) == b""
        await until(lambda: is_closed(server), "the close")


def test_a_client_that_another_process_has_too_is_open():
    with pair() as (client, server), client.dup():
        client.close()
        assert not is_closed(server)


def test_a_reset_is_not_its_business():
    with pair() as (client, server):
        reset(client)
        assert not is_closed(server)


def test_other_sockets_are_unknown():
    one, other = socket.socketpair()
    with one:
        other.close()
        assert not is_closed(one)


def error_answer(number: int) -> bytes:
    return struct.pack("=LHHLLi", 36, 2, 0, 0, 0, -number)


@pytest.mark.parametrize(
    "answer",
    [
        error_answer(errno.ENOENT) + bytes(100),  # as for a client on another machine
        error_answer(errno.EPERM) + bytes(100),
        b"",
        struct.pack("=LHHLL", 16, 20, 0, 0, 0),
        struct.pack("=LHHLLBB70x", 88, 20, 0, 0, 0, socket.AF_INET, 10),
    ],
    ids=["none", "forbidden", "nothing", "cut", "a listener"],
)
def test_answers_without_a_socket(monkeypatch: pytest.MonkeyPatch, answer: bytes):
    monkeypatch.setattr(client_socket, "_look_up", lambda *_: answer)
    with pair() as (_, server):
        assert not is_closed(server)


def test_a_client_of_another_machine_is_unknown():
    class Far(socket.socket):
        def getpeername(self) -> tuple[str, int]:
            return ("192.0.2.1", 1)

    with pair() as (_, server), Far(fileno=server.detach()) as far:
        assert not is_closed(far)


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> bytes:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(client_socket, "_look_up", refuse)
    with pair() as (client, server):
        client.close()
        assert not is_closed(server)
