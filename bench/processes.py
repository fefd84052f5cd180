"""Start the processes of a measurement, see them end, leave none behind."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from . import procfs
from .errors import BenchError

__all__ = ["Process", "Supervisor", "clean_environment", "unused_port", "wait_until"]

START_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 8.0
_LOG_LINES: Final = 3
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)


class Process:
    """One running process with its log."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.popen = popen
        self.log = log
        self.started_at = time.time()
        self.ready_at = 0.0
        """When it was seen to be ready, as seconds since the epoch; 0 before."""

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self.popen.pid

    @property
    def stdin(self) -> IO[bytes]:
        """The pipe to its standard input."""
        assert self.popen.stdin is not None
        return self.popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe from its standard output."""
        assert self.popen.stdout is not None
        return self.popen.stdout

    def check(self) -> None:
        """Raise when the process has ended.

        Raises:
            BenchError: it has; the text tells how, and the end of its log.
        """
        if self.popen.poll() is not None:
            raise BenchError(f"{self.name} {self._how_it_ended()}{self._tail()}")

    def terminate(self) -> None:
        """Ask it to end."""
        if self.popen.poll() is None:
            self.popen.terminate()

    def stop(self) -> None:
        """End it, in order if it does so in time."""
        self.terminate()
        try:
            self.popen.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()

    def _how_it_ended(self) -> str:
        code = self.popen.returncode
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
        return "".join(f"\n    {line[:200]}" for line in lines)


class Supervisor:
    """Owns processes and a directory for what they write; ends the former with the block."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[Process] = []
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in reversed(self._processes):
            process.stop()
        self._processes.clear()

    def fresh(self) -> Supervisor:
        """Return another supervisor in a directory below, for a part of a measurement."""
        directory = self.path("part")
        directory.mkdir()
        return Supervisor(directory)

    def path(self, name: str) -> Path:
        """Return a path nobody has got yet."""
        self._count += 1
        return self.directory / f"{self._count:04}-{name}"

    def spawn(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        pipes: bool = False,
    ) -> Process:
        """Start a process; with ``pipes`` its standard input and output belong to the caller.

        Raises:
            BenchError: it cannot be started.
        """
        log = self.path(f"{name}.log")
        with log.open("wb") as out:
            try:
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipes else out,
                    stderr=out,
                    env=clean_environment() | dict(environment or {}),
                    cwd=self.directory,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                    bufsize=0,
                )
            except OSError as error:
                raise BenchError(f"{name} cannot be started: {error}") from None
        process = Process(name, popen, log)
        self._processes.append(process)
        return process

    def check(self) -> None:
        """Raise when one of the processes has ended.

        Raises:
            BenchError: one has.
        """
        for process in self._processes:
            process.check()

    def wait_for_file(self, path: Path, process: Process) -> bytes:
        """Return the content of a file that a process writes when it is ready.

        Raises:
            BenchError: the process ended, or took too long.
        """
        wait_until(path.exists, process, f"{process.name} did not write {path.name}")
        process.ready_at = path.stat().st_mtime
        return path.read_bytes()

    def wait_for_port(self, port: int, process: Process) -> None:
        """Wait until a process (or a child of it) listens on a port.

        Raises:
            BenchError: the process ended, or took too long.
        """
        wait_until(
            lambda: procfs.is_listening(process.pid, port),
            process,
            f"{process.name} did not listen on port {port}",
        )
        process.ready_at = time.time()

    def wait_for_log(self, text: str, process: Process) -> None:
        """Wait until a text stands in the log of a process.

        Raises:
            BenchError: the process ended, or took too long.
        """
        wanted = text.encode()
        wait_until(
            lambda: wanted in process.log.read_bytes(), process, f"{process.name} is not ready"
        )
        process.ready_at = time.time()


def wait_until(
    is_true: Callable[[], bool], process: Process, complaint: str, timeout: float = START_TIMEOUT
) -> None:
    """Wait until something holds, as long as a process lives.

    Raises:
        BenchError: the process ended, or it took longer than ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not is_true():
        process.check()
        if time.monotonic() > deadline:
            raise BenchError(f"{complaint} within {timeout:g} s")
        time.sleep(0.005)


def clean_environment() -> dict[str, str]:
    """Return this process' environment without what would lead the contenders astray."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWSIOT_TUNNEL_", "TAILRACE_"))
        and name.lower() not in ("https_proxy", "http_proxy", "all_proxy")
    }


def unused_port() -> int:
    """Return a loopback port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
