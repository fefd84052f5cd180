"""A client of the control API without a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tailrace.aws import (
    Client,
    Credentials,
    OpenedTunnel,
    RotatedTokens,
    Secret,
    SideState,
    TunnelDescription,
    TunnelState,
    TunnelSummary,
)
from tailrace.wire import Side

__all__ = ["BUSY", "FREE", "NOW", "ScriptedClient", "tunnel"]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FREE, BUSY = SideState(is_connected=False), SideState(is_connected=True)


def tunnel(tunnel_id: str, **changes: Any) -> TunnelDescription:
    """A tunnel that can be reused."""
    plain = TunnelDescription(
        *(tunnel_id, f"arn:{tunnel_id}", TunnelState.OPEN, "", NOW, NOW),
        source=FREE,
        destination=BUSY,
        thing="t",
        services=("SSH",),
        lifetime=timedelta(hours=1),
        tags={},
    )
    return replace(plain, **changes)


class ScriptedClient(Client):
    """Records its calls; each may fail or wait, as it was told."""

    def __init__(self, *tunnels: TunnelDescription) -> None:
        super().__init__(
            region="eu-west-1",
            endpoint="https://localhost",
            credentials=Credentials("AKID", Secret("s")),
        )
        self.tunnels = list(tunnels)
        self.calls: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}

    async def _called(self, name: str, what: str = "") -> None:
        self.calls.append(f"{name} {what}".strip())
        if name in self.gates:
            await self.gates[name].wait()
        if name in self.faults:
            raise self.faults[name]

    async def open(
        self,
        *,
        thing: str | None = None,
        services: Iterable[str] = (),
        description: str | None = None,
        **others: Any,
    ) -> OpenedTunnel:
        self.tunnels.append(tunnel("new", thing=thing, description=description, destination=FREE))
        await self._called("open", " ".join(services))
        return OpenedTunnel("new", "arn:new", Secret("s3cret"), Secret("d3stination"))

    async def list(
        self, *, thing: str | None = None, limit: int | None = None
    ) -> AsyncIterator[TunnelSummary]:
        await self._called("list")
        for each in self.tunnels:
            yield each

    async def describe(self, tunnel_id: str) -> TunnelDescription:
        await self._called("describe", tunnel_id)
        (found,) = (each for each in self.tunnels if each.tunnel_id == tunnel_id)
        return found

    async def rotate(
        self, tunnel_id: str, side: Side | None = None, **others: Any
    ) -> RotatedTokens:
        assert side is Side.SOURCE
        await self._called("rotate", tunnel_id)
        return RotatedTokens("arn", Secret("r0tated"), None)

    async def close(self, tunnel_id: str, *, delete: bool = False) -> None:
        await self._called("close", tunnel_id)

    async def aclose(self) -> None:
        await self._called("aclose")
