"""What happens to a broker, a service and its devices, at random: one thing in each round."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from support.waiting import until
from tailrace.errors import TailraceError
from tailrace.testing.middlebox import Middlebox

from ..figures import Figures
from .device import PATIENCE, Device
from .rig import Rig
from .tunnels import OpenTunnel

__all__ = ["FAULTS", "Rounds"]

_MOST_OPEN: Final = 6
"""Tunnels that stay open from one round to the next."""
_OF_AGENTS: Final = frozenset({"agent ended", "agent killed"})
FAULTS: Final = {
    "broker ended": 8,
    "broker killed": 8,
    "way to the broker cut": 8,
    "way to the broker a black hole": 6,
    "publisher cut": 6,
    "publisher in a black hole": 3,
    "waiting cut": 6,
    "waiting in a black hole": 4,
    "links cut": 6,
    "links in a black hole": 3,
    "destination rotated": 8,
    "source rotated": 4,
    "both rotated": 6,
    "rotated while the broker is away": 4,
    "service ended": 5,
    "service killed": 5,
    "SIGHUP": 3,
    "agent ended": 6,
    "agent killed": 6,
}
"""What may happen in a round, and how often of 105 times."""
_FALLS: Final = (TailraceError, TimeoutError, AssertionError, OSError)


class Rounds:
    """Does one fault after the other, and checks after each that all tunnels work."""

    def __init__(
        self, rig: Rig, figures: Figures, dice: random.Random, only: Sequence[str] = ()
    ) -> None:
        self._rig = rig
        self._figures = figures
        self._dice = dice
        self._only = only or tuple(FAULTS)
        self.spares_agents = False
        """Whether agents are to live on from now on, so that their memory says something."""
        self.opened = 0
        self.rotations = 0
        self.echoes = 0
        self.slowest = 0.0
        """Seconds that tunnels took to come up, or back, after a round's fault was over."""
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "broker ended": lambda: self._restart_broker(signal.SIGTERM),
            "broker killed": lambda: self._restart_broker(signal.SIGKILL),
            "way to the broker cut": lambda: self._cut(rig.to_broker),
            "way to the broker a black hole": lambda: self._swallow(rig.to_broker),
            "publisher cut": lambda: self._cut(rig.publishing),
            "publisher in a black hole": lambda: self._swallow(rig.publishing),
            "waiting cut": lambda: self._cut(rig.to_service),
            "waiting in a black hole": lambda: self._swallow(rig.to_service),
            "links cut": lambda: self._cut(rig.links),
            "links in a black hole": lambda: self._swallow(rig.links),
            "destination rotated": lambda: self._rotate("DESTINATION"),
            "source rotated": lambda: self._rotate("SOURCE"),
            "both rotated": lambda: self._rotate("ALL"),
            "rotated while the broker is away": self._rotate_in_outage,
            "service ended": lambda: self._restart_service(signal.SIGTERM),
            "service killed": lambda: self._restart_service(signal.SIGKILL),
            "SIGHUP": self._hang_up,
            "agent ended": lambda: self._restart_agent(signal.SIGTERM),
            "agent killed": lambda: self._restart_agent(signal.SIGKILL),
        }

    async def run_one(self) -> str:
        """Do one fault, and return its name once all tunnels have worked after it."""
        spared = _OF_AGENTS if self.spares_agents else frozenset()
        names = [name for name in self._only if name not in spared] or self._only
        (name,) = self._dice.choices(names, [FAULTS[each] for each in names])
        self._figures.faults[name] += 1
        try:
            await self._kinds[name]()
            await self._check()
        except _FALLS as error:
            self._figures.fail("not back", f"after {name!r}: {error!r}")
        return name

    async def open(self, device: Device) -> OpenTunnel:
        """Open a tunnel that has to come up by the end of the round."""
        self.opened += 1
        return await self._rig.open(device)

    # -- faults

    async def _restart_broker(self, number: signal.Signals) -> None:
        rig = self._rig
        await self.open(rig.by_broker)  # right before it goes
        if self._dice.random() < 0.5:
            await self._all_connected()
        await rig.end_broker(number)
        for device in rig.devices:
            await self.open(device)
        await asyncio.sleep(self._dice.uniform(0.0, 3.0))
        await rig.start_broker()
        await self.open(rig.by_broker)

    async def _cut(self, box: Middlebox) -> None:
        await self._open_maybe()
        box.cut()
        await self._open_maybe()

    async def _swallow(self, box: Middlebox) -> None:
        box.swallow()
        try:
            await self._open_maybe()
            await asyncio.sleep(self._dice.uniform(1.0, 12.0))
        finally:
            if self._dice.random() < 0.5:
                box.cut()
            box.release()

    async def _rotate(self, mode: str) -> None:
        tunnel = await self._any_tunnel()
        self.rotations += 1
        await tunnel.rotate(mode)
        await tunnel.use()

    async def _rotate_in_outage(self) -> None:
        tunnel = await self._any_tunnel()
        await self._rig.end_broker(signal.SIGTERM)
        self.rotations += 1
        await tunnel.rotate(self._dice.choice(["DESTINATION", "ALL"]))
        await self._rig.start_broker()
        await tunnel.use()

    async def _restart_service(self, number: signal.Signals) -> None:
        # What is not delivered yet is lost with a service: it keeps no token in clear.
        await self._all_connected()
        await self._rig.restart_service(number)
        await self._open_maybe()

    async def _hang_up(self) -> None:
        for device in self._rig.devices:
            device.agent.signal(signal.SIGHUP)
        await self._open_maybe()

    async def _restart_agent(self, number: signal.Signals) -> None:
        device = self._dice.choice(self._rig.devices)
        if self._dice.random() < 0.5:
            await self.open(device)
        await device.stop(number)
        await self.open(device)
        await device.start()

    async def _open_maybe(self) -> None:
        for device in self._rig.devices:
            if self._dice.random() < 0.6:
                await self.open(device)

    async def _any_tunnel(self) -> OpenTunnel:
        if not self._rig.tunnels:
            await self.open(self._dice.choice(self._rig.devices))
        tunnel = self._dice.choice(self._rig.tunnels)
        await tunnel.connected()
        return tunnel

    # -- checks

    async def _check(self) -> None:
        """Wait until all tunnels are up, use some of them, and close some."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        await self._all_connected()
        self.slowest = max(self.slowest, clock() - begun)
        for tunnel in self._dice.sample(self._rig.tunnels, min(2, len(self._rig.tunnels))):
            self.echoes += 1
            await tunnel.use()
        await self.close(self._dice.randint(0, _MOST_OPEN))

    async def close(self, left: int) -> None:
        """Close tunnels until so many are left; return when the agents have forgotten them."""
        tunnels = self._rig.tunnels
        while len(tunnels) > left:
            await self._rig.close(self._dice.choice(tunnels))
        for device in self._rig.devices:
            await self._forgotten(device, [each for each in tunnels if each.device is device])

    async def _forgotten(self, device: Device, left: Sequence[OpenTunnel]) -> None:
        await until(
            lambda: (
                device.phases == {"up": len(left)} and device.kept == len(left)
                if left
                else not device.phases and not device.kept
            ),
            f"{device.thing} serves {len(left)} tunnels and keeps no more",
            PATIENCE,
        )

    async def _all_connected(self) -> None:
        """Wait for all tunnels; one that does not come is a failure, and is closed.

        Raises:
            TimeoutError: some have not come.
        """
        tunnels = list(self._rig.tunnels)
        outcomes = await asyncio.gather(
            *(each.connected() for each in tunnels), return_exceptions=True
        )
        lost = []
        for tunnel, outcome in zip(tunnels, outcomes, strict=True):
            if isinstance(outcome, Exception):
                lost.append(f"{tunnel.tunnel_id} of {tunnel.device.thing}: {outcome!r}")
                await self._rig.close(tunnel)
            elif outcome is not None:
                raise outcome
        if lost:
            raise TimeoutError(f"tunnels are not up: {', '.join(lost)}")
