"""Tunnels as an operator sees them: opened, rotated, used, closed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import tailrace
from support.network.applications import check_echo
from support.service.process import ServiceProcess
from tailrace.wire import Side

from .device import PATIENCE, Device

__all__ = ["SERVICE", "OpenTunnel", "Operator"]

SERVICE: Final = "SSH"
_GLANCE: Final = 0.005
_SIZE: Final = 100_000
_MODES: Final = {
    "DESTINATION": (Side.DESTINATION,),
    "SOURCE": (Side.SOURCE,),
    "ALL": (Side.SOURCE, Side.DESTINATION),
}


class Operator:
    """Calls the control API of a service that may be started again meanwhile."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service = service

    async def call(self, operation: str, parameters: Mapping[str, object]) -> dict[str, Any]:
        """Call an operation; return its answer."""
        call = self.service.control.call
        answer: dict[str, Any] = await asyncio.to_thread(call, operation, dict(parameters))
        return answer

    async def open(self, device: Device) -> OpenTunnel:
        """Open a tunnel to a device; return before anybody has connected."""
        config = {"thingName": device.thing, "services": [SERVICE]}
        answer = await self.call("OpenTunnel", {"destinationConfig": config})
        return OpenTunnel(self, device, answer)


class OpenTunnel:
    """A tunnel to a device, with a source in this process if it has one."""

    def __init__(self, operator: Operator, device: Device, answer: Mapping[str, Any]) -> None:
        self.device = device
        self.tunnel_id: str = answer["tunnelId"]
        self._operator = operator
        self._source_token = tailrace.Secret(answer["sourceAccessToken"])
        self._source: tailrace.SourceTunnel | None = None
        self._stack = AsyncExitStack()

    async def use(self) -> None:
        """Connect a source, and send bytes through the tunnel and back; again if it has one."""
        async with asyncio.timeout(PATIENCE):
            while not await self._echoed():
                await asyncio.sleep(_GLANCE)

    async def rotate(self, mode: str) -> None:
        """Revoke the token of a side, or of both, and go on with the new ones."""
        answer = await self._operator.call(
            "RotateTunnelAccessToken", {"tunnelId": self.tunnel_id, "clientMode": mode}
        )
        if Side.SOURCE in _MODES[mode]:
            self._source_token = tailrace.Secret(answer["sourceAccessToken"])
            if self._source is not None:
                self._source.renew(self._source_token)

    async def connected(self) -> None:
        """Wait until the service says that the destination is connected.

        Raises:
            TimeoutError: it does not come.
        """
        async with asyncio.timeout(PATIENCE):
            while not await self._is_connected():
                await asyncio.sleep(_GLANCE)

    async def close(self) -> None:
        """Close the tunnel, and its source."""
        await self._stack.aclose()
        self._source = None
        await self._operator.call("CloseTunnel", {"tunnelId": self.tunnel_id, "delete": True})

    async def release(self) -> None:
        """Close the source only; the service may be gone."""
        await self._stack.aclose()

    async def _is_connected(self) -> bool:
        answer = await self._operator.call("DescribeTunnel", {"tunnelId": self.tunnel_id})
        return bool(answer["tunnel"]["destinationConnectionState"]["status"] == "CONNECTED")

    async def _connect(self) -> tailrace.SourceTunnel:
        if self._source is None:
            endpoints = self._operator.service.endpoints
            source = tailrace.Tunnel.source(
                self._source_token,
                endpoint=endpoints.data_endpoint,
                ca=endpoints.ca_dir,
                timeout=None,
                renewal_timeout=PATIENCE,
            )
            self._source = await self._stack.enter_async_context(source)
        return self._source

    async def _echoed(self) -> bool:
        """Return whether all bytes came back; a link that is lost meanwhile takes its connections.

        Raises:
            AssertionError: other bytes came back.
        """
        source = await self._connect()
        try:
            await source.wait_peer(timeout=PATIENCE)
            reader, writer = await source.open_connection(SERVICE)
        except tailrace.TunnelClosed:
            # Its token was revoked, and it has ended before it was given the new one.
            await self._stack.aclose()
            self._source = None
            return False
        except tailrace.OpenFailed:
            return False
        try:
            await check_echo((reader, writer), self.tunnel_id.encode() * (_SIZE // 36))
        except (ConnectionError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.close()
        return True
