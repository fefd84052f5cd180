"""Any command as a child process; what it prints goes to files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.network.ports import is_listening
from support.waiting import HANG, until, wait_until

__all__ = ["Process", "clean_environment", "installed", "process", "server_process"]

_ONCE_MORE = 5.0
_LOG_TAIL = 60


def installed(name: str) -> str:
    """Return the path of an installed command of this Python."""
    return str(Path(sys.executable).parent / name)


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process' environment without settings that lead a proxy astray.

    Nor is its coverage measured, which takes longer than most processes live: what they run is
    covered by unit tests.
    """
    kept = {
        name: value
        # Pytest changes the environment for each test; this may run in another thread.
        for name in list(os.environ)
        if (value := os.environ.get(name)) is not None
        and not name.startswith(("AWSIOT_TUNNEL_", "TAILRACE_", "AWS_", "COVERAGE_"))
        and not name.lower().endswith("_proxy")
        and name not in ("NOTIFY_SOCKET", "SSL_CERT_FILE", "SSL_CERT_DIR")
    }
    return kept | extra


class Process:
    """A child process; standard output and standard error go to files."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], directory: Path) -> None:
        self.name = name
        self._popen = popen
        self._directory = directory

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        """Standard output so far."""
        return (self._directory / f"{self.name}.out").read_text(errors="replace")

    @property
    def log(self) -> str:
        """Standard error so far."""
        return (self._directory / f"{self.name}.log").read_text(errors="replace")

    @property
    def fatal_line(self) -> str:
        """The text of the one line of the log that says why the process gave up."""
        lines = [line for line in self.log.splitlines() if "[fatal]" in line]
        assert len(lines) == 1, self.log
        assert "Traceback" not in self.log, self.log
        return lines[0].partition("[fatal] ")[2]

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return self._status("VmRSS") * 1024

    @property
    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process whatever it does, and reap it."""
        if self.running:
            self._popen.kill()
        self._popen.wait(HANG)

    def wait(self) -> int:
        """Return the exit status, blocking."""
        return self._popen.wait(HANG)

    async def exit_code(self) -> int:
        """Return the exit status once there is one."""
        await until(lambda: not self.running, f"end of {self.name}")
        return self._popen.wait()

    async def said(self, text: str) -> None:
        """Wait for ``text`` in the log."""
        await until(lambda: text in self.log or not self.running, f"{text!r} from {self.name}")
        assert text in self.log, self.log

    def print_log(self) -> None:
        tail = self.log.splitlines()[-_LOG_TAIL:]
        print(f"--- {self.name} (status {self._popen.poll()}) ---", *tail, sep="\n")

    def _status(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise AssertionError(f"{self.name} has no {field}: it has ended")


@contextmanager
def process(
    name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> Iterator[Process]:
    """A running process, killed and reaped at the end if it is still there."""
    with (
        (directory / f"{name}.out").open("ab") as out,
        (directory / f"{name}.log").open("ab") as log,
    ):
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            # What a command keeps for its user stays with the test.
            env={"XDG_STATE_HOME": str(directory / "state-home"), **environment},
            cwd=directory,
        )
    started = Process(name, popen, directory)
    try:
        yield started
    except BaseException:
        started.print_log()
        raise
    finally:
        started.kill()


@contextmanager
def server_process(
    name: str, command: Sequence[str], directory: Path, port: int
) -> Iterator[Process]:
    """A running process that accepts connections on ``port``."""
    with process(name, command, directory, clean_environment()) as started:
        wait_until(lambda: is_listening(port) or not started.running, f"{name} on port {port}")
        assert started.running, started.log
        yield started
        if started.running:
            started.terminate()  # which takes its own children along, unlike SIGKILL
            try:
                started._popen.wait(_ONCE_MORE)
            except subprocess.TimeoutExpired:
                started.terminate()  # mosquitto misses one that comes while it starts
                started.wait()
