"""Local proxies that run in the event loop of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import pytest

from support.waiting import HANG
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.addresses import LocalAddress
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.http.upgrade import request_headers
from tailrace.localproxy.events import Connected, Listening, PeerJoined, ProxyEvent, ServicesMapped
from tailrace.localproxy.proxy import LocalProxy
from tailrace.localproxy.settings import ProxySettings
from tailrace.wire import CAPABILITIES_FIELD, Side

__all__ = ["Ends", "RunningProxy", "both_proxies", "disguise", "running_proxy"]

E = TypeVar("E", bound=ProxyEvent)


class RunningProxy:
    """A :class:`LocalProxy` that runs in this loop."""

    def __init__(self, settings: ProxySettings) -> None:
        self.events: list[ProxyEvent] = []
        self._came = asyncio.Event()
        self.proxy = LocalProxy(settings)
        self.proxy.subscribe(self._note)
        self._listens = settings.side is Side.SOURCE and settings.listen
        self._task = asyncio.get_running_loop().create_task(self.proxy.run())
        self._task.add_done_callback(lambda _: self._came.set())

    def _note(self, event: ProxyEvent) -> None:
        self.events.append(event)
        self._came.set()

    def all(self, kind: type[E]) -> list[E]:
        """Return the events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    async def seen(self, kind: type[E], count: int = 1) -> E:
        """Wait for the ``count``-th event of a kind and return it."""
        async with asyncio.timeout(HANG):
            while len(self.all(kind)) < count and not self._task.done():
                self._came.clear()
                await self._came.wait()
        if len(self.all(kind)) < count:
            await self._task  # raises what ended it
            raise AssertionError(f"the proxy ended without {kind.__name__}: {self.events}")
        return self.all(kind)[count - 1]

    async def ready(self, links: int = 1) -> dict[str, LocalAddress]:
        """Wait until the tunnel can be used on the ``links``-th link; return the addresses."""
        await self.seen(Connected, links)
        mapped = await self.seen(ServicesMapped, links)
        if not self._listens:
            return {name: where for name, where in mapped.services.items() if where is not None}
        await self.seen(Listening, links * len(mapped.services))
        latest = self.all(Listening)[-len(mapped.services) :]
        return {event.service_id: event.address for event in latest}

    async def ended(self) -> ExitCode:
        """Return what the command would end with, or raise what ``run`` raises."""
        async with asyncio.timeout(HANG):
            await self._task
        return ExitCode.OK

    def drop_link(self) -> None:
        """Drop the open link as a network would."""
        link = self.proxy._uplink.link
        assert link is not None
        link.abort()

    async def stop(self) -> ExitCode:
        """Ask the proxy to end in order and wait for it."""
        self.proxy.stop()
        return await self.ended()

    async def close(self) -> None:
        """End at once if it still runs."""
        if not self._task.done():
            self.proxy.stop()
            self.proxy.stop()
        async with asyncio.timeout(HANG):
            await asyncio.wait([self._task])


@asynccontextmanager
async def running_proxy(settings: ProxySettings) -> AsyncIterator[RunningProxy]:
    """A proxy in this loop, ended at the latest when the block ends."""
    running = RunningProxy(settings)
    try:
        yield running
    finally:
        await running.close()


@dataclass(frozen=True)
class Ends:
    """Both proxies of a tunnel, ready."""

    source: RunningProxy
    destination: RunningProxy
    listening: dict[str, LocalAddress]
    """Service id -> where the source listens."""


@asynccontextmanager
async def both_proxies(source: ProxySettings, destination: ProxySettings) -> AsyncIterator[Ends]:
    """Source and destination in this loop, ready, and told of each other if they ever are."""
    async with running_proxy(destination) as far, running_proxy(source) as near:
        await far.ready()
        listening = await near.ready()
        for each in (near, far):
            if (await each.seen(Connected)).tells_presence:
                await each.seen(PeerJoined)
        yield Ends(near, far, listening)


def disguise(monkeypatch: pytest.MonkeyPatch, *sides: Side) -> None:
    """Let the proxies of this process that are ``sides`` look like somebody else's.

    The service then neither offers them what is our own nor passes it on to them.
    """

    def headers(endpoint: ServiceEndpoint, agent: str) -> list[tuple[str, str]]:
        if endpoint.side not in sides:
            return request_headers(endpoint, agent)
        fields = request_headers(endpoint, "localproxy")
        return [field for field in fields if field[0] != CAPABILITIES_FIELD]

    for module in ("picows_link", "http.upgrade"):
        monkeypatch.setattr(f"tailrace.link.{module}.request_headers", headers)
