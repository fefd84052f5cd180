from __future__ import annotations

import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from support.waiting import HANG
from tailrace.operator import pass_socket
from tailrace.operator.messages import MessageReader, encode_message


@contextmanager
def holder(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """A process that holds a tunnel, as far as this script sees it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            sock, _ = listening.accept()
            with sock:
                assert MessageReader().feed(sock.recv(65536)) == [{"open": "SSH"}]
                answer(sock)

        thread = Thread(target=serve)
        thread.start()
        yield
        thread.join(HANG)


def test_ssh_gets_the_connection(short: Path) -> None:
    ours, theirs = socket.socketpair()
    here, there = socket.socketpair()

    def answer(sock: socket.socket) -> None:
        sock.sendall(encode_message("state", {"phase": "ready"}) + b'{"conn')
        socket.send_fds(sock, [b'ection": "SSH"}\n'], [there.fileno()])

    with ours, theirs, here, there, holder(short / "s", answer):
        there.setblocking(False)
        assert pass_socket.main(str(short / "s"), "SSH", theirs.fileno()) == ""
        data, (number,), _, _ = socket.recv_fds(ours, 16, 1)
        assert data == b"\0"
        with socket.socket(fileno=number) as passed:
            assert passed.getblocking()
            here.sendall(b"hello")
            assert passed.recv(16) == b"hello"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (encode_message("refused", "no", status=7), "no"),
        (encode_message("failed", "over", status=4), "over"),
        (b"", "the process that held the tunnel has ended"),
    ],
)
def test_there_is_none(short: Path, message: bytes, reason: str) -> None:
    with holder(short / "s", lambda sock: sock.sendall(message)):
        assert pass_socket.main(str(short / "s"), "SSH", 1) == reason


def test_it_runs_as_a_file(short: Path) -> None:
    command = [sys.executable, "-I", "-S", str(pass_socket.__file__), str(short / "s"), "SSH"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("tailrace ssh: No such file or directory\n", 1)


def test_as_a_program(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pass_socket.py", str(short / "s"), "SSH"])
    with (
        holder(short / "s", lambda sock: sock.sendall(encode_message("refused", "no"))),
        pytest.raises(SystemExit, match=r"^tailrace ssh: no$"),
    ):
        runpy.run_path(str(pass_socket.__file__), run_name="__main__")


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed (`make apt`)")
def test_openssh_takes_it(short: Path) -> None:
    here, there = socket.socketpair()

    def answer(sock: socket.socket) -> None:
        with here, there:
            socket.send_fds(sock, [encode_message("connection", "SSH")], [there.fileno()])
            there.close()
            here.settimeout(HANG)
            seen.append(here.recv(64))

    seen: list[bytes] = []
    helper = f"{sys.executable} -I -S {pass_socket.__file__} {short / 's'} SSH"
    options = ("ProxyUseFdpass=yes", f"ProxyCommand={helper}")
    command = ["ssh", "-F", "none", *(word for each in options for word in ("-o", each)), "h"]
    with holder(short / "s", answer):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert seen[0].startswith(b"SSH-2.0-")
