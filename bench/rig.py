"""One contender set up between load generators, ready to be measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from . import procfs
from .contenders.base import Contender, Running
from .errors import BenchError
from .generators import Generator
from .processes import Process, Supervisor
from .site import LOOPBACK, Address, Place, Role, Site

__all__ = ["BULK", "ECHO", "Rig", "Usage"]

BULK: Final = "BULK"
ECHO: Final = "ECHO"

_ANYWHERE: Final = "0.0.0.0"


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
        return self.cpu.get(Role.SOURCE, 0.0) + self.cpu.get(Role.DESTINATION, 0.0)

    @property
    def busiest_generator(self) -> float:
        """Share of one core (0..1) that the busiest load generator used."""
        return max(self.generators.values(), default=0.0) / self.seconds


class Rig:
    """Applications and contender at work; clients are started when they are asked for."""

    def __init__(
        self,
        supervisor: Supervisor,
        contender: Contender,
        site: Site | None = None,
        more: Mapping[str, Address] | None = None,
    ) -> None:
        """Start everything; ``more`` are further applications to lead to.

        Raises:
            BenchError: something did not start.
        """
        self.supervisor = supervisor
        self.site = site or Site()
        host = LOOPBACK if self.site.is_local else _ANYWHERE
        self.sink = Generator(supervisor, "sink", self.site, Place.FAR)
        self.echo = Generator(supervisor, "echo", self.site, Place.FAR)
        self._generators = [self.sink, self.echo]
        applications = {
            BULK: Address(LOOPBACK, int(self.sink.call("sink", host=host)["port"])),
            ECHO: Address(LOOPBACK, int(self.echo.call("echo", host=host)["port"])),
            **(more or {}),
        }
        begun = time.monotonic()
        self.running: Running = contender.start(supervisor, self.site, applications)
        self.start_seconds = time.monotonic() - begun
        self._client: Generator | None = None
        self._pinger: Generator | None = None

    @property
    def client(self) -> Generator:
        """The client of bulk transfers."""
        if self._client is None:
            self._client = self._new_client("client")
        return self._client

    @property
    def pinger(self) -> Generator:
        """The client of short messages and connections."""
        if self._pinger is None:
            self._pinger = self._new_client("pinger")
        return self._pinger

    def _new_client(self, name: str) -> Generator:
        generator = Generator(self.supervisor, name, self.site, Place.NEAR)
        self._generators.append(generator)
        return generator

    @property
    def roles(self) -> dict[Role, Process]:
        """The contender's processes."""
        return self.running.processes

    def where(self, name: str) -> dict[str, Any]:
        """Return the address of an application as arguments of a command."""
        address = self.running.endpoints[name]
        return {"host": address.host, "port": address.port}

    def transfer(
        self, direction: str, size: int, streams: int = 1, *, check: bool = False
    ) -> dict[str, Any]:
        """Move ``size`` bytes over each stream and return the client's figures.

        Raises:
            BenchError: not all of it arrived, or other bytes.
        """
        addresses = [self.running.endpoints[BULK]] * streams
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
        before = self._snapshot()
        machine = procfs.machine_time()
        controller = time.process_time()
        begun = time.monotonic()
        yield found
        found.seconds = time.monotonic() - begun
        total = procfs.machine_time()
        after = self._snapshot()
        spent = {key: after[key] - before.get(key, 0.0) for key in after}
        found.cpu = {key: value for key, value in spent.items() if isinstance(key, Role)}
        found.generators = {key: value for key, value in spent.items() if isinstance(key, str)}
        own = sum(spent.values()) + time.process_time() - controller
        stolen = total.steal - machine.steal
        whole = total.total - machine.total
        if whole > 0:
            found.foreign = max(0.0, (total.busy - machine.busy - own + stolen) / whole)

    def _snapshot(self) -> dict[Role | str, float]:
        times: dict[Role | str, float] = {
            role: sum(procfs.cpu_seconds(pid) for pid in self.running.pids(role))
            for role in self.running.processes
        }
        for generator in self._generators:
            times[generator.name] = procfs.cpu_seconds(generator.process.pid)
        for number, pid in enumerate(self.site.helpers()):
            times[f"link {number}"] = procfs.cpu_seconds(pid)
        return times

    def rss(self, role: Role) -> int:
        """Return the resident memory of a role in bytes."""
        return sum(procfs.rss(pid) for pid in self.running.pids(role))

    def peak_rss(self, role: Role) -> int:
        """Return the highest resident memory of a role in bytes."""
        return sum(procfs.peak_rss(pid) for pid in self.running.pids(role))

    def reset_peaks(self) -> None:
        """Let the peaks of all roles start again."""
        for role in self.running.processes:
            for pid in self.running.pids(role):
                procfs.reset_peak_rss(pid)
