from __future__ import annotations

from collections.abc import Iterator

import pytest

from support_tunnel import ServiceProcess, service_process


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A real service for the proxies of one module; they trust it and nobody else."""
    with service_process(tmp_path_factory.mktemp("service")) as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", running.endpoints.ca_file)
            yield running
