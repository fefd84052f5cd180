"""One device: the process of an agent, and what it holds."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from support.processes.child import Process, clean_environment, installed, process
from support.waiting import until

from ..looks import Look

__all__ = ["PATIENCE", "Device", "Holding"]

PATIENCE: Final = 150.0
"""Seconds that anything may take before it counts as failed: twice the longest delay of an agent
between two attempts at its broker, and some."""

_POOL: Final = min(32, (os.cpu_count() or 1) + 4)
"""Threads of an executor (:class:`concurrent.futures.ThreadPoolExecutor`)."""


class Holding:
    """What an agent without tunnels holds."""

    def __init__(self, look: Look, files: int) -> None:
        self.memory = look.memory
        self._counts = {
            "descriptors": look.descriptors,
            "threads": look.threads,
            "files in the state directory": files,
        }

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in self._counts.items())
        return f"{self.memory / (1 << 20):.1f} MiB, {counts}"

    def leaks_since(self, before: Holding) -> list[str]:
        """Return what is more than it was; memory is never equal, and judged elsewhere."""
        # Threads that read and write files are kept for the next file, up to a most.
        spare = {"threads": _POOL}
        return [
            f"{count - before._counts[what]} {what}"
            for what, count in self._counts.items()
            if count > before._counts[what] + spare.get(what, 0)
        ]


class Device:
    """A device with an agent, which can be ended in any way and started again."""

    def __init__(
        self, thing: str, directory: Path, options: Sequence[str], environment: dict[str, str]
    ) -> None:
        self.thing = thing
        self.agent: Process
        self._directory = directory
        self._environment = clean_environment(**environment)
        self._status = directory / "status.json"
        self._command = [
            *(installed("tailrace"), "agent", "run", "--thing-name", thing),
            *("--state-dir", str(directory / "state"), "--status-file", str(self._status)),
            *options,
        ]
        self._stack = ExitStack()

    async def start(self) -> None:
        """Start the agent; return when it runs, whether or not anything answers it."""
        started = process("agent", self._command, self._directory, self._environment)
        self.agent = self._stack.enter_context(started)
        await until(lambda: self._has_started() or not self.agent.running, "an agent", PATIENCE)
        assert self.agent.running, self.agent.log[-2000:]

    async def stop(self, number: int) -> None:
        """End the agent with a signal."""
        self.agent.signal(number)
        await until(lambda: not self.agent.running, f"the end of the agent {self.thing}", PATIENCE)
        self._stack.close()

    def close(self) -> None:
        """Leave no process behind."""
        self._stack.close()

    def status(self) -> dict[str, Any]:
        """Return what the agent says of itself; nothing while it does not run."""
        try:
            found: dict[str, Any] = json.loads(self._status.read_text())
        except FileNotFoundError:
            found = {}
        return found

    @property
    def phases(self) -> Counter[str]:
        """Phases of tunnels -> how many are in each."""
        return Counter(each["phase"] for each in self.status().get("tunnels", ()))

    @property
    def kept(self) -> int:
        """Tunnels that a restart would find."""
        return len(list((self._directory / "state" / "tunnels").iterdir()))

    def holding(self) -> Holding:
        """Return what the agent holds now."""
        state = self._directory / "state"
        files = sum(path.is_file() for path in state.rglob("*"))
        return Holding(Look.at(self.agent), files)

    async def waiting(self) -> None:
        """Wait until the agent receives notifications, in whatever way it does."""
        begin = len(self.agent.log)

        def says_so() -> bool:
            self.agent.signal(signal.SIGHUP)
            last = self.agent.log[begin:].rpartition("status: ")[2]
            return ": connected to" in last or ": waiting at" in last

        await until(says_so, f"{self.thing} receives notifications", PATIENCE)

    def _has_started(self) -> bool:
        return self.status().get("pid") == self.agent.pid
