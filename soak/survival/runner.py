"""One soak of survival from its start to its table."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tailrace.wire import Side

from ..figures import traceback_in
from ..report import aligned
from ..rig import restart_killed
from .rig import Rig, rig
from .shell import Shell, shell
from .transfers import Application, Transfer, TransferFault

__all__ = ["Outcome", "Plan", "soak", "table"]

_GLANCE: Final = 0.1
_LINE_EVERY: Final = 15.0
_RECOVERY: Final = 150.0
"""Seconds in which all has to go on after a fault; a silence may last for 60 of them."""
_MEMORY: Final = 80 * 1024 * 1024
"""Bytes that a proxy may have beyond what it had without connections: what it keeps for a replay
(32 MiB), what waits for sockets (24 MiB), what the allocator keeps."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of what."""

    cuts: int = 1000
    kills: int = 100
    silences: int = 15
    longest_silence: float = 60.0
    size: int = 300_000_000
    """Bytes of a transfer, each way."""
    rate: float = 10e6
    """Bytes a second that each link carries each way."""
    pause: float = 1.0
    """Seconds between two faults, at most, in which all goes on."""
    seed: int = 0

    @property
    def faults(self) -> int:
        """All of them."""
        return self.cuts + self.kills + self.silences


@dataclass(slots=True)
class Outcome:
    """What was done, and what came of it."""

    plan: Plan
    seconds: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    session: Shell = field(default_factory=Shell)
    long: Transfer | None = None
    """The one that lasts as long as the faults do."""
    transfers: int = 0
    """Whole ones beside it."""
    bytes_moved: int = 0
    most_memory: dict[str, int] = field(default_factory=dict)
    idle_memory: dict[str, int] = field(default_factory=dict)
    resumed: dict[str, int] = field(default_factory=dict)
    """By end: how often it went on."""
    failures: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Faults so far."""
        return self.done.total()


class _Run:
    """A tunnel under load and faults."""

    def __init__(self, plan: Plan, built: Rig, application: Application, outcome: Outcome) -> None:
        self._plan = plan
        self._rig = built
        self._application = application
        self._outcome = outcome
        self._dice = random.Random(plan.seed)
        self._all: list[Transfer] = []
        self._load: list[asyncio.Task[None]] = []

    # -- load

    def _due(self) -> int:
        """Return how much of the long transfer may have been sent: it ends after all faults."""
        plan, faults = self._plan, self._outcome.faults
        return plan.size if faults >= plan.faults else plan.size * (faults + 1) // (plan.faults + 1)

    async def _transfer(self, number: int, most: Callable[[], int]) -> Transfer:
        transfer = Transfer(self._plan.size, most)
        self._all.append(transfer)
        port, numbers = self._rig.ports["BULK"], self._application.numbers
        try:
            await transfer.run(port, numbers, number)
        except* (TransferFault, OSError) as errors:
            self._outcome.failures.append(f"transfer {number}: {errors.exceptions[0]}")
        return transfer

    async def _long_transfer(self) -> None:
        self._outcome.long = await self._transfer(0, self._due)

    async def _short_transfers(self) -> None:
        number = 0
        while self._outcome.faults < self._plan.faults and not self._outcome.failures:
            number += 1
            self._outcome.transfers += (await self._transfer(number, lambda: self._plan.size)).done

    @property
    def moved(self) -> int:
        """Bytes that have come at either end."""
        return sum(transfer.up + transfer.down for transfer in self._all)

    # -- faults

    async def _fault(self, kind: str) -> None:
        sides = self._dice.choice([(Side.SOURCE,), (Side.DESTINATION,), tuple(Side)])
        boxes = [self._rig.boxes[side] for side in sides]
        if kind == "kill":
            await restart_killed(self._rig.service)
        elif kind == "silence":
            for box in boxes:
                box.swallow()
            await asyncio.sleep(self._dice.uniform(1.0, self._plan.longest_silence))
            for box in boxes:
                box.release()
        else:
            deed = self._dice.choice(["reset", "end"])
            for box in boxes:
                if deed == "reset":
                    box.cut()
                else:
                    box.finish()
        self._outcome.done[kind] += 1

    async def faults(self) -> None:
        """Do all faults, each when the shell and the transfers go on after the one before."""
        plan = self._plan
        kinds = ["cut"] * plan.cuts + ["kill"] * plan.kills + ["silence"] * plan.silences
        self._dice.shuffle(kinds)
        for kind in kinds:
            await self._recovered()
            await asyncio.sleep(self._dice.uniform(0.0, plan.pause))
            if self._outcome.failures:
                return
            await self._fault(kind)

    @property
    def _is_over(self) -> bool:
        """Whether all transfers have come to their end."""
        return all(task.done() for task in self._load)

    async def _recovered(self) -> None:
        session, moved = self._outcome.session, self.moved
        count, answers = session.count, session.answers
        try:
            async with asyncio.timeout(_RECOVERY):
                while not (
                    session.count > count and session.answers > answers and self.moved > moved
                ):
                    if self._outcome.failures or self._is_over:
                        return
                    await asyncio.sleep(_GLANCE)
        except TimeoutError:
            before = f"count {count}, answers {answers}, bytes {moved:,}"
            after = f"count {session.count}, answers {session.answers}, bytes {self.moved:,}"
            self._outcome.failures.append(
                f"not back within {_RECOVERY:g} s of {dict(self._outcome.done)}: {before}; {after}"
            )

    # -- a watch on it

    def look(self) -> None:
        """Look at memory, and at what has failed."""
        outcome = self._outcome
        for name, process in self._rig.processes.items():
            if not process.running:
                if name != "service":
                    outcome.failures.append(f"{name} has ended: {process.log[-2000:]}")
                continue
            with contextlib.suppress(AssertionError, OSError):  # it ends just now
                outcome.most_memory[name] = max(outcome.most_memory.get(name, 0), process.memory)
        outcome.failures += self._application.faults
        self._application.faults.clear()
        if outcome.session.fault:
            outcome.failures.append(f"the shell: {outcome.session.fault}")
            outcome.session.fault = ""

    async def watch(self, say: Callable[[str], None]) -> None:
        """Look all the time, and say how far it is."""
        clock = asyncio.get_running_loop().time
        began = told = clock()
        while True:
            self.look()
            self._outcome.seconds = clock() - began
            if clock() - told >= _LINE_EVERY:
                told = clock()
                say(f"[{self._outcome.seconds / 60:5.1f} min] {self._line()}")
            await asyncio.sleep(_GLANCE)

    def _line(self) -> str:
        outcome = self._outcome
        memory = ", ".join(
            f"{name} {size / _MIB:.0f}" for name, size in outcome.most_memory.items()
        )
        return (
            f"{outcome.faults}/{self._plan.faults} faults, count {outcome.session.count:,}, "
            f"{self.moved / _MIB:,.0f} MiB, {outcome.transfers} transfers; most MiB: {memory}; "
            f"{len(outcome.failures)} failures"
        )

    async def load_and_faults(self) -> None:
        """Do all there is to do."""
        async with asyncio.TaskGroup() as group:
            for load in (self._long_transfer(), self._short_transfers()):
                self._load.append(group.create_task(load))
            await self.faults()
            while not (self._is_over or self._outcome.failures):
                await self._recovered()
            for task in self._load:
                task.cancel()


@asynccontextmanager
async def _in_background(run: _Run, say: Callable[[str], None]) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(run.watch(say))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def soak(plan: Plan, directory: Path, say: Callable[[str], None]) -> Outcome:
    """Run a soak; failures stand in the outcome."""
    outcome, application = Outcome(plan), Application()
    address = await application.start()
    try:
        async with rig(directory, address, plan.rate) as built:
            outcome.idle_memory = {name: each.memory for name, each in built.processes.items()}
            run = _Run(plan, built, application, outcome)
            async with shell(built.ports["SSH"], built.home) as outcome.session:
                async with _in_background(run, say):
                    await run.load_and_faults()
                run.look()
            outcome.bytes_moved = run.moved
            _judge(outcome, built)
    finally:
        await application.stop()
    return outcome


def _judge(outcome: Outcome, built: Rig) -> None:
    for side, proxy in built.proxies.items():
        outcome.resumed[side.value] = proxy.log.count("resumed after")
        grown = outcome.most_memory[side.value] - outcome.idle_memory[side.value]
        if grown > _MEMORY:
            outcome.failures.append(f"the {side.value} has grown by {grown / _MIB:.0f} MiB")
    for name, process in built.processes.items():
        if found := traceback_in(process.log):
            outcome.failures.append(f"{name} logged: {found}")
    if not outcome.failures and not (outcome.long and outcome.long.done):
        outcome.failures.append("the long transfer did not come to its end")


def table(outcome: Outcome) -> str:
    """Return the table that a soak ends with."""
    session, long = outcome.session, outcome.long
    rows = [
        ("time", f"{outcome.seconds / 60:.1f} minutes"),
        ("faults", ", ".join(f"{kind} {count:,}" for kind, count in outcome.done.items())),
        ("gone on", ", ".join(f"{name} {count:,}" for name, count in outcome.resumed.items())),
        ("shell", f"process {session.pid}, count {session.count:,}, {session.answers:,} answers"),
        ("  longest silence", f"{session.longest_silence:.1f} s"),
        (
            "long transfer",
            f"{outcome.plan.size:,} bytes each way, right: {bool(long and long.done)}",
        ),
        ("others", f"{outcome.transfers} of {outcome.plan.size:,} bytes each way, all right"),
        ("bytes", f"{outcome.bytes_moved:,}"),
        *(
            (
                f"memory of {name}",
                f"{outcome.idle_memory[name] / _MIB:.1f} MiB idle, {most / _MIB:.1f} MiB at most",
            )
            for name, most in outcome.most_memory.items()
        ),
        ("failures", str(len(outcome.failures))),
    ]
    return aligned(rows)
