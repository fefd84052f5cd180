"""Devices in the process of a test, and clients that open tunnels to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.network.applications import echo
from support.service.process import ServiceProcess
from tailrace.aws import Client, Credentials, Secret, TunnelState
from tailrace.library import Application, Tunnel
from tailrace.wire import Side

__all__ = ["device_of", "service_client"]


@asynccontextmanager
async def service_client(service: ServiceProcess) -> AsyncIterator[Client]:
    """A client of a service's control API."""
    at = service.endpoints
    key = Credentials(at.access_key_id, Secret(at.secret_access_key))
    async with Client(
        region=at.region, endpoint=at.api_endpoint, credentials=key, ca=at.ca_file
    ) as client:
        yield client


@asynccontextmanager
async def device_of(
    service: ServiceProcess, client: Client, thing: str, *services: str, serves: Application = echo
) -> AsyncIterator[None]:
    """A device that echoes, or has another target, and joins the first open tunnel of its thing."""

    async def serve() -> None:
        token: Secret | None = None
        while token is None:
            async for each in client.list(thing=thing):
                if each.state is TunnelState.OPEN:
                    rotated = await client.rotate(each.tunnel_id, Side.DESTINATION)
                    token = rotated.destination_token
        place = service.endpoints.data_endpoint
        async with Tunnel.destination(
            token, dict.fromkeys(services, serves), endpoint=place
        ) as far:
            await far.wait_closed()

    serving = asyncio.get_running_loop().create_task(serve())
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])
