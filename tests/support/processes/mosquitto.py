"""A real MQTT broker: mosquitto from Debian, on a free port."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.network.ports import free_port
from support.processes.child import Process, server_process

__all__ = ["Broker", "broker", "is_installed", "needs_mosquitto", "started"]

_PROGRAM = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def is_installed() -> bool:
    """Return whether there is a mosquitto."""
    return _PROGRAM is not None


needs_mosquitto = pytest.mark.skipif(
    not is_installed(), reason="mosquitto is not installed: make apt installs it"
)


class Broker:
    """One mosquitto on one port; it can go away and come back."""

    def __init__(self, directory: Path, options: Sequence[str] = ("allow_anonymous true",)) -> None:
        self.port = free_port()
        self._directory = directory
        self._configuration = directory / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", *options]
        if os.geteuid() == 0:
            # It would give up root and could not read the files of the test.
            lines.append("user root")
        self._configuration.write_text("\n".join(lines) + "\n")
        self._running = ExitStack()
        self._process: Process

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        assert _PROGRAM is not None
        command = [_PROGRAM, "-c", str(self._configuration)]
        self._process = self._running.enter_context(
            server_process("mosquitto", command, self._directory, self.port)
        )

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it with a signal; clients see their connection die."""
        self._process.signal(number)
        self._process.wait()
        self.close()

    def close(self) -> None:
        """End it if it runs."""
        self._running.close()


@contextmanager
def broker(directory: Path, options: Sequence[str] = ("allow_anonymous true",)) -> Iterator[Broker]:
    """A running broker."""
    running = Broker(directory, options)
    running.start()
    try:
        yield running
    finally:
        running.close()


async def started(running: Broker) -> None:
    """Start a broker without stopping the loop."""
    await asyncio.to_thread(running.start)
