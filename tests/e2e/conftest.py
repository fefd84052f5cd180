"""What the tests of whole tunnels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.tunnel import ServiceProcess, service_process


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One service process for all tests that do not harm it."""
    with service_process(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(autouse=True)
def _few_system_certificates(service: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep proxies in this process from reading some hundred certificates for each link.

    It takes longer than most of these tests; the commands do read them.
    """
    monkeypatch.setenv("SSL_CERT_FILE", service.endpoints.ca_file)
