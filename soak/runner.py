"""One soak from its start to its table."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .faults import Faults
from .figures import Figures
from .load import Volume
from .looks import OwnLook, Watch
from .report import progress
from .rig import Rig, rig

__all__ = ["Plan", "soak"]

_WARM_UP: Final = 3.0
_GLANCE: Final = 0.5
_PAUSE: Final = 5.0
"""Seconds that a glance may be late before it counts as a fault: the machine stood still, and
links that were not heard of meanwhile are given up."""
_LINE_EVERY: Final = 15.0
_REST: Final = 0.5
_SPARED: Final = 180.0
"""Last seconds of a run in which the service is not killed any more."""
_PATIENCE: Final = 150.0
"""Seconds that tunnels and processes get to come back and to release everything."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard."""

    seconds: float
    tunnels: int = 20
    every: float = 2.5
    """Seconds between two faults on average; 0: no faults."""
    volume: Volume = field(default_factory=Volume)
    seed: int = 0


async def soak(plan: Plan, directory: Path, say: Callable[[str], None]) -> tuple[Figures, Watch]:
    """Run a soak; failures stand in the figures."""
    figures = Figures()
    before = OwnLook.now()
    dice = random.Random(plan.seed)
    say(f"starting {plan.tunnels} tunnels, {2 * plan.tunnels + 1} processes")
    async with rig(directory, plan.tunnels, figures, dice) as built:
        watch = Watch(built, figures)
        await _wait_for_tunnels(built, say)
        await _warm_up(built, plan)
        await asyncio.sleep(_WARM_UP)
        watch.begin()
        links = built.links
        faults = Faults(built, dice, plan.every)
        say(f"running for {plan.seconds / 60:g} minutes")
        await _run(plan, built, watch, faults, say)
        say("healing")
        await faults.heal()
        await _wait_for_tunnels(built, say)
        figures.links = built.links - links
        for leak in await _wait_for_calm(watch):
            figures.fail("leak", leak)
        watch.judge_memory()
        built.find_dead()
        built.find_tracebacks()
        memory = watch.memory()
        statuses = await asyncio.gather(*(end.stop() for end in built.ends if end.is_running))
        if any(statuses):
            figures.fail("crash", f"statuses of proxies that were ended in order: {statuses}")
    watch.final = memory
    await asyncio.sleep(_REST)
    for leak in OwnLook.now().leaks_since(before):
        figures.fail("leak", leak)
    return figures, watch


async def _run(
    plan: Plan, built: Rig, watch: Watch, faults: Faults, say: Callable[[str], None]
) -> None:
    loop = asyncio.get_running_loop()
    jobs: list[Coroutine[Any, Any, None]] = [
        line.load.run_client(plan.volume)
        for line in built.lines
        for _ in range(plan.volume.clients)
    ]
    if plan.every > 0:
        jobs.append(faults.run())
    tasks = [loop.create_task(job) for job in jobs]
    begun = told = seen = loop.time()
    try:
        while (now := loop.time()) - begun < plan.seconds:
            if now - seen > _GLANCE + _PAUSE:
                built.figures.faults["machine paused"] += 1
            seen = now
            for line in built.lines:
                if not line.is_up:
                    line.lane.interrupt()
                if not all(end.is_running for end in line.ends.values()):
                    line.lane.disturb()
            built.find_dead()
            watch.notice(now)
            left = plan.seconds - (now - begun)
            faults.spares_service = left < _SPARED < plan.seconds / 2
            if now - told >= _LINE_EVERY:
                told = now
                say(progress(now - begun, plan.seconds, built))
            for task in tasks:
                if task.done():
                    task.result()  # raises what ended it
            await asyncio.sleep(_GLANCE)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _warm_up(built: Rig, plan: Plan) -> None:
    """Have every code path used once, so that what is made on first use is no leak."""
    volume = Volume(100_000, 0.2, 1)
    tasks = [
        asyncio.get_running_loop().create_task(line.load.run_client(volume)) for line in built.lines
    ]
    await asyncio.sleep(_WARM_UP)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_for_tunnels(built: Rig, say: Callable[[str], None]) -> None:
    try:
        async with asyncio.timeout(_PATIENCE):
            while not all(line.is_up for line in built.lines):
                await asyncio.sleep(_REST)
    except TimeoutError:
        down = [line.lane.index for line in built.lines if not line.is_up]
        built.figures.fail("not back", f"tunnels {down} within {_PATIENCE:g} s")


async def _wait_for_calm(watch: Watch) -> list[str]:
    """Wait until nothing is left of connections; return what is when patience ends."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while watch.leaks():
                await asyncio.sleep(_REST)
    return watch.leaks()
