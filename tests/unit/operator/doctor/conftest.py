from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.network.certificates import Certificates
from support.service import ServiceProcess
from tailrace.aws import Client, Credentials
from tailrace.common.secret import Secret


@pytest.fixture
async def client(service: ServiceProcess) -> AsyncIterator[Client]:
    """A client of the service that may do everything."""
    endpoints = service.endpoints
    key = Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key))
    async with Client(
        region=endpoints.region,
        endpoint=endpoints.api_endpoint,
        credentials=key,
        ca=Path(endpoints.ca_file),
        attempts=1,
    ) as made:
        yield made


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))
