"""The real processes of the demonstration: the installed commands, each with a log of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from .measurements import DemoFailed

__all__ = ["Processes", "ended_by_sigterm", "installed"]

_START_TIMEOUT: Final = 30.0
_STOP_TIMEOUT: Final = 10.0
_DYING_TIME: Final = 0.5
"""Seconds from the end of a process' connections to its end."""
_POLL: Final = 0.02


class Processes:
    """The processes that have been started, in order; ``stack`` kills what still runs.

    ``directory`` is where they work and log.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._all: list[_Process] = []

    def start(self, name: str, command: list[str], extra: dict[str, str]) -> dict[str, Any]:
        """Start a command, wait until it is ready and return what its ready file says.

        ``extra`` is added to its environment.

        Raises:
            DemoFailed: a process has ended, or the new one is not ready in time.
        """
        ready = self._directory / f"{name}.json"
        # Neither a web proxy nor other settings of the caller's shell may reach them.
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("AWSIOT_TUNNEL_") and key.lower() != "https_proxy"
        }
        log = self._directory / f"{name}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [*command, "--ready-file", str(ready)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment | extra,
                cwd=self._directory,
                start_new_session=True,
            )
        process = _Process(name, popen, log)
        self._stack.callback(process.kill)
        self._all.append(process)
        deadline = time.monotonic() + _START_TIMEOUT
        while not ready.exists():
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"{ready.name} did not appear within {_START_TIMEOUT:g} s:{process.tail()}"
                )
            time.sleep(_POLL)
        document: dict[str, Any] = json.loads(ready.read_text())
        return document

    def check(self) -> None:
        """Raise :class:`DemoFailed` if a process has ended."""
        for process in self._all:
            process.check()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Interrupt the block when a process ends, and name the process if the block fails.

        A transfer would otherwise wait: a source keeps its clients until there is a link again.
        """
        has_signal = hasattr(signal, "SIGCHLD")
        if has_signal:
            previous = signal.signal(signal.SIGCHLD, lambda *_: self.check())
        try:
            yield
        except DemoFailed:
            # The process whose connections broke may be about to end.
            deadline = time.monotonic() + _DYING_TIME
            while time.monotonic() < deadline:
                self.check()
                time.sleep(_POLL)
            raise
        finally:
            if has_signal:
                signal.signal(signal.SIGCHLD, previous)

    def wait(self) -> None:
        """Wait until the proxies have ended by themselves, then end the service.

        Raises:
            DemoFailed: one does not end, or with another status than 0.
        """
        service, *proxies = self._all
        for process in proxies:
            process.wait()
        service.popen.terminate()
        service.wait()


@dataclass(frozen=True, slots=True)
class _Process:
    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        if self.popen.poll() is not None:
            self._fail(self.popen.returncode)

    def wait(self) -> None:
        try:
            status = self.popen.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the {self.name} did not end:{self.tail()}") from None
        if status:
            self._fail(status)

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()

    def _fail(self, status: int) -> NoReturn:
        how = f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"
        raise DemoFailed(f"the {self.name} {how}:{self.tail()}")

    def tail(self) -> str:
        """Return the end of its log, on lines of their own."""
        lines = self.log.read_text(errors="replace").splitlines()[-5:]
        return "".join(f"\n    {line}" for line in lines)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack: the processes have sessions of their own and would stay."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def installed(name: str) -> str:
    """Return the path of the installed command that belongs to this Python.

    Raises:
        DemoFailed: there is none.
    """
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise DemoFailed(f"the command {name} is not installed beside {sys.executable}")
    return str(path)
