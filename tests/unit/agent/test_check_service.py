"""Checks of a service that the agent waits at, against a real one."""

from __future__ import annotations

import time
from pathlib import Path

from support.network.ports import free_port
from support.service import config, running
from tailrace.agent.check_service import service_checks
from tailrace.agent.sources.service import ServiceSource
from tailrace.aws import Credentials
from tailrace.checks.findings import Finding, Verdict
from tailrace.checks.runner import run_checks
from tailrace.common.secret import Secret
from tailrace.service.config import Endpoints
from tailrace.service.identity.key_store import KeyFile, credentials_file, new_key
from tailrace.service.identity.policy import device_policy


async def checked(source: ServiceSource) -> dict[str, Finding]:
    return {each.name: each.finding async for each in run_checks(service_checks(source, {}))}


def source_at(endpoints: Endpoints, credentials: Credentials) -> ServiceSource:
    ca = Path(endpoints.ca_file)
    place = (endpoints.api_endpoint, endpoints.region, credentials, "pump-7", ca)
    return ServiceSource(*place, environment={})


async def test_a_thing_that_may_wait_there(tmp_path: Path) -> None:
    async with running(config(tmp_path)) as service:
        key = new_key("pump-7", time.time(), device_policy("pump-7"))
        KeyFile(credentials_file(tmp_path)).add(key, time.time())
        credentials = Credentials(key.access_key_id, key.secret_access_key)
        found = await checked(source_at(service.endpoints, credentials))
        assert [(name, each.verdict.value) for name, each in found.items()] == [
            ("service web proxy", "skipped"),
            ("service name", "ok"),
            ("service TCP", "ok"),
            ("service TLS", "ok"),
            ("key", "ok"),
        ]
        assert found["key"].figure == "the key may wait for notifications of pump-7"
        # With another key.
        credentials = Credentials(key.access_key_id, Secret("x" * 40))
        finding = (await checked(source_at(service.endpoints, credentials)))["key"]
        assert finding.verdict is Verdict.FAILED
        assert finding.fix.startswith("check access key, region and clock")


async def test_a_service_that_is_away() -> None:
    key = Credentials("AK", Secret("SK"))
    source = ServiceSource(
        f"https://localhost:{free_port()}", "us-east-1", key, "pump-7", None, environment={}
    )
    found = await checked(source)
    assert found["service TCP"].verdict is Verdict.FAILED
    assert found["service TCP"].fix.startswith("check --service-url")
    assert found["key"].figure == "not without: service TLS"
