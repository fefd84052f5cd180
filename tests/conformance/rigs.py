"""A proxy at its stage, with the service ids told: where most scenarios begin."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from conformance.lab import Lab, Proxy, Settings
from conformance.messages import (
    CONNECTION_START,
    DATA,
    STREAM_START,
    Message,
    data,
    message,
)
from conformance.sockets import Application, Socket
from conformance.stage import Link, Stage
from support.network.ports import free_port

__all__ = ["QUICK", "Destination", "Source", "destination", "source"]

QUICK: Settings = {"websocket.retry_delay_ms": 100}
"""Comes back soon after a cut."""
NO_CHANGES: Mapping[str, str] = {}


@dataclass
class Source:
    """A source on its first link."""

    lab: Lab
    stage: Stage
    proxy: Proxy
    link: Link
    ports: Mapping[str, int]
    answer: Mapping[str, str] = field(default_factory=dict)
    """How the service answers the upgrade: changes of ``Request.answer``."""

    async def connect(self, service: str = "SSH1", buffer: int = 0) -> tuple[Socket, Message]:
        """Return a new client and the message that announced it."""
        client = await self.lab.client(self.ports[service], buffer=buffer)
        return client, await self.link.find(STREAM_START, CONNECTION_START)

    async def reconnect(self) -> None:
        """Go on with the next link, once this one has ended."""
        await self.link.over()
        self.link = await self.stage.tunnel(*self.ports, **self.answer)

    async def recover(self) -> None:
        """Go on with this link or the next, after something strange was sent on this one."""
        loop = asyncio.get_running_loop()
        again = loop.create_task(self.reconnect())
        settled = loop.create_task(self.link.settled())
        try:
            await asyncio.wait([again, settled], return_when=asyncio.FIRST_COMPLETED)
            if settled.done() and settled.exception():
                await again
        finally:
            for task in (again, settled):
                task.cancel()
            await asyncio.gather(again, settled, return_exceptions=True)

    async def check(self, client: Socket, start: Message) -> None:
        """Check that bytes pass in both directions."""
        await self.link.send(*data(b"down", start.stream, start.service, start.connection))
        await client.expect(b"down")
        await client.send(b"up")
        while (received := await self.link.find(DATA))[1:4] != start[1:4]:
            pass  # of another connection
        assert received.payload == b"up", f"{received} instead of what the client sent"


async def source(
    lab: Lab,
    *ids: str,
    settings: Settings = QUICK,
    ours: tuple[str, ...] = ("--linger", "0.3"),
    more: tuple[str, ...] = (),
    buffer: int = 0,
    answer: Mapping[str, str] = NO_CHANGES,
) -> Source:
    """Start a source for these service ids (by default one) and accept its link.

    Args:
        answer: changes of ``Request.answer``.
        buffer: size of the service's receive buffer, in bytes.
    """
    ids = ids or ("SSH1",)
    stage = lab.stage(buffer=buffer)
    ports = {name: free_port() for name in ids}
    mapping = ",".join(f"{name}={port}" for name, port in ports.items())
    arguments = ("-e", stage.endpoint, "-b", "127.0.0.1", "-s", mapping, *more)
    proxy = lab.proxy(*arguments, settings=settings, ours=ours)
    return Source(lab, stage, proxy, await stage.tunnel(*ids, **answer), ports, answer)


@dataclass
class Destination:
    """A destination on its first link, and its applications."""

    lab: Lab
    stage: Stage
    proxy: Proxy
    link: Link
    applications: Mapping[str, Application]
    answer: Mapping[str, str] = field(default_factory=dict)
    """As for :class:`Source`."""

    async def open(
        self, service: str = "SSH1", stream: int = 1, connection: int = 1, kind: int = 0
    ) -> Socket:
        """Start a connection; return the application's end of it."""
        kind = kind or (STREAM_START if connection == 1 else CONNECTION_START)
        await self.link.send(message(kind, stream, service, connection))
        return await self.applications[service].accept()

    async def reconnect(self) -> None:
        """Go on with the next link, once this one has ended."""
        await self.link.over()
        self.link = await self.stage.tunnel(*self.applications, **self.answer)

    async def check(
        self, app: Socket, service: str = "SSH1", stream: int = 1, connection: int = 1
    ) -> None:
        """Check that bytes pass in both directions."""
        await self.link.send(*data(b"down", stream, service, connection))
        await app.expect(b"down")
        await app.send(b"up")
        while (received := await self.link.find(DATA))[1:4] != (stream, service, connection):
            pass  # of another connection
        assert received.payload == b"up", f"{received} instead of what the application sent"


async def destination(
    lab: Lab,
    *ids: str,
    settings: Settings = QUICK,
    ours: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
    buffer: int = 0,
    answer: Mapping[str, str] = NO_CHANGES,
) -> Destination:
    """Start a destination for these service ids (by default one) and accept its link."""
    ids = ids or ("SSH1",)
    stage = lab.stage()
    applications = {name: lab.application(buffer=buffer) for name in ids}
    mapping = ",".join(f"{name}=127.0.0.1:{app.port}" for name, app in applications.items())
    proxy = lab.proxy("-e", stage.endpoint, "-d", mapping, *more, settings=settings, ours=ours)
    link = await stage.tunnel(*ids, **answer)
    return Destination(lab, stage, proxy, link, applications, answer)
