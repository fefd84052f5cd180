"""Fixtures that several rooms' tests take; a ``conftest.py`` imports those it offers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .tunnel import ServiceProcess, service_process

__all__ = ["service"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A real service for the proxies of one module; they trust it and nobody else."""
    with service_process(tmp_path_factory.mktemp("service")) as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", running.endpoints.ca_file)
            yield running
