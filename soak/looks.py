"""What processes hold: memory, descriptors, threads; and what has grown that should not."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from support.processes.child import Process

from .figures import Figures
from .rig import Rig

__all__ = ["Course", "Growth", "Look", "OwnLook", "Watch"]

_MOST_GROWTH: Final = 1.10
"""Memory at the end, as a multiple of that after a process' first minute."""
_MINUTE: Final = 60.0
_SPAN: Final = 15.0
"""Seconds whose median is compared: one look would meet a transfer, or the rest after it."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Look:
    """What one process holds at one moment."""

    memory: int
    descriptors: int
    threads: int

    @classmethod
    def at(cls, process: Process) -> Look:
        """Look now."""
        threads = len(os.listdir(f"/proc/{process.pid}/task"))
        return cls(process.memory, process.descriptors, threads)


@dataclass(slots=True)
class Growth:
    """Memory of some processes after their first minute and at the end, in bytes."""

    count: int = 0
    before: int = 0
    after: int = 0
    worst: float = 0.0
    """The largest growth of one of them, as a part of what it had."""

    def add(self, before: int, after: int) -> None:
        """Take one more process."""
        self.worst = max(self.worst, after / before - 1) if self.count else after / before - 1
        self.count += 1
        self.before += before
        self.after += after

    def __str__(self) -> str:
        grown = self.after / self.before - 1
        return (
            f"{self.before / _MIB:.1f} MiB after the first minute, {self.after / _MIB:.1f} MiB at"
            f" the end ({grown:+.1%}, worst of {self.count}: {self.worst:+.1%})"
        )


@dataclass(slots=True)
class Course:
    """The memory of one process, after its first minute and lately.

    Only time that it is busy counts, so that a service whose tunnels are still coming back
    is not measured by what it takes without them.
    """

    busy: float = 0.0
    """Seconds."""
    _seen: float | None = None
    _early: list[int] = field(default_factory=list)
    _late: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, now: float, memory: int, busy: bool) -> None:
        """Take one look; ``busy`` tells whether it has been so since the one before."""
        if not busy:
            self._seen = None
            return
        if self._seen is not None:
            self.busy += now - self._seen
        self._seen = now
        if _MINUTE <= self.busy < _MINUTE + _SPAN:
            self._early.append(memory)
        self._late.append((self.busy, memory))
        while self._late[0][0] < self.busy - _SPAN:
            self._late.popleft()

    @property
    def growth(self) -> tuple[int, int] | None:
        """Memory after the first minute and now; ``None`` while two minutes are not over."""
        if self.busy < 2 * _MINUTE or not self._early:
            return None
        return int(median(self._early)), int(median(memory for _, memory in self._late))


@dataclass(slots=True)
class Watch:
    """Follows processes through their lives."""

    rig: Rig
    figures: Figures
    idle: dict[str, Look] = field(default_factory=dict)
    """By role: what a process without connections holds."""
    _courses: dict[int, Course] = field(default_factory=dict)
    final: dict[str, Growth] = field(default_factory=dict)
    """What :meth:`memory` said at the end."""

    def begin(self) -> None:
        """Remember what idle processes hold."""
        for name, process in self.rig.processes.items():
            look = Look.at(process)
            known = self.idle.get(_role(name), look)
            self.idle[_role(name)] = Look(
                max(look.memory, known.memory),
                max(look.descriptors, known.descriptors),
                max(look.threads, known.threads),
            )

    def notice(self, now: float) -> None:
        """Look at the memory of all processes, while there is load."""
        busy = self.rig.busy
        for name, process in self.rig.processes.items():
            if process.running:
                course = self._courses.setdefault(process.pid, Course())
                course.note(now, process.memory, busy[name])

    def leaks(self) -> list[str]:
        """Return what processes without connections hold beyond what they did at first."""
        found = []
        for name, process in self.rig.processes.items():
            if not process.running:
                continue
            look, idle = Look.at(process), self.idle[_role(name)]
            if look.descriptors > idle.descriptors:
                found.append(f"{name}: {look.descriptors - idle.descriptors} descriptors")
            if look.threads > idle.threads:
                found.append(f"{name}: {look.threads - idle.threads} threads")
        served = sum(line.load.served for line in self.rig.lines)
        if served:
            found.append(f"connections that never ended at the applications: {served}")
        return found

    def memory(self) -> dict[str, Growth]:
        """Return how the memory of each role has grown under load.

        Processes that were not busy for two minutes say nothing yet.
        """
        sums: dict[str, Growth] = {}
        for name, process in self.rig.processes.items():
            course = self._courses.get(process.pid)
            if course is not None and (growth := course.growth) is not None:
                sums.setdefault(_role(name), Growth()).add(*growth)
        return sums

    def judge_memory(self) -> None:
        """Count roles whose memory has grown beyond the limit as failures."""
        for role, growth in self.memory().items():
            if growth.after > growth.before * _MOST_GROWTH:
                self.figures.fail("memory", f"{role}: {growth}")


@dataclass(frozen=True, slots=True)
class OwnLook:
    """What this process holds at one moment."""

    tasks: int
    descriptors: int

    @classmethod
    def now(cls) -> OwnLook:
        """Look now."""
        return cls(len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")))

    def leaks_since(self, before: OwnLook) -> list[str]:
        """Return what is there beyond what was."""
        grown = (
            (self.tasks - before.tasks, "tasks"),
            (self.descriptors - before.descriptors, "descriptors"),
        )
        return [f"the soak itself: {count} {what}" for count, what in grown if count > 0]


def _role(name: str) -> str:
    return name.partition(" ")[0]
