"""Random faults: what networks and people do to tunnels."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from tailrace.wire import Side

from .rig import End, Line, Rig

__all__ = ["Faults"]

_DEAD: Final = 3.0
"""Seconds that a killed proxy stays away at most."""


class Faults:
    """Does one fault after the other, some at the same time.

    Connections outlive all of them but the death of a proxy, which disturbs its tunnel.
    """

    def __init__(self, rig: Rig, dice: random.Random, every: float) -> None:
        self._rig = rig
        self._dice = dice
        self._every = every
        self.spares_service = False
        """Whether the service is to live on from now on, so that its memory says something."""
        self._kinds: list[tuple[str, int, Callable[[], Awaitable[None]]]] = [
            ("reset", 25, self._reset),
            ("end", 15, self._finish),
            ("black hole", 15, self._swallow),
            ("throttle", 12, self._throttle),
            ("delay", 12, self._delay),
            ("closed road", 8, self._close_road),
            ("source killed", 5, self._kill_source),
            ("destination killed", 5, self._kill_destination),
            ("all links reset", 2, self._reset_all),
            ("service killed", 2, self._kill_service),
        ]

    async def run(self) -> None:
        """Do faults for ever, about one in each interval; ends those under way when cancelled."""
        names = [name for name, *_ in self._kinds]
        weights = [weight for _, weight, _ in self._kinds]
        deeds = {name: deed for name, _, deed in self._kinds}
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self._dice.expovariate(1 / self._every))
                (name,) = self._dice.choices(names, weights)
                if name == "service killed" and self.spares_service:
                    continue
                self._rig.figures.faults[name] += 1
                group.create_task(self._do(name, deeds[name]))

    async def _do(self, name: str, deed: Callable[[], Awaitable[None]]) -> None:
        try:
            await deed()
        except (AssertionError, OSError) as error:
            # What was killed did not come back; the others go on.
            self._rig.figures.fail("not back", f"{name}: {str(error)[-2000:]}")

    async def heal(self) -> None:
        """Let everything through again, and bring back who was killed."""
        for end in self._rig.ends:
            _heal(end)
            if not end.is_running:
                await self._start(end)

    # -- kinds

    def _line(self) -> Line:
        return self._dice.choice(self._rig.lines)

    def _end(self) -> End:
        end = self._dice.choice(self._rig.ends)
        end.lane.interrupt()
        return end

    async def _reset(self) -> None:
        self._end().box.cut()

    async def _finish(self) -> None:
        self._end().box.finish()

    async def _swallow(self) -> None:
        seconds = self._dice.uniform(1.0, 15.0)
        end = self._end()
        end.box.swallow()
        await asyncio.sleep(seconds)
        end.box.release()

    async def _throttle(self) -> None:
        seconds = self._dice.uniform(2.0, 10.0)
        end = self._end()
        end.box.rate = self._dice.uniform(150e3, 1e6)
        await asyncio.sleep(seconds)
        end.box.rate = None

    async def _delay(self) -> None:
        end = self._end()
        end.box.delay = self._dice.uniform(0.01, 0.3)
        await asyncio.sleep(self._dice.uniform(2.0, 10.0))
        end.box.delay = 0.0

    async def _close_road(self) -> None:
        seconds = self._dice.uniform(0.5, 5.0)
        end = self._end()
        end.box.close_road()
        await asyncio.sleep(seconds)
        end.box.open_road()

    async def _kill_source(self) -> None:
        await self._kill(Side.SOURCE)

    async def _kill_destination(self) -> None:
        await self._kill(Side.DESTINATION)

    async def _kill(self, side: Side) -> None:
        end = self._line().ends[side]
        if end.is_running:
            seconds = self._dice.uniform(0.0, _DEAD)
            end.lane.disturb(seconds)
            end.kill()
            await asyncio.sleep(seconds)
            await self._start(end)

    async def _start(self, end: End) -> None:
        self._rig.figures.restarts += 1
        await end.start()
        end.lane.disturb()

    async def _reset_all(self) -> None:
        for end in self._rig.ends:
            end.lane.interrupt()
            end.box.cut()

    async def _kill_service(self) -> None:
        if self._rig.service_lock.locked():
            return
        self._rig.figures.restarts += 1
        for line in self._rig.lines:
            line.lane.interrupt()
        await self._rig.restart_service()


def _heal(end: End) -> None:
    end.box.rate = None
    end.box.delay = 0.0
    end.box.release()
    end.box.open_road()
