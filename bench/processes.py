"""The processes of a measurement: started clean, measured from outside, ended with their block."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["BenchError", "Process", "Supervisor", "python_path", "unused_ports"]

_START_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 8.0
_LOG_LINES: Final = 3
_PLENTY: Final = 8000
"""Sockets that may still be closing where ports are chosen."""
_LISTEN: Final = "0A"
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)


class BenchError(Exception):
    """A measurement failed: a process died, hung, or moved other bytes than it was given."""


class Process:
    """One running process with its log."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.popen = popen
        self.log = log

    def check(self) -> None:
        """Return if the process runs.

        Raises:
            BenchError: it has ended; the text tells how, and the end of its log.
        """
        code = self.popen.poll()
        if code is not None:
            how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            lines = self.log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
            raise BenchError("\n    ".join([f"{self.name} {how}", *(line[:200] for line in lines)]))

    def stop(self) -> None:
        """End it, in order if it does so in time."""
        self.popen.terminate()
        try:
            self.popen.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used, as the scheduler counts it."""
        total = 0
        for task in Path(f"/proc/{self.popen.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                total += int(task.read_text().split()[0])
        return total / 1e9

    def memory(self, field: str = "VmRSS") -> int:
        """Return resident memory in bytes; with ``VmHWM`` the highest so far."""
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        self.check()
        raise BenchError(f"{self.name} has no {field}")

    def reset_peak(self) -> None:
        """Let the highest memory start again from now (proc(5), clear_refs)."""
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.popen.pid}/clear_refs").write_text("5")

    def wait_until(self, is_true: Callable[[], bool], complaint: str) -> None:
        """Wait until something holds, as long as the process runs.

        Raises:
            BenchError: it ended, or took too long.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while not is_true():
            self.check()
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} {complaint} within {_START_TIMEOUT:g} s")
            time.sleep(0.005)

    def wait_for_port(self, port: int) -> None:
        """Wait until something listens on a port; connecting would reach the far application.

        Raises:
            BenchError: the process ended, or took too long.
        """
        self.wait_until(lambda: _is_listening(port), f"did not listen on port {port}")


class Supervisor:
    """Owns processes and a directory for what they write; both are gone after the block."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="bench-")
        self.directory = Path(self._temporary.name)
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.popen.terminate()
        for process in reversed(self._processes):
            process.stop()
        self._temporary.cleanup()

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
        log = self.directory / f"{name}.log"
        with log.open("wb") as out:
            try:
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipes else out,
                    stderr=out,
                    env=_clean_environment() | dict(environment or {}),
                    cwd=self.directory,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                    bufsize=0,
                )
            except OSError as error:
                raise BenchError(f"{name} cannot be started: {error}") from None
        self._processes.append(Process(name, popen, log))
        return self._processes[-1]

    def check(self) -> None:
        """Return if all processes run.

        Raises:
            BenchError: one has ended.
        """
        for process in self._processes:
            process.check()


def python_path() -> dict[str, str]:
    """Return the variables by which another Python finds this package."""
    return {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "PYTHONHASHSEED": "0"}


def unused_ports(count: int) -> list[int]:
    """Return loopback ports that nothing listens on, once there are plenty.

    Those of short connections that are over stay taken for a minute.
    """
    while _waiting_sockets() > _PLENTY:
        time.sleep(1.0)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in socks]


def _waiting_sockets() -> int:
    """Return how many sockets are in TIME_WAIT."""
    words = Path("/proc/net/sockstat").read_text().split()
    return int(words[words.index("tw") + 1])


def _clean_environment() -> dict[str, str]:
    """Return this process' environment without what would lead the contenders astray."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWSIOT_TUNNEL_", "TAILRACE_"))
        and name.lower() not in ("https_proxy", "http_proxy", "all_proxy")
    }


def _is_listening(port: int) -> bool:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split(None, 4)
        if fields[3] == _LISTEN and fields[1].endswith(f":{port:04X}"):
            return True
    return False


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
