"""Health, readiness and metrics of a running service."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from support.service import config, running, trust
from tailrace.service.config import Address, OperationSettings
from tailrace.service.errors import StoreFailed
from tailrace.service.tunneling_service import TunnelingService


def client(service: TunnelingService) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=service.endpoints.api_endpoint, verify=trust(service.endpoints), trust_env=False
    )


async def test_with_the_control_api(tmp_path: Path) -> None:
    async with running(config(tmp_path / "state")) as service, client(service) as http:
        assert (await http.get("/healthz")).text == "ok\n"
        assert (await http.get("/readyz")).text == "ready\n"
        metrics = await http.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "tailrace_tunnels" in metrics.text
        # Answered in the shape of the control API.
        assert (await http.post("/metrics")).json()["__type"] == "UnknownOperationException"


async def test_on_a_listener_of_their_own(tmp_path: Path) -> None:
    operation = OperationSettings(metrics_listen=Address("127.0.0.1", 0))
    settings = config(tmp_path / "state", operation=operation)
    async with running(settings) as service, client(service) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/metrics")).status_code == 404
        url = f"http://{service.metrics_address}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as plain:
            assert "tailrace_links" in (await plain.get("/metrics")).text
            assert (await plain.get("/readyz")).status_code == 200
            assert (await plain.get("/healthz")).status_code == 200
            assert (await plain.post("/")).status_code == 404


async def test_a_service_without_its_store_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise StoreFailed("disk full")

    async with running(config(tmp_path / "state")) as service, client(service) as http:
        monkeypatch.setattr(service.queries, "usage", fail)
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "the store cannot be read\n")
        assert (await http.get("/healthz")).status_code == 200
    assert "disk full" in caplog.text


async def test_a_service_that_stops_is_not_ready(tmp_path: Path) -> None:
    async with running(config(tmp_path / "state")) as service, client(service) as http:
        service._accepting = False
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "the service is stopping\n")
