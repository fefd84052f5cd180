"""Fixtures that several rooms' tests take; a ``conftest.py`` imports all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.plugins.clock import ClockLoop
from support.service import ServiceProcess, service_process

__all__ = ["loop", "service", "session_service"]


@pytest.fixture(scope="session")
def session_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One service process for all tests."""
    with service_process(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def service(session_service: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> ServiceProcess:
    """A real service for all tests that do not harm it; proxies in this process trust no other.

    They would read some hundred certificates of the system for each link, which takes longer
    than most tests; the commands do read them.
    """
    monkeypatch.setenv("SSL_CERT_FILE", session_service.endpoints.ca_file)
    return session_service


@pytest.fixture
def loop() -> Iterator[ClockLoop]:
    """A loop that does not run, and whose clock a test turns."""
    loop = ClockLoop()
    yield loop
    loop.close()
