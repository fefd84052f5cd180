from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Thread

import pytest

from support.waiting import HANG
from tailrace.operator.stdio import join_streams


@dataclass
class Ends:
    """All that a proxy is between."""

    sock: socket.socket
    device: socket.socket
    stdin: int
    feed: int
    stdout: int
    output: int

    def proxy(self) -> tuple[Thread, list[BaseException]]:
        errors: list[BaseException] = []

        def run() -> None:
            try:
                join_streams(self.sock, self.stdin, self.stdout)
            except OSError as error:
                errors.append(error)
            finally:
                os.close(self.stdout)
                self.stdout = -1

        thread = Thread(target=run)
        thread.start()
        return thread, errors


@pytest.fixture
def ends() -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        device, _ = server.accept()
    found = Ends(sock, device, *os.pipe(), *reversed(os.pipe()))
    yield found
    for closing in (sock, device):
        closing.close()
    for number in (found.feed, found.output, found.stdout):
        if number >= 0:
            os.close(number)
    for thread in threading.enumerate():
        if thread.name == "tailrace stdin":
            thread.join(HANG)
    os.close(found.stdin)


def test_both_halves(ends: Ends) -> None:
    os.set_blocking(ends.stdin, False)
    os.set_blocking(ends.stdout, False)
    thread, errors = ends.proxy()
    data = os.urandom(300_000)

    def write() -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(ends.feed, rest) :]
        os.close(ends.feed)
        ends.feed = -1

    writer = Thread(target=write)
    writer.start()
    ends.device.settimeout(HANG)
    with ends.device.makefile("rb") as file:
        assert file.read() == data  # up to its end
    sender = Thread(target=lambda: (ends.device.sendall(data), ends.device.close()))
    sender.start()
    received = b""
    while piece := os.read(ends.output, 65536):
        received += piece
    for each in (thread, writer, sender):
        each.join(HANG)
    assert (received == data, errors) == (True, [])


def test_a_connection_that_is_cut(ends: Ends) -> None:
    ends.device.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    ends.device.close()
    thread, errors = ends.proxy()
    thread.join(HANG)
    (error,) = errors
    assert isinstance(error, ConnectionResetError)
    os.close(ends.feed)
    ends.feed = -1


def test_an_output_that_nobody_reads(ends: Ends) -> None:
    os.close(ends.output)
    ends.output = -1
    thread, errors = ends.proxy()
    ends.device.sendall(b"x")
    thread.join(HANG)
    assert isinstance(errors[0], BrokenPipeError)
    os.close(ends.feed)
    ends.feed = -1
