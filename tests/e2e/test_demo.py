"""``tailrace demo``: what people run first."""

from __future__ import annotations

import http.client
import os
import pty
import re
import signal
import site
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import tailrace
from support.processes.child import Process, clean_environment, installed, process
from support.waiting import until


@contextmanager
def demo(directory: Path) -> Iterator[Process]:
    """The demonstration with a place for its temporary files of its own."""
    (directory / "tmp").mkdir()
    environment = clean_environment(TMPDIR=str(directory / "tmp"))
    with process("demo", [installed("tailrace"), "demo"], directory, environment) as running:
        yield running


def children(running: Process) -> dict[str, int]:
    """Return word of the command line -> pid of what the demonstration has started."""
    found = {}
    listed = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text()
    for pid in map(int, listed.split()):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        for word in ("serve", "-d", "-m"):
            if word in command:
                found[word] = pid
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def nothing_left(directory: Path) -> bool:
    return not os.listdir(directory / "tmp")


async def test_it_measures_and_ends(tmp_path: Path):
    with demo(tmp_path) as running:
        assert await running.exit_code() == 0
        lines = running.output.splitlines()
        assert running.log == ""
    assert [line.split()[0] for line in lines[:4]] == [
        "service",
        "tunnel",
        "destination",
        "source",
    ]
    assert "sha256 match: download upload" in lines
    table = "\n".join(lines)
    assert re.search(r"^directory listing +64MiB\.bin, hello\.txt$", table, re.MULTILINE)
    for way in ("download", "upload"):
        assert re.search(rf"^{way} 64 MiB +[1-9]\d* MB/s$", table, re.MULTILINE)
    assert re.search(r"^round trip 64 B +median [\d.]+ ms, p99 [\d.]+ ms$", table, re.MULTILINE)
    assert nothing_left(tmp_path)


class Terminal:
    """The far side of a terminal, which has another program on it."""

    def __init__(self) -> None:
        self._master, self.near_side = pty.openpty()
        os.set_blocking(self._master, False)
        self.printable = ""

    def has_shown(self, words: str) -> bool:
        with suppress(BlockingIOError):
            self.printable += os.read(self._master, 65536).decode()
        return words in self.printable

    def close(self) -> None:
        os.close(self.near_side)
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def on_terminal(terminal: Terminal, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The demonstration with standard input and output on the terminal."""
    side = terminal.near_side
    running = subprocess.Popen(
        [installed("tailrace"), "demo"],
        stdin=side,
        stdout=side,
        stderr=side,
        cwd=tmp_path,
        env=clean_environment(),
    )
    yield running
    running.kill()
    running.wait()


async def test_on_a_terminal_it_stays_until_ctrl_c(
    terminal: Terminal, on_terminal: subprocess.Popen[bytes]
):
    await until(lambda: terminal.has_shown("Ctrl-C ends it."), "the invitation to try")
    match = re.search(r"curl http://127\.0\.0\.1:(\d+)/", terminal.printable)
    assert match
    connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=30)
    connection.request("GET", "/hello.txt")
    assert connection.getresponse().read() == b"Hello through the tunnel.\n"
    connection.close()
    on_terminal.send_signal(signal.SIGINT)
    await until(lambda: on_terminal.poll() is not None, "the end")
    assert on_terminal.returncode == 0, terminal.printable


@pytest.mark.parametrize("moment", ["tunnel", "source"])
async def test_a_service_that_dies_is_named(tmp_path: Path, moment: str):
    """While the proxies start, or in the middle of the transfers."""
    with demo(tmp_path) as running:
        await until(lambda: f"\n{moment} " in running.output, f"the line of the {moment}")
        pids = children(running)
        os.kill(pids["serve"], signal.SIGKILL)
        assert await running.exit_code() not in (0, -signal.SIGKILL)
        assert running.log.startswith("tailrace demo: the service was killed by signal 9")
        assert "Traceback" not in running.log
        assert not any(map(alive, pids.values()))
    assert nothing_left(tmp_path)


async def test_sigterm_leaves_nothing_behind(tmp_path: Path):
    with demo(tmp_path) as running:
        await until(lambda: "\ndestination " in running.output, "the destination")
        pids = children(running)
        assert {"serve", "-d"} <= set(pids)
        running.terminate()
        assert await running.exit_code() == 128 + signal.SIGTERM
        assert running.log == ""
        # One that was just being started may have been killed, and not be gone yet.
        await until(lambda: not any(map(alive, pids.values())), "the end of its processes")
    assert nothing_left(tmp_path)


@pytest.fixture
def lone_python(tmp_path: Path) -> Path:
    """A Python without commands beside it."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(Path(sys.executable).resolve())
    return python


async def test_a_missing_command_is_named(tmp_path: Path, lone_python: Path):
    packages = [str(Path(tailrace.__file__).parent.parent), *site.getsitepackages()]
    environment = clean_environment(PYTHONPATH=os.pathsep.join(packages))
    command = [str(lone_python), "-m", "tailrace.cli.tailrace", "demo"]
    with process("demo", command, tmp_path, environment) as running:
        assert await running.exit_code() != 0
        assert running.log == (
            f"tailrace demo: the command tailrace is not installed beside {lone_python}\n"
        )
