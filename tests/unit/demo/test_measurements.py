"""Transfers and round trips are measured, and what does not work is named."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support.network.ports import free_port
from support.processes.demo import LISTING, Behaviour, answers, listening
from tailrace.demo import measurements
from tailrace.demo.applications import EchoServer, FileServer
from tailrace.demo.measurements import DemoFailed, Measurements, measure, table

NAME = "64MiB.bin"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(measurements, "_ROUND_TRIPS", 20)
    (tmp_path / NAME).write_bytes(b"content" * 10_000)
    (tmp_path / "hello.txt").write_text("hello")
    return tmp_path


def failure(files: Path, http_port: int, echo_port: int) -> str:
    with pytest.raises(DemoFailed) as caught:
        measure(http_port, echo_port, files, NAME)
    return str(caught.value)


def test_what_is_measured(files: Path) -> None:
    with FileServer(files) as web, EchoServer() as echo:
        found = measure(web.port, echo.port, files, NAME)
    assert found.listing == (NAME, "hello.txt")
    assert found.download_matches
    assert found.upload_matches
    assert found.download_rate > 0
    assert found.upload_rate > 0
    assert len(found.round_trips) == 20


def test_a_port_that_refuses(files: Path) -> None:
    said = failure(files, free_port(), free_port())
    assert said.startswith("GET / through the tunnel failed: [Errno ")


@pytest.mark.parametrize(
    ("behaviours", "said"),
    [
        ([answers("500 Oops")], "GET / was answered with 500"),
        ([answers("200 OK", b"a page")], "the directory listing that came through"),
        ([answers("200 OK", b"half", 8)], "GET / ended after 4 of 8 bytes"),
        ([lambda sock: sock.sendall(b"SSH-2.0\r\n")], "GET / through the tunnel failed: SSH-2.0"),
        ([LISTING, answers("404 Gone")], "GET /64MiB.bin was answered with 404"),
        (
            [LISTING, answers("200 OK", b"x"), lambda sock: None],
            "PUT /upload through the tunnel failed: ",
        ),
    ],
)
def test_transfers_that_fail(files: Path, behaviours: list[Behaviour], said: str) -> None:
    with listening(*behaviours) as port:
        assert failure(files, port, free_port()).startswith(said)


def test_what_does_not_match(files: Path) -> None:
    behaviours = (LISTING, answers("200 OK", b"other bytes"), answers("202 OK", b"another hash"))
    with listening(*behaviours) as port, EchoServer() as echo:
        found = measure(port, echo.port, files, NAME)
    assert not found.download_matches
    assert not found.upload_matches
    assert table(found)[-1] == "sha256 match: none"


def change_a_bit(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(bytes([data[0] ^ 1]) + data[1:])


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (change_a_bit, "the echo through the tunnel differs from what was sent"),
        (lambda sock: sock.recv(64), "the echo through the tunnel differs"),
        (None, "the echo through the tunnel failed: [Errno "),
    ],
)
def test_an_echo_that_fails(files: Path, behaviour: Behaviour | None, said: str) -> None:
    with FileServer(files) as web:
        if behaviour is None:
            assert failure(files, web.port, free_port()).startswith(said)
            return
        with listening(behaviour) as port:
            assert failure(files, web.port, port).startswith(said)


def test_the_table() -> None:
    found = Measurements(
        listing=("a", "b"),
        download_rate=123.4,
        upload_rate=0.6,
        download_matches=True,
        upload_matches=False,
        round_trips=(*[0.001] * 98, 0.002, 0.003),
    )
    assert table(found) == [
        "directory listing  a, b",
        "download 64 MiB    123 MB/s",
        "upload 64 MiB      1 MB/s",
        "round trip 64 B    median 1.00 ms, p99 2.99 ms",
        "sha256 match: download",
    ]
