"""A real MQTT broker for tests: mosquitto from Debian, on a free port."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

HANG = 30.0

PROGRAM = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

needs_mosquitto = pytest.mark.skipif(
    PROGRAM is None, reason="mosquitto is not installed: make apt installs it"
)


def free_port() -> int:
    """A loopback port that nobody listens on right now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


class Broker:
    """One mosquitto on one port; it can go away and come back."""

    def __init__(self, directory: Path, options: Sequence[str] = ("allow_anonymous true",)) -> None:
        self.port = free_port()
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        assert PROGRAM is not None
        configuration = self._directory / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", *self._options]
        if os.geteuid() == 0:
            # It would give up root and could not read the files of the test.
            lines.append("user root")
        configuration.write_text("\n".join(lines) + "\n")
        log = (self._directory / "mosquitto.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [PROGRAM, "-c", str(configuration)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + HANG
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, "mosquitto has ended"
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop(self) -> None:
        """Kill it; clients see their connection die."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def broker(directory: Path, options: Sequence[str] = ("allow_anonymous true",)) -> Iterator[Broker]:
    """A running broker."""
    running = Broker(directory, options)
    running.start()
    try:
        yield running
    finally:
        running.stop()


async def started(running: Broker) -> None:
    """Start a broker without stopping the loop."""
    await asyncio.to_thread(running.start)
