"""What the tests of whole tunnels share."""

from __future__ import annotations

import pytest

from support.plugins.fixtures import service, session_service
from support.service import ServiceProcess

__all__ = ["service", "session_service"]


@pytest.fixture(autouse=True)
def _few_system_certificates(service: ServiceProcess) -> None:
    """Keep proxies in this process from reading them, also where a test has its own service."""
