"""The demonstration's applications, over real sockets."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.network.sockets import reset_on_close
from support.waiting import HANG
from tailrace.demo.applications import EchoServer, FileServer


@pytest.fixture(autouse=True)
def _connections_are_over() -> Iterator[None]:
    """Wait for the servers' threads, which end some moments after their clients have gone."""
    yield
    wait_for_threads()


def wait_for_threads() -> None:
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(HANG)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "hello.txt").write_text("Hello.\n")
    (tmp_path / "large.bin").write_bytes(os.urandom(3_000_000))
    return tmp_path


@pytest.fixture
def files(directory: Path) -> Iterator[FileServer]:
    with FileServer(directory) as server:
        yield server


@pytest.fixture
def web(files: FileServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", files.port, timeout=HANG)
    yield connection
    connection.close()


def get(web: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    web.request("GET", path)
    response = web.getresponse()
    return response.status, response.read()


def test_it_lists_its_directory(web: http.client.HTTPConnection) -> None:
    status, page = get(web, "/")
    assert status == 200
    for name in ("hello.txt", "large.bin"):
        assert f'href="{name}"' in page.decode()


def test_files_come_whole_over_one_connection(
    web: http.client.HTTPConnection, directory: Path
) -> None:
    assert get(web, "/hello.txt") == (200, b"Hello.\n")
    kept = web.sock
    assert get(web, "/large.bin") == (200, (directory / "large.bin").read_bytes())
    assert web.sock is kept


def test_nothing_outside_its_directory(web: http.client.HTTPConnection, directory: Path) -> None:
    (directory.parent / "secret").write_text("secret")
    assert get(web, "/../secret")[0] == 404
    assert get(web, "/missing")[0] == 404


@pytest.mark.parametrize("size", [0, 1, 262_144, 3_000_001])
def test_an_upload_is_answered_with_its_hash(web: http.client.HTTPConnection, size: int) -> None:
    content = os.urandom(size)
    web.request("PUT", "/upload", content)
    response = web.getresponse()
    assert response.status == 202
    assert response.read().decode() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("length", [None, "many", "-1", "\u0663"])
def test_an_upload_of_unknown_size_is_refused(
    web: http.client.HTTPConnection, length: str | None
) -> None:
    web.putrequest("PUT", "/upload")
    if length is not None:
        web.putheader("Content-Length", length.encode())
    web.endheaders()
    assert web.getresponse().status == 411


@pytest.mark.parametrize("length", ["1073741825", "9" * 5000])
def test_an_upload_that_is_too_large_is_refused(
    web: http.client.HTTPConnection, length: str
) -> None:
    web.putrequest("PUT", "/upload")
    web.putheader("Content-Length", length)
    web.endheaders()
    assert web.getresponse().status == 413


def test_an_upload_that_breaks_off_ends_with_its_connection(
    files: FileServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", files.port), timeout=HANG) as sock:
        sock.sendall(b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [FileServer, EchoServer])
def test_a_client_that_resets_is_not_talked_about(
    kind: type[FileServer | EchoServer], directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = threading.active_count()
    server = FileServer(directory) if kind is FileServer else EchoServer()
    with server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as sock:
            sock.sendall(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(1)
            reset_on_close(sock)
        wait_for_threads()
    assert threading.active_count() == before
    assert capfd.readouterr() == ("", "")


def test_the_echo() -> None:
    content = os.urandom(1_000_000)
    received = bytearray()
    with (
        EchoServer() as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as sock,
    ):

        def send() -> None:
            sock.sendall(content)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        while data := sock.recv(65536):
            received += data
        sender.join()
    assert received == content


def test_many_echoes_at_once() -> None:
    with EchoServer() as server:
        socks = [
            socket.create_connection(("127.0.0.1", server.port), timeout=HANG) for _ in range(40)
        ]
        for number, sock in enumerate(socks):
            sock.sendall(bytes([number]))
        for number, sock in enumerate(socks):
            assert sock.recv(10) == bytes([number])
            sock.close()


@pytest.mark.parametrize("kind", ["files", "echo"])
def test_nothing_listens_once_the_block_has_ended(tmp_path: Path, kind: str) -> None:
    with FileServer(tmp_path) if kind == "files" else EchoServer() as server:
        port = server.port
        assert port > 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=HANG)
