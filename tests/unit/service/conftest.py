"""A running service and a tunnel of it, for the tests of its data plane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.service import config, running
from support.service.data_plane import open_tunnel
from tailrace.service.config import DataSettings
from tailrace.service.service import Service


@pytest.fixture
def use_aiofastnet() -> bool:
    """Choose the transports; some tests go over both kinds."""
    return True


@pytest.fixture
async def service(tmp_path: Path, use_aiofastnet: bool) -> AsyncIterator[Service]:
    data = DataSettings(use_aiofastnet=use_aiofastnet, sweep_interval=0.2, close_timeout=2.0)
    async with running(config(tmp_path / "state", data=data)) as service:
        yield service


@pytest.fixture
async def tunnel(service: Service) -> dict[str, Any]:
    return await open_tunnel(service)
