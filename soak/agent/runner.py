"""The soak of the agent, from its start to its table."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from support.waiting import until

from ..figures import Figures, traceback_in
from ..report import aligned
from .device import PATIENCE, Device, Holding
from .rig import Rig, rig
from .rounds import Rounds

__all__ = ["Outcome", "Plan", "soak", "table"]

_MOST_GROWTH: Final = 1.10
"""Memory after the second half of the rounds, as a multiple of that after the first."""
_MOST_MEMORY: Final = 40 * 1024 * 1024
"""Bytes of an agent without tunnels."""
_FEW: Final = 10
"""Rounds of which the halves are not worth comparing."""
_REST: Final = 3.0
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How much, and how fast it has to be."""

    rounds: int = 100
    openings: int = 20
    """Tunnels opened one by one, whose time counts."""
    tunnels: int = 20
    """Tunnels that an agent serves at once, and no more."""
    most_seconds: float = 1.0
    """From OpenTunnel until the destination is connected."""
    seed: int = 0
    only: Sequence[str] = ()
    """Faults to keep to; empty: all."""


@dataclass(slots=True)
class Outcome:
    """What came of it; failures stand in ``figures``."""

    figures: Figures = field(default_factory=Figures)
    rows: dict[str, str] = field(default_factory=dict)

    def judge(self, what: str, holding: Holding) -> None:
        """Note what an agent without tunnels holds, and fail if it is too much memory."""
        self.rows[what] = str(holding)
        if holding.memory > _MOST_MEMORY:
            self.figures.fail("memory", f"{what}: {holding}")


async def soak(plan: Plan, directory: Path, say: Callable[[str], None]) -> Outcome:
    """Run a soak."""
    outcome, dice = Outcome(), random.Random(plan.seed)
    async with rig(directory, plan.tunnels) as built:
        rounds = Rounds(built, outcome.figures, dice, plan.only)
        for device in built.devices:
            await device.waiting()
            outcome.judge(f"{device.thing} after its start", device.holding())
        for device in built.devices:
            say(f"opening tunnels of {device.thing}")
            await _measure(plan, built, rounds, device, outcome)
            await _fill(plan, built, rounds, device, outcome)
        before = await _calm(rounds, built, outcome, {})
        await _rounds(plan, rounds, built, outcome, before, say)
        for name, log in built.logs().items():
            if found := traceback_in(log):
                outcome.figures.fail("crash", f"{name} logged: {found}")
        outcome.rows |= {
            "tunnels opened": f"{rounds.opened:,}",
            "rotations": f"{rounds.rotations:,}",
            "bytes checked through tunnels": f"{rounds.echoes:,} times",
            "all up again after a fault": f"within {rounds.slowest:.1f} s",
        }
    return outcome


async def _measure(
    plan: Plan, built: Rig, rounds: Rounds, device: Device, outcome: Outcome
) -> None:
    """Open tunnels one by one, and measure until their destination is connected."""
    clock, times = asyncio.get_running_loop().time, []
    for _ in range(plan.openings):
        begun = clock()
        tunnel = await rounds.open(device)
        await tunnel.connected()
        times.append(clock() - begun)
        await built.close(tunnel)
    shown = f"median {median(times) * 1000:.0f} ms, worst {max(times) * 1000:.0f} ms"
    outcome.rows[f"{device.thing}: OpenTunnel to connected"] = f"{shown}, of {len(times)}"
    if max(times) > plan.most_seconds:
        outcome.figures.fail("slow", f"{device.thing}: {shown}")


async def _fill(plan: Plan, built: Rig, rounds: Rounds, device: Device, outcome: Outcome) -> None:
    """Open as many tunnels as there may be, at once, and one more; rotate while it is full."""
    await rounds.close(0)
    clock = asyncio.get_running_loop().time
    begun = clock()
    tunnels = await asyncio.gather(*(rounds.open(device) for _ in range(plan.tunnels)))
    await asyncio.gather(*(tunnel.connected() for tunnel in tunnels))
    took = clock() - begun
    outcome.rows[f"{device.thing}: {plan.tunnels} tunnels at once"] = f"{took:.2f} s"
    outcome.rows[f"{device.thing} with {plan.tunnels} tunnels"] = str(device.holding())
    await until(lambda: device.phases == {"up": plan.tunnels}, "all tunnels", PATIENCE)
    refused = await rounds.open(device)
    text = f"{plan.tunnels} tunnels are served, and no more may be"
    await until(lambda: text in device.agent.log, "the refusal of one more", PATIENCE)
    await tunnels[0].use()
    await tunnels[0].rotate("DESTINATION")
    await tunnels[0].use()
    await built.close(refused)
    await rounds.close(0)


async def _rounds(
    plan: Plan,
    rounds: Rounds,
    built: Rig,
    outcome: Outcome,
    before: Mapping[Device, Holding],
    say: Callable[[str], None],
) -> None:
    clock = asyncio.get_running_loop().time
    begun, halfway = clock(), before
    for number in range(plan.rounds):
        if number == plan.rounds // 2 and plan.rounds >= _FEW:
            halfway = await _calm(rounds, built, outcome, before)
            rounds.spares_agents = True
        name = await rounds.run_one()
        say(
            f"[{clock() - begun:6.1f} s] round {number + 1}/{plan.rounds}: {name}; "
            f"{len(built.tunnels)} tunnels open, "
            f"{outcome.figures.failures.total()} failures"
        )
    for device, last in (await _calm(rounds, built, outcome, before)).items():
        outcome.judge(f"{device.thing} after {plan.rounds} rounds", last)
        if last.memory > halfway[device].memory * _MOST_GROWTH:
            outcome.figures.fail("memory", f"{device.thing}: {halfway[device]}, then {last}")


async def _calm(
    rounds: Rounds, built: Rig, outcome: Outcome, before: Mapping[Device, Holding]
) -> dict[Device, Holding]:
    """Close all tunnels, and return what agents hold when they have released all they will."""
    await rounds.close(0)
    for device in built.devices:
        await device.waiting()
    if before:
        # Memory is released a moment after the last tunnel has ended.
        await asyncio.sleep(_REST)
    for device, then in before.items():
        with contextlib.suppress(AssertionError):
            await until(partial(_has_released, device, then), "calm", PATIENCE)
        for leak in device.holding().leaks_since(then):
            outcome.figures.fail("leak", f"{device.thing}: {leak}")
    return {device: device.holding() for device in built.devices}


def _has_released(device: Device, before: Holding) -> bool:
    return not device.holding().leaks_since(before)


def table(outcome: Outcome) -> str:
    """Return the table that a soak ends with."""
    figures = outcome.figures
    faults = ", ".join(f"{name} {count}" for name, count in figures.faults.most_common())
    failures = ", ".join(f"{name} {count}" for name, count in figures.failures.items())
    rows = outcome.rows | {"faults": faults or "none", "failures": failures or "none"}
    return aligned(list(rows.items()))
