"""One contender at work between load generators, ready to be measured."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from .contenders import LOOPBACK, Address, Contender, Gate, Role
from .processes import BenchError, Supervisor, python_path

__all__ = ["Generator", "Rig", "Usage"]

_BULK: Final = "BULK"
_ECHO: Final = "ECHO"
_PATIENCE: Final = 120.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Generator:
    """One load generator: a process that obeys commands, one at a time."""

    def __init__(self, supervisor: Supervisor, name: str) -> None:
        self.process = supervisor.spawn(
            name, [sys.executable, "-m", "bench.load"], python_path(), pipes=True
        )
        self._supervisor = supervisor

    def call(self, do: str, *, patience: float = _PATIENCE, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its answer.

        Raises:
            BenchError: it failed, took longer than ``patience`` seconds, or another
                process of the measurement has died meanwhile.
        """
        self.send(do, **arguments)
        return self.receive(patience=patience)

    def send(self, do: str, **arguments: Any) -> None:
        """Send a command; :meth:`receive` must follow."""
        self.process.check()
        assert self.process.popen.stdin is not None
        self.process.popen.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    def receive(
        self, *, patience: float = _PATIENCE, meanwhile: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """Return the answer to the last command; ``meanwhile`` is called five times a second.

        Raises:
            BenchError: as :meth:`call`.
        """
        pipe = self.process.popen.stdout
        assert pipe is not None
        deadline = time.monotonic() + patience
        while not select.select([pipe], [], [], 0.2)[0]:
            self._supervisor.check()
            if meanwhile is not None:
                meanwhile()
            if time.monotonic() > deadline:
                raise BenchError(f"{self.process.name} did not answer within {patience:g} s")
        line = pipe.readline()
        if not line:
            self.process.popen.wait()
            self.process.check()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self._supervisor.check()
            raise BenchError(f"{self.process.name}: {answer['error']}")
        return answer


@dataclass(slots=True)
class Usage:
    """What a measurement cost."""

    seconds: float = 0.0
    cpu: dict[Role, float] = field(default_factory=dict)
    """CPU seconds of each role."""
    generators: dict[str, float] = field(default_factory=dict)
    """CPU seconds of each load generator."""
    foreign: float = 0.0
    """Share of the machine (0..1) that neither the contender nor the generators used."""

    @property
    def ends(self) -> float:
        """CPU seconds of source and destination."""
        return self.cpu[Role.SOURCE] + self.cpu[Role.DESTINATION]


class Rig:
    """Applications, contender and clients; with ``rate``, the source's link is a slow one."""

    def __init__(
        self, supervisor: Supervisor, contender: Contender, rate: float | None = None
    ) -> None:
        """Start everything; ``rate`` is in bytes a second each way.

        Raises:
            BenchError: something did not start.
        """
        self._generators = [
            Generator(supervisor, name) for name in ("sink", "echo", "client", "pinger")
        ]
        self.sink, echo, self.client, self.pinger = self._generators
        applications = {
            _BULK: Address(LOOPBACK, int(self.sink.call("sink")["port"])),
            _ECHO: Address(LOOPBACK, int(echo.call("echo")["port"])),
        }
        gate: Gate = _open_gate
        if rate is not None:
            link = Generator(supervisor, "link")
            link.call("link", rate=rate)
            self._generators.append(link)
            gate = partial(_slow_gate, link)
        running = contender.start(supervisor, applications, gate)
        self.roles = running.processes
        self.bulk = running.endpoints[_BULK]
        self.echo = running.endpoints[_ECHO]

    def round_trips(
        self,
        seconds: float,
        *,
        pause: float = 0.0,
        patience: float = 10.0,
        meanwhile: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Send 64 bytes there and back, again and again, and return the client's figures.

        The answer that takes longer than ``patience`` seconds is the last; ``meanwhile`` is
        called five times a second.

        Raises:
            BenchError: a process has died.
        """
        options = {"seconds": seconds, "pause": pause, "patience": patience}
        self.pinger.send("round_trips", address=self.echo, **options)
        return self.pinger.receive(meanwhile=meanwhile)

    def transfer(
        self, direction: str, size: int, streams: int = 1, *, check: bool = False
    ) -> dict[str, Any]:
        """Move ``size`` bytes over each stream and return the client's figures.

        Raises:
            BenchError: not all of it arrived, or other bytes.
        """
        addresses = [self.bulk] * streams
        self.client.call(
            "transfer", addresses=addresses, direction=direction, size=size, check=check
        )
        result = self.client.call("wait", patience=600.0)
        if result["fault"]:
            raise BenchError(f"{direction}, {streams} streams: {result['fault']}")
        return result

    @contextmanager
    def usage(self) -> Iterator[Usage]:
        """Measure what the block costs; the result is complete when the block has ended."""
        found = Usage()
        cpu, generators, busy, whole = self._snapshot()
        begun = time.monotonic()
        yield found
        found.seconds = time.monotonic() - begun
        cpu_after, generators_after, busy_after, whole_after = self._snapshot()
        found.cpu = {role: cpu_after[role] - cpu[role] for role in cpu}
        found.generators = {name: generators_after[name] - generators[name] for name in generators}
        own = sum(found.cpu.values()) + sum(found.generators.values())
        if whole_after > whole:
            found.foreign = max(0.0, (busy_after - busy - own) / (whole_after - whole))

    def _snapshot(self) -> tuple[dict[Role, float], dict[str, float], float, float]:
        """Return CPU seconds of roles, generators, all others with ours, and the machine."""
        with Path("/proc/stat").open() as file:
            ticks = [int(value) / _TICKS for value in file.readline().split()[1:9]]
        whole = sum(ticks)
        _, _, _, idle, iowait, *_ = ticks
        return (
            {role: process.cpu_seconds() for role, process in self.roles.items()},
            {each.process.name: each.process.cpu_seconds() for each in self._generators},
            # What the hypervisor gave to others is theirs, what this process used nobody's.
            whole - idle - iowait - time.process_time(),
            whole,
        )


def _open_gate(hub: Address) -> Address:
    return hub


def _slow_gate(link: Generator, hub: Address) -> Address:
    return Address(LOOPBACK, int(link.call("lead_to", address=hub)["port"]))
