"""The tunnels of a soak: one service, two proxies each, a middlebox in front of every proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from support.network.ports import free_port
from support.processes.child import Process
from support.service import ServiceProcess
from support.tunnel import ProxyProcess, Tunnel, open_tunnel, read_ready_file, tunnel_process
from tailrace.common.addresses import TCPAddress
from tailrace.service.config import parse_address
from tailrace.testing.middlebox import Middlebox
from tailrace.wire import Side

from .figures import Figures, traceback_in
from .load import Lane, Load

__all__ = ["End", "Line", "Rig", "restart_killed", "rig"]

SERVICE: Final = "SOAK"
_PATIENCE: Final = 300.0
"""Seconds that a process may take to start on a machine that is busy with all the others."""
_GLANCE: Final = 0.1
_AT_A_TIME: Final = 4
_SETTINGS: Final = {
    "tunneling": {"proxy": {"websocket": {"ping_period_ms": "3000", "retry_delay_ms": "200"}}}
}


async def restart_killed(service: ServiceProcess) -> None:
    """Kill a service, and start it again where it was."""
    restart = asyncio.to_thread(service.restart, signal.SIGKILL)
    task = asyncio.get_running_loop().create_task(restart)
    try:
        await asyncio.shield(task)
    finally:
        await task  # a thread cannot be cancelled


class End:
    """One proxy with its box; the tunnel survives its death."""

    def __init__(self, tunnel: Tunnel, side: Side, lane: Lane, app: int, directory: Path) -> None:
        self.side = side
        self.lane = lane
        self.process: ProxyProcess
        self._tunnel = tunnel
        self._services = {SERVICE: TCPAddress("127.0.0.1", app)}
        self._directory = directory / f"{lane.index}-{side.value}"
        self._stack = contextlib.ExitStack()
        data = parse_address(tunnel.endpoints.data_endpoint, "data")
        self.box = Middlebox(data.host, data.port, "127.0.0.1")

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return f"{self.side.value} {self.lane.index}"

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not been killed."""
        return bool(self._running)

    _running = False

    async def start(self) -> None:
        """Start the proxy; a source is listened to once it is ready."""
        self._directory.mkdir(exist_ok=True)
        settings = self._directory / "settings.json"
        settings.write_text(json.dumps(_SETTINGS))
        endpoint = f"127.0.0.1:{self.box.port}"
        tunnel = replace(
            self._tunnel, endpoints=replace(self._tunnel.endpoints, data_endpoint=endpoint)
        )
        options = [
            *("--state-dir", str(self._directory / "state"), "--settings-json", str(settings)),
            *("-v", "3"),
        ]
        services = self._services if self.side is Side.DESTINATION else None
        self.process = self._stack.enter_context(
            tunnel_process(self._directory, tunnel, self.side, services, *options)
        )
        self._running = True
        async with asyncio.timeout(_PATIENCE):
            while not self.process.ready_file.exists():
                if not self.process.running:
                    return  # Rig.find_dead() tells
                await asyncio.sleep(_GLANCE)
        addresses = read_ready_file(self.process.ready_file)
        if self.side is Side.SOURCE:
            address = addresses[SERVICE]
            assert isinstance(address, TCPAddress)
            self.lane.port = address.port

    def kill(self) -> None:
        """Kill the proxy as nothing in it can prevent."""
        if self.side is Side.SOURCE:
            self.lane.port = None
        self._running = False
        self._stack.close()
        self.process.ready_file.unlink(missing_ok=True)

    async def stop(self) -> int:
        """End the proxy in order; return its status."""
        self.process.terminate()
        status = await self.process.exit_code()
        self._running = False
        return status

    def close(self) -> None:
        """Leave no process behind."""
        self._stack.close()


class Line:
    """One tunnel: its lane, its load, its ends."""

    def __init__(self, lane: Lane, load: Load, ends: dict[Side, End]) -> None:
        self.lane = lane
        self.load = load
        self.ends = ends

    @property
    def is_up(self) -> bool:
        """Whether both ends have a link, and their proxies run."""
        return all(end.is_running and end.box.connected for end in self.ends.values())


class Rig:
    """Everything that runs."""

    def __init__(self, service: ServiceProcess, lines: list[Line], figures: Figures) -> None:
        self.service = service
        self.lines = lines
        self.figures = figures
        self.service_lock = asyncio.Lock()

    @property
    def ends(self) -> list[End]:
        """All ends of all tunnels."""
        return [end for line in self.lines for end in line.ends.values()]

    @property
    def processes(self) -> dict[str, Process]:
        """Name -> the processes of the product that run now."""
        found: dict[str, Process] = {end.name: end.process for end in self.ends if end.is_running}
        if not self.service_lock.locked():
            found["service"] = self.service.process
        return found

    @property
    def busy(self) -> dict[str, bool]:
        """Name -> whether there is work for the process: its tunnel is up, or most tunnels."""
        up = [line.is_up for line in self.lines]
        return {"service": sum(up) > len(up) / 2} | {
            end.name: is_up
            for line, is_up in zip(self.lines, up, strict=True)
            for end in line.ends.values()
        }

    @property
    def links(self) -> int:
        """Links to the service that were tried so far."""
        return sum(end.box.passed for end in self.ends)

    async def restart_service(self) -> None:
        """Kill the service and start it again where it was."""
        async with self.service_lock:
            await restart_killed(self.service)

    def find_dead(self) -> None:
        """Count processes that have ended by themselves as failures."""
        for name, process in self.processes.items():
            if not process.running and "crash" not in self.figures.failures:
                self.figures.fail("crash", f"{name} has ended: {process.log[-2000:]}")

    def find_tracebacks(self) -> None:
        """Count tracebacks in logs, of processes that are gone too, as failures."""
        logs = {end.name: end.process.log for end in self.ends}
        logs["service"] = self.service.process.log
        for name, log in logs.items():
            if found := traceback_in(log):
                self.figures.fail("crash", f"{name} logged: {found}")


async def _start(end: End, few: asyncio.Semaphore) -> None:
    async with few:
        await end.start()


@asynccontextmanager
async def rig(
    directory: Path, tunnels: int, figures: Figures, dice: random.Random
) -> AsyncIterator[Rig]:
    """A service and so many tunnels through it, ready."""
    service = ServiceProcess(directory, (), _PATIENCE)
    numbers = iter(range(1, 1 << 31)).__next__
    lines: list[Line] = []
    try:
        await asyncio.to_thread(service.start, free_port(), free_port())
        for index in range(tunnels):
            lane = Lane(index)
            load = Load(lane, figures, dice, numbers)
            port = await load.start()
            tunnel = await asyncio.to_thread(
                open_tunnel, service.endpoints, service.control, SERVICE
            )
            ends = {side: End(tunnel, side, lane, port, directory) for side in Side}
            lines.append(Line(lane, load, ends))
        built = Rig(service, lines, figures)
        for end in built.ends:
            await end.box.start()
        few = asyncio.Semaphore(_AT_A_TIME)
        await asyncio.gather(*(_start(end, few) for end in built.ends))
        yield built
    finally:
        for line in lines:
            for end in line.ends.values():
                end.close()
                await end.box.stop()
            await line.load.stop()
        await asyncio.to_thread(service.close)
