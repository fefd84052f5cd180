"""One service, one tunnel with a middlebox at each end, and sshd behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from support.network.ports import free_port
from support.processes.child import Process
from support.processes.sshd import sshd
from support.service import ServiceProcess
from support.tunnel import ProxyProcess, open_tunnel, tunnel_process
from tailrace.common.addresses import LocalAddress, TCPAddress
from tailrace.service.config import parse_address
from tailrace.testing.middlebox import Middlebox
from tailrace.wire import Side

__all__ = ["Rig", "rig"]

_SETTINGS: Final = {
    "tunneling": {"proxy": {"websocket": {"ping_period_ms": "5000", "retry_delay_ms": "200"}}}
}
"""A silence of more than 15 s ends a link; a shorter one does not."""


@dataclass(frozen=True, slots=True)
class Rig:
    """Everything that runs."""

    service: ServiceProcess
    boxes: Mapping[Side, Middlebox]
    proxies: Mapping[Side, ProxyProcess]
    ports: Mapping[str, int]
    """Service id -> where clients connect."""
    home: Path

    @property
    def processes(self) -> dict[str, Process]:
        """Name -> the processes of the product."""
        return {"service": self.service.process} | {
            side.value: proxy for side, proxy in self.proxies.items()
        }


def _ports(addresses: Mapping[str, LocalAddress]) -> dict[str, int]:
    ports = {}
    for name, address in addresses.items():
        assert isinstance(address, TCPAddress)
        ports[name] = address.port
    return ports


@asynccontextmanager
async def rig(directory: Path, application: TCPAddress, rate: float) -> AsyncIterator[Rig]:
    """A tunnel to sshd and to an application, ready; ``rate`` in bytes a second each way."""
    home, port = directory / "home", free_port()
    home.mkdir()
    settings = directory / "settings.json"
    settings.write_text(json.dumps(_SETTINGS))
    services: dict[str, LocalAddress] = {"SSH": TCPAddress("127.0.0.1", port), "BULK": application}
    service = ServiceProcess(directory, ())
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(service.close)
        await asyncio.to_thread(service.start, free_port(), free_port())
        await asyncio.to_thread(stack.enter_context, sshd(directory, port, "soak", home))
        tunnel = await asyncio.to_thread(open_tunnel, service.endpoints, service.control, *services)
        data = parse_address(tunnel.endpoints.data_endpoint, "data")
        boxes, proxies = {}, {}
        for side in Side:
            boxes[side] = box = Middlebox(data.host, data.port, "127.0.0.1", rate)
            await box.start()
            stack.push_async_callback(box.stop)
            endpoints = replace(tunnel.endpoints, data_endpoint=f"127.0.0.1:{box.port}")
            there = services if side is Side.DESTINATION else None
            options = ("--settings-json", str(settings), "-v", "4")
            proxies[side] = stack.enter_context(
                tunnel_process(
                    directory, replace(tunnel, endpoints=endpoints), side, there, *options
                )
            )
        await proxies[Side.DESTINATION].ready()
        ports = _ports(await proxies[Side.SOURCE].ready())
        yield Rig(service, boxes, proxies, ports, home)
