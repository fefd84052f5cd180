"""A service that runs in the event loop of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tailrace.service.config import Address, ServiceConfig
from tailrace.service.tunneling_service import TunnelingService

__all__ = ["config", "running"]


def config(state_dir: Path, **changes: Any) -> ServiceConfig:
    """A configuration on free loopback ports."""
    values: dict[str, Any] = {
        "api_listen": Address("127.0.0.1", 0),
        "data_listen": Address("127.0.0.1", 0),
    }
    return ServiceConfig(state_dir, **(values | changes))


@asynccontextmanager
async def running(service_config: ServiceConfig, **options: Any) -> AsyncIterator[TunnelingService]:
    """A started service, stopped afterwards."""
    service = TunnelingService(service_config, **options)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
